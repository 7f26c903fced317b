-- Shares: how many rows of a lane one tenant may have while other tenants are there.
--
-- While more than one tenant is active, or one has a limit `running`, a tenant has about treadle._share_of() visible
-- rows in a lane. Its further messages wait with hold = share, without a lane row, and are admitted in order: each
-- claim admits as many messages of a tenant as it takes from it, and the janitor (treadle.admit_due) admits what
-- claims did not. So a tenant that submits a hundred thousand messages delays the messages of others by one share at
-- most. Messages of a tenant that has only a few rows in the lane go before those of the others: a quiet tenant does
-- not wait for a whole share of a busy one. No message overtakes an earlier one of its tenant: a tenant that has rows
-- behind, which do not go first, gets no row before them.
--
-- treadle.lane_shares has deltas of the visible rows by tenant. Inserts never wait for each other, so a submit shares
-- no lock with a claim or with another submit: submits that commit together can exceed the share by what they bring. A
-- row that leaves its lane without a claim (a cancellation) is not subtracted; the janitor counts the lanes again.
-- Searches begin at a low-water mark (25_low_water.sql).
--
-- A lane can have many more rows of a tenant than its share: it was alone when it submitted them. treadle.lane_surplus
-- names it then. The janitor sets its last rows aside, in large steps. Until that is done, the rows of other tenants go
-- first, up to their whole share.
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

-- The body of treadle._is_plain(tenant): whether a tenant is active and has no limits. Each login of the server can
-- read it, so it has the hashes of those tenants' names; or none if there are more than ten: too many to compare with.
create or replace function treadle._plain_question() returns text
language sql stable as $$
    select format(
        'select sha256(convert_to(tenant, ''UTF8'')) = any(%L::bytea[])',
        case when count(*) between 1 and 10 then array_agg(sha256(convert_to(t.tenant, 'UTF8'))) else '{}' end)
    from (
        select t.tenant
        from treadle.tenants t
        where t.suspended_at is null and t.deleted_at is null and t.in_force is null
        order by t.tenant
    ) t
$$;

-- Generate treadle._sharing() and treadle._limiting(), which tell treadle._needs_of_tenants(), and treadle._is_plain().
-- They are constants for the planner, so that an installation with one tenant and no limit pays nothing for the
-- questions.
create or replace function treadle._generate_sharing() returns void
language plpgsql as $$
declare
    c_statement constant text :=
        'create or replace function treadle.%I(%s) returns boolean language sql stable parallel safe as %L';
    v_needs record;
begin
    perform treadle._lock_generation();
    v_needs := treadle._needs_of_tenants();
    execute format(c_statement, '_sharing', '', 'select ' || v_needs.sharing);
    execute format(c_statement, '_limiting', '', 'select ' || v_needs.limiting);
    execute format(c_statement, '_is_plain', 'tenant text', treadle._plain_question());
end $$;

-- The trigger of treadle.tenants.
create or replace function treadle._follow_tenants() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    v_alone boolean;  -- there were no shares so far
begin
    insert into treadle.mutexes (name)
        select treadle._running_mutex(t.tenant)
        from treadle.tenants t
        where t.in_force ? 'running'
        on conflict do nothing;
    perform treadle._lock_generation();
    if treadle._needs_of_tenants() is distinct from (treadle._sharing(), treadle._limiting())
        or treadle._plain_question() <> (
            select p.prosrc
            from pg_proc p
            where p.oid = 'treadle._is_plain(text)'::regprocedure)
    then
        v_alone := not treadle._sharing();
        perform treadle._generate_sharing();
        if v_alone then
            perform treadle._wait_for_mutex('shares');
            perform treadle._recount_shares(treadle.clock());
        end if;
    end if;
    return null;
end $$;

select treadle._generate_sharing();

-- About how many rows of a tenant in a lane a worker could claim, and how many of them do not go first.
create or replace function treadle._rows_of_share(
    tenant text, queue text, lane text, out ready bigint, out behind bigint)
