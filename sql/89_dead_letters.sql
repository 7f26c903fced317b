-- The newest dead letters of all queues.

-- Where they are, the newest first. The queue whose newest letter is the newest is read first, and the search ends at a
-- queue that has none as new: so a call reads few letters, however many queues there are.
create or replace function treadle._newest_dead_letters(quantity integer, queue_name text, tenant text, reach jsonb)
returns treadle.dead_letter_place[] language plpgsql stable as $$
declare
    v_newest treadle.dead_letter_place[] := '{}';
    v record;
begin
    for v in
        select q.queue, h.dead_at
        from treadle.queues q
        cross join lateral treadle._dead_letters(
            queue => q.queue, quantity => 1, tenant => _newest_dead_letters.tenant,
            reach => _newest_dead_letters.reach) h
        where queue_name is null or q.queue = queue_name
        order by h.dead_at desc, q.queue
    loop
        exit when cardinality(v_newest) = quantity and v.dead_at < v_newest[quantity].dead_at;
        v_newest := array(
            select row(n.queue, n.dlq_id, n.dead_at)::treadle.dead_letter_place
            from (
                select u.queue, u.dlq_id, u.dead_at
                from unnest(v_newest) u
                union all
                select v.queue, d.dlq_id, d.dead_at
                from treadle._dead_letters(
                    queue => v.queue, quantity => quantity, tenant => tenant, reach => reach) d
            ) n
            order by n.dead_at desc, n.queue, n.dlq_id desc
            limit quantity);
    end loop;
    return v_newest;
end $$;

-- The newest dead letters of a queue, or (null) of all, the newest first: at most `quantity`, which have about
-- `page_bytes` bytes together (see treadle._bytes), but at least one.
create or replace function treadle.newest_dead_letters(
    quantity integer, queue_name text default null, page_bytes bigint default 1000000, tenant text default 'default',
    reach jsonb default null)
returns table (
    dlq_id bigint, queue text, message_id uuid, dead_at timestamptz, reason text, attempts integer, thread_id text,
    agent text, user_message jsonb, traceback text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
#variable_conflict use_column
declare
    v_places treadle.dead_letter_place[];
    v_bytes bigint := 0;
    v record;
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    v_places := treadle._newest_dead_letters(
        quantity => quantity, queue_name => queue_name, tenant => tenant, reach => reach);
    for v in
        select n.n, n.queue, d.dlq_id, d.dead_at, d.body, i.message_id, m.body as user_message
        from unnest(v_places) with ordinality n (queue, dlq_id, dead_at, n)
        cross join lateral treadle._dead_letters(
            queue => n.queue, quantity => 1, before => n.dlq_id + 1, tenant => newest_dead_letters.tenant,
            reach => newest_dead_letters.reach) d
        cross join lateral (select treadle._uuid(d.body ->> 'message_id') as message_id) i
        left join treadle.messages m on m.message_id = any(array[i.message_id])
        order by n.n
    loop
        v_bytes := v_bytes + treadle._bytes(v.body) + coalesce(treadle._bytes(v.user_message), 0);
        exit when v.n > 1 and v_bytes > page_bytes;
        return query
            select v.dlq_id, v.queue, v.message_id, v.dead_at, v.body ->> 'reason',
                case when v.body ->> 'attempts' ~ '^[0-9]{1,9}$' then (v.body ->> 'attempts')::integer end,
                v.body ->> 'thread_id', v.body ->> 'agent', v.user_message, v.body ->> 'traceback';
    end loop;
end $$;
comment on function treadle.newest_dead_letters(integer, text, bigint, text, jsonb)
    is 'The newest dead letters of a queue or of all, the newest first';
