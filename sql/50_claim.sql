-- Claim: a worker takes messages.
--
-- Lane by lane, oldest rows first, a claim tries four locks and never waits for one: the lane row, the message, its
-- thread, and the thread's log. A message whose locks it does not get stays where it is. While another transaction
-- holds the thread, the end of an attempt would wait for it, and would keep a place of the worker meanwhile. Each
-- message it takes becomes `processing` under a lease of its own, its lane row is hidden until the lease expires, and
-- its log gets `started`.
-- A hidden row that shows again belongs to a lease that no heartbeat extended. The janitor decides whether its worker
-- lives (treadle.reap); a claim only hides it again.
-- Here, as in append, finish and heartbeat, a statement is planned once a session, perhaps while the tables are empty.
-- So sequential scans are off: they would be right then and ruinous later. Bitmap scans are off: they read all versions
-- of a row, of which an old snapshot keeps many, before the newest one is chosen. And rows are joined by
-- `= any(array[...])`, which leaves the planner nothing but to look them up: for a plain comparison it may read a whole
-- index.

-- Lock the messages that can be taken of these lane rows, which this transaction holds locked; `named` are the messages
-- they name. `entries` are their `started` events. `bytes`: about how many a worker receives with them, at the most.
create or replace function treadle._lock_messages(
    queue text, lane text, named uuid[], inout lane_ids bigint[], out entries treadle.entry[], out bytes bigint)
language plpgsql as $$
#variable_conflict use_column
begin
    with locked as (
        select m.message_id, m.tenant, m.lane_id, m.thread, m.attempt, m.last_seq,
            treadle._bytes(m.body) + treadle._bytes(m.metadata) as bytes
        from unnest(lane_ids, named) r (lane_id, message_id)
        join treadle.messages m on m.message_id = any(array[r.message_id])
        where m.state = 'queued'
            and m.queue = _lock_messages.queue
            and m.lane = _lock_messages.lane
            and m.lane_id = r.lane_id
            and m.tenant <> all(array(  -- in line, because a function would be planned at every call
                select s.tenant
                from treadle.tenants s
                where s.suspended_at is not null or s.deleted_at is not null))
        for update of m skip locked
    ), free as (  -- threads that no other transaction holds, nor their logs
        select k.thread, t.bytes
        from (select distinct k.thread from locked k where k.thread is not null) k
        cross join lateral (
            select treadle._bytes(t.memory) as bytes
            from treadle.threads t
            where t.id = k.thread
            for no key update skip locked
        ) t
        cross join lateral treadle._log_era(k.thread) n
        cross join lateral (
            select
            from treadle.thread_log l
            where l.thread = k.thread and l.era >= n.era
            for no key update skip locked
        ) l
    )
    select
            array_agg(row(
                k.message_id, k.last_seq + 1, k.thread, 'started', jsonb_build_object('attempt', k.attempt + 1),
                k.tenant)::treadle.entry order by k.lane_id),
            array_agg(k.lane_id order by k.lane_id),
            coalesce(sum(k.bytes), 0) + count(k.thread) * coalesce((select max(f.bytes) from free f), 0)
        into entries, lane_ids, bytes
        from locked k
        where k.thread is null or k.thread in (select f.thread from free f);
end $$;

-- How many lane rows the claims of this transaction have passed over: other transactions hold their messages or
-- threads, or a limit leaves them.
create or replace function treadle.passed_rows() returns integer
language sql volatile security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select coalesce(nullif(current_setting('treadle.passed_rows', true), ''), '0')::integer
$$;
comment on function treadle.passed_rows
    is 'How many lane rows the claims of this transaction have passed over: others hold them, or a limit leaves them';

-- Whether a claim of this transaction ended because its bytes were used up: there may be more messages for the next.
create or replace function treadle._claim_is_filled() returns boolean
language sql stable as $$
    select coalesce(current_setting('treadle.filled_bytes', true) = 'yes', false)
$$;

-- Clear the lane rows, locked by this transaction, whose message was not taken: rows that name no message of ours go to
-- the dead letters, rows of a message that is elsewhere by now are deleted, rows of a message that runs are hidden
-- again, and messages of a stopped tenant are set aside, with those after them. Counts the others as passed. Returns
-- how many are set aside.
create or replace function treadle._clear_lane(
    lane_ids bigint[],
    named uuid[],
    taken uuid[],
    queue text,
    lane text,
    at timestamptz,
    until timestamptz)
