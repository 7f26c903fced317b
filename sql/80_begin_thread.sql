-- Threads that begin with items of a client (conversations of OpenAI's API): a list in the metadata of the thread.

-- Add items to the list `name` in the metadata of a thread, and set its other metadata (null: they stay as they are). A
-- thread that is not there is created; one with messages takes no items (TR422). The list has at most `max_items` items
-- and `max_bytes` bytes as text (TR422). Calls at the same time wait for each other, so that no item is lost. Returns
-- the list.
create or replace function treadle.begin_thread(
    thread_id text, name text, items jsonb, metadata jsonb, max_items integer, max_bytes integer,
    patient boolean default true, tenant text default 'default', reach jsonb default null, actor text default null)
returns jsonb language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
declare
    v_new boolean := false;
    v_thread bigint;
    v_former jsonb;
    v_metadata jsonb;
    v_list jsonb;
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    if treadle._seen_thread(thread_id => thread_id, tenant => tenant, reach => reach) is null then
        v_new := treadle.create_thread(thread_id => thread_id, tenant => tenant, reach => reach, patient => patient);
    end if;
    v_thread := treadle._seen_thread(thread_id => thread_id, tenant => tenant, reach => reach);
    perform treadle._lock_thread(v_thread, patient);
    v_metadata := (select t.metadata from treadle.threads t where t.id = v_thread);
    v_list := case when jsonb_typeof(v_metadata -> name) = 'array' then v_metadata -> name else '[]' end || items;
    if v_metadata is null then  -- it was deleted just now
        raise exception using errcode = 'TR404', message = format('There is no thread %L.', thread_id);
    elsif items <> '[]' and exists (select from treadle._turns_of(v_thread) t where t.last_ord > 0) then
        raise exception using errcode = 'TR422', message = 'The conversation has responses already: send the items as '
            'the input of the next one.';
    elsif jsonb_array_length(v_list) > max_items or octet_length(v_list::text) > max_bytes then
        raise exception using errcode = 'TR422', message = format(
            'A conversation begins with at most %s items, which have at most %s bytes together.', max_items, max_bytes);
    end if;
    v_former := v_metadata;
    v_metadata := (coalesce(metadata, v_metadata) - name)
        || case when v_list <> '[]' then jsonb_build_object(name, v_list) else '{}' end;
    perform treadle._check_changes(priority => null, delay_seconds => null, metadata => v_metadata);
    update treadle.threads t
    set metadata = v_metadata
    where t.id = v_thread;
    perform treadle._audit(
        actor => actor, action => 'thread.change', target => thread_id, tenant => tenant)
        where not v_new and v_metadata <> v_former;
    perform treadle._charge_bytes(
        tenant => tenant, patient => patient,
        bytes => octet_length(items::text) + coalesce(octet_length(metadata::text), 0));
    return v_list;
end $$;
comment on function treadle.begin_thread(text, text, jsonb, jsonb, integer, integer, boolean, text, jsonb, text)
    is 'Let a thread without messages begin with items in its metadata';
