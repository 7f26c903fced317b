-- The checks of calls of the store (78_store.sql).

-- What a store may hold: items, bytes of a value, and bytes of all values; and what a search may look at, where it
-- reads values or passes over namespaces.
create or replace function treadle._store_room(
    out items bigint, out item_bytes bigint, out bytes bigint, out searched_items bigint, out searched_bytes bigint)
language sql immutable parallel safe as $$
    select 100000, 262144, 268435456, 10000, 33554432
$$;

-- How many bytes all stores of a tenant may have together; null: any number. A limit of its own counts, then the
-- declared one, then 10 GB.
create or replace function treadle._store_bytes_of(tenant text) returns bigint
language sql stable as $$
    select case
        when t.limits ? 'store_bytes' then (t.limits ->> 'store_bytes')::bigint
        else coalesce((
            select (m.value::jsonb ->> 'store_bytes')::bigint
            from treadle.meta m
            where m.name = 'tenant_limits'), 10000000000)
    end
    from treadle.tenants t
    where t.tenant = _store_bytes_of.tenant
$$;

-- How long an item is kept: `ttl` of the call in minutes; null: for ever. Raises TR422.
create or replace function treadle._ttl_of(call jsonb) returns interval
language plpgsql immutable as $$
declare
    v_given constant jsonb := nullif(call -> 'ttl', 'null');
begin
    if jsonb_typeof(v_given) <> 'number' or v_given::numeric <= 0 or v_given::numeric > 527040 then
        raise exception using
            errcode = 'TR422', message = 'ttl must be a number of minutes, above 0 and up to 527040 (366 days).';
    end if;
    return v_given::numeric * interval '1 minute';
end $$;

-- The bytes of a value, which do not depend on how it is stored.
create or replace function treadle._item_bytes(value jsonb) returns bigint
language sql stable parallel safe as $$
    select octet_length(value::text)::bigint
$$;

-- What an item counts for in the sizes of stores: its value, its key, its labels, and 100 bytes for the row. An item
-- keeps what it counted for when it was stored (treadle.store_items.bytes), by an earlier release its value only.
create or replace function treadle._counted_bytes(namespace text[], key text, value jsonb) returns bigint
language sql stable parallel safe as $$
    select treadle._item_bytes(value) + octet_length(key) + octet_length(array_to_string(namespace, '')) + 100
$$;

-- A list of labels. Raises TR422.
create or replace function treadle._labels(given jsonb, name text) returns text[]
language plpgsql immutable as $$
begin
    if given is null or jsonb_typeof(given) = 'null' then
        return '{}';
    end if;
    if jsonb_typeof(given) <> 'array' or jsonb_array_length(given) > 20
        or given @? 'strict $[*] ? (@.type() != "string")'
        or exists (
            select
            from jsonb_array_elements_text(given) l
            where length(l) not between 1 and 255 or l ~ '[[:cntrl:].]')
    then
        raise exception using errcode = 'TR422', message = name
            || ' must be a list of at most 20 texts of 1 to 255 characters, without dots and control characters.';
    end if;
    return array(select l from jsonb_array_elements_text(given) with ordinality e (l, n) order by n);
end $$;

-- The namespace of an item. Raises TR422.
create or replace function treadle._namespace(call jsonb) returns text[]
language plpgsql immutable as $$
declare
    v_namespace constant text[] := treadle._labels(call -> 'namespace', 'namespace');
begin
    if v_namespace = '{}' or jsonb_typeof(call -> 'key') is distinct from 'string'
        or length(call ->> 'key') not between 1 and 255
    then
        raise exception using errcode = 'TR422', message =
            'An item needs a namespace of at least one label, and a key: a text of 1 to 255 characters.';
    end if;
    return v_namespace;
end $$;

-- Whether an item can have its place: the index holds its names. Raises TR422.
create or replace function treadle._check_place(namespace text[], key text, owner text) returns void
language plpgsql immutable as $$
declare
    v_bytes constant integer := octet_length(array_to_string(namespace, '')) + octet_length(key) + octet_length(owner);
