-- Exceptions to the rules of lanes, leases and low-water marks: part of treadle.violations (94_violations.sql).

-- All rows of all lanes and dead letters.
create or replace function treadle._lane_rows()
returns table (queue text, lane text, msg_id bigint, enqueued_at timestamptz, vt timestamptz, message jsonb)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    v_lanes constant text := (
        select string_agg(
            format('select %L, %L, r.msg_id, r.enqueued_at, r.vt, r.message from pgmq.%I r',
                q.queue, l.lane, treadle._lane_table(q.queue, l.lane)),
            ' union all ')
        from treadle.queues q
        cross join unnest(array['high', 'normal', 'low', 'dlq']) l (lane));
begin
    if v_lanes is not null then
        return query execute v_lanes;
    end if;
end $$;

-- Lane rows, leases and low-water marks that break a rule. A row that may be of a transaction which its mark has
-- passed breaks none.
create or replace view treadle._lane_violations (rule, subject, detail) with (security_invoker) as
with lanes as materialized (
    select *
    from treadle._lane_rows()
), wrong_lane_row as (
    select m.message_id, m.state, m.queue, m.lane, m.lane_id, r.bodies
    from treadle.messages m
    left join treadle.threads t on t.id = m.thread
    left join (
        select r.queue, r.lane, r.msg_id, jsonb_agg(r.message) as bodies
        from lanes r
        group by r.queue, r.lane, r.msg_id
    ) r on r.queue = m.queue and r.lane = m.lane and r.msg_id = m.lane_id
    where (
            (m.lane is not null) <> (m.state in ('processing', 'failed') or (m.state = 'queued' and m.hold is null))
            and not (m.state = 'failed' and m.subscription is not null))  -- it may leave no dead letter
        or (m.lane is not null and jsonb_array_length(r.bodies) <> 1)
        or (m.lane <> 'dlq' and r.bodies is null)
        or (m.lane <> 'dlq' and r.bodies -> 0 <> treadle._lane_message(
            message_id => m.message_id, thread_id => t.thread_id, agent => m.agent, tenant => m.tenant))
        or (m.lane = 'dlq' and not r.bodies -> 0 @> (
            treadle._lane_message(
                message_id => m.message_id, thread_id => t.thread_id, agent => m.agent, tenant => m.tenant)
            || jsonb_build_object('reason', m.error, 'attempts', m.attempt)))
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
    where (m.state = 'queued' and r.vt > treadle.clock() and r.vt <> r.enqueued_at)
        or (m.state = 'processing' and r.vt < l.expires_at)
), wrong_lease as (
    select coalesce(m.message_id, l.message_id) as message_id, m.state, m.worker_id, m.thread,
        l.worker_id as lease_worker, l.thread as lease_thread
    from treadle.messages m
    full join treadle.leases l on l.message_id = m.message_id
    where (m.state is not distinct from 'processing') <> (l.message_id is not null)
        or (l.message_id is not null and (l.worker_id, l.thread) is distinct from (m.worker_id, m.thread))
), row_below_mark as (
    select r.*
    from lanes r
    cross join treadle._lane_table(r.queue, r.lane) t (name)
    join treadle.low_water w on w.name = case when r.msg_id < 0 then treadle._returned_mark(t.name) else t.name end
    join treadle.messages m on m.message_id = treadle._uuid(r.message ->> 'message_id') and m.state = 'queued'
    where r.msg_id < w.low
        and (r.vt <= treadle.clock() or r.vt = r.enqueued_at)
        and not r.msg_id >= any(w.passed_lows)
), lease_below_mark as (
    select l.message_id, l.id
    from treadle.leases l
    where l.id < treadle._low_water_mark('leases')
), counter_below_mark as (
    select c.id, c.queue
    from treadle.counters c
    where c.id < treadle._low_water_mark('counters')
        and not c.id >= any((treadle._mark('counters')).passed_lows)
)
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
select 'No visible row lies below its low-water mark.', v.queue || '_' || v.lane || ' ' || v.msg_id, to_jsonb(v)
from row_below_mark v
union all
select 'No lease lies below its low-water mark.', v.message_id::text, to_jsonb(v)
from lease_below_mark v
union all
select 'No counter lies below its low-water mark.', v.queue, to_jsonb(v)
from counter_below_mark v;
