-- Exceptions to the rules of topics and subscriptions: part of treadle.violations (94_violations.sql).

-- Topics, records and positions that break a rule. Of topics that are being deleted, parts are gone.
create or replace view treadle._topic_violations (rule, subject, detail) with (security_invoker) as
with live as materialized (
    select t.id, t.tenant, t.topic, t.first_offset, e.next_offset, e.ends
    from treadle.topics t
    left join (
        select n.topic, max(n.next_offset) as next_offset, count(*) as ends
        from treadle.topic_ends n
        group by n.topic
    ) e on e.topic = t.id
    where t.deleted_at is null
), waiting as materialized (
    select i.id::uuid as record_id, (q.message ->> 'topic')::bigint as topic, q.msg_id
    from pgmq.q_treadle_inbox q
    cross join lateral jsonb_array_elements_text(q.message -> 'record_ids') i (id)
), wrong_log as (
    select l.*, g.records, g.first, g.last
    from live l
    left join lateral (
        select count(*) as records, min(o."offset") as first, max(o."offset") as last
        from treadle.topic_log o
        where o.topic = l.id
            and o."offset" >= l.first_offset
    ) g on true
    where l.ends is distinct from 1
        or g.records <> greatest(l.next_offset - l.first_offset, 0)
        or g.last >= l.next_offset
), wrong_record as (
    select l.topic, g."offset", g.record_id, r.topic as record_topic
    from live l
    join treadle.topic_log g on g.topic = l.id
    left join treadle.records r on r.record_id = g.record_id
    where r.topic is distinct from g.topic
        or r.tenant <> g.tenant
        or r.tenant <> l.tenant
), wrong_place as (
    select r.record_id, l.topic, p.places
    from treadle.records r
    join live l on l.id = r.topic
    left join (
        select u.record_id, count(*) as places
        from (
            select g.record_id
            from treadle.topic_log g
            union all
            select w.record_id
            from waiting w
        ) u
        group by u.record_id
    ) p on p.record_id = r.record_id
    where p.places is distinct from 1
), stray_inbox as (
    select w.*
    from waiting w
    join live l on l.id = w.topic
    where not exists (select from treadle.records r where r.record_id = w.record_id and r.topic = w.topic)
), below_mark as (
    select q.msg_id
    from pgmq.q_treadle_inbox q
    where q.msg_id < treadle._low_water_mark('inbox')
        and not q.msg_id >= any((treadle._mark('inbox')).passed_lows)
)
select 'The offsets of a topic are dense from its first to its end.', v.topic, to_jsonb(v)
from wrong_log v
union all
select 'What has an offset is a record of the topic.', v.record_id::text, to_jsonb(v)
from wrong_record v
union all
select 'A record has one offset or waits for it in the inbox.', v.record_id::text, to_jsonb(v)
from wrong_place v
union all
select 'What waits in the inbox is a record.', v.record_id::text, to_jsonb(v)
from stray_inbox v
union all
select 'No row of the inbox lies below its low-water mark.', v.msg_id::text, to_jsonb(v)
from below_mark v;

-- Positions and counts of subscriptions that break a rule.
create or replace view treadle._subscription_violations (rule, subject, detail) with (security_invoker) as
with wrong_position as (
    select p.*, e.next_offset as topic_end, s.subscription as name
    from treadle.subscription_positions p
    join treadle.topics t on t.id = p.topic and t.deleted_at is null
    left join treadle.subscriptions s on s.id = p.subscription
    cross join lateral treadle._topic_end(p.topic) e
    where s.id is null
        or p.next_offset > e.next_offset
        or p.fresh_offset not between p.next_offset and e.next_offset
        or p.tenant <> t.tenant
        or 1 < (
            select count(*)
            from treadle.subscription_positions o
            where o.subscription = p.subscription
                and o.topic = p.topic)
), wrong_join as (
    select j.*
    from treadle.subscription_topics j
    join treadle.topics t on t.id = j.topic and t.deleted_at is null
    where not exists (
        select
        from treadle.subscription_positions p
        where p.subscription = j.subscription
            and p.topic = j.topic)
), wrong_count as (
    select s.subscription, s.tenant, c.open, m.found
    from treadle.subscriptions s
    cross join lateral (
        select coalesce(sum(d.open), 0) as open
        from treadle.subscription_counts d
        where d.subscription = s.id
    ) c
    cross join lateral (
        select count(*) as found
        from treadle.messages o
        where o.subscription = s.id
            and o.state in ('queued', 'processing')
    ) m
    where c.open <> m.found
), doubled as (
    select m.subscription, m.record_topic, m.record_offset, array_agg(m.message_id) as messages
    from treadle.messages m
    where m.subscription is not null
        and m.state in ('queued', 'processing')
    group by m.subscription, m.record_topic, m.record_offset
    having count(*) > 1
), wrong_held as (
    select s.subscription, s.held, h.found, h.passed, h.opened
    from treadle.subscriptions s
    cross join lateral (
        select count(*) as found,
            bool_and(p.fresh_offset is null or k."offset" < p.fresh_offset) as passed,
            bool_or(m.message_id is not null) as opened
        from treadle.held_records k
        left join lateral treadle._position_of(k.subscription, k.topic) p on true
        left join treadle.messages m on m.subscription = k.subscription and m.record_topic = k.topic
            and m.record_offset = k."offset" and m.state in ('queued', 'processing')
        where k.subscription = s.id
    ) h
    where s.held <> h.found
        or not h.passed
        or h.opened
), count_below_mark as (
    select c.id, c.subscription
    from treadle.subscription_counts c
    where c.id < treadle._low_water_mark('subscription_counts')
        and not c.id >= any((treadle._mark('subscription_counts')).passed_lows)
)
select 'A position lies in its topic, one for each subscription.', v.subscription || ' ' || v.topic, to_jsonb(v)
from wrong_position v
union all
select 'A subscription has a position in each topic that it reads.', v.subscription || ' ' || v.topic, to_jsonb(v)
from wrong_join v
union all
select 'A subscription counts its open messages.', v.subscription, to_jsonb(v)
from wrong_count v
union all
select 'A record has at most one open message of a subscription.', v.record_topic || ' ' || v.record_offset, to_jsonb(v)
from doubled v
union all
select 'A subscription counts the records that it holds, which its positions have passed.', v.subscription, to_jsonb(v)
from wrong_held v
union all
select 'No count of a subscription lies below its low-water mark.', v.subscription::text, to_jsonb(v)
from count_below_mark v;
