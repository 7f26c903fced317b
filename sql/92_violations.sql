-- Invariants: rules that hold in every database at every moment, whatever was done to it and whichever process died.
--
-- Each part of treadle.violations finds the exceptions to one rule; the list of rules is at its end. The view reads
-- everything from one snapshot without a lock, which takes a few seconds for each hundred thousand messages. It is for
-- tests, for the morning after an incident, for doubts:  treadle check --invariants

-- All rows of all lanes and dead letters.
create or replace function treadle._lane_rows()
returns table (queue text, lane text, msg_id bigint, vt timestamptz, message jsonb)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    v_lanes constant text := (
        select string_agg(
            format('select %L, %L, r.msg_id, r.vt, r.message from pgmq.%I r',
                q.queue, l.lane, treadle._lane_table(q.queue, l.lane)),
            ' union all ')
        from treadle.queues q
        cross join unnest(array['high', 'normal', 'low', 'dlq']) l (lane));
begin
    if v_lanes is not null then
        return query execute v_lanes;
    end if;
end $$;

create or replace view treadle.violations as
with lanes as materialized (
    select *
    from treadle._lane_rows()
),

-- Logs

log_with_holes as (
    select m.message_id, m.state, e.seqs, coalesce(l.last_seq, m.last_seq) as last_seq
    from treadle.messages m
    left join treadle.leases l using (message_id)
    cross join lateral (
        select array_agg(e.seq order by e.seq) as seqs
        from treadle.events e
        where e.message_id = m.message_id
    ) e
    where e.seqs is distinct from (
        select array_agg(s::integer)
        from generate_series(1, coalesce(l.last_seq, m.last_seq)) s)
), stray_event as (
    select e.message_id, e.seq, e.thread, e.thread_pos, m.thread as thread_of_message
    from treadle.events e
    left join treadle.messages m using (message_id)
    where (
            m.message_id is null
            or e.thread is distinct from m.thread
            or (e.thread is null) <> (e.thread_pos is null)
        )
        and not exists (
            select
            from treadle.trash t
            where t.message_id = e.message_id
                and e.seq > t.deleted_seq
                and e.seq <= t.last_seq)
), wrong_trash as (
    select t.message_id, t.last_seq, t.deleted_seq
    from treadle.trash t
    where exists (select from treadle.messages m where m.message_id = t.message_id)
        or t.last_seq - t.deleted_seq <> (select count(*) from treadle.events e where e.message_id = t.message_id)
), thread_log_with_holes as (
    select t.id, t.thread_id, l.last_pos, e.positions
    from treadle.threads t
    left join treadle.thread_log l on l.thread = t.id
    cross join lateral (
        select array_agg(e.thread_pos order by e.thread_pos) as positions
        from treadle.events e
        where e.thread = t.id
    ) e
    where l.last_pos is null
        or e.positions is distinct from (select array_agg(s) from generate_series(1, l.last_pos) s)
), stray_thread_log as (
    select l.thread, l.last_pos
    from treadle.thread_log l
    where not exists (select from treadle.threads t where t.id = l.thread)
), thread_log_out_of_order as (
    select o.*
    from (
        select
            e.message_id, e.seq, e.thread_pos,
            lag(e.thread_pos) over (partition by e.message_id order by e.seq) as before
        from treadle.events e
        where e.thread is not null
    ) o
    where o.before >= o.thread_pos
), wrong_final_events as (
    select m.message_id, m.state, e.types
    from treadle.messages m
    cross join lateral (
        select array_agg(e.type order by e.seq) as types
        from treadle.events e
        where e.message_id = m.message_id
            and e.type in ('queued', 'done', 'error', 'cancelled')
    ) e
    where array_to_string(e.types, ' ') <>
            repeat('queued error ', cardinality(array_positions(e.types, 'queued')) - 1)
            || case m.state
                when 'completed' then 'queued done'
                when 'failed' then 'queued error'
                when 'cancelled' then 'queued cancelled'
                else 'queued'
            end
        or (
            m.state in ('completed', 'failed', 'cancelled')
            and not exists (
                select
                from treadle.events e
                where e.message_id = m.message_id
                    and e.seq = m.last_seq
                    and e.type in ('done', 'error', 'cancelled'))
        )
), wrong_attempt_events as (
    select m.message_id, m.state, m.attempt, e.types
    from treadle.messages m
    cross join lateral (
        select
            coalesce(string_agg(e.type, ' ' order by e.seq), '') as types,
            count(*) filter (where e.type = 'started') as attempts
        from treadle.events e
        where e.message_id = m.message_id
            and e.type in ('queued', 'started', 'retry', 'parked', 'done', 'error', 'cancelled')
    ) e
    where m.attempt <> e.attempts
        or e.types !~ (
            '^(queued( started (retry|parked))* started error )*queued( started (retry|parked))*'
            '( started| started done| started error| started cancelled| cancelled)?$')
        or (e.types ~ ' started$') <> (m.state = 'processing')
),

