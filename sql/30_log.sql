-- The event log: what happened to each message, in order.
--
-- A message's events are dense from seq 1. A thread's events also carry thread_pos, dense in the thread. It is given
-- under the lock of the thread's row in thread_log, which is held until commit: a reader that has read up to a
-- position has read everything up to it. (31_late_writes.sql: events of transactions that may stay open.)
--
-- queued (seq 1, or after a redrive) · started {attempt} · chunk, progress, tool, any type of the agent's · parked
-- {attempt, hold} · input {name, input} · retry {attempt, error, retry_at}
-- · and at the end of a life one of done, error {state, error, completed_at}, cancelled {state}.

-- The newest versions of the logs of these threads. An old snapshot keeps the dead versions of a row that changes
-- often; they lie below in the index, and this search never reads them.
create or replace function treadle._log_eras(threads bigint[]) returns table (thread bigint, era bigint)
language sql stable as $$
    select u, n.era
    from unnest(threads) u
    cross join lateral (
        select l.era
        from treadle.thread_log l
        where l.thread = u
        order by l.era desc
        limit 1
    ) n
$$;

-- The era of a log that ends at this position.
create or replace function treadle._era(last_pos bigint) returns bigint
language sql immutable parallel safe as $$
    select last_pos / 64
$$;

-- Lock the thread_log rows of these threads in the order of their key, until the end of the transaction, and return
-- the threads. Not `patient`: without those whose row another transaction locks.
create or replace function treadle._lock_logs(threads bigint[], patient boolean) returns bigint[]
language plpgsql as $$
begin
    if patient then
        perform from treadle._log_eras(threads) n
            join treadle.thread_log l on l.thread = n.thread and l.era >= n.era
            order by l.thread
            for no key update of l;
        return threads;
    end if;
    return array(
        select l.thread
        from treadle._log_eras(threads) n
        join treadle.thread_log l on l.thread = n.thread and l.era >= n.era
        order by l.thread
        for no key update of l skip locked);
end $$;

-- Write events. The caller has numbered them; their order in the array is their order in the thread.
create or replace function treadle._log(entries treadle.entry[], at timestamptz) returns void
language plpgsql as $$
declare
    v_threads constant bigint[] := (
        select array_agg(distinct (e.entry).thread)
        from (select unnest(entries) as entry) e  -- unnest() in `from` would copy the data of the entries
        where (e.entry).thread is not null);
    v_positions bigint[];  -- last_pos of each thread before these events, in the order of v_threads
begin
    if v_threads is null then
        insert into treadle.events (message_id, seq, tenant, type, data, created_at)
            select e.message_id, e.seq, e.tenant, e.type, e.data, at
            from unnest(entries) e;
        return;
    end if;
    if cardinality(v_threads) > 1 then
        perform treadle._lock_logs(threads => v_threads, patient => true);
    end if;
    with arriving as (
        select (e.entry).thread, count(*) as events
        from (select unnest(entries) as entry) e
        where (e.entry).thread is not null
        group by (e.entry).thread
    ), counted as (
        update treadle.thread_log l
        set last_pos = l.last_pos + a.events, era = treadle._era(l.last_pos + a.events)
        from arriving a
        join treadle._log_eras(v_threads) n on n.thread = a.thread
        where l.thread = n.thread and l.era >= n.era
        returning l.thread, l.last_pos - a.events as last_pos
    )
    select array_agg(c.last_pos order by c.thread)
        into v_positions
        from counted c;
    if cardinality(v_positions) is distinct from cardinality(v_threads) then
        raise exception 'A thread has lost its log.';
    end if;
    -- The rank of a thread among all finds its position in the array, so that no arrays are joined.
    insert into treadle.events (message_id, seq, tenant, thread, thread_pos, type, data, created_at)
        select e.message_id, e.seq, e.tenant, e.thread,
            v_positions[dense_rank() over (order by e.thread)] + row_number() over (partition by e.thread order by e.n),
            e.type, e.data, at
        from unnest(entries) with ordinality e (message_id, seq, thread, type, data, tenant, n);
end $$;
