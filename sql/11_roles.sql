-- The roles of Treadle's users. They belong to the whole server, and cannot log in themselves.
--   treadle_app      the API, and services that you trust: submit, control, read
--   treadle_worker   workers and their janitors
--   treadle_tenant   login roles of tenants, each bound to its tenant (treadle tenants sql-role)
-- 99_grants.sql says what each may call. Log in as a member:  grant treadle_app to alice

-- Whether a login role may `set role` to that role. (PostgreSQL 15 has one kind of membership.)
create or replace function treadle._may_set_role(login name, role name) returns boolean
language sql stable as $$
    select pg_has_role(login, role, case
        when current_setting('server_version_num')::integer >= 160000 then 'set'
        else 'member'
    end)
$$;

-- Create a role that cannot log in, where it does not exist. Treadle's own processes log in as the owner or as a
-- member, and take the role: the owner becomes a member, where it may.
create or replace function treadle._create_role(name text) returns void
language plpgsql as $$
begin
    begin
        if not exists (select from pg_roles where rolname = name) then
            execute format('create role %I nologin', name);
        end if;
    exception
        when duplicate_object or unique_violation then null;  -- a migration of another database was faster
        when insufficient_privilege then
            raise exception using
                errcode = 'insufficient_privilege',
                message = format('The role %I does not exist and this user may not create roles: '
                    'ask an administrator for "create role treadle_app nologin; create role treadle_worker nologin; '
                    'create role treadle_tenant nologin".', name);
    end;
    if name = 'treadle_tenant' or treadle._may_set_role(current_user, name) then
        return;
    end if;
    begin
        execute format('grant %I to current_user', name) || case
            when current_setting('server_version_num')::integer >= 160000 then ' with inherit false, set true'
            else ''
        end;
    exception
        when insufficient_privilege or internal_error then null;  -- then its processes keep the owner's rights
    end;
end $$;

select treadle._create_role(r) from unnest(array['treadle_app', 'treadle_worker', 'treadle_tenant']) r;