-- Lanes and leases

wrong_lane_row as (
    select m.message_id, m.state, m.queue, m.lane, m.lane_id, r.bodies
    from treadle.messages m
    left join treadle.threads t on t.id = m.thread
    left join (
        select r.queue, r.lane, r.msg_id, jsonb_agg(r.message) as bodies
        from lanes r
        group by r.queue, r.lane, r.msg_id
    ) r on r.queue = m.queue and r.lane = m.lane and r.msg_id = m.lane_id
    where (m.lane is not null) <>
            (m.state in ('processing', 'failed') or (m.state = 'queued' and m.hold is null))
        or (m.lane is not null and jsonb_array_length(r.bodies) <> 1)
        or (m.lane <> 'dlq' and r.bodies is null)
        or (m.lane <> 'dlq' and r.bodies -> 0 <> jsonb_build_object(
            'message_id', m.message_id, 'thread_id', t.thread_id, 'agent', m.agent))
        or (m.lane = 'dlq' and not r.bodies -> 0 @> jsonb_build_object(
            'message_id', m.message_id, 'thread_id', t.thread_id, 'agent', m.agent,
            'reason', m.error, 'attempts', m.attempt))
), stray_lane_row as (
    select r.*
    from lanes r
    left join treadle.messages m on m.message_id = treadle._uuid(r.message ->> 'message_id')
        and m.queue = r.queue
        and m.lane = r.lane
        and m.lane_id = r.msg_id
    where m.message_id is null
        and not (r.lane = 'dlq' and r.message ->> 'reason' is not distinct from 'foreign')
), wrong_visibility as (
    select m.message_id, m.state, r.vt, l.expires_at
    from treadle.messages m
    join lanes r on r.queue = m.queue and r.lane = m.lane and r.msg_id = m.lane_id
    left join treadle.leases l using (message_id)
    where (m.state = 'queued' and r.vt > treadle.clock())
        or (m.state = 'processing' and r.vt < l.expires_at)
), wrong_lease as (
    select
        coalesce(m.message_id, l.message_id) as message_id, m.state, m.worker_id, m.thread,
        l.worker_id as lease_worker, l.thread as lease_thread
    from treadle.messages m
    full join treadle.leases l on l.message_id = m.message_id
    where (m.state is not distinct from 'processing') <> (l.message_id is not null)
        or (l.message_id is not null and (l.worker_id, l.thread) is distinct from (m.worker_id, m.thread))
), row_below_mark as (
    select r.*
    from lanes r
    join treadle.low_water w on w.name = treadle._lane_table(r.queue, r.lane)
    join treadle.messages m on m.message_id = treadle._uuid(r.message ->> 'message_id') and m.state = 'queued'
    where r.msg_id < w.low
        and r.vt <= treadle.clock()
), lease_below_mark as (
    select l.message_id, l.id
    from treadle.leases l
    where l.id < treadle._low_water_mark('leases')
), counter_below_mark as (
    select c.id, c.queue
    from treadle.counters c
    where c.id < treadle._low_water_mark('counters')
),

-- Messages and counters