language sql stable as $$
    select coalesce(sum(s.ready), 0), coalesce(sum(s.behind), 0)
    from treadle.lane_shares s
    where s.tenant = _rows_of_share.tenant and s.queue = _rows_of_share.queue and s.lane = _rows_of_share.lane
        and s.id >= treadle._low_water_mark('lane_shares')
$$;

-- Whether another tenant has many more rows in a lane than its share.
create or replace function treadle._is_crowded(tenant text, queue text, lane text) returns boolean
language sql stable as $$
    select exists (
        select
        from treadle.lane_surplus s
        where s.queue = _is_crowded.queue and s.lane = _is_crowded.lane and s.tenant <> _is_crowded.tenant)
$$;

-- How many rows of a lane count for a tenant's share: about those that a worker could claim, and the whole share where
-- messages wait for it already, because no message overtakes them. `first`: up to so many, its rows go before those of
-- the others.
create or replace function treadle._use_of_share(tenant text, queue text, lane text, out used bigint, out first bigint)
language plpgsql stable as $$
declare
    v_behind bigint;
begin
    if exists (
        select
        from treadle.messages m
        where m.hold = 'share' and m.tenant = _use_of_share.tenant and m.queue = _use_of_share.queue
            and m.priority = _use_of_share.lane)
    then
        used := treadle._share_of(tenant);
        first := 0;
        return;
    end if;
    select r.ready, r.behind
        into used, v_behind
        from treadle._rows_of_share(tenant => tenant, queue => queue, lane => lane) r;
    first := case
        when v_behind > 0 then 0
        when treadle._is_crowded(tenant => tenant, queue => queue, lane => lane) then treadle._share()
        else treadle._first_rows()
    end;
end $$;

-- Hold the submissions that are beyond the tenant's share, and let those go first that are among its few.
create or replace function treadle._share_out(submissions treadle.submission[], tenant text)
returns treadle.submission[] language plpgsql as $$
declare
    v_used jsonb;
    v_first jsonb;
    v_share constant bigint := treadle._share_of(tenant);
    v_submissions treadle.submission[] := '{}';
    v_submission treadle.submission;
    v_lane text;
    v_number bigint;
