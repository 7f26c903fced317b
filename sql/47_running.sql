-- Running: how many messages of a tenant run at once, on all workers together, where it has the limit `running`.
--
-- Without such a limit treadle._limiting() is false, and a claim does nothing of this. With one, a claim passes over
-- the rows of tenants that are at their limits. It meets few of them: a tenant's share of a lane is at most its limit
-- (treadle._share_of), so in each lane there are at most as many as messages of these tenants run.
--
-- The limit is exact: before a claim takes messages of a tenant, it takes the tenant's mutex and counts what runs. A
-- claim never waits, so one that does not get the mutex passes over the tenant and tells workers to look again. The
-- transaction that ends a running message tells the workers of all queues where messages of its tenant wait.

-- How many messages of a tenant run.
create or replace function treadle._running_of(tenant text) returns bigint
language sql stable as $$
    select coalesce(sum(c.processing), 0)::bigint
    from treadle.counters c
    where c.tenant = _running_of.tenant and c.queue <> treadle._webhook_queue()
        and c.id >= treadle._low_water_mark('counters')
$$;

-- The tenants that are at their limits, as far as other transactions have committed.
create or replace function treadle._tenants_at_limit() returns text[]
language plpgsql stable as $$
begin
    return array(
        select r.tenant
        from (
            select c.tenant, sum(c.processing) as running
            from treadle.counters c
            where c.queue <> treadle._webhook_queue() and c.id >= treadle._low_water_mark('counters')
            group by c.tenant
        ) r
        cross join lateral (
            select
            from treadle.tenants t
            where t.tenant = r.tenant and (t.in_force ->> 'running')::bigint <= r.running
            limit 1
        ) t);
end $$;

-- How many further messages of a tenant may run, of which `most` may run at once. Its mutex is this transaction's then.
-- While another transaction has it: 0, and workers look again.
create or replace function treadle._running_room(tenant text, most bigint, queue text) returns bigint
language plpgsql as $$
begin
    if not treadle._try_mutex(treadle._running_mutex(tenant)) then
        perform treadle._hint('treadle_work', queue);
        return 0;
    end if;
    return most - treadle._running_of(tenant);
end $$;

-- Of these messages, which a claim is about to take, keep those that may run: `entries` are their `started` events,
-- lane_ids their lane rows, in the same order. Adds to `at_limit` the tenants of which no further one may run.
create or replace function treadle._keep_running_limits(
    queue text, inout entries treadle.entry[], inout lane_ids bigint[], inout at_limit text[])
language plpgsql as $$
declare
    v_rooms jsonb;
begin
    if queue = treadle._webhook_queue() then
        return;
    end if;
    select jsonb_object_agg(
            e.tenant, treadle._running_room(tenant => e.tenant, most => t.most, queue => _keep_running_limits.queue))
        into v_rooms
        from (select distinct u.tenant from unnest(entries) u) e
        cross join lateral (
            select (t.in_force ->> 'running')::bigint as most
            from treadle.tenants t
            where t.tenant = e.tenant and t.in_force ? 'running'
            limit 1
        ) t;
    if v_rooms is null then
        return;
    end if;
    select array_agg(entries[p.n] order by p.n) filter (where p.place <= p.room),
            array_agg(lane_ids[p.n] order by p.n) filter (where p.place <= p.room),
            at_limit || array_agg(distinct p.tenant) filter (where p.place >= p.room)
        into entries, lane_ids, at_limit
        from (
            select u.n, u.tenant, row_number() over (partition by u.tenant order by u.n) as place,
                coalesce((v_rooms ->> u.tenant)::bigint, 9223372036854775807) as room
            from (select s as n, (entries[s]).tenant from generate_subscripts(entries, 1) s) u
        ) p;
end $$;

-- Rows of tenants at their limits that stay at the head of a lane keep its low-water mark back, so that each claim
-- reads the dead rows behind them for as long as an old snapshot is open. Where they are many ids behind, give these
-- rows new ids, in their order.
create or replace function treadle._move_rows_at_limit(at timestamptz) returns void
language plpgsql as $$
declare
    c_far constant integer := 10000;  -- ids: so many dead rows cost a claim about as much as its messages
    v_at_limit constant text[] := treadle._tenants_at_limit();
    v record;
begin
    if v_at_limit = '{}' then
        return;
    end if;
    for v in
        select m.queue, m.lane, h.first, h.other
        from treadle._lane_marks() m
        cross join lateral treadle._lane_head_of_tenants(
            queue => m.queue, lane => m.lane, low => m.low, tenants => v_at_limit, at => _move_rows_at_limit.at) h
        where h.first < h.other and h.next - h.first > c_far
    loop
        perform treadle._bring_back(
            queue => v.queue, lane => v.lane, first => v.first, past => v.other, since => null, at => at);
    end loop;
end $$;

-- Attempts end, so other messages of their tenants may run: tell the workers of the queues in which some wait.
create or replace function treadle._hint_places(settled treadle.settlement[]) returns void
language plpgsql as $$
declare
    v_tenants constant text[] := array(
        select e.tenant
        from (select distinct s.tenant from unnest(settled) s where s.old_state = 'processing') e
        join treadle.tenants t on t.tenant = any(array[e.tenant]) and t.in_force ? 'running');
begin
    if v_tenants <> '{}' then
        perform treadle._hint_each('treadle_work', array(
            select c.queue
            from treadle.counters c
            where c.tenant = any(v_tenants) and c.id >= treadle._low_water_mark('counters')
            group by c.queue
            having sum(c.queued) > 0));
    end if;
end $$;
