-- Exceptions to the rules of logs: part of treadle.violations (94_violations.sql).

-- The type of an event that begins or ends something; `retried` begins the life after a retry from a step.
create or replace function treadle._life_event(type text, data jsonb) returns text
language sql immutable as $$
    select case when type = 'queued' and data ? 'from_seq' then 'retried' else type end
$$;

-- Events, logs of messages, logs of threads, and trash that break a rule.
create or replace view treadle._log_violations (rule, subject, detail) with (security_invoker) as
with log_with_holes as (
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
        select e.message_id, e.seq, e.thread_pos,
            lag(e.thread_pos) over (partition by e.message_id order by e.seq) as before
        from treadle.events e
        where e.thread is not null
    ) o
    where o.before >= o.thread_pos
), wrong_final_events as (
    select m.message_id, m.state, e.types
    from treadle.messages m
    cross join lateral (
        select string_agg(treadle._life_event(e.type, e.data), ' ' order by e.seq) as types
        from treadle.events e
        where e.message_id = m.message_id
            and e.type in ('queued', 'done', 'error', 'cancelled')
    ) e
    where e.types !~ (
            '^queued( error queued| (done|error|cancelled) retried)*'
            || case m.state
                when 'completed' then ' done'
                when 'failed' then ' error'
                when 'cancelled' then ' cancelled'
                else ''
            end || '$')
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
        select coalesce(string_agg(treadle._life_event(e.type, e.data), ' ' order by e.seq), '') as types,
            count(*) filter (where e.type = 'started') as attempts
        from treadle.events e
        where e.message_id = m.message_id
            and e.type in ('queued', 'started', 'retry', 'parked', 'done', 'error', 'cancelled')
    ) e
    where m.attempt <> e.attempts
        or (e.types !~ (
            '^queued( started (retry|parked)| started error (queued|retried)'
            '| (started done|started cancelled|cancelled) retried)*'
            '( started| started done| started error| started cancelled| cancelled)?$')
            and not (e.types = 'queued done' and m.steered_into is not null))
        or (e.types ~ ' started$') <> (m.state = 'processing')
)
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
from wrong_attempt_events v;
