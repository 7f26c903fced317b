-- Searches of stores (78_store.sql): items by namespace and filter, and the namespaces themselves.

-- The filter of a search. Raises TR422.
create or replace function treadle._filter_of(call jsonb) returns jsonb
language plpgsql immutable as $$
declare
    v_filter constant jsonb := coalesce(nullif(call -> 'filter', 'null'), '{}');
begin
    if jsonb_typeof(v_filter) <> 'object' then
        raise exception using errcode = 'TR422', message = 'filter must be an object.';
    elsif treadle._filter_problem(v_filter) is not null then
        raise exception using errcode = 'TR422', message = 'filter ' || treadle._filter_problem(v_filter);
    elsif exists (
        select
        from jsonb_each(v_filter) f
        where jsonb_typeof(f.value) = 'object'
            and not treadle._is_comparison(f.value)
            and exists (select from jsonb_object_keys(f.value) k where starts_with(k, '$')))
    then
        raise exception using
            errcode = 'TR422', message = 'A filter compares with $eq, $ne, $gt, $gte, $lt and $lte.';
    end if;
    return v_filter;
end $$;

-- Refuse to look at more than a search may: all items below a namespace. Raises TR422.
create or replace function treadle._check_searched(first text[], tenant text, owner text) returns void
language plpgsql stable as $$
declare
    v_room constant record := treadle._store_room();
    v_items bigint;
    v_bytes bigint;
begin
    select count(*), sum(s.bytes)
    into v_items, v_bytes
    from (
        select coalesce(i.bytes, pg_column_size(i.value)) as bytes
        from treadle.store_items i
        where i.tenant = _check_searched.tenant
            and i.owner = _check_searched.owner
            and i.namespace >= first
            and i.namespace[1 : cardinality(first)] = first
        limit v_room.searched_items + 1
    ) s;
    if v_items > v_room.searched_items or v_bytes > v_room.searched_bytes then
        raise exception using errcode = 'TR422', message = format(
            'A search with a filter, * or a suffix looks at most at %s items and %s bytes: begin it with a longer '
            'namespace.', v_room.searched_items, v_room.searched_bytes);
    end if;
end $$;

-- The items that a search finds. Raises TR422.
create or replace function treadle._search_items(call jsonb, tenant text, owner text, at timestamptz) returns jsonb
language plpgsql stable as $$
declare
    v_prefix constant text[] := treadle._labels(call -> 'prefix', 'namespace_prefix');
    v_first constant text[] := treadle._labels_before_star(v_prefix);
    v_filter constant jsonb := treadle._filter_of(call);
    v_equal constant jsonb := treadle._equal_fields(v_filter);
    v_bytes bigint;
    v_found jsonb;
begin
    if v_filter <> '{}' or v_first <> v_prefix then
        perform treadle._check_searched(first => v_first, tenant => tenant, owner => owner);
    end if;
    -- The operators come first in each row: they pass over most rows without a call of a function.
    with found as materialized (
        select i.*
        from treadle.store_items i
        where i.tenant = _search_items.tenant
            and i.owner = _search_items.owner
            and i.namespace >= v_first
            and i.namespace[1 : cardinality(v_first)] = v_first
            and (i.expires_at is null or i.expires_at > at)
            and (v_equal = '{}' or i.value @> v_equal)
            and (v_first = v_prefix or treadle._begins_with(i.namespace, v_prefix))
            and (v_filter = '{}' or treadle._fits_filter(i.value, v_filter))
        order by i.updated_at desc, i.namespace, i.key
        limit treadle._store_number(
            call => call, name => 'limit', lowest => 1, highest => 1000, otherwise => 10)
        offset treadle._store_number(
            call => call, name => 'offset', lowest => 0, highest => 1000000, otherwise => 0)
    ), size as (
        select coalesce(sum(treadle._item_bytes(f.value)), 0) as bytes
        from found f
    )
    select s.bytes, case when s.bytes <= 4000000 then (
        select coalesce(
            jsonb_agg(treadle._item(row(f.*)::treadle.store_items) order by f.updated_at desc, f.namespace, f.key),
            '[]')
        from found f) end
    into v_bytes, v_found
    from size s;
    if v_found is null then
        raise exception using errcode = 'TR422', message = format(
            'The items that the search finds have %s bytes, and its answer at most 4000000: ask for fewer (limit).',
            v_bytes);
    end if;
    return v_found;
end $$;

-- The namespaces that have items, down to a depth. Raises TR422.
create or replace function treadle._list_namespaces(call jsonb, tenant text, owner text, at timestamptz) returns jsonb
language plpgsql stable as $$
declare
    v_prefix constant text[] := treadle._labels(call -> 'prefix', 'prefix');
    v_first constant text[] := treadle._labels_before_star(v_prefix);
    v_suffix constant text[] := treadle._labels(call -> 'suffix', 'suffix');
    v_depth constant integer := treadle._store_number(
                call => call, name => 'max_depth', lowest => 1, highest => 20, otherwise => 20);
begin
    if v_suffix <> '{}' or v_first <> v_prefix then
        perform treadle._check_searched(first => v_first, tenant => tenant, owner => owner);
    end if;
    return (
        select coalesce(jsonb_agg(n.labels order by n.labels), '[]')
        from (
            select distinct i.namespace[1 : v_depth] as labels
            from treadle.store_items i
            where i.tenant = _list_namespaces.tenant
                and i.owner = _list_namespaces.owner
                and i.namespace >= v_first
                and i.namespace[1 : cardinality(v_first)] = v_first
                and (i.expires_at is null or i.expires_at > at)
                and (v_first = v_prefix or treadle._begins_with(i.namespace, v_prefix))
                and (v_suffix = '{}' or treadle._ends_with(i.namespace, v_suffix))
            order by labels
            limit treadle._store_number(
                call => call, name => 'limit', lowest => 1, highest => 1000, otherwise => 100)
            offset treadle._store_number(
                call => call, name => 'offset', lowest => 0, highest => 1000000, otherwise => 0)
        ) n);
end $$;
