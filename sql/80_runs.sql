-- What protocols do beside the native routes: threads without a message, and messages that end or vanish for a client.

-- Raise TR422 for a memory that agents and clients could not read.
create or replace function treadle._check_memory(memory jsonb) returns void
language plpgsql as $$
declare
    c_max_bytes constant integer := 1000000;
    c_problem constant text := case
        when jsonb_typeof(memory) <> 'object' then 'must be an object.'
        when octet_length(memory::text) > c_max_bytes then 'must have at most 1000000 bytes.'
        else treadle._json_problem(memory)
    end;
begin
    if c_problem is not null then
        raise exception using errcode = 'TR422', message = 'memory ' || c_problem;
    end if;
end $$;

-- Create a thread that has no message yet. `memory`: what its agents find there. Returns whether it is new: false for
-- one that the principal sees. Raises TR404 for one that it does not see, or may not have. If another transaction is
-- just creating the thread, the call waits two seconds for it, not `patient` a moment (then 55P03).
create or replace function treadle.create_thread(
    thread_id text, metadata jsonb default '{}', memory jsonb default null, tenant text default 'default',
    reach jsonb default null, patient boolean default true)
returns boolean
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
declare
    v_now constant timestamptz := treadle.clock();
    v_created bigint;
    v_sees boolean;
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    perform treadle._limits_of_active(tenant);
    perform treadle._check_changes(priority => null, delay_seconds => null, metadata => metadata);
    perform treadle._check_memory(memory);
    if not patient then
        perform treadle._set_lock_timeout('50ms');
    end if;
    if treadle._sees_thread(reach => reach, owner => reach ->> 'owner', agents => '{}', thread_id => thread_id) then
        insert into treadle.threads as t (tenant, thread_id, owner, created_at, metadata, memory)
            values (create_thread.tenant, create_thread.thread_id, reach ->> 'owner', v_now, create_thread.metadata,
                create_thread.memory)
            on conflict do nothing
            returning t.id into v_created;
    end if;
    if v_created is not null then
        insert into treadle.thread_turns (thread, tenant, last_activity)
            values (v_created, create_thread.tenant, v_now);
        insert into treadle.thread_log (thread, tenant, last_pos)
            values (v_created, create_thread.tenant, 0);
        perform treadle._charge_bytes(
            tenant => tenant, patient => patient,
            bytes => octet_length(metadata::text) + coalesce(octet_length(memory::text), 0));
        return true;
    end if;
    v_sees := (
        select treadle._sees_thread(reach => reach, owner => t.owner, agents => t.agents, thread_id => t.thread_id)
        from treadle.threads t
        where t.tenant = create_thread.tenant and t.thread_id = create_thread.thread_id);
    if v_sees is not true then
        raise exception using
            errcode = 'TR404', message = format('There is no thread %L.', create_thread.thread_id);
    end if;
    return false;
end $$;
comment on function treadle.create_thread(text, jsonb, jsonb, text, jsonb, boolean)
    is 'Create a thread without messages; returns whether it is new';

-- Cancel a message, and keep what it has said in the history of its thread, as `on_busy: interrupt` does. Raises what
-- treadle.cancel raises.
create or replace function treadle.interrupt(
    message_id uuid, patient boolean default true, tenant text default 'default', reach jsonb default null,
    actor text default null)
returns text
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
declare
    v_answer text;
begin
    tenant := treadle._bound_tenant(tenant);
    v_answer := treadle.cancel(
        interrupt.message_id, patient => patient, tenant => tenant, reach => reach, actor => actor);
    update treadle.messages m
    set interrupted = true
    where m.message_id = interrupt.message_id;
    return v_answer;
end $$;
comment on function treadle.interrupt(uuid, boolean, text, jsonb, text)
    is 'Cancel a message, and keep what it has said in the history';

-- Add marks to the metadata of a message that is over. Raises TR404, and TR409 for one that is open.
create or replace function treadle.mark_message(
    message_id uuid, marks jsonb, patient boolean default true, tenant text default 'default',
    reach jsonb default null)
returns void
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
declare
    v record;
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    v := treadle._state_under_lock(
        id => mark_message.message_id, tenant => tenant, reach => reach, patient => patient);
    if v.state is null then
        perform treadle._raise_unknown_message(mark_message.message_id);
    elsif v.state in ('queued', 'processing') then
        raise exception using errcode = 'TR409', message = 'The message is not over: cancel it first.';
    end if;
    update treadle.messages m
    set metadata = m.metadata || marks
    where m.message_id = mark_message.message_id;
end $$;
comment on function treadle.mark_message(uuid, jsonb, boolean, text, jsonb)
    is 'Add marks to the metadata of a message that is over';

-- What messages left for a state of their thread: the data of the last event `graph` that has values, and the text of
-- the last attempt of those that were interrupted.
create or replace function treadle.last_outputs(message_ids uuid[])
returns table (message_id uuid, said text, graph jsonb)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    return query
        select m.message_id, case when m.interrupted then treadle._said(m.message_id) end, v.data
        from unnest(message_ids) u (id)
        join treadle.messages m on m.message_id = u.id
        left join lateral (
            select e.data
            from treadle.events e
            where e.message_id = u.id
                and e.seq > -1000 + greatest(m.last_seq, (
                    select l.last_seq
                    from treadle.leases l
                    where l.message_id = u.id))
                and e.type = 'graph'
                and e.data ->> 'mode' = 'values'
            order by e.seq desc
            limit 1
        ) v on true;
end $$;
comment on function treadle.last_outputs is 'The last values of graphs, and what interrupted messages have said';

-- The result of the last step of a message whose name fits a regular expression, which is no client's; null: there is
-- none.
create or replace function treadle.last_step(message_id uuid, pattern text) returns jsonb
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
begin
    return (
        select k.data -> 'result'
        from treadle._kept_entries(message_id) k
        where k.type = 'step'
            and k.data ->> 'name' ~ pattern
        order by k.seq desc
        limit 1);
end $$;
comment on function treadle.last_step is 'The result of the last of the steps of a message with such a name';

-- The questions that messages have asked a person, by their places in the log. The answer to a question is the next
-- event. A message that was waiting before its questions were kept is read from its log.
create or replace function treadle.questions(message_ids uuid[])
returns table (message_id uuid, seq integer, answered boolean)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    return query
        select m.message_id, q.seq, exists (
            select
            from treadle.events a
            where a.message_id = m.message_id
                and a.seq = q.seq + 1
                and a.type = 'input')
        from unnest(message_ids) u (id)
        join treadle.messages m on m.message_id = any(array[u.id])
        cross join lateral unnest(coalesce(
            m.questions,
            case when m.hold = 'input' then array(
                select p.seq
                from treadle.events p
                where p.message_id = m.message_id
                    and p.type = 'parked'
                    and p.data ->> 'hold' = 'input'
                order by p.seq)
            end)) q (seq)
        order by m.message_id, q.seq;
end $$;
comment on function treadle.questions is 'What messages have asked a person, and whether it is answered';
