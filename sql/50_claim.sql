-- Claim: a worker takes messages.
--
-- Lane by lane, oldest rows first, the three locks of a taking are tried and never waited for: the lane row, the message, the
-- thread's log. What cannot be taken stays where it is. Each taken message becomes `processing` under a lease of its own, its
-- lane row is hidden until the lease expires, its log gets `started`.
-- Here, as in finish, append and heartbeat, a statement is planned once for a session, perhaps while the tables are empty: hence no
-- sequential scans, which would be right then and ruinous later.
-- A hidden row that shows again belongs to a lease that no heartbeat pushed on. Whether its worker lives is the
-- janitor's to say (treadle.reap); here it is only hidden once more.

-- Take what can be taken of these lane rows, which we hold locked; p_named are the messages that they name.
create or replace function treadle._claim_rows(p_worker text, p_queue text, p_lane text, p_lane_ids bigint[], p_named uuid[],
    p_lease_seconds double precision, p_now timestamptz, out taken uuid[])
language plpgsql as $$
declare
    v_until constant timestamptz := p_now + p_lease_seconds * interval '1 second';
    v_taken_rows bigint[];
    v_threads bigint[];
    v_attempts integer[];
    v_seqs integer[];
    v_rest bigint[];
begin
    with locked as (
        select m.message_id, m.lane_id, m.thread, m.attempt, m.last_seq
        from unnest(p_lane_ids, p_named) r (lane_id, message_id)
        join treadle.messages m on m.message_id = r.message_id
        where m.state = 'queued' and m.queue = p_queue and m.lane = p_lane and m.lane_id = r.lane_id
        for update of m skip locked
    ), logs as (
        select l.thread from treadle.thread_log l
        where l.thread in (select k.thread from locked k where k.thread is not null)
        order by l.thread for no key update skip locked
    )
    select array_agg(k.message_id order by k.lane_id), array_agg(k.lane_id order by k.lane_id), array_agg(k.thread order by k.lane_id),
            array_agg(k.attempt + 1 order by k.lane_id), array_agg(k.last_seq + 1 order by k.lane_id)
        into taken, v_taken_rows, v_threads, v_attempts, v_seqs
        from locked k where k.thread is null or k.thread in (select g.thread from logs g);

    if taken is not null then
        update treadle.messages m set state = 'processing', attempt = m.attempt + 1, started_at = p_now, worker_id = p_worker
            where m.message_id = any(taken);
        insert into treadle.leases (message_id, lease, worker_id, thread, last_seq, claimed_at, expires_at)
            select t.id, gen_random_uuid(), p_worker, t.thread, t.seq, p_now, v_until
            from unnest(taken, v_threads, v_seqs) t (id, thread, seq);
        perform treadle._log(taken, v_seqs, v_threads, array_fill('started'::text, array[cardinality(taken)]),
            (select array_agg(jsonb_build_object('attempt', a) order by o) from unnest(v_attempts) with ordinality u (a, o)), p_now);
        perform treadle._lane_hide(p_queue, p_lane, v_taken_rows, p_now, v_until);
        insert into treadle.counters (queue, slot, queued, processing)
            values (p_queue, treadle._slot(p_now), -cardinality(taken), cardinality(taken));
    end if;

    if cardinality(p_lane_ids) > coalesce(cardinality(taken), 0) then
        -- Rows of nobody's message, or of one that is elsewhere by now.
        select array_agg(r.lane_id) into v_rest
            from unnest(p_lane_ids, p_named) r (lane_id, message_id)
            left join treadle.messages m on m.message_id = r.message_id
            where m.message_id is null;
        if v_rest is not null then
            perform treadle._lane_expel(p_queue, p_lane, v_rest, p_now);
        end if;
        select array_agg(r.lane_id) into v_rest
            from unnest(p_lane_ids, p_named) r (lane_id, message_id)
            join treadle.messages m on m.message_id = r.message_id
            where (m.queue, m.lane, m.lane_id) is distinct from (p_queue, p_lane, r.lane_id);
        if v_rest is not null then
            perform treadle._lane_delete(array_fill(p_queue, array[cardinality(v_rest)]), array_fill(p_lane, array[cardinality(v_rest)]), v_rest);
        end if;
        select array_agg(r.lane_id) into v_rest
            from unnest(p_lane_ids, p_named) r (lane_id, message_id)
            join treadle.messages m on m.message_id = r.message_id
            where m.state = 'processing' and (m.queue, m.lane, m.lane_id) = (p_queue, p_lane, r.lane_id) and not r.message_id = any(coalesce(taken, '{}'));
        if v_rest is not null then
            perform treadle._lane_hide(p_queue, p_lane, v_rest, p_now, v_until);
        end if;
    end if;
