-- The event log: what happened to each message, in order.
--
-- A message's events are dense from seq 1. A thread's events also carry thread_pos, dense in the thread. It is given
-- under the lock of the thread's row in thread_log, which is held until commit: a reader that has read up to a position
-- has read everything up to it.
--
-- queued (seq 1, or after a redrive) · started {attempt} · chunk, progress, tool, any type of the agent's · parked
-- {attempt, hold} · input {name, input} · retry {attempt, error, retry_at}
-- · and at the end of a life one of done, error {state, error, completed_at}, cancelled {state}.

-- Lock the thread_log rows of these threads in the order of their key, until the end of the transaction, and return the
-- threads.
-- Not `patient`: without those whose row another transaction locks.
create or replace function treadle._lock_logs(threads bigint[], patient boolean) returns bigint[]
language plpgsql as $$
begin
    if patient then
        perform from treadle.thread_log l
            where l.thread = any(threads)
            order by l.thread
            for no key update;
        return threads;
    end if;
    return array(
        select l.thread
        from treadle.thread_log l
        where l.thread = any(threads)
        order by l.thread
        for no key update skip locked);
end $$;

-- Write events. The caller has numbered them; their order in the array is their order in the thread.
create or replace function treadle._log(entries treadle.entry[], at timestamptz) returns void
language plpgsql as $$
declare
    v_threads constant bigint[] := (select array_agg(distinct e.thread) from unnest(entries) e
        where e.thread is not null);
    v_positions bigint[];  -- last_pos of each thread before these events, in the order of v_threads
begin
    if v_threads is null then
        insert into treadle.events (message_id, seq, type, data, created_at)
            select e.message_id, e.seq, e.type, e.data, at
            from unnest(entries) e;
        return;
    end if;
    if cardinality(v_threads) > 1 then
        perform treadle._lock_logs(threads => v_threads, patient => true);
    end if;
    with arriving as (
        select e.thread, count(*) as events
        from unnest(entries) e
        where e.thread is not null
        group by e.thread
    ), counted as (
        update treadle.thread_log l
        set last_pos = l.last_pos + a.events
        from arriving a
        where l.thread = a.thread
        returning l.thread, l.last_pos - a.events as last_pos
    )
    select array_agg(c.last_pos order by c.thread)
        into v_positions
        from counted c;
    if cardinality(v_positions) is distinct from cardinality(v_threads) then
        raise exception 'A thread has lost its log.';
    end if;
    -- The rank of a thread among all finds its position in the array, so that no arrays are joined.
    insert into treadle.events (message_id, seq, thread, thread_pos, type, data, created_at)
        select e.message_id, e.seq, e.thread,
            v_positions[dense_rank() over (order by e.thread)] + row_number() over (partition by e.thread order by e.n),
            e.type, e.data, at
        from unnest(entries) with ordinality e (message_id, seq, thread, type, data, n);
end $$;

-- What a reader is shown of an event. queued and done are read from the message (a left join on just those two types).
create or replace function treadle._event_data(type text, data jsonb, m treadle.messages, thread_id text) returns text
language sql immutable parallel safe as $$
    select case type
        when 'queued' then jsonb_build_object('message', m.body, 'agent', m.agent, 'priority', m.priority, 'thread_id',
            thread_id)
            || case when m.aside then '{"aside": true}' else '{}'::jsonb end || coalesce(data, '{}')
        when 'done' then jsonb_build_object('state', 'completed', 'result', m.result, 'completed_at', m.completed_at)
        else data end::text
$$;

