-- The store: values that clients and agents keep beside threads, by namespace and key (as LangGraph's store does).
--
-- Each subject of a tenant has a store of its own, and the tenant one that belongs to no subject. A call is an object
-- with `op`; an array of them is made in one transaction, in its order:
--   {"op": "get", "namespace", "key", "refresh"?}           the item, or null
--   {"op": "put", "namespace", "key", "value", "ttl"?}      null
--   {"op": "delete", "namespace", "key"}                    null, also for an item that is not there
--   {"op": "search", "prefix", "filter"?, "limit"?, "offset"?, "refresh"?}   items, the last changed first
--   {"op": "namespaces", "prefix"?, "suffix"?, "max_depth"?, "limit"?, "offset"?}   namespaces, in their order
-- In prefix and suffix, `*` stands for any label. A filter names fields of the value, with the value that they have or
-- an object of comparisons ($eq, $ne, $gt, $gte, $lt, $lte); numbers are compared with numbers, texts with texts.
-- An item with a `ttl` (minutes) is there until so long after its last change, or its last read (`refresh` not false).
-- The janitor deletes it then.
-- A search with a filter reads values, so it may look at 10,000 items of at most 32 MB, as may what has `*` or a
-- suffix.
-- There are at most 100 calls, and their answers have at most 16 MB: what has more is refused, because an answer that
-- was cut would look like the end of the list.
--
-- Items, by namespace and key, are the only locks: a transaction that stays open delays those that change the same
-- items.
-- Sizes are counted in several rows (`slot`), of which a transaction takes one that no other transaction holds
-- (treadle.fold_stores puts them together). So a limit does not count what other transactions have written and not
-- committed: transactions at the same time can exceed it by what they write, each by at most 100 items of 256 KB.

-- An item as its readers receive it.
create or replace function treadle._item(i treadle.store_items) returns jsonb
language sql stable as $$
    select jsonb_build_object(
        'namespace', i.namespace, 'key', i.key, 'value', i.value, 'created_at', i.created_at,
        'updated_at', i.updated_at)
$$;

-- Count items and bytes in a row of the store that no other transaction holds. A row of zeros is deleted.
create or replace function treadle._count_in_store(tenant text, owner text, items integer, bytes bigint) returns void
language plpgsql as $$
declare
    v_slot constant integer := (
        select s.slot
        from treadle.store_sizes s
        where s.tenant = _count_in_store.tenant and s.owner = _count_in_store.owner
        order by s.slot
        limit 1
        for no key update skip locked);
begin
    if v_slot is null then
        insert into treadle.store_sizes (tenant, owner, slot, items, bytes)
            values (_count_in_store.tenant, _count_in_store.owner, treadle._new_slot(), _count_in_store.items,
                _count_in_store.bytes);
        return;
    end if;
    update treadle.store_sizes s
    set items = s.items + _count_in_store.items, bytes = s.bytes + _count_in_store.bytes
    where s.tenant = _count_in_store.tenant and s.owner = _count_in_store.owner and s.slot = v_slot;
    delete from treadle.store_sizes s
    where s.tenant = _count_in_store.tenant
        and s.owner = _count_in_store.owner
        and s.slot = v_slot
        and s.items = 0
        and s.bytes = 0;
end $$;

-- Count bytes in the total of all stores of the tenant.
create or replace function treadle._count_in_total(tenant text, bytes bigint) returns void
language plpgsql as $$
declare
    v_slot constant integer := (
        select t.slot
        from treadle.store_totals t
        where t.tenant = _count_in_total.tenant
        order by t.slot
        limit 1
        for no key update skip locked);
begin
    if v_slot is null then
        insert into treadle.store_totals (tenant, slot, bytes)
            values (_count_in_total.tenant, treadle._new_slot(), _count_in_total.bytes);
    else
        update treadle.store_totals t
        set bytes = t.bytes + _count_in_total.bytes
        where t.tenant = _count_in_total.tenant and t.slot = v_slot;
    end if;
end $$;

-- Count items and bytes of a store. Raises TR429 for more than it may hold.
create or replace function treadle._count_items(tenant text, owner text, items integer, bytes bigint) returns void
language plpgsql as $$
declare
    v_limits constant record := treadle._store_room();
    v_most bigint;
    v record;
begin
    perform treadle._count_in_store(tenant => tenant, owner => owner, items => items, bytes => bytes),
        treadle._count_in_total(tenant => tenant, bytes => bytes);
    if _count_items.bytes <= 0 then
        return;
    end if;
    v_most := treadle._store_bytes_of(tenant);
    select sum(s.items) as items, sum(s.bytes) as bytes
    into v
    from treadle.store_sizes s
    where s.tenant = _count_items.tenant and s.owner = _count_items.owner;
    if treadle._total_bytes(tenant) > v_most then
        raise exception using errcode = 'TR429', message = format(
            'The stores of the tenant %L are full: they hold at most %s bytes together.', tenant, v_most);
    elsif v.items > v_limits.items or v.bytes > v_limits.bytes then
        raise exception using errcode = 'TR429', message = format(
            'The store is full: it holds at most %s items, and %s bytes.', v_limits.items, v_limits.bytes);
    end if;
end $$;

-- Lock the items that calls change and that are there, in their order. Two calls that store the same new keys in
-- opposite orders can still wait in a circle: PostgreSQL ends one of them, and it is repeated (service/db/pool.py).
create or replace function treadle._lock_items(calls jsonb, tenant text, owner text) returns void
language plpgsql as $$
begin
    perform
    from (
        select treadle._namespace(c) as namespace, c ->> 'key' as key
        from jsonb_array_elements(calls) c
        where c ->> 'op' in ('put', 'delete')
        offset 0
    ) n
    join treadle.store_items i on i.tenant = _lock_items.tenant
        and i.owner = _lock_items.owner
        and i.namespace = n.namespace
        and i.key = n.key
    order by i.namespace, i.key
    for update of i;
end $$;

-- Delete an item.
create or replace function treadle._delete_item(call jsonb, tenant text, owner text) returns void
language plpgsql as $$
declare
    v_namespace constant text[] := treadle._namespace(call);
    v_bytes bigint;
begin
    delete from treadle.store_items i
    where i.tenant = _delete_item.tenant
        and i.owner = _delete_item.owner
        and i.namespace = v_namespace
        and i.key = call ->> 'key'
    returning coalesce(i.bytes, treadle._item_bytes(i.value)) into v_bytes;
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
    v_counted constant bigint := treadle._counted_bytes(
        namespace => v_namespace, key => call ->> 'key', value => v_value);
    v_ttl constant interval := treadle._ttl_of(call);
    v_former bigint;
begin
    if jsonb_typeof(v_value) is distinct from 'object' then
        raise exception using errcode = 'TR422', message = 'The value of an item must be an object.';
    elsif treadle._json_problem(v_value) is not null then
        raise exception using errcode = 'TR422', message = 'The value of an item ' || treadle._json_problem(v_value);
    elsif v_bytes > (treadle._store_room()).item_bytes then
        raise exception using errcode = 'TR422', message = format(
            'The value of an item has at most %s bytes; this one has %s.', (treadle._store_room()).item_bytes, v_bytes);
    end if;
    perform treadle._check_place(namespace => v_namespace, key => call ->> 'key', owner => owner);
    loop
        select coalesce(i.bytes, treadle._item_bytes(i.value))
        into v_former
        from treadle.store_items i
        where i.tenant = _put_item.tenant
            and i.owner = _put_item.owner
            and i.namespace = v_namespace
            and i.key = call ->> 'key'
        for no key update;
        if found then
            update treadle.store_items i
            set value = v_value, updated_at = at, bytes = v_counted, ttl = v_ttl, expires_at = at + v_ttl,
                created_at = case when i.expires_at <= at then at else i.created_at end
            where i.tenant = _put_item.tenant
                and i.owner = _put_item.owner
                and i.namespace = v_namespace
                and i.key = call ->> 'key';
            exit;
        end if;
        insert into treadle.store_items (
                tenant, owner, namespace, key, value, created_at, updated_at, bytes, ttl, expires_at)
            values (_put_item.tenant, _put_item.owner, v_namespace, call ->> 'key', v_value, at, at, v_counted, v_ttl,
                at + v_ttl)
            on conflict do nothing;
        exit when found;  -- else another transaction has just stored it
    end loop;
    perform treadle._count_items(
        tenant => tenant, owner => owner, items => case when v_former is null then 1 else 0 end,
        bytes => v_counted - coalesce(v_former, 0));
end $$;

-- Items were read: those with a time to live are kept so long from now on. Not each read writes: a tenth of the time
-- must have passed. `items`: as their readers receive them.
create or replace function treadle._keep_items(items jsonb, tenant text, owner text, at timestamptz) returns void
language plpgsql as $$
begin
    if not exists (select from treadle.store_items i where i.expires_at is not null) then
        return;
    end if;
    update treadle.store_items i
    set expires_at = at + i.ttl
    from (
        select d.namespace, d.key
        from jsonb_array_elements(items) f
        join treadle.store_items d on d.tenant = _keep_items.tenant
            and d.owner = _keep_items.owner
            and d.namespace = array(select jsonb_array_elements_text(f -> 'namespace'))
            and d.key = f ->> 'key'
        where d.expires_at < at + d.ttl * 0.9
        order by d.namespace, d.key
        for no key update of d skip locked
    ) k
    where i.tenant = _keep_items.tenant
        and i.owner = _keep_items.owner
        and i.namespace = k.namespace
        and i.key = k.key;
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
    elsif calls @? '$[*] ? (@.op == "put" || @.op == "delete")' then
        perform treadle._lock_items(calls => calls, tenant => tenant, owner => owner);
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
                    and i.key = v_call ->> 'key'
                    and (i.expires_at is null or i.expires_at > at));
            when 'put' then perform treadle._put_item(call => v_call, tenant => tenant, owner => owner, at => at);
            when 'delete' then perform treadle._delete_item(call => v_call, tenant => tenant, owner => owner);
            when 'search' then
                v_answer := treadle._search_items(call => v_call, tenant => tenant, owner => owner, at => at);
            when 'namespaces' then
                v_answer := treadle._list_namespaces(call => v_call, tenant => tenant, owner => owner, at => at);
            else raise exception using
                errcode = 'TR422', message = 'op must be get, put, delete, search or namespaces.';
        end case;
        if v_call ->> 'op' in ('get', 'search') and v_call -> 'refresh' is distinct from 'false' then
            perform treadle._keep_items(
                items => case jsonb_typeof(v_answer) when 'object' then jsonb_build_array(v_answer) else v_answer end,
                tenant => tenant, owner => owner, at => at);
        end if;
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
-- a thread or to a message has none (TR403). A call that finds an item held by another transaction waits two seconds,
-- not `patient` a moment, and then fails with lock_not_available (55P03).
create or replace function treadle.use_store(
    calls jsonb, tenant text default 'default', reach jsonb default null, patient boolean default true)