wrong_outcome as (
    select m.message_id, m.state, m.result, m.error, m.started_at, m.worker_id
    from treadle.messages m
    where (m.result is not null and m.state <> 'completed')
        or (m.state = 'failed' and m.error is null)
        or (m.state = 'processing' and (m.started_at is null or m.worker_id is null))
        or (m.state = 'completed' and m.started_at is null)
        or (m.state = 'queued' and (m.started_at is not null or m.worker_id is not null))
), wrong_charges as (
    select m.message_id, m.state, m.attempt, m.failures, m.losses, m.max_attempts
    from treadle.messages m
    where m.failures > m.max_attempts
        or m.failures + m.losses > m.attempt
        or (m.failures = m.max_attempts and m.state in ('queued', 'processing'))
), wrong_wait as (
    select m.message_id, m.state, m.hold, p.children, e.type, e.data
    from treadle.messages m
    left join treadle.parked p using (message_id)
    left join treadle.events e on m.hold in ('children', 'input')
        and e.message_id = m.message_id
        and e.seq = m.last_seq
    where (p.children is not null and m.hold is distinct from 'children' and m.state <> 'cancelled')
        or (m.hold = 'children' and p.children is null)
        or (
            m.hold in ('children', 'input')
            and (e.type is distinct from 'parked' or e.data ->> 'hold' is distinct from m.hold)
        )
), wrong_counter as (
    select queue, to_jsonb(c) as counted, to_jsonb(m) as found
    from (
        select
            c.queue, sum(c.queued) as queued, sum(c.processing) as processing, sum(c.completed) as completed,
            sum(c.failed) as failed, sum(c.cancelled) as cancelled
        from treadle.counters c
        group by c.queue
    ) c
    full join (
        select
            m.queue,
            count(*) filter (where m.state = 'queued') as queued,
            count(*) filter (where m.state = 'processing') as processing,
            count(*) filter (where m.state = 'completed') as completed,
            count(*) filter (where m.state = 'failed') as failed,
            count(*) filter (where m.state = 'cancelled') as cancelled
        from treadle.messages m
        group by m.queue
    ) m using (queue)
    where coalesce(c.queued, 0) <> coalesce(m.queued, 0)
        or coalesce(c.processing, 0) <> coalesce(m.processing, 0)
        or coalesce(c.completed, 0) <> coalesce(m.completed, 0)
        or coalesce(c.failed, 0) <> coalesce(m.failed, 0)
        or coalesce(c.cancelled, 0) <> coalesce(m.cancelled, 0)
),

-- Threads

wrong_thread_counts as (
    select t.id, t.thread_id, t.last_ord, t.completed, t.failed, t.cancelled, f.*
    from treadle.threads t
    cross join lateral (
        select
            array_agg(m.ord order by m.ord) as ords,
            count(*) filter (where m.state = 'completed') as completed_found,
            count(*) filter (where m.state = 'failed') as failed_found,
            count(*) filter (where m.state = 'cancelled') as cancelled_found
        from treadle.messages m
        where m.thread = t.id
    ) f
    where (t.completed, t.failed, t.cancelled) <> (f.completed_found, f.failed_found, f.cancelled_found)
        or f.ords is distinct from (select array_agg(s) from generate_series(1, t.last_ord) s)
), message_without_thread as (
    select m.message_id, m.thread
    from treadle.messages m
    where m.thread is not null
        and not exists (select from treadle.threads t where t.id = m.thread)
), wrong_turn as (
    select t.id, t.thread_id, t.turn, m.thread, m.state, m.hold, m.aside
    from treadle.threads t
    left join treadle.messages m on m.message_id = t.turn
    where t.turn is not null
        and (
            m.thread is distinct from t.id
            or m.aside
            or m.state not in ('queued', 'processing')
            or m.hold in ('thread', 'delay')
        )
), message_without_turn as (
    select t.id, t.thread_id, t.turn, m.message_id, m.state, m.hold
    from treadle.threads t
    join treadle.messages m on m.thread = t.id and not m.aside and m.message_id is distinct from t.turn
    where m.state = 'processing'
        or (
            m.state = 'queued'
            and m.hold is distinct from 'delay'
            and (m.hold is distinct from 'thread' or t.turn is null)
        )
), wrong_wait_for_turn as (
    select m.message_id, m.thread, m.aside
    from treadle.messages m
    where m.hold = 'thread'
        and (m.thread is null or m.aside)
),

