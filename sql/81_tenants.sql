-- Tenants: create, suspend, resume, delete.
--
-- A suspended tenant submits nothing (treadle._limits_of_active), and nothing of it is claimed: its running messages
-- end, the others wait, in their lanes or set aside (treadle._set_aside), until it goes on.
-- A tenant that is deleted counts as unknown from the commit of treadle.delete_tenant on. treadle.delete_tenant_chunk
-- deletes its rows in chunks; the janitors call it until none is left, and any process can go on where another stopped.
-- A transaction that was open at the deletion may still commit rows of the tenant. So its row in treadle.tenants is
-- deleted last, after a pass that began when all of those had ended.

create or replace function treadle.create_tenant(tenant text, actor text default null) returns void
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
#variable_conflict use_column
begin
    if coalesce(create_tenant.tenant !~ '^[a-z0-9][a-z0-9_-]{0,39}$', true) then
        raise exception using errcode = 'TR422', message = format(
            'A tenant''s name is 1 to 40 of a-z, 0-9, _ and -, beginning with a letter or a digit; %L is not.',
            create_tenant.tenant);
    end if;
    insert into treadle.tenants (tenant, created_at)
    values (create_tenant.tenant, treadle.clock())
    on conflict do nothing;
    if not found then
        raise exception using
            errcode = 'TR409', message = format('There is a tenant %L already.', create_tenant.tenant);
    end if;
    perform treadle._audit(
        actor => actor, action => 'tenant.create', target => create_tenant.tenant, tenant => create_tenant.tenant);
end $$;
comment on function treadle.create_tenant(text, text)
    is 'Create a tenant; raises TR409 if there is one of this name';

-- Raise TR404.
create or replace function treadle._raise_unknown_tenant(tenant text) returns void
language plpgsql as $$
begin
    raise exception using errcode = 'TR404', message = format('There is no tenant %L.', tenant);
end $$;

create or replace function treadle.suspend_tenant(tenant text, suspended boolean default true, actor text default null)
returns void
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
begin
    update treadle.tenants t
    set suspended_at = case when suspended then coalesce(t.suspended_at, treadle.clock()) end
    where t.tenant = suspend_tenant.tenant
        and t.deleted_at is null;
    if not found then
        perform treadle._raise_unknown_tenant(tenant);
    end if;
    perform treadle._audit(
        actor => actor, action => case when suspended then 'tenant.suspend' else 'tenant.resume' end, target => tenant,
        tenant => tenant);
end $$;
comment on function treadle.suspend_tenant(text, boolean, text)
    is 'Refuse the submits of a tenant and claim nothing of it or, with suspended => false, go on; raises TR404';

create or replace function treadle.delete_tenant(tenant text, actor text default null) returns void
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
begin
    if tenant = 'default' then
        raise exception using errcode = 'TR409', message = 'The tenant default belongs to the installation: keep it.';
    end if;
    update treadle.tenants t
    set deleted_at = coalesce(t.deleted_at, treadle.clock())
    where t.tenant = delete_tenant.tenant;
    if not found then
        perform treadle._raise_unknown_tenant(tenant);
    end if;
    perform treadle._audit(
        actor => actor, action => 'tenant.delete', target => tenant, tenant => tenant);
    perform treadle._hint('treadle_keys', '*');  -- its keys end
    perform treadle.drop_sql_role(r.role, actor => delete_tenant.actor)
    from treadle.sql_roles r
    where r.tenant = delete_tenant.tenant;
end $$;
comment on function treadle.delete_tenant(text, text)
    is 'Make a tenant unknown at once, and its rows the janitors'' to delete; raises TR404';

-- The transactions of this database that are open now, without this one.
create or replace function treadle._open_transactions() returns text[]
language sql volatile as $$
    select array(
        select l.virtualtransaction
        from pg_locks l
        join pg_stat_activity a on a.pid = l.pid
            and a.datid = (select d.oid from pg_database d where d.datname = current_database())
        where l.locktype = 'virtualxid'
            and l.granted
            and l.pid <> pg_backend_pid()
        union
        select 'prepared ' || p.gid
        from pg_prepared_xacts p
        where p.database = current_database())
$$;

-- Delete messages of a tenant with what belongs to them, and tell their workers and readers. Returns how many.
create or replace function treadle._delete_messages_of_tenant(ids uuid[], events integer) returns integer
language plpgsql as $$
declare
    v_running constant text[] := array(
        select l.message_id
        from treadle.leases l
        where l.message_id = any(ids));
    v_readers constant text[] := array(
        select m.message_id || coalesce(':' || m.thread, '')
        from treadle.messages m
        where m.message_id = any(ids));
    v_deleted constant integer := treadle._forget(ids, events);
