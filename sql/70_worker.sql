-- The life of a worker: it says which agents it has, appends what they emit, beats, and does the janitor's chores.

-- agents: [{"agent", "queue", "timeout_seconds", "max_attempts", "is_default", "input", "description"}, ...]
create or replace function treadle.register_agents(agents jsonb, tenant text default 'default') returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    p_tenant constant text := register_agents.tenant;
begin
    perform pg_advisory_xact_lock(hashtext('treadle.register_agents'));
    perform treadle.create_queue(q) from (select distinct x ->> 'queue' as q from jsonb_array_elements(agents) x) u;
    if exists (select from jsonb_array_elements(agents) x where (x ->> 'is_default')::boolean) then
        update treadle.agents a set is_default = false where a.tenant = p_tenant and a.is_default
            and a.agent not in (select x ->> 'agent' from jsonb_array_elements(agents) x where (x ->> 'is_default')::boolean);
    end if;
    insert into treadle.agents as a (tenant, agent, queue, timeout_seconds, max_attempts, is_default, input, description, registered_at)
        select p_tenant, x ->> 'agent', x ->> 'queue', (x ->> 'timeout_seconds')::double precision, (x ->> 'max_attempts')::integer,
            coalesce((x ->> 'is_default')::boolean, false), nullif(x -> 'input', 'null'), coalesce(x ->> 'description', ''), treadle.clock()
        from jsonb_array_elements(agents) x
        on conflict (tenant, agent) do update set queue = excluded.queue, timeout_seconds = excluded.timeout_seconds,
            max_attempts = excluded.max_attempts, is_default = excluded.is_default, input = excluded.input,
            description = excluded.description, registered_at = excluded.registered_at;
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
    return query
        select g.id, coalesce(k.state, case when l.message_id is not null then 'busy' else 'lost' end), coalesce(k.cancel_requested, false)
        from unnest(ids, leases) with ordinality g (id, lease, o)
        left join unnest(v_items, v_states, v_cancels) k (item, state, cancel_requested) on k.item = g.o
        left join treadle.leases l on l.message_id = g.id and l.lease = g.lease
        order by g.o;
end $$;
comment on function treadle.append is 'Append events to messages under lease, numbered by the holder; repeatable';

-- Settle messages that are not finished by their holder: lost with their worker, or released because nobody holds them in truth.
create or replace function treadle._take_back(ids uuid[], outcome text, reason text, max_losses integer, at timestamptz)
returns setof uuid language plpgsql as $$
declare
    v_threads bigint[];
    v_ids uuid[];
begin
    select array_agg(t.id) into v_threads from (
        select t.id from treadle.threads t where t.id in (select l.thread from treadle.leases l where l.message_id = any(ids))
        order by t.id for no key update skip locked) t;
    select array_agg(l.message_id) into v_ids from (
        select l.message_id from treadle.leases l
        where l.message_id = any(ids) and (l.thread is null or l.thread = any(v_threads))
        order by l.message_id for update skip locked) l;
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
    v_orphans uuid[];
    v_expiring uuid[];
    v record;
begin
    insert into treadle.workers as w (worker_id, host, pid, queues, concurrency, in_flight, started_at, heartbeat_at, beating_since, server_started)
        values (worker, host, pid, queues, concurrency, cardinality(ids), heartbeat.started_at, v_now, v_now, heartbeat.server_started)
        on conflict (worker_id) do update set queues = excluded.queues, concurrency = excluded.concurrency, in_flight = excluded.in_flight,
            heartbeat_at = v_now, server_started = excluded.server_started,
            beating_since = case when w.heartbeat_at < v_now - interval_seconds * 2 * interval '1 second' then v_now else w.beating_since end;
    select array_agg(l.message_id) into v_orphans from treadle.leases l
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

-- A worker says goodbye: nothing of it is left to reap.
create or replace function treadle.sign_off(worker text) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
    delete from treadle.workers w where w.worker_id = worker
$$;

