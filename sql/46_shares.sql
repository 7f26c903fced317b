-- Shares: how many rows of a lane one tenant may have while other tenants are there.
--
-- While more than one tenant is active, or one has a limit `running`, a tenant has about treadle._share_of() visible
-- rows in a lane. Its further messages wait with hold = share, without a lane row, and are admitted in order: each
-- claim admits as many messages of a tenant as it takes from it, and the janitor (treadle.admit_due) admits what
-- claims did not. So a tenant that submits a hundred thousand messages delays the messages of others by one share at
-- most. Messages of a tenant that has only a few rows in the lane go before those of the others: a quiet tenant does
-- not wait for a whole share of a busy one.
--
-- treadle.lane_shares has deltas of the visible rows by tenant. Inserts never wait for each other, so a submit shares
-- no lock with a claim or with another submit: submits that commit together can exceed the share by what they bring. A
-- row that leaves its lane without a claim (a cancellation) is not subtracted; the janitor counts the lanes again.
--
-- A message that waits for its share keeps its place in messages.lane_id, drawn from the lane's sequence, and in
-- messages.share_place, which has an index: an index of lane_id would make each finish dearer. It keeps the turn of its
-- thread. Work that goes on after a start (treadle._admit with `returned`, a released message) needs no share, because
-- there is at most as much of it as workers can run.

-- Visible rows of a tenant in a lane, while other tenants are there.
create or replace function treadle._share() returns integer
language sql immutable parallel safe as $$
    select 200
$$;

-- Up to so many rows in a lane, a tenant's messages go before those of the others.
create or replace function treadle._first_rows() returns integer
language sql immutable parallel safe as $$
    select 10
$$;

-- Visible rows of this tenant in a lane: no more than may run at once.
create or replace function treadle._share_of(tenant text) returns bigint
language sql stable as $$
    select least(
        treadle._share(),
        (select (t.in_force ->> 'running')::bigint from treadle.tenants t where t.tenant = _share_of.tenant))
$$;

-- Whether tenants have shares, because there are several or one has a limit `running`; and whether one has that limit.
create or replace function treadle._needs_of_tenants(out sharing boolean, out limiting boolean)
language sql stable as $$
    select count(*) > 1 or count(*) filter (where t.in_force ? 'running') > 0,
        count(*) filter (where t.in_force ? 'running') > 0
    from treadle.tenants t
    where t.suspended_at is null and t.deleted_at is null
$$;

-- Generate treadle._sharing() and treadle._limiting(), which tell treadle._needs_of_tenants(). They are constants for
-- the planner, so that an installation with one tenant and no limit pays nothing for the questions.
create or replace function treadle._generate_sharing() returns void
language plpgsql as $$
declare
    c_statement constant text :=
        'create or replace function treadle.%I() returns boolean language sql stable parallel safe as ''select %s''';
    v_needs record;
begin
    perform treadle._lock_generation();
    v_needs := treadle._needs_of_tenants();
    execute format(c_statement, '_sharing', v_needs.sharing::text);
    execute format(c_statement, '_limiting', v_needs.limiting::text);
end $$;

-- The trigger of treadle.tenants.
create or replace function treadle._follow_tenants() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    insert into treadle.mutexes (name)
        select treadle._running_mutex(t.tenant)
        from treadle.tenants t
        where t.in_force ? 'running'
        on conflict do nothing;
    perform treadle._lock_generation();
    if treadle._needs_of_tenants() is distinct from (treadle._sharing(), treadle._limiting()) then
        perform treadle._generate_sharing();
    end if;
    return null;
end $$;

select treadle._generate_sharing();

-- How many rows of a lane count for a tenant's share: about those that a worker could claim, and the whole share where
-- messages wait for it already, because no message overtakes them.
create or replace function treadle._used_share(tenant text, queue text, lane text) returns bigint
language sql stable as $$
    select case
        when exists (
            select
            from treadle.messages m
            where m.hold = 'share' and m.tenant = _used_share.tenant and m.queue = _used_share.queue
                and m.priority = _used_share.lane)
            then treadle._share_of(tenant)
        else (
            select coalesce(sum(s.ready), 0)
            from treadle.lane_shares s
            where s.tenant = _used_share.tenant and s.queue = _used_share.queue and s.lane = _used_share.lane)
    end
