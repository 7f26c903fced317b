-- Exceptions to the rules of messages, counters and threads: part of treadle.violations (94_violations.sql).

-- Messages and counters that break a rule.
create or replace view treadle._message_violations (rule, subject, detail) with (security_invoker) as
with wrong_outcome as (
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
    where (p.children is not null and m.hold is distinct from 'children' and m.state not in ('failed', 'cancelled'))
        or (m.hold = 'children' and p.children is null)
        or (
            m.hold in ('children', 'input')
            and (e.type is distinct from 'parked' or e.data ->> 'hold' is distinct from m.hold)
        )
), wrong_counter as (
    select queue, to_jsonb(c) as counted, to_jsonb(m) as found
    from (
        select c.tenant, c.queue, sum(c.queued) as queued, sum(c.processing) as processing,
            sum(c.completed) as completed, sum(c.failed) as failed, sum(c.cancelled) as cancelled
        from treadle.counters c
        group by c.tenant, c.queue
    ) c
    full join (
        select m.tenant, m.queue,
            count(*) filter (where m.state = 'queued') as queued,
            count(*) filter (where m.state = 'processing') as processing,
            count(*) filter (where m.state = 'completed') as completed,
            count(*) filter (where m.state = 'failed') as failed,
            count(*) filter (where m.state = 'cancelled') as cancelled
        from treadle.messages m
        group by m.tenant, m.queue
    ) m using (tenant, queue)
    where coalesce(c.queued, 0) <> coalesce(m.queued, 0)
        or coalesce(c.processing, 0) <> coalesce(m.processing, 0)
        or coalesce(c.completed, 0) <> coalesce(m.completed, 0)
        or coalesce(c.failed, 0) <> coalesce(m.failed, 0)
        or coalesce(c.cancelled, 0) <> coalesce(m.cancelled, 0)
), wrong_note as (
    select coalesce(n.message_id, m.message_id) as message_id, n.state as noted, m.state
    from treadle.not_completed n
    full join (
        select x.tenant, x.state, x.message_id
        from treadle.messages x
        where x.state in ('failed', 'cancelled')
    ) m using (tenant, state, message_id)
    where n.message_id is null or m.message_id is null
)
select 'A result exists only for completed messages, started_at only for those that run or ran.',
    v.message_id::text, to_jsonb(v)
from wrong_outcome v
union all
select 'The counters of each tenant and queue add up to the messages that exist.', v.queue, to_jsonb(v)
from wrong_counter v
union all
select 'Messages that failed or were cancelled are noted, and no others.', v.message_id::text, to_jsonb(v)
from wrong_note v
union all
select 'A message that waits for children names them, one that waits for input has asked, and no other does.',
    v.message_id::text, to_jsonb(v)
from wrong_wait v
union all
select 'Failures and losses stay within the limits of a life.', v.message_id::text, to_jsonb(v)
from wrong_charges v;

-- Threads, turns and waits for them that break a rule.
create or replace view treadle._thread_violations (rule, subject, detail) with (security_invoker) as
with wrong_thread_counts as (
    select t.id, t.thread_id, s.last_ord, s.completed, s.failed, s.cancelled, f.*
    from treadle.threads t
    left join treadle.thread_turns s on s.thread = t.id
    cross join lateral (
        select array_agg(m.ord order by m.ord) as ords,
            count(*) filter (where m.state = 'completed') as completed_found,
            count(*) filter (where m.state = 'failed') as failed_found,
            count(*) filter (where m.state = 'cancelled') as cancelled_found
        from treadle.messages m
        where m.thread = t.id
    ) f
    where s.thread is null
        or (s.completed, s.failed, s.cancelled) <> (f.completed_found, f.failed_found, f.cancelled_found)
        or f.ords is distinct from (select array_agg(o) from generate_series(1, s.last_ord) o)
), message_without_thread as (
    select m.message_id, m.thread
    from treadle.messages m
    where m.thread is not null
        and not exists (select from treadle.threads t where t.id = m.thread)
), wrong_turn as (
    select t.id, t.thread_id, s.turn, m.thread, m.state, m.hold, m.aside
    from treadle.threads t
    join treadle.thread_turns s on s.thread = t.id
    left join treadle.messages m on m.message_id = s.turn
    where s.turn is not null
        and (
            m.thread is distinct from t.id
            or m.aside
            or m.state not in ('queued', 'processing')
            or m.hold in ('thread', 'delay')
        )
), message_without_turn as (
    select t.id, t.thread_id, s.turn, m.message_id, m.state, m.hold
    from treadle.threads t
    join treadle.thread_turns s on s.thread = t.id
    join treadle.messages m on m.thread = t.id and not m.aside and m.message_id is distinct from s.turn
    where m.state = 'processing'
        or (
            m.state = 'queued'
            and m.hold is distinct from 'delay'
            and (m.hold is distinct from 'thread' or s.turn is null)
        )
), wrong_wait_for_turn as (
    select m.message_id, m.thread, m.aside, m.ord
    from treadle.messages m
    left join treadle.thread_turns s on s.thread = m.thread
    where m.hold = 'thread'
        and (
            m.thread is null
            or m.aside
            or m.ord < case m.rank when 0 then s.next_high when 1 then s.next_normal when 2 then s.next_low end
        )
), stray_turns as (
    select s.thread, s.version
    from treadle.thread_turns s
    where not exists (select from treadle.threads t where t.id = s.thread)
        or 1 < (select count(*) from treadle.thread_turns o where o.thread = s.thread)
)
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
select 'Only messages that take turns in a thread wait for one, and where the search for the next one finds them.',
    v.message_id::text, to_jsonb(v)
from wrong_wait_for_turn v
union all
select 'Turns belong to a thread, one row for each.', v.thread::text, to_jsonb(v)
from stray_turns v;
