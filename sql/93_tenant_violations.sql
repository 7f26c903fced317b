-- Exceptions to the rules of tenants: part of treadle.violations (94_violations.sql).

-- Rows whose tenant is not that of the message or the thread to which they belong.
create or replace view treadle._tenant_violations (rule, subject, detail) with (security_invoker) as
with of_message as (
    select 'events' as place, e.message_id, e.tenant
    from treadle.events e
    union all
    select 'leases', l.message_id, l.tenant
    from treadle.leases l
    union all
    select 'parked', p.message_id, p.tenant
    from treadle.parked p
), owners as (
    select m.message_id, m.tenant
    from treadle.messages m
    union all
    select t.message_id, t.tenant
    from treadle.trash t
), of_thread as (
    select 'messages' as place, m.thread, m.tenant
    from treadle.messages m
    union all
    select 'thread_turns', s.thread, s.tenant
    from treadle.thread_turns s
    union all
    select 'thread_log', l.thread, l.tenant
    from treadle.thread_log l
), wrong_parent as (
    select m.message_id, m.tenant, p.message_id as parent, p.tenant as parent_tenant
    from treadle.messages m
    join treadle.messages p on p.message_id = m.parent
    where p.tenant <> m.tenant
), wrong_owner as (
    select m.message_id, m.owner, t.thread_id, t.owner as thread_owner
    from treadle.messages m
    join treadle.threads t on t.id = m.thread
    where m.owner is distinct from t.owner
), missing_agent as (
    select m.message_id, m.agent, t.thread_id, t.agents
    from treadle.messages m
    join treadle.threads t on t.id = m.thread
    where not m.agent = any(t.agents)
), held as (
    select i.tenant, i.owner, count(*) as items, sum(coalesce(i.bytes, treadle._item_bytes(i.value))) as bytes
    from treadle.store_items i
    group by i.tenant, i.owner
), counted as (
    select s.tenant, s.owner, sum(s.items) as items, sum(s.bytes) as bytes
    from treadle.store_sizes s
    group by s.tenant, s.owner
    having sum(s.items) <> 0 or sum(s.bytes) <> 0
), wrong_store as (
    select coalesce(h.tenant, s.tenant) as tenant, coalesce(h.owner, s.owner) as owner, h.items, h.bytes,
        s.items as counted_items, s.bytes as counted_bytes
    from held h
    full join counted s on s.tenant = h.tenant and s.owner = h.owner
    where (h.items, h.bytes) is distinct from (s.items, s.bytes)
        and coalesce(h.tenant, s.tenant) in (select n.tenant from treadle.tenants n where n.deleted_at is null)
), wrong_total as (
    select t.tenant, t.bytes as counted_bytes, s.bytes
    from (select z.tenant, sum(z.bytes) as bytes from treadle.store_totals z group by z.tenant) t
    left join (select z.tenant, sum(z.bytes) as bytes from treadle.store_sizes z group by z.tenant) s
        on s.tenant = t.tenant
    where t.bytes <> coalesce(s.bytes, 0)
        and t.tenant in (select n.tenant from treadle.tenants n where n.deleted_at is null)
), unknown_tenant as (
    select distinct m.tenant
    from treadle.messages m
    where m.tenant not in (select n.tenant from treadle.tenants n)
)
select 'What belongs to a message has the tenant of the message.', o.message_id::text, to_jsonb(r) || to_jsonb(o)
from of_message r
join owners o on o.message_id = r.message_id and o.tenant <> r.tenant
union all
select 'What belongs to a thread has the tenant of the thread.', t.thread_id, to_jsonb(r) || to_jsonb(t) - 'memory'
from of_thread r
join treadle.threads t on t.id = r.thread and t.tenant <> r.tenant
union all
select 'A message has the tenant of the message that sent it.', v.message_id::text, to_jsonb(v)
from wrong_parent v
union all
select 'A message in a thread has the owner of the thread.', v.message_id::text, to_jsonb(v)
from wrong_owner v
union all
select 'A thread names the agents of all its messages.', v.message_id::text, to_jsonb(v)
from missing_agent v
union all
select 'The tenant of a message exists.', v.tenant, to_jsonb(v)
from unknown_tenant v
union all
select 'The size of a store is that of its items.', v.tenant, to_jsonb(v)
from wrong_store v
union all
select 'The stores of a tenant have as many bytes as are counted for it.', v.tenant, to_jsonb(v)
from wrong_total v;