$$;

-- Hold the submissions that are beyond the tenant's share, and let those go first that are among its few.
create or replace function treadle._share_out(submissions treadle.submission[], tenant text)
returns treadle.submission[] language plpgsql as $$
declare
    v_used jsonb := (
        select jsonb_object_agg(
            p.queue || ' ' || p.priority,
            treadle._used_share(tenant => _share_out.tenant, queue => p.queue, lane => p.priority))
        from (
            select distinct s.queue, s.priority
            from unnest(submissions) s
            where s.state is null and s.hold is null
        ) p);
    v_share constant bigint := treadle._share_of(tenant);
    v_all treadle.submission[] := '{}';
    v_one treadle.submission;
    v_number bigint;
begin
    foreach v_one in array submissions loop
        if v_one.state is null and v_one.hold is null then
            v_number := (v_used ->> (v_one.queue || ' ' || v_one.priority))::bigint + 1;
            v_used := v_used || jsonb_build_object(v_one.queue || ' ' || v_one.priority, v_number);
            v_one.hold := case when v_number > v_share then 'share' end;
            v_one.goes_first := v_number <= treadle._first_rows();
        end if;
        v_all := v_all || v_one;
    end loop;
    return v_all;
end $$;

-- Of these messages, which are to be admitted, hold those that are beyond the share of their tenant. Returns the
-- others, and which of them go first.
create or replace function treadle._hold_beyond_share(ids uuid[], out going uuid[], out first uuid[])
language plpgsql as $$
begin
    with asked as (
        select m.message_id, m.tenant, m.queue, m.priority,
            row_number() over (partition by m.tenant, m.queue, m.priority order by u.n) as number
        from unnest(ids) with ordinality u (message_id, n)
        join treadle.messages m on m.message_id = u.message_id and m.state = 'queued' and m.hold is not null
    ), used as materialized (
        select p.tenant, p.queue, p.priority, treadle._share_of(p.tenant) as share,
            treadle._used_share(tenant => p.tenant, queue => p.queue, lane => p.priority) as used
        from (select distinct a.tenant, a.queue, a.priority from asked a) p
    ), placed as materialized (
        select a.message_id, a.queue, a.priority, a.number, a.number + u.used as place, u.share
        from asked a
        join used u on u.tenant = a.tenant and u.queue = a.queue and u.priority = a.priority
    ), held as (
        update treadle.messages m
        set hold = 'share', lane_id = p.lane_id, share_place = p.lane_id
        from (
            select o.message_id, treadle._lane_next(o.queue, o.priority) as lane_id
            from (select p.* from placed p where p.place > p.share order by p.number) o
            offset 0
        ) p
        where m.message_id = p.message_id
    )
    select array_agg(p.message_id order by p.number) filter (where p.place <= p.share),
            array_agg(p.message_id) filter (where p.place <= treadle._first_rows())
        into going, first
        from placed p;
end $$;

-- Count rows that are written into lanes.
create or replace function treadle._count_lane_rows(lane_rows treadle.lane_row[]) returns void
language plpgsql as $$
begin
    insert into treadle.lane_shares (tenant, queue, lane, ready)
        select coalesce(r.body ->> 'tenant', 'default'), r.queue, r.lane, count(*)
        from unnest(lane_rows) r
        where r.lane in ('high', 'normal', 'low')
        group by 1, 2, 3;
end $$;

-- Give these messages, which wait for their share, rows in their lanes, in their order.
create or replace function treadle._admit_to_share(ids uuid[], at timestamptz) returns void
language plpgsql as $$
declare
    v_lane_rows treadle.lane_row[];