returns jsonb language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    if not patient then
        perform treadle._set_lock_timeout('50ms');
    end if;
    perform treadle._limits_of_active(tenant)
        where calls @? '$[*] ? (@.op == "put")';
    if jsonb_typeof(reach -> 'agents') = 'array' or reach ? 'thread_id' or reach ? 'message_id' then
        raise exception using errcode = 'TR403', message =
            'This key or token is for some agents, or for one thread or message: it may not use the store.';
    end if;
    return treadle._make_store_calls(
        calls => calls, tenant => tenant, owner => coalesce(reach ->> 'owner', ''), at => treadle.clock());
end $$;
comment on function treadle.use_store(jsonb, text, jsonb, boolean)
    is 'Get, put, delete, search and list values by namespace and key';

-- The same for the agent that runs a message: the store of the subject that has submitted it. Null if the lease has
-- ended. The detail of 55P03 is `tenant/`: a worker lets the calls of that tenant wait in one line.
create or replace function treadle.use_store_for(
    message_id uuid, lease uuid, calls jsonb, patient boolean default true)
returns jsonb language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
declare
    v record;
begin
    if not patient then
        perform treadle._set_lock_timeout('50ms');
    end if;
    select m.tenant, coalesce(m.owner, '') as owner
    into v
    from treadle.leases l
    join treadle.messages m on m.message_id = l.message_id
    where l.message_id = use_store_for.message_id and l.lease = use_store_for.lease;
    if not found then
        return null;
    end if;
    perform
    from treadle.leases l
    where l.message_id = use_store_for.message_id and l.lease = use_store_for.lease
    for key share;
    if not found then
        return null;
    end if;
    return treadle._make_store_calls(calls => calls, tenant => v.tenant, owner => v.owner, at => treadle.clock());
exception
    when lock_not_available then
        raise exception using
            errcode = 'lock_not_available', message = 'Another transaction holds an item: try again.',
            detail = v.tenant || '/';
end $$;
comment on function treadle.use_store_for(uuid, uuid, jsonb, boolean)
    is 'The same for an agent, in the store of the subject of its message';
