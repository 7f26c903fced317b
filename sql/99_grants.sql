-- Who may do what. Nothing is open to PUBLIC. The role treadle_app may walk through every door (the functions, which run with
-- their owner's rights) and look at everything; it can write no table. Give it to whoever submits or looks: grant treadle_app to alice.

do $$
begin
    if not exists (select from pg_roles where rolname = 'treadle_app') then
        create role treadle_app nologin;
    end if;
exception
    when duplicate_object or unique_violation then null;  -- another database of this cluster was migrated at the same moment
    when insufficient_privilege then
        raise exception using errcode = 'insufficient_privilege', message =
            'The role treadle_app does not exist and this user may not create roles: ask an administrator for "create role treadle_app nologin".';
end $$;

revoke execute on all functions in schema treadle from public;
grant usage on schema treadle, pgmq to treadle_app;
grant select on all tables in schema treadle to treadle_app;
grant execute on all functions in schema treadle to treadle_app;
