-- Functions of former releases go: those that the manifest names (treadle.meta), and that this transaction did not just write. What is
-- not in the manifest is somebody else's, and stays; so does what somebody's view or trigger stands on, until it does not any more.
-- (A changed function gets a new name, and the old one stays in these files for a release: older workers go on calling it.)

do $$
declare
    v_ours constant text[] := array(
        select p.oid::regprocedure::text from pg_proc p
        where p.pronamespace = 'treadle'::regnamespace and p.xmin = pg_current_xact_id()::xid);
    v_needed text[] := '{}';
    v_old text;
begin
    for v_old in
        select f from treadle.meta m, unnest(m.value::text[]) f join pg_proc p on p.oid::regprocedure::text = f
        where m.name = 'manifest' and not f = any(v_ours)
    loop
        begin
            execute format('drop function %s', v_old);
        exception when dependent_objects_still_exist then
            v_needed := v_needed || v_old;
        end;
    end loop;
    insert into treadle.meta as m (name, value)
        values ('manifest', array(select unnest(v_ours || v_needed) order by 1)::text)
        on conflict (name) do update set value = excluded.value where m.value <> excluded.value;
end $$;