end $$;

create or replace function treadle.claim_2(worker text, queues text[], quantity integer, lease_seconds double precision, reverse boolean default false)
returns table (message_id uuid, lease uuid, thread bigint, thread_id text, ord bigint, queue text, agent text, priority text, body text,
    metadata text, attempt integer, max_attempts integer, failures integer, losses integer, timeout_seconds double precision,
    last_seq integer, created_at timestamptz, aside boolean, parent uuid, memory text)
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := treadle.clock();
    v_lanes constant text[] := case when reverse then array['low', 'normal', 'high'] else array['high', 'normal', 'low'] end;
    v_taken uuid[] := '{}';
    v_left integer := quantity;
    v_wanted integer;
    v_after bigint;
    v_lane text;
    v_queue text;
    v_most integer;      -- of this queue's messages may run at once, in all workers together
    v_room integer;      -- of it we may take so many
    v_rows record;
    v_now_taken uuid[];
begin
    foreach v_lane in array v_lanes loop
        for v_queue, v_most in
            select u.q, q.concurrency from unnest(queues) with ordinality u (q, o) join treadle.queues q on q.queue = u.q and not q.paused order by u.o
        loop
            -- Rows whose message or thread somebody holds locked are passed over, however many they are.
            v_after := 0;
            v_room := v_left;
            if v_most is not null then  -- one claims from such a queue at a time, and counts what runs
                continue when not pg_try_advisory_xact_lock(hashtext('treadle.concurrency'), hashtext(v_queue));
                v_room := least(v_left, v_most - (select coalesce(sum(c.processing), 0) from treadle.counters c
                    where c.queue = v_queue and c.id >= treadle._mark('counters')));
            end if;
            loop
                exit when v_room <= 0;
                v_wanted := v_room;
                v_rows := treadle._lane_peek(v_queue, v_lane, v_after, v_wanted, v_now);
                exit when v_rows.lane_ids is null;
                v_now_taken := treadle._claim_rows(worker, v_queue, v_lane, v_rows.lane_ids, v_rows.message_ids, lease_seconds, v_now);
                v_taken := v_taken || v_now_taken;
                v_room := v_room - coalesce(cardinality(v_now_taken), 0);
                v_left := v_left - coalesce(cardinality(v_now_taken), 0);
                exit when cardinality(v_rows.lane_ids) < v_wanted;
                v_after := v_rows.lane_ids[v_wanted];
            end loop;
        end loop;
    end loop;
    return query
        select m.message_id, l.lease, m.thread, t.thread_id, m.ord, m.queue, m.agent, m.priority, m.body::text, m.metadata::text,
            m.attempt, m.max_attempts, m.failures, m.losses, m.timeout_seconds, l.last_seq, m.created_at,
            m.aside, m.parent, t.memory::text
        from unnest(v_taken) with ordinality u (id, o)
        join treadle.messages m on m.message_id = u.id
        join treadle.leases l on l.message_id = u.id
        left join treadle.threads t on t.id = m.thread
        order by u.o;
end $$;
comment on function treadle.claim_2 is 'Take up to so many messages from the lanes of these queues for a worker; high before normal before low';

-- As workers of 0.1 before parking called it; kept for a release.
create or replace function treadle.claim(worker text, queues text[], quantity integer, lease_seconds double precision, reverse boolean default false)
returns table (message_id uuid, lease uuid, thread bigint, thread_id text, ord bigint, queue text, agent text, priority text, body text,
    metadata text, attempt integer, max_attempts integer, failures integer, losses integer, timeout_seconds double precision,
    last_seq integer, created_at timestamptz)
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
    select c.message_id, c.lease, c.thread, c.thread_id, c.ord, c.queue, c.agent, c.priority, c.body, c.metadata, c.attempt, c.max_attempts,
        c.failures, c.losses, c.timeout_seconds, c.last_seq, c.created_at
    from treadle.claim_2(worker, queues, quantity, lease_seconds, reverse) c
$$;
comment on function treadle.claim is 'claim_2 with fewer columns';