-- Reap: take the messages of dead workers back, a loss charged. A worker is dead when
--   its listener's lock is free, on the very server it was taken on, and its heartbeat is older than 1.5 intervals; or
--   its heartbeat is older than worker_timeout, and the janitor itself has beaten without a gap for as long: then the silence is
--   the worker's and not the database's.
-- The same goes for leases of workers nobody knows, and for leases whose visibility timeout no heartbeat pushed on.
create or replace function treadle.reap(janitor text, interval_seconds double precision, worker_timeout double precision, max_losses integer, quantity integer default 1000)
returns table (message_id uuid, worker text)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := treadle.clock();
    v_server constant timestamptz := pg_postmaster_start_time();
    v_steady boolean := exists (select from treadle.workers w
        where w.worker_id = janitor and w.beating_since <= v_now - worker_timeout * interval '1 second');
    v_low constant bigint := treadle._mark('leases');
    v_worker text;
    v_ids uuid[];
begin
    for v_worker in
        select w.worker_id from treadle.workers w
        where w.worker_id <> janitor and (
            (v_steady and w.heartbeat_at < v_now - worker_timeout * interval '1 second')
            or (w.server_started = v_server and w.heartbeat_at < v_now - interval_seconds * 1.5 * interval '1 second'
                and pg_try_advisory_xact_lock(treadle.worker_key(w.worker_id))))
        order by w.worker_id
    loop
        select array_agg(l.message_id) into v_ids from (select l.message_id from treadle.leases l where l.id >= v_low and l.worker_id = v_worker limit quantity) l;
        return query select t, v_worker from treadle._take_back(v_ids, 'lost', 'The worker was lost.', max_losses, v_now) t;
        delete from treadle.workers w where w.worker_id = v_worker and not exists (select from treadle.leases l where l.id >= v_low and l.worker_id = v_worker);
    end loop;
    if v_steady then
        select array_agg(l.message_id) into v_ids from (
            select l.message_id from treadle.leases l
            where l.id >= v_low and (l.expires_at < v_now
                or (l.claimed_at < v_now - worker_timeout * interval '1 second'
                    and not exists (select from treadle.workers w where w.worker_id = l.worker_id)))
            limit quantity) l;
        if v_ids is not null then
            return query select t, null::text from treadle._take_back(v_ids, 'lost', 'The worker was lost.', max_losses, v_now) t;
        end if;
    end if;
end $$;
comment on function treadle.reap is 'Take the messages of dead workers back, a loss charged';

-- Admit what is due: delayed messages (of a thread: to their place in it) and those whose backoff is over.
create or replace function treadle.admit_due(quantity integer default 1000) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_now constant timestamptz := treadle.clock();
    v_threads bigint[];
    v_ids uuid[];
    v_placed uuid[];   -- delayed ones that took their place in their thread
    v_moved bigint[];
    v_last record;
begin
    -- Those whose thread somebody holds locked are passed over, however many they are.
    select '-infinity'::timestamptz as run_at, treadle.uuid_at('epoch') as message_id into v_last;
    loop
        select array_agg(d.message_id order by d.run_at, d.message_id) into v_ids from (
            select m.message_id, m.run_at from treadle.messages m
            where m.hold in ('delay', 'backoff') and m.run_at <= v_now and (m.run_at, m.message_id) > (v_last.run_at, v_last.message_id)
            order by m.run_at, m.message_id limit quantity) d;
        if v_ids is null then
            return 0;
        end if;
        select m.run_at, m.message_id into v_last from treadle.messages m where m.message_id = v_ids[cardinality(v_ids)];
        select array_agg(t.id) into v_threads from (
            select t.id from treadle.threads t where t.id in (select m.thread from treadle.messages m where m.message_id = any(v_ids))
            order by t.id for no key update skip locked) t;
        select array_agg(d.message_id) into v_ids from (
            select m.message_id from treadle.messages m
            where m.message_id = any(v_ids) and m.hold in ('delay', 'backoff') and m.run_at <= v_now
                and (m.thread is null or m.thread = any(v_threads))
            order by m.message_id for update skip locked) d;
        exit when v_ids is not null;
    end loop;
    with moved as (
        update treadle.messages m set hold = 'thread'
        where m.message_id = any(v_ids) and m.hold = 'delay' and m.thread is not null and not m.aside
        returning m.message_id, m.thread
    )
    select array_agg(distinct m.thread), array_agg(m.message_id) into v_moved, v_placed from moved m;
    perform treadle._admit((select array_agg(u) from unnest(v_ids) u where v_placed is null or not u = any(v_placed)), v_now);
    if v_moved is not null then
        perform treadle._promote(v_moved, v_now);
    end if;
    return coalesce(cardinality(v_ids), 0);
