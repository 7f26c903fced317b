-- The messages that wait or run, as lists.

-- Up to `quantity` messages that are held and that the principal sees. It searches `searched` of each kind.
create or replace function treadle._held_messages(quantity integer, searched integer, tenant text, reach jsonb)
returns setof uuid language sql stable as $$
    select m.message_id
    from (
        (
            select w.message_id
            from treadle.messages w
            where w.hold = 'thread'
            order by w.thread, w.rank, w.ord
            limit searched
        )
        union all
        (
            select w.message_id
            from treadle.messages w
            where w.hold in ('delay', 'backoff')
            order by w.run_at
            limit searched
        )
        union all
        (
            select w.message_id
            from treadle.messages w
            where w.hold = 'share'
                and w.tenant = _held_messages.tenant
            order by w.queue, w.priority, w.share_place
            limit searched
        )
    ) h
    join treadle.messages m on m.message_id = h.message_id
    where m.tenant = _held_messages.tenant
        and treadle._sees(
            reach => reach, owner => m.owner, agent => m.agent,
            thread_id => (select t.thread_id from treadle.threads t where t.id = m.thread), message_id => m.message_id)
    order by m.message_id
    limit quantity
$$;

-- First the rows of the lanes, lane by lane, then the messages that are held. A plan that is made while the table is
-- small is kept, so hash and merge joins, which would read the whole table later, are switched off. A list for people:
-- a principal that sees only some messages may miss one that lies behind very many of others.
create or replace function treadle.queued_messages(
    quantity integer default 100, tenant text default 'default', reach jsonb default null)
returns table (message_id uuid)
language plpgsql stable rows 100 security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
    set enable_mergejoin = off as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := treadle.clock();
    v_sees_all constant boolean := reach is null
        and not exists (select from treadle.tenants t where t.tenant <> queued_messages.tenant);
    v_searched constant integer := case when v_sees_all then quantity else quantity * 20 end;
    v record;
    v_left integer := quantity;
    v_found integer;
begin
    reach := treadle._checked_reach(reach);
    for v in
        select q.queue, l.lane
        from (values ('high', 0), ('normal', 1), ('low', 2)) l (lane, rank), treadle.queues q
        order by l.rank, q.queue
    loop
        exit when v_left <= 0;
        return query
            select m.message_id
            from treadle._lane_list(queue => v.queue, lane => v.lane, quantity => v_searched, at => v_now) l
            join treadle.messages m on m.message_id = l.message_id and m.state = 'queued'
            where m.tenant = queued_messages.tenant
                and treadle._sees(
                    reach => reach, owner => m.owner, agent => m.agent,
                    thread_id => (select t.thread_id from treadle.threads t where t.id = m.thread),
                    message_id => m.message_id)
            order by l.lane_id
            limit v_left;
        get diagnostics v_found = row_count;
        v_left := v_left - v_found;
    end loop;
    return query
        select h
        from treadle._held_messages(
            quantity => greatest(v_left, 0), searched => v_searched, tenant => queued_messages.tenant,
            reach => queued_messages.reach) h;
end $$;
comment on function treadle.queued_messages(integer, text, jsonb)
    is 'Ids of waiting messages, the next to be claimed first';

create or replace function treadle.processing(
    quantity integer default 100, tenant text default 'default', reach jsonb default null)
returns table (message_id uuid)
language plpgsql stable rows 100 security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_sort = off as $$
#variable_conflict use_column
begin
    reach := treadle._checked_reach(reach);
    return query
        select l.message_id
        from treadle.leases l
        where l.id >= treadle._low_water_mark('leases')
            and l.tenant = processing.tenant
            and (reach is null or exists (
                select
                from treadle.messages m
                left join treadle.threads t on t.id = m.thread
                where m.message_id = l.message_id
                    and treadle._sees(
                        reach => reach, owner => m.owner, agent => m.agent, thread_id => t.thread_id,
                        message_id => m.message_id)))
        order by l.id
        limit quantity;
end $$;
comment on function treadle.processing(integer, text, jsonb)
    is 'Ids of messages that workers hold, the first claimed first';
