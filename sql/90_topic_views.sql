-- The views of topics and subscriptions. (Views of messages, threads and queues: 90_views.sql.)

create or replace view treadle.topic_overview with (security_invoker) as
select t.tenant, t.topic, t.retention_hours, t.max_record_bytes, t.schema_subject,
    least(t.first_offset, e.next_offset) as first_offset, e.next_offset,
    greatest(e.next_offset - t.first_offset, 0) as records, e.bytes - t.purged_bytes as bytes,
    e.next_offset - treadle._first_offset_since(t.id, treadle.clock() - interval '1 minute') as records_per_minute,
    (
        select coalesce(jsonb_agg(
            jsonb_build_object(
                'subscription', s.subscription, 'next_offset', p.next_offset,
                'lag', greatest(e.next_offset - greatest(p.next_offset, t.first_offset), 0) + (
                    select count(*)
                    from treadle.held_records h
                    where h.subscription = j.subscription and h.topic = j.topic and h."offset" < p.next_offset))
            order by s.subscription), '[]')
        from treadle.subscription_topics j
        join treadle.subscriptions s on s.id = j.subscription
        cross join lateral treadle._position_of(j.subscription, j.topic) p
        where j.topic = t.id
    ) as subscriptions,
    t.created_at
from treadle.topics t
cross join lateral treadle._topic_end(t.id) e
where t.deleted_at is null;
comment on view treadle.topic_overview is 'Every topic: its offsets, its size, and the subscriptions that read it';

create or replace view treadle.subscription_overview with (security_invoker) as
select s.tenant, s.subscription, s.topics, s.agent, s.delivery, s.max_in_flight, s.filter, s.dead_letter, s.paused,
    l.lag, coalesce(c.open, 0) as open, coalesce(c.completed, 0) as completed, coalesce(c.failed, 0) as failed,
    coalesce(c.cancelled, 0) as cancelled, coalesce(c.dropped, 0) as dropped, coalesce(c.filtered, 0) as filtered,
    coalesce(c.expired, 0) as expired, l.positions, s.created_at,
    s.held
from treadle.subscriptions s
cross join lateral (
    select coalesce(sum(b.lag), 0)::bigint as lag,
        coalesce(jsonb_agg(
            jsonb_build_object('topic', b.topic, 'next_offset', b.next_offset, 'lag', b.lag)
            order by b.topic), '[]') as positions
    from (
        select t.topic, p.next_offset,
            greatest(e.next_offset - greatest(p.next_offset, t.first_offset), 0) + (
                select count(*)
                from treadle.held_records h
                where h.subscription = j.subscription and h.topic = j.topic and h."offset" < p.next_offset) as lag
        from treadle.subscription_topics j
        join treadle.topics t on t.id = j.topic and t.deleted_at is null
        cross join lateral treadle._position_of(j.subscription, j.topic) p
        cross join lateral treadle._topic_end(j.topic) e
        where j.subscription = s.id
    ) b
) l
cross join lateral (
    select sum(d.open)::bigint as open, sum(d.completed)::bigint as completed, sum(d.failed)::bigint as failed,
        sum(d.cancelled)::bigint as cancelled, sum(d.dropped)::bigint as dropped,
        sum(d.filtered)::bigint as filtered, sum(d.expired)::bigint as expired
    from treadle.subscription_counts d
    where d.subscription = s.id
) c;
comment on view treadle.subscription_overview
    is 'Every subscription: how far it is behind, and what became of its records';