end $$;
comment on function treadle.admit_due is 'Give delayed and backed-off messages whose time has come their lane row; returns how many';

create or replace function treadle._folded_slot(slot timestamptz, at timestamptz) returns timestamptz
language sql immutable parallel safe as $$
    select case when slot < at - interval '5 minutes' then '-infinity' else slot end
$$;

-- Fold the counters: many deltas become one row for each queue and ten seconds, and one for all that is over five minutes old.
-- Does nothing where that would change nothing.
create or replace function treadle.fold_counters(quantity integer default 20000) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
    v_now constant timestamptz := treadle.clock();
    v_ended constant bigint := treadle._ended();
    v_low constant bigint := treadle._mark('counters');
    v_rows integer;
    v_worth boolean;
begin
    if not pg_try_advisory_xact_lock(hashtext('treadle.fold_counters')) then
        return 0;
    end if;
    if pg_current_xact_id_if_assigned() is null then
        perform treadle._raise_low_water('counters', (select min(c.id) from treadle.counters c where c.id >= v_low), v_ended);
    end if;
    select count(*) > count(distinct (c.tenant, c.queue, c.folded)) or bool_or(c.slot <> c.folded) into v_worth
        from (select *, treadle._folded_slot(c.slot, v_now) as folded from treadle.counters c where c.id >= v_low order by c.id limit quantity) c;
    v_rows := 0;
    if v_worth then
        with gone as (
            delete from treadle.counters c where c.id in (select c.id from treadle.counters c where c.id >= v_low order by c.id limit quantity)
            returning c.tenant, c.queue, treadle._folded_slot(c.slot, v_now) as slot, c.queued, c.processing, c.completed, c.failed, c.cancelled, c.busy
        ), kept as (
            insert into treadle.counters (tenant, queue, slot, queued, processing, completed, failed, cancelled, busy)
            select g.tenant, g.queue, g.slot, sum(g.queued), sum(g.processing), sum(g.completed), sum(g.failed), sum(g.cancelled), sum(g.busy)
            from gone g group by g.tenant, g.queue, g.slot
        )
        select count(*) into v_rows from gone;
    end if;
    return v_rows;
end $$;
comment on function treadle.fold_counters is 'Fold counter deltas together; sums stay what they were';

-- The net under everything: of the `quantity` messages after `after`, those that should be in a lane and are not get a new row.
-- Returns the last message looked at, null at the end of the table.
create or replace function treadle.mend_lanes(after uuid, quantity integer default 5000, out last uuid, out mended integer)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_now constant timestamptz := treadle.clock();
    v record;
    v_lost bigint[];
    v_ids uuid[];
begin
    mended := 0;
    select m.message_id into last from (
        select m.message_id from treadle.messages m where after is null or m.message_id > after order by m.message_id limit quantity) m
        order by m.message_id desc limit 1;
    for v in
        select m.queue, m.lane, array_agg(m.lane_id) as lane_ids from treadle.messages m
        where (after is null or m.message_id > after) and m.message_id <= last and m.state = 'queued' and m.hold is null
        group by m.queue, m.lane
    loop
        select array_agg(l) into v_lost from treadle._lane_missing(v.queue, v.lane, v.lane_ids) l;
        continue when v_lost is null;
        with again as (
            update treadle.messages m set lane_id = treadle._lane_next(m.queue, m.lane)
            where m.message_id in (
                select m.message_id from treadle.messages m
                where (after is null or m.message_id > after) and m.message_id <= last and m.state = 'queued' and m.hold is null
                    and m.queue = v.queue and m.lane = v.lane and m.lane_id = any(v_lost)
                order by m.message_id for update skip locked)
            returning m.*
        ), sent as (
            select treadle._lane_insert(array_agg(a.queue), array_agg(a.lane), array_agg(a.lane_id), array_agg(treadle._lane_body(a)), v_now), count(*) as n
            from again a having count(*) > 0
        )
        select mended + coalesce(sum(s.n), 0) into mended from sent s;
    end loop;