-- The rules

broken (rule, subject, detail) as (
    select 'A log is dense from 1, and ends where its message or the lease says.', v.message_id::text, to_jsonb(v)
    from log_with_holes v
    union all
    select 'An event belongs to a message, and to the thread of that message.', v.message_id::text, to_jsonb(v)
    from stray_event v
    union all
    select 'Trash is no longer a message, and holds exactly the events that are not deleted yet.',
        v.message_id::text, to_jsonb(v)
    from wrong_trash v
    union all
    select 'A thread''s log is dense from 1 to its last_pos.', v.thread_id, to_jsonb(v)
    from thread_log_with_holes v
    union all
    select 'A thread''s log belongs to a thread.', v.thread::text, to_jsonb(v)
    from stray_thread_log v
    union all
    select 'In a thread''s log, each message''s events keep their own order.', v.message_id::text, to_jsonb(v)
    from thread_log_out_of_order v
    union all
    select 'Each life has one final event, that of its state, and a message that is over ends with it.',
        v.message_id::text, to_jsonb(v)
    from wrong_final_events v
    union all
    select 'Every attempt has its `started`, and ends with `retry`, with `parked`, or with its life.',
        v.message_id::text, to_jsonb(v)
    from wrong_attempt_events v
    union all
    select 'A message that may run or runs has one row in its lane; a failed one has at most one dead letter.',
        v.message_id::text, to_jsonb(v)
    from wrong_lane_row v
    union all
    select 'Every lane row belongs to a message (except dead letters of foreign rows).',
        v.queue || '_' || v.lane || ' ' || v.msg_id, to_jsonb(v)
    from stray_lane_row v
    union all
    select 'The lane row of a message that may run is visible; that of a running one is hidden for its lease.',
        v.message_id::text, to_jsonb(v)
    from wrong_visibility v
    union all
    select 'A message has a lease if and only if it is processing.', v.message_id::text, to_jsonb(v)
    from wrong_lease v
    union all
    select 'A result exists only for completed messages, started_at only for those that run or ran.',
        v.message_id::text, to_jsonb(v)
    from wrong_outcome v
    union all
    select 'Counters add up to the messages that exist.', v.queue, to_jsonb(v)
    from wrong_counter v
    union all
    select 'A thread''s counts are those of its messages, and their places are dense.', v.thread_id, to_jsonb(v)
    from wrong_thread_counts v
    union all
    select 'A message''s thread exists.', v.message_id::text, to_jsonb(v)
    from message_without_thread v
    union all
    select 'The turn belongs to an open message of the thread that may take one.', v.thread_id, to_jsonb(v)
    from wrong_turn v
    union all
    select 'In a thread only the message with the turn may run, and messages wait only while one has the turn.',
        v.thread_id, to_jsonb(v)
    from message_without_turn v
    union all
    select 'Only messages that take turns in a thread wait for one.', v.message_id::text, to_jsonb(v)
    from wrong_wait_for_turn v
    union all
    select 'A message that waits for children names them, one that waits for input has asked, and no other does.',
        v.message_id::text, to_jsonb(v)
    from wrong_wait v
    union all
    select 'Failures and losses stay within the limits of a life.', v.message_id::text, to_jsonb(v)
    from wrong_charges v
    union all
    select 'No visible row lies below its low-water mark.', v.queue || '_' || v.lane || ' ' || v.msg_id, to_jsonb(v)
    from row_below_mark v
    union all
    select 'No lease lies below its low-water mark.', v.message_id::text, to_jsonb(v)
    from lease_below_mark v
    union all
    select 'No counter lies below its low-water mark.', v.queue, to_jsonb(v)
    from counter_below_mark v
)
select b.rule, b.subject, b.detail
from broken b;
comment on view treadle.violations
    is 'Exceptions to the invariants: empty in a healthy database. Reads everything, so it takes its time';
