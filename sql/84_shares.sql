-- Shares, as the janitor looks after them (46_shares.sql has the rules): count the rows of each tenant again, set a
-- surplus aside, and admit messages that wait for their share.

-- How many more rows than its share a tenant may have in a lane: submits that commit together exceed it.
create or replace function treadle._tolerated_surplus() returns integer
language sql immutable parallel safe as $$
    select 50
$$;

-- Count the visible rows of all lanes again, and note which tenants have a surplus where. The statement that counts
-- sees each transaction with its deltas or without them. One transaction at a time does it.
create or replace function treadle._recount_shares(at timestamptz) returns void
language plpgsql set enable_seqscan = off set enable_bitmapscan = off as $$
begin
    execute 'with deleted as (
            delete from treadle.lane_shares s
            where s.id >= treadle._low_water_mark(''lane_shares'')
        )
        insert into treadle.lane_shares (tenant, queue, lane, ready, behind) ' || (
            select string_agg(
                treadle._lane_count_by_tenant(queue => m.queue, lane => m.lane, low => m.low), ' union all ')
            from treadle._lane_marks() m)
        using at;
    insert into treadle.lane_surplus (tenant, queue, lane)
        select s.tenant, s.queue, s.lane
        from treadle.lane_shares s
        where s.id >= treadle._low_water_mark('lane_shares')
        group by s.tenant, s.queue, s.lane
        having sum(s.behind) > treadle._share_of(s.tenant) + treadle._tolerated_surplus()
        on conflict do nothing;
end $$;

-- Set rows of tenants with a surplus aside, the last ones first, up to `quantity`. Returns how many. Those that remain
-- are the oldest of their tenants, so that what waits is admitted after them. A surplus of which fewer rows were found
-- than were asked for is forgotten: the next count finds the rest.
create or replace function treadle._set_surplus_aside(quantity integer, at timestamptz) returns integer
language plpgsql as $$
declare
    v record;
    v_rows record;
    v_aside integer := 0;
    v_asked integer;
    v_newly integer;
begin
    for v in
        select s.tenant, s.queue, s.lane, r.behind - treadle._share_of(s.tenant) as surplus
        from treadle.lane_surplus s
        cross join lateral treadle._rows_of_share(tenant => s.tenant, queue => s.queue, lane => s.lane) r
    loop
        v_asked := least(v.surplus, quantity - v_aside);
        v_newly := 0;
        if v_asked > 0 then
            v_rows := treadle._lane_last_of_tenant(queue => v.queue, lane => v.lane, tenant => v.tenant,
                quantity => v_asked, at => at);
            v_newly := treadle._set_aside(
                ids => v_rows.message_ids, lane_ids => v_rows.lane_ids, tenants => array[v.tenant]);
            insert into treadle.lane_shares (tenant, queue, lane, ready, behind)
                values (v.tenant, v.queue, v.lane, -v_newly, -v_newly);
            v_aside := v_aside + v_newly;
        end if;
        if v_newly >= v.surplus or v_newly < v_asked then
            delete from treadle.lane_surplus s
                where s.queue = v.queue and s.lane = v.lane and s.tenant = v.tenant;
        end if;
    end loop;
    return v_aside;
end $$;

-- Let the low-water mark follow the first delta, and delete the late ones of passed transactions that have ended: the
-- last count saw their rows.
create or replace function treadle._sweep_shares() returns void
language plpgsql set enable_seqscan = off as $$
declare
    c_sequence constant text := 'treadle.lane_shares_id_seq';
    c_patience constant integer := 10000;  -- ids
    v_open constant text[] := treadle._draws_of(c_sequence, treadle._open_draws());
    v_mark constant treadle.low_water := treadle._mark('lane_shares');
    v_late_from constant bigint := treadle._late_from(mark => v_mark, open => v_open);
    v_first bigint;
begin
    if v_late_from is not null then
        delete from treadle.lane_shares s where s.id >= v_late_from and s.id < v_mark.low;
        perform treadle._forget_passed('lane_shares', v_open);
    end if;
    v_first := coalesce(
        (select min(s.id) from treadle.lane_shares s where s.id >= v_mark.low),
        (select q.last_value + q.is_called::integer from treadle.lane_shares_id_seq q));
    perform treadle._raise_low_water(
        mark => 'lane_shares', candidate => v_first, open => v_open,
        drawn => treadle._draws_of(c_sequence, treadle._open_draws()), patience => c_patience);
end $$;

-- The lanes in which messages of active tenants wait for their share: each is found by one step in the index.
create or replace function treadle._shared_lanes() returns table (tenant text, queue text, lane text)
language plpgsql stable as $$
#variable_conflict use_column
begin
    tenant := '';
    queue := '';
    lane := '';
    loop
        select m.tenant, m.queue, m.priority
            into tenant, queue, lane
            from treadle.messages m
            where m.hold = 'share'
                and (m.tenant, m.queue, m.priority) > (_shared_lanes.tenant, _shared_lanes.queue, _shared_lanes.lane)
            order by m.tenant, m.queue, m.priority
            limit 1;
        exit when not found;
        if tenant <> all(treadle._stopped_tenants()) then
            return next;
        end if;
    end loop;
end $$;

-- Whether so many claims and submits came since the lanes were counted that the next sums are worth another count.
create or replace function treadle._has_many_share_deltas() returns boolean
language sql stable as $$
    select exists (
        select
        from treadle.lane_shares s
        where s.id >= treadle._low_water_mark('lane_shares')
        offset 500)
$$;

-- Look after the shares: count again (seldom while a known surplus remains: its rows would be counted each time), set
-- surplus rows aside (`aside`: how many), and admit messages that wait for their share, up to `quantity` in each lane:
-- what their tenants' shares have room for or, with one tenant, all (`admitted`: their ids). One transaction at a time
-- does it.
create or replace function treadle._tend_shares(
    quantity integer, at timestamptz, out admitted uuid[], out aside integer)
language plpgsql as $$
declare
    c_at_once constant integer := 5;  -- times `quantity`: setting aside is cheaper
    v_lane record;
    v_room bigint := quantity;
begin
    admitted := '{}';
    aside := 0;
    if not treadle._sharing() and not exists (select from treadle.messages m where m.hold = 'share') then
        return;
    elsif not treadle._try_mutex('shares') then
        return;
    elsif treadle._sharing() then
        if treadle._sees_commits() then
            perform treadle._sweep_shares();
        end if;
        if treadle._limiting() then
            perform treadle._move_rows_at_limit(at);
        end if;
        if not exists (select from treadle.lane_surplus) or treadle._has_many_share_deltas() then
            perform treadle._recount_shares(at);
        end if;
        aside := treadle._set_surplus_aside(quantity => quantity * c_at_once, at => at);
    else
        delete from treadle.lane_surplus;
    end if;
    for v_lane in
        select l.*
        from treadle._shared_lanes() l
    loop
        if treadle._sharing() then
            v_room := treadle._share_of(v_lane.tenant) - (treadle._rows_of_share(
                tenant => v_lane.tenant, queue => v_lane.queue, lane => v_lane.lane)).ready;
        end if;
        admitted := admitted || array(
            select m.message_id
            from treadle.messages m
            where m.hold = 'share' and m.tenant = v_lane.tenant and m.queue = v_lane.queue and m.priority = v_lane.lane
            order by m.share_place
            limit greatest(least(v_room, quantity), 0)
            for update skip locked);
    end loop;
    if admitted <> '{}' then
        perform treadle._lane_insert(lane_rows => treadle._leave_share(admitted), at => at);
    end if;
end $$;