returns integer language plpgsql as $$
#variable_conflict use_column
declare
    v_foreign bigint[];
    v_elsewhere treadle.lane_row[];
    v_running bigint[];
    v_stopped uuid[];
    v_passed integer;
begin
    select array_agg(r.lane_id) filter (where m.message_id is null),
            array_agg(row(_clear_lane.queue, _clear_lane.lane, r.lane_id, null)::treadle.lane_row)
                filter (where m.message_id is not null and not h.here),
            array_agg(r.lane_id) filter (where h.here and m.state = 'processing' and not m.message_id = any(taken)),
            array_agg(m.message_id) filter (
                where h.here and m.state = 'queued' and m.tenant = any(treadle._stopped_tenants())),
            count(*) filter (where h.here and m.state = 'queued' and not m.message_id = any(taken))
        into v_foreign, v_elsewhere, v_running, v_stopped, v_passed
        from unnest(lane_ids, named) r (lane_id, message_id)
        left join treadle.messages m on m.message_id = any(array[r.message_id])
        cross join lateral (
            select coalesce(m.queue = _clear_lane.queue and m.lane = _clear_lane.lane and m.lane_id = r.lane_id, false)
                as here
        ) h;
    if v_foreign is not null then
        perform treadle._lane_expel(queue => _clear_lane.queue, lane => _clear_lane.lane, ids => v_foreign, at => at);
    end if;
    if v_elsewhere is not null then
        perform treadle._lane_delete(lane_rows => v_elsewhere);
    end if;
    if v_running is not null then
        perform treadle._lane_hide(
            queue => _clear_lane.queue, lane => _clear_lane.lane, ids => v_running, at => at, until => until);
    end if;
    if v_stopped is null then
        perform set_config('treadle.passed_rows', (treadle.passed_rows() + v_passed)::text, true);
        return 0;
    end if;
    return treadle._set_aside(
        ids => v_stopped, lane_ids => lane_ids, tenants => treadle._stopped_tenants()) + treadle._set_next_aside(
        queue => _clear_lane.queue, lane => _clear_lane.lane, after => lane_ids[cardinality(lane_ids)], at => at);
end $$;

-- Take up to `quantity` messages of these tenants and for these agents (null: of or for all) from a lane. Rows whose
-- message or thread is locked are skipped, however many they are, and so are those of tenants `at_limit`. Of a stopped
-- tenant's messages a part is set aside: the next claim goes on. It ends when `room_bytes` are used up.
create or replace function treadle._claim_lane(
    queue text,
    lane text,
    quantity integer,
    tenants text[],
    agents text[],
    worker text,
    at timestamptz,
    until timestamptz,
    inout at_limit text[],
    inout room_bytes bigint default null,
    out taken uuid[])
language plpgsql as $$
declare
    v_newly uuid[];
    v_wanted integer;
    v_after bigint := treadle._first_returned_id();
    v_aside integer := 0;
    v_rows record;
    v_found record;
begin
    taken := '{}';
    loop
        v_wanted := quantity - cardinality(taken);
        exit when v_wanted <= 0 or room_bytes <= 0;
        v_rows := treadle._lane_peek(
            queue => queue, lane => lane, after => v_after, quantity => v_wanted, at => at, tenants => tenants,
            agents => agents, passed_over => at_limit);
        exit when v_rows.lane_ids is null;
        v_found := treadle._lock_messages(
            queue => queue, lane => lane, named => v_rows.message_ids, lane_ids => v_rows.lane_ids);
        if treadle._limiting() or v_found.bytes >= room_bytes then
            v_found := treadle._keep_allowed(
                queue => queue, room_bytes => room_bytes, entries => v_found.entries, lane_ids => v_found.lane_ids,
                bytes => v_found.bytes, at_limit => at_limit);
            at_limit := v_found.at_limit;
        end if;
        room_bytes := room_bytes - v_found.bytes;
        v_newly := '{}';
        if v_found.entries is not null then
            v_newly := treadle._start_attempts(
                entries => v_found.entries, lane_ids => v_found.lane_ids, worker => worker, queue => queue,
                lane => lane, at => at, until => until);
        end if;
        if cardinality(v_newly) < cardinality(v_rows.lane_ids) then
            v_aside := v_aside + treadle._clear_lane(
                lane_ids => v_rows.lane_ids, named => v_rows.message_ids, taken => v_newly, queue => queue,
                lane => lane, at => at, until => until);
        end if;
        taken := taken || v_newly;
        exit when cardinality(v_rows.lane_ids) < v_wanted or v_aside >= (treadle._set_aside_limits()).in_all;
        v_after := v_rows.lane_ids[v_wanted];
    end loop;
