-- The life of a worker: it says which agents it has, appends what they emit, beats, and says goodbye.

-- agents: [{"agent", "queue", "timeout_seconds", "max_attempts", "is_default", "input", "description", "settings"}, ...]
-- A queue's concurrency is what its agents say.
create or replace function treadle.register_agents(agents jsonb) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform pg_advisory_xact_lock(hashtext('treadle.register_agents'));
    perform treadle.create_queue(q) from (select distinct x ->> 'queue' as q from jsonb_array_elements(agents) x) u;
    if exists (select from jsonb_array_elements(agents) x where (x ->> 'is_default')::boolean) then
        update treadle.agents a set is_default = false where a.is_default
            and a.agent not in (select x ->> 'agent' from jsonb_array_elements(agents) x where (x ->> 'is_default')::boolean);
    end if;
    insert into treadle.agents as a (agent, queue, timeout_seconds, max_attempts, is_default, input, description, registered_at, settings)
        select x ->> 'agent', x ->> 'queue', (x ->> 'timeout_seconds')::double precision, (x ->> 'max_attempts')::integer,
            coalesce((x ->> 'is_default')::boolean, false), nullif(x -> 'input', 'null'), coalesce(x ->> 'description', ''), treadle.clock(),
            jsonb_strip_nulls(coalesce(nullif(x -> 'settings', 'null'), '{}'))
        from jsonb_array_elements(agents) x
        on conflict (agent) do update set queue = excluded.queue, timeout_seconds = excluded.timeout_seconds,
            max_attempts = excluded.max_attempts, is_default = excluded.is_default, input = excluded.input,
            description = excluded.description, registered_at = excluded.registered_at,
            -- A worker of a release that knows of none says nothing of them.
            settings = case when (select bool_or(x ? 'settings') from jsonb_array_elements(agents) x) then excluded.settings else a.settings end;
    update treadle.queues q set concurrency = u.concurrency
        from (select x ->> 'queue' as queue, min((x #>> '{settings,concurrency}')::integer) as concurrency
            from jsonb_array_elements(agents) x group by 1) u
        where q.queue = u.queue and q.concurrency is distinct from u.concurrency
            and exists (select from jsonb_array_elements(agents) x where x ? 'settings');
end $$;
comment on function treadle.register_agents is 'Upsert agents and create their queues';

-- Append events to messages under lease. Event i belongs to ids[event_items[i]]; the first of each has seq first_seqs[item].
-- status: `ok` (also where the events were there already: a repeated call), `lost` (the lease is held no more), `gap` (events before
-- first_seq are missing), `busy` (only where not `patient`: somebody holds the lease or the thread's log, append it alone).
-- A patient call waits a second for them, then raises lock_not_available (55P03): nothing is written, try again.
create or replace function treadle.append(ids uuid[], leases uuid[], first_seqs integer[], event_items integer[], event_types text[],
    event_datas text[], patient boolean)
returns table (message_id uuid, status text, cancel_requested boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := treadle.clock();
    v_threads bigint[];
    v_held bigint[];
    v_items integer[]; v_lasts integer[]; v_places bigint[]; v_cancels boolean[]; v_states text[];
    v_seqs integer[];
    v_log_ids uuid[]; v_log_seqs integer[]; v_log_threads bigint[]; v_log_types text[]; v_log_datas jsonb[];
    v_patience constant text := current_setting('lock_timeout');  -- the caller's own
begin
    if patient then
        perform set_config('lock_timeout', '1s', true);
        perform from treadle.leases l where l.message_id = any(ids) order by l.message_id for no key update;
    end if;
    with locked as (
        select l.last_seq, l.thread, l.cancel_requested, g.o, first_seqs[g.o] as first
        from unnest(ids, leases) with ordinality g (id, lease, o)
        join treadle.leases l on l.message_id = g.id and l.lease = g.lease
        order by l.message_id for no key update of l skip locked
    )
    select array_agg(k.o), array_agg(k.last_seq), array_agg(k.thread), array_agg(k.cancel_requested),
            array_agg(case when k.first > k.last_seq + 1 then 'gap' else 'ok' end)
        into v_items, v_lasts, v_places, v_cancels, v_states from locked k;
    if v_items is not null then
        select array_agg(distinct t) into v_threads from unnest(v_places) t where t is not null;
        if v_threads is not null then
            if patient then
                perform treadle._log_lock(v_threads);
                v_held := v_threads;
            else
                select array_agg(l.thread) into v_held from (
                    select l.thread from treadle.thread_log l where l.thread = any(v_threads)
                    order by l.thread for no key update skip locked) l;
            end if;
            v_states := (select array_agg(case when u.state = 'ok' and u.thread is not null and not u.thread = any(coalesce(v_held, '{}'))
                then 'busy' else u.state end order by o) from unnest(v_states, v_places) with ordinality u (state, thread, o));
        end if;
        select array_agg(ids[e.item] order by e.o), array_agg(e.seq order by e.o), array_agg(k.thread order by e.o),
                array_agg(e.type order by e.o), array_agg(e.data::jsonb order by e.o)
            into v_log_ids, v_log_seqs, v_log_threads, v_log_types, v_log_datas
            from (
                select u.item, u.type, u.data, u.o, first_seqs[u.item] + (row_number() over (partition by u.item order by u.o))::integer - 1 as seq
                from unnest(event_items, event_types, event_datas) with ordinality u (item, type, data, o)
            ) e
            join unnest(v_items, v_lasts, v_places, v_states) k (item, last_seq, thread, state)
                on k.item = e.item and k.state = 'ok' and e.seq > k.last_seq;
        if v_log_ids is not null then
            update treadle.leases l set last_seq = s.seq
                from (select u.id, max(u.seq) as seq from unnest(v_log_ids, v_log_seqs) u (id, seq) group by u.id) s
                where l.message_id = s.id;
            perform treadle._log(v_log_ids, v_log_seqs, v_log_threads, v_log_types, v_log_datas, v_now);
        end if;
    end if;
    if patient then
        perform set_config('lock_timeout', v_patience, true);
    end if;
    return query
        select g.id, coalesce(k.state, case when l.message_id is not null then 'busy' else 'lost' end), coalesce(k.cancel_requested, false)
        from unnest(ids, leases) with ordinality g (id, lease, o)
        left join unnest(v_items, v_states, v_cancels) k (item, state, cancel_requested) on k.item = g.o
        left join treadle.leases l on l.message_id = g.id and l.lease = g.lease
        order by g.o;
end $$;
comment on function treadle.append is 'Append events to messages under lease, numbered by the holder; repeatable';

-- Settle messages that are not finished by their holder: lost with their worker, or released because nobody holds them in truth.
-- What was chosen may be finished, another's or pushed on by the time it is locked: only leases that stand as they did are taken.
create or replace function treadle._take_back(chosen treadle.leases[], outcome text, reason text, max_losses integer, at timestamptz)
returns setof uuid language plpgsql as $$
declare
    v_threads bigint[];
    v_ids uuid[];
begin
    select array_agg(t.id) into v_threads from (
        select t.id from treadle.threads t where t.id in (select c.thread from unnest(chosen) c)
        order by t.id for no key update skip locked) t;
    select array_agg(l.message_id) into v_ids from (
        select l.message_id from unnest(chosen) c
        join treadle.leases l on l.message_id = c.message_id and l.lease = c.lease and l.expires_at = c.expires_at
        where l.thread is null or l.thread = any(v_threads)
        order by l.message_id for update of l skip locked) l;
    if v_ids is not null then
        return query select s.message_id from treadle._settle(v_ids, array_fill(outcome, array[cardinality(v_ids)]), null,
            array_fill(reason, array[cardinality(v_ids)]), null, null, null, null, null, null, null, null, null, max_losses, at) s;
    end if;
end $$;

-- A heartbeat: the worker lives, and these are the leases it holds. Upserts its row, pushes its leases' expiry on, names those
-- that are cancelled or lost, and gives back what it holds in the books but does not name: a claim whose answer was lost.
-- `since`: leases claimed after this time are not given back yet (their claim may still be on its way to the worker).
create or replace function treadle.heartbeat(worker text, host text, pid integer, queues text[], concurrency integer, started_at timestamptz,
    server_started timestamptz, ids uuid[], leases uuid[], interval_seconds double precision, lease_seconds double precision, grace_seconds double precision)
returns table (message_id uuid, lease uuid, verdict text)
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := treadle.clock();
    v_orphans treadle.leases[];
    v_expiring uuid[];
    v record;
begin
    insert into treadle.workers as w (worker_id, host, pid, queues, concurrency, in_flight, started_at, heartbeat_at, beating_since, server_started)
        values (worker, host, pid, queues, concurrency, cardinality(ids), heartbeat.started_at, v_now, v_now, heartbeat.server_started)
        on conflict (worker_id) do update set queues = excluded.queues, concurrency = excluded.concurrency, in_flight = excluded.in_flight,
            heartbeat_at = v_now, server_started = excluded.server_started, suspected_at = null,
            beating_since = case when w.heartbeat_at < v_now - interval_seconds * 2 * interval '1 second' then v_now else w.beating_since end;
    select array_agg(l) into v_orphans from treadle.leases l
        where l.id >= treadle._mark('leases') and l.worker_id = worker and l.claimed_at < v_now - grace_seconds * interval '1 second'
            and not exists (select from unnest(ids, leases) g (id, lease) where g.id = l.message_id and g.lease = l.lease);
    if v_orphans is not null then
        perform treadle._take_back(v_orphans, 'released', 'The answer to the claim was lost.', 1, v_now);
    end if;
    -- Push the visibility timeout on once half of it is gone: of the lease and of its lane row.
    select array_agg(l.message_id) into v_expiring from (
        select l.message_id from unnest(ids, leases) g (id, lease)
        join treadle.leases l on l.message_id = g.id and l.lease = g.lease
        where l.expires_at < v_now + lease_seconds / 2 * interval '1 second'
        order by l.message_id for no key update of l skip locked) l;
    if v_expiring is not null then
        update treadle.leases l set expires_at = v_now + lease_seconds * interval '1 second' where l.message_id = any(v_expiring);
        for v in select m.queue, m.lane, array_agg(m.lane_id) as lane_ids from treadle.messages m
            where m.message_id = any(v_expiring) and m.state = 'processing' group by m.queue, m.lane
        loop
            perform treadle._lane_extend(v.queue, v.lane, v.lane_ids, v_now + lease_seconds * interval '1 second');
        end loop;
    end if;
    return query
        select g.id, g.lease, case when l.message_id is null then 'lost' else 'cancelled' end
        from unnest(ids, leases) g (id, lease)
        left join treadle.leases l on l.message_id = g.id and l.lease = g.lease
        where l.message_id is null or l.cancel_requested;
end $$;
comment on function treadle.heartbeat is 'A worker lives and holds these leases; the answer names those cancelled or lost';

-- The advisory lock that a worker's listener holds as long as its session lives.
create or replace function treadle.worker_key(worker text) returns bigint
language sql immutable parallel safe as $$
    select hashtextextended('treadle.worker.' || worker, 0)
$$;

-- A worker says goodbye: what it still has is given back, without a loss. What somebody holds locked just then is left to the janitors.
create or replace function treadle.sign_off(worker text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_left treadle.leases[];
begin
    v_left := array(select l from treadle.leases l where l.id >= treadle._mark('leases') and l.worker_id = worker);
    perform treadle._take_back(v_left, 'released', 'The worker was stopped.', 1, treadle.clock());
    delete from treadle.workers w where w.worker_id = worker;
end $$;
