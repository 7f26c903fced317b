-- Row-level security on every table that has a column `tenant`.
--
-- Treadle's functions run with the rights of the tables' owner: row-level security does not concern it. The roles
-- treadle_app and treadle_worker see all rows of the tables that they may read. A member of treadle_tenant sees the
-- rows of the tenant to which its login role is bound: that policy is restrictive, so another role's rights cannot
-- widen it. Partitions have no policies, and no privileges: they are read through their parent.

do $$
declare
    v_table record;
begin
    for v_table in
        select c.oid::regclass as name, c.relrowsecurity as secured
        from pg_class c
        join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant' and not a.attisdropped
        where c.relnamespace = 'treadle'::regnamespace
            and c.relkind in ('r', 'p')
            and not c.relispartition
            and not exists (select from pg_policy p where p.polrelid = c.oid and p.polname = 'own_tenant')
    loop
        execute format('alter table %s enable row level security', v_table.name);
        execute format(
            'create policy readers on %s for select to treadle_app, treadle_worker, treadle_tenant using (true)',
            v_table.name);
        execute format(
            'create policy own_tenant on %s as restrictive for select to treadle_tenant '
            'using (tenant = (select treadle._session_tenant()))', v_table.name);
    end loop;
end $$;