end $$;
comment on function treadle.mend_lanes is 'Give runnable messages whose lane row is gone (a purged PGMQ queue) a new one';

-- Purge what is past its time, a little at a time: threads whole, by their last activity; standalone messages by completion;
-- dead letters by a time of their own; idempotency keys after 24 hours. Returns how many messages and keys went.
create or replace function treadle.purge(retention_hours double precision, dead_letter_hours double precision, after uuid default null,
    quantity integer default 2000, out purged integer, out last uuid)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_now constant timestamptz := treadle.clock();
    v_until constant timestamptz := v_now - retention_hours * interval '1 hour';
    v_dead_until constant timestamptz := v_now - dead_letter_hours * interval '1 hour';
    v_ids uuid[];
    v_thread bigint;
begin
    delete from treadle.idempotency i where (i.tenant, i.key) in (
        select k.tenant, k.key from treadle.idempotency k where k.created_at < v_now - interval '24 hours' limit quantity for update skip locked);
    get diagnostics purged = row_count;
    -- Ids sort by time of creation: only the old end of the table is looked at, from where the last purge stopped.
    select o.message_id into last from (
        select m.message_id from treadle.messages m
        where m.message_id < treadle.uuid_at(greatest(v_until, v_dead_until)) and (after is null or m.message_id > after)
        order by m.message_id limit quantity) o order by o.message_id desc limit 1;
    select array_agg(d.message_id) into v_ids from (
        select m.message_id from treadle.messages m
        where (after is null or m.message_id > after) and m.message_id <= last and m.thread is null
            and m.completed_at < case when m.state = 'failed' then v_dead_until else v_until end
        order by m.message_id for update skip locked) d;
    purged := purged + treadle._forget(v_ids);
    for v_thread in
        select t.id from treadle.threads t
        where t.tenant in (select a.tenant from treadle.agents a)  -- the index begins with it
            and t.last_activity < v_until and t.last_ord = t.completed + t.failed + t.cancelled
            and (t.failed = 0 or t.last_activity < v_dead_until)
        order by t.last_activity limit 5
        for update skip locked
    loop
        select array_agg(m.message_id) into v_ids from treadle.messages m where m.thread = v_thread;
        purged := purged + treadle._forget(v_ids);
        delete from treadle.thread_log l where l.thread = v_thread;
        delete from treadle.threads t where t.id = v_thread;
    end loop;
end $$;
comment on function treadle.purge is 'Delete a chunk of what is past its time; call again with the `last` it returned';

-- Delete messages with their events, leases and lane rows. The caller holds their threads.
create or replace function treadle._forget(ids uuid[]) returns integer
language plpgsql as $$
declare
    v_queues text[]; v_lanes text[]; v_lane_ids bigint[];
    v_count integer;
begin
    if ids is null then
        return 0;
    end if;
    perform from treadle.leases l where l.message_id = any(ids) order by l.message_id for update;
    with gone as (
        delete from treadle.messages m where m.message_id = any(ids) returning m.queue, m.lane, m.lane_id, m.state
    ), counted as (
        insert into treadle.counters (queue, slot, queued, processing, completed, failed, cancelled)
        select g.queue, '-infinity', -count(*) filter (where g.state = 'queued'), -count(*) filter (where g.state = 'processing'),
            -count(*) filter (where g.state = 'completed'), -count(*) filter (where g.state = 'failed'), -count(*) filter (where g.state = 'cancelled')
        from gone g group by g.queue
    )
    select array_agg(g.queue), array_agg(g.lane), array_agg(g.lane_id), count(*) into v_queues, v_lanes, v_lane_ids, v_count from gone g;
    delete from treadle.leases l where l.message_id = any(ids);
    delete from treadle.events e where e.message_id = any(ids);
    perform treadle._lane_delete(v_queues, v_lanes, v_lane_ids);
    return v_count;
end $$;