begin
    with numbered as materialized (
        select o.message_id, treadle._lane_next(o.queue, o.priority) as lane_id
        from (
            select m.message_id, m.queue, m.priority
            from treadle.messages m
            where m.message_id = any(ids) and m.hold = 'share'
            order by m.share_place
        ) o
    ), admitted as (
        update treadle.messages m
        set hold = null, lane = m.priority, lane_id = n.lane_id
        from numbered n
        where m.message_id = n.message_id
        returning m.*
    )
    select array_agg(row(a.queue, a.lane, a.lane_id, treadle._lane_body(a))::treadle.lane_row)
        into v_lane_rows
        from admitted a;
    if v_lane_rows is not null then
        perform treadle._lane_insert(lane_rows => v_lane_rows, at => at);
    end if;
end $$;

-- A claim took one message of each of these tenants from a lane: admit as many.
create or replace function treadle._refill(tenants text[], queue text, lane text, at timestamptz) returns void
language plpgsql as $$
#variable_conflict use_column
declare
    v_ids uuid[];
begin
    insert into treadle.lane_shares (tenant, queue, lane, ready)
        select u.tenant, _refill.queue, _refill.lane, -count(*)
        from unnest(tenants) u (tenant)
        group by u.tenant;
    v_ids := array(
        select h.message_id
        from (select u.tenant, count(*) as taken from unnest(tenants) u (tenant) group by u.tenant) t
        cross join lateral (
            select m.message_id
            from treadle.messages m
            where m.hold = 'share' and m.tenant = t.tenant and m.queue = _refill.queue and m.priority = _refill.lane
            order by m.share_place
            limit t.taken
            for update skip locked
        ) h);
    if v_ids <> '{}' then
        perform treadle._admit_to_share(ids => v_ids, at => at);
    end if;
end $$;

-- Count the visible rows of all lanes again. The statement sees each transaction with its deltas or without them.
create or replace function treadle._recount_shares(at timestamptz) returns void
language plpgsql as $$
begin
    execute 'with gone as (delete from treadle.lane_shares)
        insert into treadle.lane_shares (tenant, queue, lane, ready) ' || (
            select string_agg(
                format(
                    'select coalesce(q.message ->> ''tenant'', ''default''), %L, %L, count(*)
                    from pgmq.%I q
                    where q.vt <= $1 or q.vt = q.enqueued_at
                    group by 1', l.queue, l.lane, l.name),
                ' union all ')
            from treadle._lane_tables() l)
        using at;
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

-- Admit messages that wait for their share, up to `quantity` in each lane: what their tenants' shares have room for or,
-- with one tenant, all. Returns their ids. One transaction at a time does it.
create or replace function treadle._admit_shares(quantity integer, at timestamptz) returns uuid[]
language plpgsql as $$
declare
    v_lane record;
    v_room bigint := quantity;
    v_ids uuid[] := '{}';
begin
    if not treadle._sharing() and not exists (select from treadle.messages m where m.hold = 'share') then
        return v_ids;
    elsif not treadle._try_mutex('shares') then
        return v_ids;
    elsif treadle._sharing() then
        perform treadle._recount_shares(at);
    end if;
    for v_lane in
        select l.*
        from treadle._shared_lanes() l
    loop
        if treadle._sharing() then
            v_room := treadle._share_of(v_lane.tenant) - (
                select coalesce(sum(s.ready), 0)
                from treadle.lane_shares s
                where s.tenant = v_lane.tenant and s.queue = v_lane.queue and s.lane = v_lane.lane);
        end if;
        v_ids := v_ids || array(
            select m.message_id
            from treadle.messages m
            where m.hold = 'share' and m.tenant = v_lane.tenant and m.queue = v_lane.queue and m.priority = v_lane.lane
            order by m.share_place
            limit greatest(least(v_room, quantity), 0)
            for update skip locked);
    end loop;
    perform treadle._admit_to_share(ids => v_ids, at => at);
    return v_ids;
end $$;

create or replace trigger tenants_sharing after insert or delete or update of suspended_at, deleted_at, limits
    on treadle.tenants for each statement execute function treadle._follow_tenants();
