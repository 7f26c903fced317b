-- Login roles of SQL users, each bound to one tenant.
--
-- Only the owner may call these functions. A role's name says nothing about its tenant, because every user of the
-- server can list roles. `verifier` is the SCRAM-SHA-256 verifier of a password: no log gets the password itself.

-- Let the owner act for the role: to end its sessions and to drop what it owns.
create or replace function treadle._join_role(role name) returns void
language plpgsql as $$
begin
    if not pg_has_role(current_user, role, 'usage') then
        execute format('grant %I to current_user', role);
    end if;
end $$;

-- Create a login role for a tenant; returns its name. The timeouts are defaults that its user can change: they end
-- mistakes, not attacks. Raises TR404 and TR403 for a tenant that is unknown or suspended, TR409 where PUBLIC may
-- create objects in the schema public, TR422 without the right to create roles.
create or replace function treadle.create_sql_role(
    tenant text, verifier text, connections integer default 5, statement_seconds integer default 60,
    actor text default null)
returns text
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    c_role constant name := 'treadle_sql_' || left(replace(gen_random_uuid()::text, '-', ''), 12);
begin
    -- Until the commit the tenant is not deleted: a role that its deletion misses would outlive it, and be bound to the
    -- next tenant of this name.
    perform
    from treadle.tenants t
    where t.tenant = create_sql_role.tenant
    for share;
    perform treadle._limits_of_active(tenant);
    execute format('create role %I login password %L connection limit %s', c_role, verifier, connections);
    execute format('grant treadle_tenant to %I', c_role);
    execute format('alter role %I set statement_timeout = %L', c_role, statement_seconds || 's');
    execute format('alter role %I set idle_in_transaction_session_timeout = %L', c_role, statement_seconds || 's');
    execute format('alter role %I set lock_timeout = ''5s''', c_role);
    if has_schema_privilege(c_role, 'public', 'create') then
        raise exception using errcode = 'TR409', message = 'PUBLIC may create objects in the schema public: '
            'run "revoke create on schema public from public" first.';
    end if;
    if not has_database_privilege(c_role, current_database(), 'connect') then
        execute format('grant connect on database %I to %I', current_database(), c_role);
    end if;
    insert into treadle.sql_roles (role, tenant, created_at)
    values (c_role, create_sql_role.tenant, treadle.clock());
    perform treadle._audit(actor => actor, action => 'sql_role.create', target => c_role, tenant => tenant);
    return c_role;
exception
    when insufficient_privilege then
        raise exception using
            errcode = 'TR422', message = format(
                'This database user may not create login roles: %s. Give it CREATEROLE.', sqlerrm);
end $$;
comment on function treadle.create_sql_role(text, text, integer, integer, text)
    is 'Create a login role that is bound to a tenant; returns its name';

-- Raises TR404 for a role that is bound to no tenant.
create or replace function treadle.drop_sql_role(role text, actor text default null) returns void
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
#variable_conflict use_column
declare
    v_tenant text;
begin
    delete from treadle.sql_roles r
    where r.role = drop_sql_role.role
    returning r.tenant
    into v_tenant;
    if not found then
        raise exception using errcode = 'TR404', message = format('There is no SQL role %L.', drop_sql_role.role);
    end if;
    perform treadle._audit(
        actor => actor, action => 'sql_role.drop', target => drop_sql_role.role, tenant => v_tenant);
    if to_regrole(quote_ident(drop_sql_role.role)) is null then  -- it was dropped by hand
        return;
    end if;
    execute format('alter role %I nologin', drop_sql_role.role);
    perform treadle._join_role(drop_sql_role.role);
    perform pg_terminate_backend(a.pid, 5000)
    from pg_stat_activity a
    where a.usename = drop_sql_role.role;
    execute format('drop owned by %I', drop_sql_role.role);
    execute format('drop role %I', drop_sql_role.role);
end $$;
comment on function treadle.drop_sql_role(text, text)
    is 'Drop a login role that is bound to a tenant, and end its sessions';

-- End the sessions of tenants' logins that hold or await the advisory lock `key`. Any login role can take such a lock,
-- and a migration, for which there may be no table of mutexes yet, must not wait for one.
create or replace function treadle._end_lock_holders(key bigint) returns void
language plpgsql as $$
declare
    v_session record;
begin
    for v_session in
        select l.pid, r.role
        from pg_locks l
        join pg_stat_activity a on a.pid = l.pid
        join treadle.sql_roles r on r.role = a.usename
        where l.locktype = 'advisory'
            and l.objsubid = 1
            and (l.classid::bigint << 32 | l.objid::bigint) = key
    loop
        perform treadle._join_role(v_session.role::name);
        perform pg_terminate_backend(v_session.pid, 2000);
    end loop;
end $$;

-- For how long a transaction of a tenant's login may be open, and how many locks its session may hold.
create or replace function treadle._tenant_session_limits(out open_for interval, out locks integer)
language sql immutable parallel safe as $$
    select interval '10 minutes', 1000
$$;

-- A role's own settings bind only users who leave them as they are. So the janitors end sessions of tenants' logins
-- that keep a transaction open for too long (it keeps its rows locked, and dead rows from being removed) or hold too
-- many locks (the table of locks is one for the whole server).
create or replace function treadle.end_tenant_sessions() returns table (tenant text, role text, reason text)
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
#variable_conflict use_column
declare
    c_limits constant record := treadle._tenant_session_limits();
    v_pid integer;
begin
    if not exists (select from treadle.sql_roles) or not treadle._try_mutex('end_tenant_sessions') then
        return;
    end if;
    perform treadle._join_role(r.role::name)
    from treadle.sql_roles r
    where exists (select from pg_stat_activity a where a.usename = r.role);
    for v_pid, tenant, role, reason in
        select a.pid, r.tenant, r.role,
            case when k.locks > c_limits.locks then 'too many locks' else 'a transaction open for too long' end
        from pg_stat_activity a
        join treadle.sql_roles r on r.role = a.usename
        left join (select l.pid, count(*) as locks from pg_locks l group by l.pid) k on k.pid = a.pid
        where k.locks > c_limits.locks
            or a.xact_start < clock_timestamp() - c_limits.open_for
    loop
        perform pg_terminate_backend(v_pid);
        return next;
    end loop;
end $$;
comment on function treadle.end_tenant_sessions
    is 'End sessions of tenants'' logins that keep a transaction open for too long or hold too many locks';

create or replace function treadle.sql_roles_of(tenant text) returns table (role text, created_at timestamptz)
language sql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select r.role, r.created_at
    from treadle.sql_roles r
    where r.tenant = sql_roles_of.tenant
    order by r.created_at, r.role
$$;
comment on function treadle.sql_roles_of is 'The login roles that are bound to a tenant';
