-- Privileges. PUBLIC may use none of our objects. The role treadle_app may call every function of the manifest (they
-- run with their owner's rights) and read every table and view, but write to none. Grant it to each role that submits
-- or looks:  grant treadle_app to alice

do $$
begin
    if not exists (select from pg_roles where rolname = 'treadle_app') then
        create role treadle_app nologin;
    end if;
exception
    when duplicate_object or unique_violation then null;  -- a migration of another database of this cluster was faster
    when insufficient_privilege then
        raise exception using
            errcode = 'insufficient_privilege',
            message = 'The role treadle_app does not exist and this user may not create roles: '
                'ask an administrator for "create role treadle_app nologin".';
end $$;

grant usage on schema treadle, pgmq to treadle_app;
grant select on all tables in schema treadle to treadle_app;

do $$
declare
    v_functions constant text := (
        select string_agg(f, ', ')
        from treadle.meta m
        cross join unnest(m.value::text[]) f
        where m.name = 'manifest');
begin
    execute format('revoke execute on function %s from public', v_functions);
    execute format('grant execute on function %s to treadle_app', v_functions);
end $$;
