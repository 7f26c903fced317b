-- The sizes of stores, and what the janitor does with stores.
--
-- The size of a store, and that of all stores of a tenant, is the sum of several rows: see 78_store.sql.

comment on column treadle.store_items.bytes
    is 'What it counts for: see treadle._counted_bytes; null: the bytes of the value as text';

-- The number of a new row. Two transactions draw the same one so rarely that the second may fail (23505).
create or replace function treadle._new_slot() returns integer
language sql volatile as $$
    select (random() * 2147483647)::integer
$$;

-- How many bytes all stores of a tenant have together.
create or replace function treadle._total_bytes(tenant text) returns bigint
language sql stable as $$
    select coalesce(sum(t.bytes), 0)::bigint
    from treadle.store_totals t
    where t.tenant = _total_bytes.tenant
$$;

-- Correct the totals that are not the sums of the sizes: those of an installation that functions of an earlier release
-- changed after migration 0025. Each change of a store writes both, so in one snapshot the difference is exact,
-- also while stores change. The caller has the mutex.
create or replace function treadle._mend_store_totals() returns void
language sql as $$
    insert into treadle.store_totals (tenant, slot, bytes)
    select d.tenant, treadle._new_slot(), sum(d.bytes)
    from (
        select s.tenant, s.bytes
        from treadle.store_sizes s
        union all
        select t.tenant, -t.bytes
        from treadle.store_totals t
    ) d
    where d.tenant in (select n.tenant from treadle.tenants n where n.deleted_at is null)
    group by d.tenant
    having sum(d.bytes) <> 0
$$;

-- Put the rows of each size together, without those that other transactions hold, and correct totals. Returns how many
-- rows are fewer.
create or replace function treadle.fold_stores() returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    v_rows integer := 0;
    v_fewer integer;
    v record;
begin
    if not treadle._try_mutex('fold_stores') then
        return 0;
    end if;
    perform treadle._mend_store_totals();
    for v in
        select s.tenant, s.owner
        from treadle.store_sizes s
        group by s.tenant, s.owner
        having count(*) > 1
        union all
        select t.tenant, null
        from treadle.store_totals t
        group by t.tenant
        having count(*) > 1
        order by 1, 2
    loop
        v_fewer := case
            when v.owner is null then treadle._fold_total(v.tenant)
            else treadle._fold_store(tenant => v.tenant, owner => v.owner)
        end;
        v_rows := v_rows + v_fewer;
    end loop;
    return v_rows;
end $$;
comment on function treadle.fold_stores
    is 'Put the counts of stores together; sums stay the same. Returns how many rows are fewer';

-- Put the rows of one store's size together; returns how many rows are fewer.
create or replace function treadle._fold_store(tenant text, owner text) returns integer
language plpgsql as $$
declare
    v_slots constant integer[] := array(
        select s.slot
        from treadle.store_sizes s
        where s.tenant = _fold_store.tenant and s.owner = _fold_store.owner
        for update skip locked);
    v_kept integer;
begin
    with deleted as (
        delete from treadle.store_sizes s
        where s.tenant = _fold_store.tenant and s.owner = _fold_store.owner and s.slot = any(v_slots)
        returning s.items, s.bytes
    )
    insert into treadle.store_sizes (tenant, owner, slot, items, bytes)
        select _fold_store.tenant, _fold_store.owner, treadle._new_slot(), sum(d.items), sum(d.bytes)
        from deleted d
        having sum(d.items) <> 0 or sum(d.bytes) <> 0;
    get diagnostics v_kept = row_count;
    return cardinality(v_slots) - v_kept;
end $$;

-- Put the rows of the size of all stores of a tenant together; returns how many rows are fewer.
create or replace function treadle._fold_total(tenant text) returns integer
language plpgsql as $$
declare
    v_slots constant integer[] := array(
        select t.slot
        from treadle.store_totals t
        where t.tenant = _fold_total.tenant
        for update skip locked);
    v_kept integer;
begin
    with deleted as (
        delete from treadle.store_totals t
        where t.tenant = _fold_total.tenant and t.slot = any(v_slots)
        returning t.bytes
    )
    insert into treadle.store_totals (tenant, slot, bytes)
        select _fold_total.tenant, treadle._new_slot(), sum(d.bytes)
        from deleted d
        having count(*) > 0;
    get diagnostics v_kept = row_count;
    return cardinality(v_slots) - v_kept;
end $$;

-- Delete a chunk of the items that have expired, without those that other transactions hold; returns how many.
create or replace function treadle.purge_store_items(quantity integer default 1000) returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    c_now constant timestamptz := treadle.clock();
    v_deleted integer := 0;
    v record;
begin
    for v in
        with expired as materialized (
            select e.tenant, e.owner, e.namespace, e.key
            from treadle.store_items e
            where e.expires_at <= c_now
            order by e.expires_at
            limit quantity
            for update skip locked
        ), deleted as (
            delete from treadle.store_items i
            using expired e
            where i.tenant = e.tenant and i.owner = e.owner and i.namespace = e.namespace and i.key = e.key
            returning i.tenant, i.owner, coalesce(i.bytes, treadle._item_bytes(i.value)) as bytes
        )
        select d.tenant, d.owner, count(*)::integer as items, sum(d.bytes)::bigint as bytes
        from deleted d
        group by d.tenant, d.owner
        order by d.tenant, d.owner
    loop
        perform treadle._count_items(tenant => v.tenant, owner => v.owner, items => -v.items, bytes => -v.bytes);
        v_deleted := v_deleted + v.items;
    end loop;
    return v_deleted;
end $$;
comment on function treadle.purge_store_items(integer)
    is 'Delete a chunk of the items of stores that have expired';

-- How many bytes the stores of a tenant have together, and may have (null: any number).
create or replace function treadle.store_use(tenant text default 'default', out bytes bigint, out max_bytes bigint)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
#variable_conflict use_variable
begin
    tenant := treadle._bound_tenant(tenant);
    bytes := treadle._total_bytes(tenant);
    max_bytes := treadle._store_bytes_of(tenant);
end $$;
comment on function treadle.store_use(text)
    is 'How many bytes the stores of a tenant have together, and may have';
