-- Functions of older releases go. Every one of this release was just written by this transaction; what was not is no longer ours.
-- (A changed function gets a new name, and the old one stays in these files for a release: older workers go on calling it.)

do $$
declare
    v_old regprocedure;
begin
    for v_old in
        select p.oid from pg_proc p where p.pronamespace = 'treadle'::regnamespace and p.xmin <> pg_current_xact_id()::xid
    loop
        execute format('drop function %s', v_old);
    end loop;
end $$;