begin
    perform treadle._hint_each('treadle_cancel', v_running);
    perform treadle._hint_each('treadle_events', v_readers);
    return v_deleted;
end $$;

-- Delete threads of a tenant that have about `quantity` messages together. Those that other transactions hold stay for
-- later. Returns how many threads and messages.
create or replace function treadle._delete_threads_of_tenant(tenant text, quantity integer) returns integer
language plpgsql as $$
declare
    v_thread bigint;
    v_threads bigint[] := '{}';
    v_messages uuid[] := '{}';
begin
    for v_thread in
        select t.id
        from treadle.threads t
        where t.tenant = _delete_threads_of_tenant.tenant
        order by t.thread_id
        limit quantity
        for update skip locked
    loop
        v_threads := v_threads || v_thread;
        v_messages := v_messages || array(select m.message_id from treadle.messages m where m.thread = v_thread);
        exit when cardinality(v_messages) >= quantity;
    end loop;
    perform treadle._delete_messages_of_tenant(v_messages, quantity * 25);
    delete from treadle.thread_log l
    where l.thread = any(v_threads);
    delete from treadle.thread_turns s
    where s.thread = any(v_threads);
    delete from treadle.threads t
    where t.id = any(v_threads);
    return cardinality(v_threads) + cardinality(v_messages);
end $$;

-- Delete so many items of a tenant's stores. A store without items goes with its row.
create or replace function treadle._delete_stores_of_tenant(tenant text, quantity integer) returns void
language plpgsql as $$
begin
    delete from treadle.store_items i
    where (i.tenant, i.owner, i.namespace, i.key) in (
        select f.tenant, f.owner, f.namespace, f.key
        from treadle.store_items f
        where f.tenant = _delete_stores_of_tenant.tenant
        limit quantity);
    delete from treadle.store_sizes s
    where s.tenant = _delete_stores_of_tenant.tenant
        and s.owner in (
            select e.owner
            from treadle.store_sizes e
            where e.tenant = _delete_stores_of_tenant.tenant
                and not exists (
                    select
                    from treadle.store_items i
                    where i.tenant = e.tenant and i.owner = e.owner)
            limit quantity);
    delete from treadle.store_totals t
    where t.tenant = _delete_stores_of_tenant.tenant;
end $$;

-- Delete what else a tenant has: keys, schemas, rows of the audit about what its principals did, keys of idempotency,
-- events of long logs, lists of children, topics and subscriptions. Returns whether nothing is left, not even a thread.
create or replace function treadle._delete_rest_of_tenant(tenant text, quantity integer) returns boolean
language plpgsql as $$
begin
    delete from treadle.idempotency i
    where (i.tenant, i.restriction, i.key) in (
        select k.tenant, k.restriction, k.key
        from treadle.idempotency k
        where k.tenant = _delete_rest_of_tenant.tenant
        limit quantity);
    delete from treadle.audit a
    where a.id in (
        select o.id
        from treadle.audit o
        where o.tenant = _delete_rest_of_tenant.tenant
            and o.action !~ '^tenant[.]'
        limit quantity);
    delete from treadle.keys k
    where k.tenant = _delete_rest_of_tenant.tenant;
    perform treadle._empty_trash(quantity * 25);
    delete from treadle.parked p
    where p.tenant = _delete_rest_of_tenant.tenant;
    delete from treadle.webhooks w
    where w.tenant = _delete_rest_of_tenant.tenant;
    delete from treadle.webhook_outcomes o
    where o.tenant = _delete_rest_of_tenant.tenant;
    delete from treadle.push_configs c
    where c.tenant = _delete_rest_of_tenant.tenant;
    delete from treadle.callback_secrets s
    where s.tenant = _delete_rest_of_tenant.tenant;
    perform treadle._delete_stores_of_tenant(tenant, quantity);
    perform treadle._delete_schemas_of_tenant(tenant);
    if not treadle._delete_topics_of_tenant(tenant, quantity * 5) then
        return false;
    end if;
    return not (
        exists (select from treadle.idempotency i where i.tenant = _delete_rest_of_tenant.tenant)
        or exists (
            select
            from treadle.audit a
            where a.tenant = _delete_rest_of_tenant.tenant
                and a.action !~ '^tenant[.]')
        or exists (select from treadle.store_items i where i.tenant = _delete_rest_of_tenant.tenant)
        or exists (select from treadle.store_sizes s where s.tenant = _delete_rest_of_tenant.tenant)
        or exists (select from treadle.trash t where t.tenant = _delete_rest_of_tenant.tenant)
        or exists (select from treadle.threads t where t.tenant = _delete_rest_of_tenant.tenant));
