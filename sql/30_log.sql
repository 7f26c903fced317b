-- The event log: what happened to each message, in order.
--
-- A message's events are dense from seq 1. A thread's events also carry thread_pos, dense in the thread. It is given
-- under the lock of the thread's row in thread_log, which is held until commit: a reader that has read up to a position
-- has read everything up to it. (31_late_positions.sql: events of transactions that may stay open.)
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
    v_threads constant bigint[] := (
        select array_agg(distinct (e.entry).thread)
        from (select unnest(entries) as entry) e  -- unnest() in `from` would copy the data of the entries
        where (e.entry).thread is not null);
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
        select (e.entry).thread, count(*) as events
        from (select unnest(entries) as entry) e
        where (e.entry).thread is not null
        group by (e.entry).thread
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
