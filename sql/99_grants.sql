-- Who may do what. Nothing of ours is open to PUBLIC. The role treadle_app may walk through every door (the functions, which run with
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

grant usage on schema treadle, pgmq to treadle_app;
grant select on all tables in schema treadle to treadle_app;

do $$
declare
    v_ours constant text := (select string_agg(f, ', ') from treadle.meta m, unnest(m.value::text[]) f where m.name = 'manifest');
begin
    execute format('revoke execute on function %s from public', v_ours);
    execute format('grant execute on function %s to treadle_app', v_ours);
end $$;
