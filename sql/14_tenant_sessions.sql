-- Sessions of tenants: a login role that treadle.sql_roles binds to one tenant (97_row_security.sql has the policies).
--
-- The binding goes by session_user, which `set role` does not change, and which only a superuser can change.

-- The tenant to which this session's login role is bound; null: none.
create or replace function treadle._session_tenant() returns text
language sql stable parallel safe security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select r.tenant
    from treadle.sql_roles r
    where r.role = session_user
$$;

-- Whether this session may act for the tenant of its login role only. Roles are looked up in memory.
create or replace function treadle._is_bound_session() returns boolean
language plpgsql stable as $$
begin
    return pg_has_role(session_user, 'treadle_tenant', 'member')
        and not pg_has_role(session_user, 'treadle_app', 'member');
end $$;

-- Refuse a value that a tenant's login sends and that is larger than a request to an API (TR422): the workers and APIs,
-- which serve all tenants, read it as a whole. `name`: how the refusal names the value.
create or replace function treadle._refuse_large(value jsonb, name text) returns void
language plpgsql stable as $$
declare
    c_bytes constant integer := 10000000;
begin
    if treadle._is_bound_session() and octet_length(value::text) > c_bytes then
        raise exception using
            errcode = 'TR422',
            message = format('%s has %s bytes; at most %s are allowed.', name, octet_length(value::text), c_bytes);
    end if;
end $$;

-- The tenant for which a client's call acts: for a bound login role its own, whichever it names; for others the one
-- that the call names. Raises 42501 for another tenant's name. ('default' is what a call passes that names none.)
create or replace function treadle._bound_tenant(tenant text) returns text
language plpgsql stable as $$
declare
    v_bound text;
begin
    if not treadle._is_bound_session() then
        return tenant;
    end if;
    v_bound := treadle._session_tenant();
    if v_bound is null or tenant not in (v_bound, 'default') then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('The role %I may not act for the tenant %L.', session_user, tenant);
    end if;
    return v_bound;
end $$;