end $$;

-- How many messages of a queue may start now, if at most `concurrency` of them run at once in all workers together. One
-- transaction at a time claims from such a queue; for the others there is no room.
create or replace function treadle._concurrency_room(queue text, concurrency integer) returns integer
language plpgsql as $$
#variable_conflict use_column
begin
    if not treadle._try_mutex(treadle._claim_mutex(queue)) then
        return 0;
    end if;
    return concurrency - (
        select coalesce(sum(c.processing), 0)
        from treadle.counters c
        where c.queue = _concurrency_room.queue and c.id >= treadle._low_water_mark('counters'));
end $$;

-- From each lane in turn, `first_lane` before the others, it takes of the queues in the order of the array. So that no
-- lane and no queue starves, a worker changes both from claim to claim. `tenants`: only of these (null: of all).
-- `agents`: only for these (null: for all). `room_bytes`: about so many bytes of bodies, metadata and memories (null:
-- any number); the last message may exceed them. treadle._claim_is_filled tells that they are used up.
create or replace function treadle.claim(
    worker text, queues text[], quantity integer, lease_seconds double precision, first_lane text default 'high',
    tenants text[] default null, agents text[] default null, room_bytes bigint default null)
returns table (message_id uuid, lease uuid, thread bigint, thread_id text, ord bigint, queue text, agent text,
    priority text, body text, metadata text, attempt integer, max_attempts integer, failures integer, losses integer,
    timeout_seconds double precision, last_seq integer, created_at timestamptz, aside boolean, parent uuid, memory text,
    overloaded_seconds double precision, depth integer, tenant text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_mergejoin = off set enable_hashjoin = off
set enable_memoize = off as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := treadle.clock();
    v_until constant timestamptz := v_now + lease_seconds * interval '1 second';
    v_lanes constant text[] := first_lane || array_remove(array['high', 'normal', 'low'], first_lane);
    v_taken uuid[] := '{}';
    v_lane text;
    v_queues text[];
    v_concurrencies integer[];
    v_room integer;
    v_newly record;
    v_at_limit text[];  -- tenants of which no further message may run
begin
    if treadle._limiting() and queues <> array[treadle._webhook_queue()] then  -- no limit counts deliveries
        v_at_limit := treadle._tenants_at_limit();
    end if;
    select array_agg(q.queue order by u.n), array_agg(q.concurrency order by u.n)
        into v_queues, v_concurrencies
        from unnest(queues) with ordinality u (queue, n)
        join treadle.queues q on q.queue = u.queue and not q.paused;
    foreach v_lane in array v_lanes loop
        for i in 1 .. coalesce(cardinality(v_queues), 0) loop
            v_room := quantity - cardinality(v_taken);
            exit when v_room <= 0 or room_bytes <= 0;
            if v_concurrencies[i] is not null then
                v_room := least(
                    v_room, treadle._concurrency_room(queue => v_queues[i], concurrency => v_concurrencies[i]));
            end if;
            v_newly := treadle._claim_lane(
                queue => v_queues[i], lane => v_lane, quantity => v_room, tenants => tenants, agents => agents,
                worker => worker, at => v_now, until => v_until, at_limit => v_at_limit, room_bytes => room_bytes);
            v_at_limit := v_newly.at_limit;
            room_bytes := v_newly.room_bytes;
            v_taken := v_taken || v_newly.taken;
        end loop;
    end loop;
    return query
        select m.message_id, l.lease, m.thread, t.thread_id, m.ord, m.queue, m.agent, m.priority, m.body::text,
            m.metadata::text, m.attempt, m.max_attempts, m.failures, m.losses, m.timeout_seconds, l.last_seq,
            m.created_at, m.aside, m.parent, t.memory::text,
            treadle._overloaded_seconds(m), m.depth::integer, m.tenant
        from unnest(v_taken) with ordinality u (message_id, n)
        join treadle.messages m on m.message_id = any(array[u.message_id])
        join treadle.leases l on l.message_id = any(array[u.message_id])
        left join treadle.threads t on t.id = any(array[m.thread])
        order by u.n;
end $$;
comment on function treadle.claim(text, text[], integer, double precision, text, text[], text[], bigint)
    is 'Take up to so many messages from the lanes of these queues for a worker; high before normal before low';
