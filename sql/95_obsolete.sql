-- Drop the functions of earlier releases.
--
-- treadle.meta's `manifest` lists the functions that the last migration created. Those that this transaction has not
-- written again are dropped, unless a view or a trigger of the user depends on one: it stays in the manifest until
-- nothing depends on it. Functions outside the manifest belong to the user and stay. (A function with a new signature
-- gets a new name, and the old one stays in these files for one release, because older workers go on calling it.)

do $$
declare
    v_current constant text[] := array(
        select p.oid::regprocedure::text
        from pg_proc p
        where p.pronamespace = 'treadle'::regnamespace
            and p.xmin = pg_current_xact_id()::xid);
    v_needed text[] := '{}';
    v_obsolete text;
begin
    for v_obsolete in
        select f
        from treadle.meta m
        cross join unnest(m.value::text[]) f
        join pg_proc p on p.oid::regprocedure::text = f
        where m.name = 'manifest'
            and not f = any(v_current)
    loop
        begin
            execute format('drop function %s', v_obsolete);
        exception when dependent_objects_still_exist then
            v_needed := v_needed || v_obsolete;
        end;
    end loop;
    insert into treadle.meta as m (name, value)
    values ('manifest', array(select unnest(v_current || v_needed) order by 1)::text)
    on conflict (name) do update
        set value = excluded.value
        where m.value <> excluded.value;
end $$;