begin
    select jsonb_object_agg(p.lane, u.used), jsonb_object_agg(p.lane, u.first)
        into v_used, v_first
        from (
            select distinct s.queue, s.priority, s.queue || ' ' || s.priority as lane
            from unnest(submissions) s
            where s.state is null and s.hold is null
        ) p
        cross join lateral treadle._use_of_share(tenant => _share_out.tenant, queue => p.queue, lane => p.priority) u;
    foreach v_submission in array submissions loop
        if v_submission.state is null and v_submission.hold is null then
            v_lane := v_submission.queue || ' ' || v_submission.priority;
            v_number := (v_used ->> v_lane)::bigint + 1;
            v_used := v_used || jsonb_build_object(v_lane, v_number);
            v_submission.hold := case when v_number > v_share then 'share' end;
            v_submission.goes_first := v_number <= (v_first ->> v_lane)::bigint;
        end if;
        v_submissions := v_submissions || v_submission;
    end loop;
    return v_submissions;
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
        select p.tenant, p.queue, p.priority, treadle._share_of(p.tenant) as share, r.used, r.first
        from (select distinct a.tenant, a.queue, a.priority from asked a) p
        cross join lateral treadle._use_of_share(tenant => p.tenant, queue => p.queue, lane => p.priority) r
    ), placed as materialized (
        select a.message_id, a.queue, a.priority, a.number, a.number + u.used as place, u.share, u.first
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
            array_agg(p.message_id) filter (where p.place <= p.first)
        into going, first
        from placed p;
end $$;

-- Count rows that are written into lanes.
create or replace function treadle._count_lane_rows(lane_rows treadle.lane_row[]) returns void
language plpgsql as $$
begin
    insert into treadle.lane_shares (tenant, queue, lane, ready, behind)
        select coalesce(r.body ->> 'tenant', 'default'), r.queue, r.lane, count(*),
            count(*) filter (where r.lane_id > 0)
        from unnest(lane_rows) r
        where r.lane in ('high', 'normal', 'low')
        group by 1, 2, 3;
end $$;

-- End the wait of these messages for their share. Returns their lane rows, in their order. In a crowded lane they go
-- first.
create or replace function treadle._leave_share(ids uuid[]) returns treadle.lane_row[]
language plpgsql as $$
declare
    v_first text[] := '{}';  -- tenants with their lanes
    v_lane_rows treadle.lane_row[];
begin
    if exists (select from treadle.lane_surplus) then
        v_first := array(
            select concat_ws(' ', p.tenant, p.queue, p.priority)
            from (
                select distinct m.tenant, m.queue, m.priority
                from treadle.messages m
                where m.message_id = any(ids)
            ) p
            where treadle._is_crowded(tenant => p.tenant, queue => p.queue, lane => p.priority)
                and (treadle._rows_of_share(tenant => p.tenant, queue => p.queue, lane => p.priority)).behind <= 0);
    end if;
    with numbered as materialized (
        select o.message_id,
            case
                when o.lane = any(v_first) then treadle._lane_next_returned(o.queue, o.priority)
                else treadle._lane_next(o.queue, o.priority)
            end as lane_id
        from (
            select m.message_id, m.queue, m.priority, concat_ws(' ', m.tenant, m.queue, m.priority) as lane
            from treadle.messages m
            where m.message_id = any(ids)
                and coalesce(m.hold, '') = 'share'  -- coalesce keeps the planner off the index messages_share
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
    return v_lane_rows;
end $$;

-- Count the rows that a claim took from a lane, each of the tenant in the same place, and those that came for them.
create or replace function treadle._count_refill(
    tenants text[], lane_ids bigint[], coming treadle.lane_row[], queue text, lane text)
returns void language plpgsql as $$
begin
    insert into treadle.lane_shares (tenant, queue, lane, ready, behind)
        select d.tenant, _count_refill.queue, _count_refill.lane, sum(d.ready), sum(d.behind)
        from (
            select u.tenant, -1 as ready, case when u.lane_id > 0 then -1 else 0 end as behind
            from unnest(tenants, lane_ids) u (tenant, lane_id)
            union all
            select coalesce(r.body ->> 'tenant', 'default'), 1, case when r.lane_id > 0 then 1 else 0 end
            from unnest(coming) r
        ) d
        group by d.tenant
        having sum(d.ready) <> 0 or sum(d.behind) <> 0;
end $$;

-- A claim took the messages of these rows from a lane, each of the tenant in the same place: admit as many, but not of
-- a tenant that has a surplus there.
create or replace function treadle._refill(
    tenants text[], lane_ids bigint[], queue text, lane text, at timestamptz)
returns void language plpgsql as $$
#variable_conflict use_column
declare
    v_surplus constant text[] := array(
        select s.tenant
        from treadle.lane_surplus s
        where s.queue = _refill.queue and s.lane = _refill.lane);
    v_ids constant uuid[] := array(
        select h.message_id
        from (
            select u.tenant, count(*) as taken
            from unnest(tenants) u (tenant)
            where u.tenant <> all(v_surplus)
            group by u.tenant
        ) t
        cross join lateral (
            select m.message_id
            from treadle.messages m
            where m.hold = 'share' and m.tenant = t.tenant and m.queue = _refill.queue and m.priority = _refill.lane
            order by m.share_place
            limit t.taken
            for update skip locked
        ) h);
    v_coming treadle.lane_row[] := '{}';
begin
    if v_surplus <> '{}' then  -- counted first, because treadle._leave_share asks which rows are behind
        perform treadle._count_refill(
            tenants => tenants, lane_ids => lane_ids, coming => '{}', queue => queue, lane => lane);
        tenants := '{}';
        lane_ids := '{}';
    end if;
    if v_ids <> '{}' then
        v_coming := treadle._leave_share(v_ids);
        perform treadle._lane_put(queue => queue, lane => lane, lane_rows => v_coming, at => at);
    end if;
    perform treadle._count_refill(
        tenants => tenants, lane_ids => lane_ids, coming => v_coming, queue => queue, lane => lane);
end $$;

create or replace trigger tenants_sharing after insert or delete or update of suspended_at, deleted_at, limits
    on treadle.tenants for each statement execute function treadle._follow_tenants();
