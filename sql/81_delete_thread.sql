-- Delete a thread with its messages, events and dead letters; running messages are cancelled. Readers see none of it
-- from then on, though purge deletes the rest of very long logs later. Returns how many messages. Raises TR404.
create or replace function treadle.delete_thread(
    thread_id text, tenant text default 'default', patient boolean default true, reach jsonb default null,
    actor text default null)
returns integer
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
declare
    c_events constant integer := 50000;  -- to delete at once
    v_thread bigint;
    v_messages uuid[];
    v_running uuid[];
    v_deleted integer;
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    perform treadle._audit(
        actor => actor, action => 'thread.delete', target => thread_id, tenant => tenant);
    select t.id
    into v_thread
    from treadle.threads t
    where t.tenant = delete_thread.tenant
        and t.thread_id = delete_thread.thread_id
        and treadle._sees_thread(reach => reach, owner => t.owner, agents => t.agents, thread_id => t.thread_id);
    perform treadle._lock_thread(v_thread, patient);
    if not exists (select from treadle.threads t where t.id = v_thread) then
        raise exception using
            errcode = 'TR404', message = format('There is no thread %L.', delete_thread.thread_id);
    end if;
    v_running := array(select l.message_id from treadle.leases l where l.thread = v_thread);
    v_messages := array(select m.message_id from treadle.messages m where m.thread = v_thread);
    perform treadle._leave_children(array(
        select m.message_id
        from treadle.messages m
        where m.message_id = any(v_messages)
            and m.state in ('queued', 'processing')));
    v_deleted := treadle._forget(v_messages, c_events);
    delete from treadle.thread_log l
    where l.thread = v_thread;
    delete from treadle.thread_turns s
    where s.thread = v_thread;
    delete from treadle.threads t
    where t.id = v_thread;
    perform treadle.tend_parents(v_messages);  -- cancels what they sent
    perform treadle._hint_each('treadle_cancel', v_running::text[]);
    perform treadle._hint_each('treadle_events', array(select m || ':' || v_thread from unnest(v_messages) m));
    return v_deleted;
end $$;
comment on function treadle.delete_thread(text, text, boolean, jsonb, text)
    is 'Delete a thread with its messages and events; running ones are cancelled. Returns how many messages';