-- New events for many readers at once. Reader n has seen `afters[n]` of message `ids[n]`. Each gets at most `quantity`
-- events and about 256 kB (one event at the least). A reader of a message that is gone gets a row of type null
-- at the end.
-- `last`: this terminal event is the last of its log (a redriven message's old ones are not).
create or replace function treadle.read_events(ids uuid[], afters integer[], quantity integer)
returns table (n integer, message_id uuid, seq integer, type text, data text, created_at timestamptz, last boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
    set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
#variable_conflict use_column
begin
    return query
    select c.n::integer, c.id, e.seq, e.type, e.data, e.created_at, e.last
    from unnest(ids, afters) with ordinality c (id, after, n)
    cross join lateral (
        select f.seq, f.type, f.data, f.created_at, f.last
        from (
            select e.seq, e.type, d.data, e.created_at,
                e.type in ('done', 'error', 'cancelled') and exists (
                    select from treadle.messages m
                    where m.message_id = c.id and m.last_seq = e.seq
                        and m.state in ('completed', 'failed', 'cancelled')) as last,
                sum(length(d.data)) over (order by e.seq) - length(d.data) as before
            from (
                select *
                from treadle.events e
                where e.message_id = c.id and e.seq > c.after
                order by e.seq
                limit quantity
            ) e
            left join treadle.messages m on e.type in ('queued', 'done') and m.message_id = c.id
            left join treadle.threads t on e.type = 'queued' and t.id = e.thread
            cross join lateral (select treadle._event_data(e.type, e.data, m, t.thread_id) as data) d
        ) f
        where f.before < 256000
        union all
        select null, null, null, null, null
        where not exists (select from treadle.messages m where m.message_id = c.id)
    ) e
    order by c.n, e.seq;
end $$;
comment on function treadle.read_events
    is 'New events for many readers of messages: reader n has seen afters[n] of ids[n]';

create or replace function treadle.read_thread_events(ids bigint[], afters bigint[], quantity integer)
returns table (n integer, message_id uuid, seq integer, thread_pos bigint, type text, data text, created_at timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
    set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
#variable_conflict use_column
begin
    return query
    select c.n::integer, e.message_id, e.seq, e.thread_pos, e.type, e.data, e.created_at
    from unnest(ids, afters) with ordinality c (id, after, n)
    cross join lateral (
        select f.*
        from (
            select e.message_id, e.seq, e.thread_pos, e.type, d.data, e.created_at,
                sum(length(d.data)) over (order by e.thread_pos) - length(d.data) as before
            from (
                select *
                from treadle.events e
                where e.thread = c.id and e.thread_pos > c.after
                order by e.thread_pos
                limit quantity
            ) e
            left join treadle.messages m on e.type in ('queued', 'done') and m.message_id = e.message_id
            left join treadle.threads t on e.type = 'queued' and t.id = c.id
            cross join lateral (select treadle._event_data(e.type, e.data, m, t.thread_id) as data) d
        ) f
        where f.before < 256000
        union all
        select null, null, null, null, null, null, null
        where not exists (select from treadle.threads t where t.id = c.id)
    ) e
    order by c.n, e.thread_pos;
end $$;
comment on function treadle.read_thread_events
    is 'New events for many readers of threads (threads.id): reader n has seen up to thread_pos afters[n]';

-- One partition a day (UTC), by the time in the message id. What has none goes to events_default.
-- Making one locks the default partition, dropping one all of them, and while such a lock is waited for everybody waits
-- behind it: so both give up soon (55P03) where somebody reads the log in a long transaction, and are tried again
-- later.
create or replace function treadle.ensure_partitions(days integer default 3) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '500ms' as $$
declare
    v_day timestamptz := date_trunc('day', treadle.clock(), 'UTC');
    v_name text;
    v_made integer := 0;
begin
    perform pg_advisory_xact_lock(hashtext('treadle.partitions'));
    for i in -1 .. days loop
        v_name := 'events_' || to_char((v_day + make_interval(days => i)) at time zone 'UTC', 'YYYYMMDD');
        continue when to_regclass('treadle.' || v_name) is not null;
        -- A day whose first rows already lie in the default partition stays there.
        continue when exists (
            select from treadle.events_default e
            where e.message_id >= treadle.uuid_at(v_day + make_interval(days => i))
                and e.message_id < treadle.uuid_at(v_day + make_interval(days => i + 1)));
        execute format('create table treadle.%I (like treadle.events including all)', v_name);
        execute format('alter table treadle.events attach partition treadle.%I for values from (%L) to (%L)', v_name,
            treadle.uuid_at(v_day + make_interval(days => i)), treadle.uuid_at(v_day + make_interval(days => i + 1)));
        v_made := v_made + 1;
    end loop;
    return v_made;
end $$;
comment on function treadle.ensure_partitions
    is 'Make the daily partitions of the event log, from yesterday to some days ahead';

-- Drop the partitions of days before `until` that hold nothing any more.
create or replace function treadle.drop_partitions(until timestamptz) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '500ms' as $$
declare
    v_name text;
    v_empty boolean;
    v_dropped integer := 0;
begin
    perform pg_advisory_xact_lock(hashtext('treadle.partitions'));
    for v_name in
        select c.relname
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'treadle.events'::regclass and c.relname ~ '^events_[0-9]{8}$'
            and c.relname < 'events_' || to_char(until at time zone 'UTC', 'YYYYMMDD')
    loop
        execute format('select not exists (select from treadle.%I)', v_name) into v_empty;
        continue when not v_empty;
        lock table treadle.events in access exclusive mode;  -- look again where nobody can write any more
        execute format('select not exists (select from treadle.%I)', v_name) into v_empty;
        if v_empty then
            execute format('drop table treadle.%I', v_name);
            v_dropped := v_dropped + 1;
        end if;
    end loop;
    return v_dropped;
end $$;
comment on function treadle.drop_partitions is 'Drop the daily partitions before a time whose events are all gone';