end $$;

-- One chunk of the deletion of a tenant, or (null) of any. The messages without a thread are found in one pass over all
-- messages, of which tenants.delete_after says how far it came.
--   deleted    how many threads and messages
--   pass_over  the pass came to the end of all messages: what another transaction holds is left for the next pass
--   gone       the tenant is deleted entirely
-- All are null if there is nothing to delete, or another process is at it.
create or replace function treadle.delete_tenant_chunk(
    name text default null, quantity integer default 1000, out deleted integer, out pass_over boolean,
    out gone boolean)
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
declare
    v treadle.tenants;
    v_last uuid;
begin
    select t.*
    into v
    from treadle.tenants t
    where t.deleted_at is not null
        and (name is null or t.tenant = name)
    order by t.deleted_at
    limit 1
    for update skip locked;
    if not found then
        return;
    end if;
    gone := false;
    if v.delete_after is null then  -- a pass begins
        v.delete_awaits := array(
            select o
            from unnest(treadle._open_transactions()) o
            where v.delete_awaits is null or o = any(v.delete_awaits));
        v.delete_after := treadle.uuid_at('epoch');
    end if;
    deleted := treadle._delete_threads_of_tenant(v.tenant, quantity);
    if deleted < quantity then
        v_last := treadle._end_of_stretch(v.delete_after, quantity * 5);
        if v_last is not null then
            deleted := deleted + treadle._delete_messages_of_tenant(array(
                select m.message_id
                from treadle.messages m
                where m.message_id > v.delete_after
                    and m.message_id <= v_last
                    and m.tenant = v.tenant
                    and m.thread is null), quantity * 25);
        elsif treadle._delete_rest_of_tenant(v.tenant, quantity) and deleted = 0 and v.delete_awaits = '{}' then
            gone := treadle._delete_counters_of_tenant(v.tenant);
        end if;
    else
        v_last := v.delete_after;
    end if;
    pass_over := v_last is null;
    update treadle.tenants t
    set delete_after = v_last, delete_awaits = v.delete_awaits
    where t.tenant = v.tenant;
end $$;
comment on function treadle.delete_tenant_chunk(text, integer)
    is 'Delete the next rows of a tenant that is being deleted; repeat until it is gone';

-- The last of the next `quantity` messages after `after`.
create or replace function treadle._end_of_stretch(after uuid, quantity integer) returns uuid
language plpgsql stable as $$
begin
    return (
        select o.message_id
        from (
            select m.message_id
            from treadle.messages m
            where m.message_id > after
            order by m.message_id
            limit quantity
        ) o
        order by o.message_id desc
        limit 1);
end $$;

-- Delete the counters of a tenant, whose sums are 0, and the tenant; returns whether it did. While another process
-- folds counters, it does nothing.
create or replace function treadle._delete_counters_of_tenant(tenant text) returns boolean
language plpgsql as $$
begin
    if not (treadle._try_mutex('fold_counters') and treadle._try_mutex('fold_subscriptions')) then
        return false;
    end if;
    delete from treadle.counters c
    where c.tenant = _delete_counters_of_tenant.tenant;
    delete from treadle.subscription_counts c
    where c.tenant = _delete_counters_of_tenant.tenant;
    delete from treadle.lane_shares s
    where s.tenant = _delete_counters_of_tenant.tenant;
    delete from treadle.lane_surplus s
    where s.tenant = _delete_counters_of_tenant.tenant;
    delete from treadle.stat_rows s
    where s.tenant = _delete_counters_of_tenant.tenant;
    delete from treadle.instances i
    where i.tenant = _delete_counters_of_tenant.tenant;
    delete from treadle.tenant_use u
    where u.tenant = _delete_counters_of_tenant.tenant;
    delete from treadle.mutexes m
    where m.name = treadle._running_mutex(_delete_counters_of_tenant.tenant);
    delete from treadle.tenants t
    where t.tenant = _delete_counters_of_tenant.tenant;
    return true;
end $$;
