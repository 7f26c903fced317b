-- The audit: who changed access, or stopped, repeated or deleted work. Each row is written in the transaction of the
-- act, so an act that fails leaves none.

-- Note an act. `actor`: the principal; null, and for a tenant's login role, the role of this session: such a role could
-- name any principal.
create or replace function treadle._audit(
    actor text, action text, target text, tenant text, details jsonb default '{}')
returns void
language plpgsql as $$
#variable_conflict use_variable
begin
    insert into treadle.audit (at, tenant, principal, action, target, details)
    values (
        treadle.clock(), tenant,
        coalesce(case when treadle._session_tenant() is null then actor end, 'role ' || session_user), action,
        coalesce(target, ''),
        details);
end $$;

-- The newest acts in a tenant (null: in any), none before `since`. `before_at` and `before_id`: those of the last row
-- of the page before.
create or replace function treadle.audit_page(
    of_tenant text default null, since timestamptz default null, before_at timestamptz default null,
    before_id bigint default null, quantity integer default 100)
returns setof treadle.audit
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_custom_plan as $$
begin
    return query
        select a.*
        from treadle.audit a
        where (of_tenant is null or a.tenant = of_tenant)
            and (since is null or a.at >= since)
            and (before_at is null or (a.at, a.id) < (before_at, before_id))
        order by a.at desc, a.id desc
        limit quantity;
end $$;
comment on function treadle.audit_page(text, timestamp with time zone, timestamp with time zone, bigint, integer)
    is 'A page of the audit, the newest act first';

-- Delete up to `quantity` of the rows that are older than `retention_hours`; returns how many.
create or replace function treadle.purge_audit(retention_hours double precision, quantity integer default 10000)
returns integer
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    v_deleted integer;
begin
    delete from treadle.audit a
    where a.id in (
        select o.id
        from treadle.audit o
        where o.at < treadle.clock() - least(retention_hours, 8766000) * interval '1 hour'
        order by o.at
        limit quantity
        for update skip locked);
    get diagnostics v_deleted = row_count;
    return v_deleted;
end $$;
comment on function treadle.purge_audit(double precision, integer)
    is 'Delete a chunk of old rows of the audit';
