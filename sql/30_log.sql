-- The event log: what happened to each message, in order.
--
-- A message's events are dense from seq 1. A thread's events also carry thread_pos, dense in the thread. It is given
-- under the lock of the thread's row in thread_log, which is held until commit: a reader that has read up to a
-- position has read everything up to it. (31_late_writes.sql: events of transactions that may stay open.)
--
-- The types: queued (seq 1, or after a redrive) · started {attempt} · chunk {type, chunk, index} · step {name, result}
-- · progress, tool, any type of the agent's · parked {attempt, hold} · input {name, input} · retry {attempt, error,
-- retry_at} · and at the end of a life one of done, error {state, error, completed_at}, cancelled {state}.

-- The era of the newest version of a thread's log. An old snapshot keeps the dead versions of a row that changes often;
-- they lie below in the index, and this search never reads them.
create or replace function treadle._log_era(thread bigint) returns table (era bigint)
language sql stable rows 1 as $$
    select l.era
    from treadle.thread_log l
    where l.thread = _log_era.thread
    order by l.era desc
    limit 1
$$;

-- The era of a log that ends at this position.
create or replace function treadle._era(last_pos bigint) returns bigint
language sql immutable parallel safe as $$
    select last_pos / 16
$$;

-- Lock the thread_log rows of these threads in the order of their key, until the end of the transaction, and return
-- the threads. Not `patient`: without those whose row another transaction locks.
create or replace function treadle._lock_logs(threads bigint[], patient boolean) returns bigint[]
language plpgsql as $$
begin
    if patient then
        perform from (select u.thread from unnest(threads) u (thread) order by u.thread) u
            cross join lateral (
                select
                from treadle.thread_log l
                where l.thread = u.thread
                order by l.era desc
                limit 1
                for no key update
            ) l;
        return threads;
    end if;
    return array(
        select l.thread
        from unnest(threads) u
        cross join lateral treadle._log_era(u) n
        cross join lateral (  -- from the newest version on: past a locked one, the search would go on to the dead ones
            select l.thread
            from treadle.thread_log l
            where l.thread = u and l.era >= n.era
            for no key update skip locked
        ) l);
end $$;

-- Count events in the logs of their threads: `threads` names the thread of each event. It locks the logs in the order
-- of their key, because the inner query gives the threads in this order (`offset 0` keeps it as it is). Returns the
-- last_pos of each thread before these events, in the order of the threads.
create or replace function treadle._count_in_logs(threads bigint[]) returns bigint[]
language plpgsql as $$
declare
    v_positions bigint[];
    v_threads bigint;
begin
    with arriving as (
        select u.thread, count(*) as events
        from unnest(threads) u (thread)
        group by u.thread
    ), counted as (
        update treadle.thread_log l
        set last_pos = l.last_pos + n.events, era = treadle._era(l.last_pos + n.events)
        from (
            select a.thread, a.events, g.era
            from (select * from arriving order by thread) a
            cross join lateral treadle._log_era(a.thread) g
            offset 0
        ) n
        where l.thread = any(array[n.thread]) and l.era >= n.era
        returning l.thread, l.last_pos - n.events as last_pos
    )
    select array_agg(c.last_pos order by c.thread), (select count(*) from arriving)
        into v_positions, v_threads
        from counted c;
    if coalesce(cardinality(v_positions), 0) <> v_threads then
        raise exception 'A thread has no row in treadle.thread_log: run treadle check --invariants.';
    end if;
    return v_positions;
end $$;

-- Write events. The caller has numbered them; their order in the array is their order in the thread.
create or replace function treadle._log(entries treadle.entry[], at timestamptz) returns void
language plpgsql as $$
declare
    v_threads bigint[];
    v_positions bigint[];  -- last_pos of each thread before these events, in the order of the threads
begin
    if cardinality(entries) = 1 then  -- the common case, without a query
        v_threads := array_remove(array[entries[1].thread], null);
    else
        v_threads := array(
            select (e.entry).thread
            from (select unnest(entries) as entry) e  -- unnest() in `from` would copy the data of the entries
            where (e.entry).thread is not null);
    end if;
    if v_threads = '{}' then
        insert into treadle.events (message_id, seq, tenant, type, data, created_at)
            select e.message_id, e.seq, e.tenant, e.type, e.data, at
            from unnest(entries) e;
        return;
    end if;
    v_positions := treadle._count_in_logs(v_threads);
    -- The rank of a thread among all finds its position in the array, so that no arrays are joined.
    insert into treadle.events (message_id, seq, tenant, thread, thread_pos, type, data, created_at)
        select e.message_id, e.seq, e.tenant, e.thread,
            v_positions[dense_rank() over (order by e.thread)] + row_number() over (partition by e.thread order by e.n),
            e.type, e.data, at
        from unnest(entries) with ordinality e (message_id, seq, thread, type, data, tenant, n);
end $$;
