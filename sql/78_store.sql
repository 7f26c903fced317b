-- The store: values that clients and agents keep beside threads, by namespace and key (as LangGraph's store does).
--
-- Each subject of a tenant has a store of its own, and the tenant one that belongs to no subject. A call is an object
-- with `op`; an array of them is made in one transaction, in its order:
--   {"op": "get", "namespace", "key"}                       the item, or null
--   {"op": "put", "namespace", "key", "value"}              null
--   {"op": "delete", "namespace", "key"}                    null, also for an item that is not there
--   {"op": "search", "prefix", "filter"?, "limit"?, "offset"?}   items, the last changed first
--   {"op": "namespaces", "prefix"?, "suffix"?, "max_depth"?, "limit"?, "offset"?}   namespaces, in their order
-- In prefix and suffix, `*` stands for any label. A filter names fields of the value, with the value that they have or
-- an object of comparisons ($eq, $ne, $gt, $gte, $lt, $lte); numbers are compared with numbers, texts with texts.
-- There are at most 100 calls, and their answers have at most 16 MB: what has more is refused, because an answer that
-- was cut would look like the end of the list.

-- An item as its readers receive it.
create or replace function treadle._item(i treadle.store_items) returns jsonb
language sql stable as $$
    select jsonb_build_object(
        'namespace', i.namespace, 'key', i.key, 'value', i.value, 'created_at', i.created_at,
        'updated_at', i.updated_at)
$$;

-- Count items and bytes of a store. Raises TR429 for more than it may hold.
create or replace function treadle._count_items(tenant text, owner text, items integer, bytes bigint) returns void
language plpgsql as $$
declare
    v_limits record;
    v_size treadle.store_sizes;
begin
    v_limits := treadle._store_limits();
    update treadle.store_sizes s
    set items = s.items + _count_items.items, bytes = s.bytes + _count_items.bytes
    where s.tenant = _count_items.tenant and s.owner = _count_items.owner
    returning s.* into v_size;
    if _count_items.bytes > 0 and (v_size.items > v_limits.items or v_size.bytes > v_limits.bytes) then
        raise exception using errcode = 'TR429', message = format(
            'The store is full: it holds at most %s items, and %s bytes.', v_limits.items, v_limits.bytes);
    end if;
end $$;

-- Lock a store that is there.
create or replace function treadle._lock_store(tenant text, owner text) returns void
language plpgsql as $$
begin
    perform
    from treadle.store_sizes s
    where s.tenant = _lock_store.tenant and s.owner = _lock_store.owner
    for no key update;
end $$;

-- Delete an item.
create or replace function treadle._delete_item(call jsonb, tenant text, owner text) returns void
language plpgsql as $$
declare
    v_namespace constant text[] := treadle._namespace(call);
    v_bytes bigint;
begin
    perform treadle._lock_store(tenant => tenant, owner => owner);
    delete from treadle.store_items i
    where i.tenant = _delete_item.tenant
        and i.owner = _delete_item.owner
        and i.namespace = v_namespace
        and i.key = call ->> 'key'
    returning treadle._item_bytes(i.value) into v_bytes;
    if found then
        perform treadle._count_items(tenant => tenant, owner => owner, items => -1, bytes => -v_bytes);
    end if;
end $$;

-- Store an item, in the place of one with its key. Raises TR422, TR429.
create or replace function treadle._put_item(call jsonb, tenant text, owner text, at timestamptz) returns void
language plpgsql as $$
declare
    v_namespace constant text[] := treadle._namespace(call);
    v_value constant jsonb := call -> 'value';
    v_bytes constant bigint := treadle._item_bytes(v_value);
    v_former bigint;
begin
    if jsonb_typeof(v_value) is distinct from 'object' then
        raise exception using errcode = 'TR422', message = 'The value of an item must be an object.';
    elsif treadle._json_problem(v_value) is not null then
        raise exception using errcode = 'TR422', message = 'The value of an item ' || treadle._json_problem(v_value);
    elsif v_bytes > (treadle._store_limits()).item_bytes then
        raise exception using errcode = 'TR422', message = format(
            'The value of an item has at most %s bytes; this one has %s.', (treadle._store_limits()).item_bytes,
            v_bytes);
    end if;
    perform treadle._check_place(namespace => v_namespace, key => call ->> 'key', owner => owner);
    insert into treadle.store_sizes as s (tenant, owner)
        values (_put_item.tenant, _put_item.owner)
        on conflict do nothing;
    perform treadle._lock_store(tenant => tenant, owner => owner);
    v_former := (
        select treadle._item_bytes(i.value)
        from treadle.store_items i
        where i.tenant = _put_item.tenant
            and i.owner = _put_item.owner
            and i.namespace = v_namespace
            and i.key = call ->> 'key');
    perform treadle._count_items(
        tenant => tenant, owner => owner, items => case when v_former is null then 1 else 0 end,
        bytes => v_bytes - coalesce(v_former, 0));
    insert into treadle.store_items as i (tenant, owner, namespace, key, value, created_at, updated_at)
        values (_put_item.tenant, _put_item.owner, v_namespace, call ->> 'key', v_value, at, at)
        on conflict on constraint store_items_pkey do update
            set value = excluded.value, updated_at = excluded.updated_at;
end $$;

-- The filter of a search. Raises TR422.
create or replace function treadle._filter_of(call jsonb) returns jsonb
language plpgsql immutable as $$
declare
    v_filter constant jsonb := coalesce(nullif(call -> 'filter', 'null'), '{}');
begin
    if jsonb_typeof(v_filter) <> 'object' then
        raise exception using errcode = 'TR422', message = 'filter must be an object.';
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

-- The items that a search finds. Raises TR422.
create or replace function treadle._search_items(call jsonb, tenant text, owner text) returns jsonb
language plpgsql stable as $$
declare
    v_prefix constant text[] := treadle._labels(call -> 'prefix', 'namespace_prefix');
    v_first constant text[] := treadle._labels_before_star(v_prefix);
    v_filter constant jsonb := treadle._filter_of(call);
    v_equal constant jsonb := treadle._equal_fields(v_filter);
    v_bytes bigint;
    v_found jsonb;
begin
    -- The operators come first in each row: they pass over most rows without a call of a function.
    with found as materialized (
        select i.*
        from treadle.store_items i
        where i.tenant = _search_items.tenant
            and i.owner = _search_items.owner
            and i.namespace >= v_first
            and i.namespace[1 : cardinality(v_first)] = v_first
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
create or replace function treadle._list_namespaces(call jsonb, tenant text, owner text) returns jsonb
language plpgsql stable as $$
declare
    v_prefix constant text[] := treadle._labels(call -> 'prefix', 'prefix');
    v_first constant text[] := treadle._labels_before_star(v_prefix);
    v_suffix constant text[] := treadle._labels(call -> 'suffix', 'suffix');
    v_depth constant integer := treadle._store_number(
                call => call, name => 'max_depth', lowest => 1, highest => 20, otherwise => 20);
begin
    return (
        select coalesce(jsonb_agg(n.labels order by n.labels), '[]')
        from (
            select distinct i.namespace[1 : v_depth] as labels
            from treadle.store_items i
            where i.tenant = _list_namespaces.tenant
                and i.owner = _list_namespaces.owner
                and i.namespace >= v_first
                and i.namespace[1 : cardinality(v_first)] = v_first
                and (v_first = v_prefix or treadle._begins_with(i.namespace, v_prefix))
                and (v_suffix = '{}' or treadle._ends_with(i.namespace, v_suffix))
            order by labels
            limit treadle._store_number(
                call => call, name => 'limit', lowest => 1, highest => 1000, otherwise => 100)
            offset treadle._store_number(
                call => call, name => 'offset', lowest => 0, highest => 1000000, otherwise => 0)
        ) n);
end $$;

-- Make the calls. Raises TR422, and TR429 for more than a store may hold.
create or replace function treadle._make_store_calls(calls jsonb, tenant text, owner text, at timestamptz)
returns jsonb language plpgsql as $$
declare
    v_call jsonb;
    v_answers jsonb[] := '{}';
    v_answer jsonb;
    v_bytes bigint := 0;
begin
    if jsonb_typeof(calls) <> 'array' or jsonb_array_length(calls) > 100 then
        raise exception using errcode = 'TR422', message = 'The calls must be an array of at most 100.';
    end if;
    for v_call in
        select e.c
        from jsonb_array_elements(calls) with ordinality e (c, n)
        order by e.n
    loop
        v_answer := null;
        case v_call ->> 'op'
            when 'get' then v_answer := (
                select treadle._item(i)
                from treadle.store_items i
                where i.tenant = _make_store_calls.tenant
                    and i.owner = _make_store_calls.owner
                    and i.namespace = treadle._namespace(v_call)
                    and i.key = v_call ->> 'key');
            when 'put' then perform treadle._put_item(call => v_call, tenant => tenant, owner => owner, at => at);
            when 'delete' then perform treadle._delete_item(call => v_call, tenant => tenant, owner => owner);
            when 'search' then
                v_answer := treadle._search_items(call => v_call, tenant => tenant, owner => owner);
            when 'namespaces' then
                v_answer := treadle._list_namespaces(call => v_call, tenant => tenant, owner => owner);
            else raise exception using
                errcode = 'TR422', message = 'op must be get, put, delete, search or namespaces.';
        end case;
        v_bytes := v_bytes + coalesce(pg_column_size(v_answer), 0);
        if v_bytes > 16000000 then
            raise exception using errcode = 'TR422', message =
                'The answers of the calls have more than 16 MB: make fewer calls at once.';
        end if;
        v_answers := array_append(v_answers, v_answer);
    end loop;
    return to_jsonb(v_answers);
end $$;

-- Make calls of the store of a principal: its subject's, or the tenant's. A principal that is restricted to agents, to
-- a thread or to a message has none (TR403).
create or replace function treadle.use_store(calls jsonb, tenant text default 'default', reach jsonb default null)
returns jsonb language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    perform treadle._limits_of_active(tenant)
        where calls @? '$[*] ? (@.op == "put")';
    if jsonb_typeof(reach -> 'agents') = 'array' or reach ? 'thread_id' or reach ? 'message_id' then
        raise exception using errcode = 'TR403', message =
            'This key or token is for some agents, or for one thread or message: it may not use the store.';
    end if;
    return treadle._make_store_calls(
        calls => calls, tenant => tenant, owner => coalesce(reach ->> 'owner', ''), at => treadle.clock());
end $$;
comment on function treadle.use_store is 'Get, put, delete, search and list values by namespace and key';

-- The same for the agent that runs a message: the store of the subject that has submitted it. Null if the lease has
-- ended.
create or replace function treadle.use_store_for(message_id uuid, lease uuid, calls jsonb)
returns jsonb language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
declare
    v record;
begin
    select m.tenant, coalesce(m.owner, '') as owner
    into v
    from treadle.leases l
    join treadle.messages m on m.message_id = l.message_id
    where l.message_id = use_store_for.message_id and l.lease = use_store_for.lease
    for key share of l;
    if not found then
        return null;
    end if;
    return treadle._make_store_calls(calls => calls, tenant => v.tenant, owner => v.owner, at => treadle.clock());
end $$;
comment on function treadle.use_store_for is 'The same for an agent, in the store of the subject of its message';