begin
    if v_bytes > 2000 then
        raise exception using errcode = 'TR422', message = format(
            'The namespace, the key and the subject of an item have at most 2000 bytes together; these have %s.',
            v_bytes);
    end if;
end $$;

-- A number of a call. Raises TR422.
create or replace function treadle._store_number(
    call jsonb, name text, lowest integer, highest integer, otherwise integer)
returns integer language plpgsql immutable as $$
declare
    v_given constant jsonb := call -> name;
begin
    if v_given is null or jsonb_typeof(v_given) = 'null' then
        return otherwise;
    end if;
    if jsonb_typeof(v_given) <> 'number' or v_given::numeric not between lowest and highest
        or v_given::numeric <> trunc(v_given::numeric)
    then
        raise exception using errcode = 'TR422', message = format(
            '%s must be a whole number from %s to %s.', name, lowest, highest);
    end if;
    return v_given::integer;
end $$;

-- The labels of a prefix before its first `*`.
create or replace function treadle._labels_before_star(prefix text[]) returns text[]
language sql immutable parallel safe as $$
    select prefix[1 : coalesce(array_position(prefix, '*') - 1, cardinality(prefix))]
$$;

-- Whether labels begin with others, of which `*` stands for any.
create or replace function treadle._begins_with(labels text[], prefix text[]) returns boolean
language sql immutable parallel safe as $$
    select cardinality(labels) >= cardinality(prefix) and not exists (
        select
        from unnest(prefix) with ordinality p (label, n)
        where p.label not in ('*', labels[p.n]))
$$;

-- Whether labels end with others, of which `*` stands for any.
create or replace function treadle._ends_with(labels text[], suffix text[]) returns boolean
language sql immutable parallel safe as $$
    select treadle._begins_with(labels[cardinality(labels) - cardinality(suffix) + 1 :], suffix)
        and cardinality(labels) >= cardinality(suffix)
$$;

-- Whether a field satisfies one comparison.
create or replace function treadle._compares(field jsonb, operator text, operand jsonb) returns boolean
language sql immutable parallel safe as $$
    select coalesce(case operator
        when '$eq' then field = operand
        when '$ne' then field is distinct from operand
        else jsonb_typeof(field) = jsonb_typeof(operand) and case operator
            when '$gt' then field > operand
            when '$gte' then field >= operand
            when '$lt' then field < operand
            else field <= operand
        end
    end, false)
$$;

-- Whether an operand of a filter is an object of comparisons.
create or replace function treadle._is_comparison(operand jsonb) returns boolean
language sql immutable parallel safe as $$
    select jsonb_typeof(operand) = 'object' and operand <> '{}'
        and operand - array['$eq', '$ne', '$gt', '$gte', '$lt', '$lte'] = '{}'
$$;

-- The fields of a value that a filter wants to have a certain value: what satisfies the filter contains them.
create or replace function treadle._equal_fields(filter jsonb) returns jsonb
language sql immutable parallel safe as $$
    select coalesce(jsonb_object_agg(f.key, case when treadle._is_comparison(f.value) then f.value -> '$eq'
        else f.value end), '{}')
    from jsonb_each(filter) f
    where not treadle._is_comparison(f.value) or f.value ? '$eq'
$$;

-- Whether a value satisfies a filter.
create or replace function treadle._fits_filter(value jsonb, filter jsonb) returns boolean
language sql immutable parallel safe as $$
    select not exists (
        select
        from jsonb_each(filter) f
        cross join lateral (
            select c.key as operator, c.value as operand
            from jsonb_each(case when treadle._is_comparison(f.value) then f.value
                else jsonb_build_object('$eq', f.value) end) c
        ) c
        where not treadle._compares(
            field => _fits_filter.value -> f.key, operator => c.operator, operand => c.operand))
$$;
