-- Send: messages that send messages and publish records.
--
-- `messages` holds both: an element with a `topic` is a record (as treadle.publish_many takes it), the others are
-- messages (as treadle.submit_many takes them).
-- What a message sends is committed with a step of it (append_and_send) or with its end (conclude), and only under its
-- lease. The message chooses the ids of what it sends, the same in every attempt: a message that is there already is
-- not sent again (treadle.submit_many).

-- Lock the threads of the tenant with these names, which are created where they are not there, and the thread `own`
-- (null: none). Not `patient`: raises 55P03 with the id of a thread that another transaction holds.
create or replace function treadle._lock_targets(
    thread_ids text[],
    agents text[],
    tenant text,
    owner text,
    own bigint,
    patient boolean,
    at timestamptz)
returns void language plpgsql as $$
#variable_conflict use_column
declare
    v_wanted constant text[] := array(
        select u
        from unnest(thread_ids) u
        union
        select t.thread_id
        from treadle.threads t
        where t.id = own
        order by 1);
    v_locked text[];
begin
    perform treadle._create_threads(
        thread_ids => v_wanted, tenant => tenant, owner => owner, agents => agents, patient => patient, at => at);
    if patient then
        perform from treadle.threads t
            where t.tenant = _lock_targets.tenant and t.thread_id = any(v_wanted)
            order by t.id
            for no key update;
        return;
    end if;
    v_locked := array(
        select t.thread_id
        from treadle.threads t
        where t.tenant = _lock_targets.tenant and t.thread_id = any(v_wanted)
        order by t.id
        for no key update skip locked);
    perform treadle._raise_held(tenant, w.thread_id)
        from unnest(v_wanted) w (thread_id)
        where w.thread_id <> all(v_locked);
end $$;

-- Take the locks of a message that sends, in their order: the threads that it sends to, and its own (`with_own`), then
-- its lease. Raises TR001 if the lease is lost or a cancellation requested: then nothing is to be sent. Returns the
-- message's tenant and owner (as a principal's reach), to which all that it sends belongs, and how many messages lie
-- above it.
create or replace function treadle._lock_sender(
    id uuid,
    lease uuid,
    messages jsonb,
    with_own boolean,
    patient boolean,
    out tenant text,
    out reach jsonb,
    out depth integer)
language plpgsql as $$
#variable_conflict use_column
declare
    v_targets constant text[] := array(
        select distinct x ->> 'thread_id'
        from jsonb_array_elements(messages) x
        where x ->> 'thread_id' is not null);
    v_agents constant text[] := array(
        select distinct x ->> 'agent'
        from jsonb_array_elements(messages) x
        where x ->> 'thread_id' is not null);
    v_message record;
    v_cancelled boolean;
begin
    select m.tenant, m.owner, m.depth, case when with_own then m.thread end as own
        into v_message
        from treadle.messages m
        where m.message_id = _lock_sender.id;
    if not found then
        raise exception using errcode = 'TR001';
    end if;
    tenant := v_message.tenant;
    depth := v_message.depth;
    reach := case when v_message.owner is not null then jsonb_build_object('owner', v_message.owner) end;
    perform treadle._lock_targets(
        thread_ids => v_targets,
        agents => case when cardinality(v_agents) = 1 and v_agents[1] is not null then v_agents else '{}' end,
        tenant => v_message.tenant, owner => v_message.owner, own => v_message.own, patient => patient,
        at => treadle.clock());
    select l.cancel_requested
        into v_cancelled
        from treadle.leases l
        where l.message_id = _lock_sender.id and l.lease = _lock_sender.lease
        for no key update;
    if v_cancelled is distinct from false then
        raise exception using errcode = 'TR001';
    end if;
end $$;

-- Submit the messages and publish the records that a message sends. A record's id is made from that of its message, so
-- it may be as old. `depth`: of the message, which its records keep. Raises TR422 for a record if the messages that
-- subscriptions make of it would lie too deep.
create or replace function treadle._send(
    messages jsonb, tenant text, reach jsonb, depth integer, max_queue_size integer)
returns void language plpgsql as $$
declare
    v_problem constant text := treadle._depth_problem(depth + 1);
    v_messages constant jsonb := (
        select jsonb_agg(x order by n)
        from jsonb_array_elements(messages) with ordinality u (x, n)
        where not x ? 'topic');
begin
    if v_messages is not null then
        perform from treadle.submit_many(
            messages => v_messages, tenant => tenant, notify => true, max_queue_size => max_queue_size,
            autocommit => true, reach => reach);
    end if;
    if v_problem is not null and jsonb_path_exists(messages, '$[*].topic') then
        raise exception using errcode = 'TR422', message = v_problem;
    end if;
    perform from (
            select x ->> 'topic' as topic, jsonb_agg(x - 'topic' order by n) as records
            from jsonb_array_elements(messages) with ordinality u (x, n)
            where x ? 'topic'
            group by 1
            order by 1
        ) p
        cross join lateral treadle._publish_records(
            topic => treadle._existing_topic(p.topic, tenant), records => p.records,
            oldest => treadle.uuid_at('epoch'), limits => null, notify => true, at => treadle.clock(),
            depth => depth);
end $$;

-- treadle.append for the events of one message, patiently.
create or replace function treadle._append_one(id uuid, lease uuid, first_seq integer, event_types text[],
    event_datas text[])
returns table (message_id uuid, status text, cancel_requested boolean) language plpgsql as $$
begin
    return query
        select a.*
        from treadle.append(
            ids => array[id], leases => array[lease], first_seqs => array[first_seq],
            event_items => array_fill(1, array[cardinality(event_types)]),
            event_types => event_types, event_datas => event_datas, patient => true) a;
end $$;

-- Append the events of one message, and submit what it sends. Answers as treadle.append does. If the lease is lost or a
-- cancellation requested, nothing is sent. `max_queue_size`: as in treadle.submit_many. Not `patient`: if another
-- transaction holds a thread to which it sends, it raises 55P03 with the thread's id as its detail, and writes nothing.
create or replace function treadle.append_and_send(
    id uuid, lease uuid, first_seq integer, event_types text[], event_datas text[], messages text,
    max_queue_size integer default null, patient boolean default true)
returns table (message_id uuid, status text, cancel_requested boolean)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set lock_timeout = '100ms' as $$
#variable_conflict use_column
declare
    v_sender record;
begin
    begin
        v_sender := treadle._lock_sender(id => append_and_send.id, lease => append_and_send.lease,
            messages => messages::jsonb, with_own => false, patient => patient);
        return query
            select a.*
            from treadle._append_one(
                id => append_and_send.id, lease => append_and_send.lease, first_seq => first_seq,
                event_types => event_types, event_datas => event_datas) a
            where a.status = 'ok';
        if not found then
            raise exception using errcode = 'TR001';
        end if;
        perform treadle._send(
            messages => messages::jsonb, tenant => v_sender.tenant, reach => v_sender.reach,
            depth => v_sender.depth, max_queue_size => max_queue_size);
    exception
        when sqlstate 'TR001' then
            return query
                select a.*
                from treadle._append_one(
                    id => append_and_send.id, lease => append_and_send.lease, first_seq => first_seq,
                    event_types => event_types, event_datas => event_datas) a;
    end;
end $$;
comment on function treadle.append_and_send(uuid, uuid, integer, text[], text[], text, integer, boolean)
    is 'Append events to a message under lease, and submit what it sends, in one transaction';

-- treadle.finish for one attempt. Returns its status.
create or replace function treadle._finish_one(
    id uuid, lease uuid, outcome text, result text, error text, traceback text, delay double precision, usage text,
    first_seq integer, event_types text[], event_datas text[], max_losses integer, patient boolean)
returns text language sql volatile as $$
    select f.status
    from treadle.finish(
        ids => array[id], leases => array[lease], outcomes => array[outcome], results => array[result],
        errors => array[error],
        tracebacks => array[traceback], delays => array[delay], usages => array[usage], first_seqs => array[first_seq],
        event_items => array_fill(1, array[cardinality(event_types)]), event_types => event_types,
        event_datas => event_datas,
        patient => patient, max_losses => max_losses) f
$$;

-- Write what belongs to a message that was just finished with this status: what it waits for, and the memory of its
-- thread.
create or replace function treadle._save_parked_and_memory(id uuid, outcome text, status text, memory text,
    children uuid[])
returns void language plpgsql as $$
#variable_conflict use_column
begin
    if status = 'queued' and outcome = 'children' then
        insert into treadle.parked as p (message_id, tenant, children)
            select m.message_id, m.tenant, _save_parked_and_memory.children
            from treadle.messages m
            where m.message_id = _save_parked_and_memory.id
            on conflict (message_id) do update set children = excluded.children;
    elsif status = 'completed' and _save_parked_and_memory.memory is not null then
        update treadle.threads t
            set memory = _save_parked_and_memory.memory::jsonb
            from treadle.messages m
            where m.message_id = _save_parked_and_memory.id and not m.aside and t.id = m.thread;
    end if;
end $$;

-- Finish one attempt with more than a result: submit what it sends, save its thread's memory, or park the message
-- (outcome children or input; `result` is then the data of the event `parked`). Returns a status as treadle.finish
-- does. If the message neither completes nor is queued again, nothing is sent or saved. `max_queue_size` and `patient`
-- are as in treadle.append_and_send; without messages, a call that is not patient returns `busy`.
create or replace function treadle.conclude(
    id uuid, lease uuid, outcome text, result text, error text, traceback text, delay double precision, usage text,
    first_seq integer,
    event_types text[], event_datas text[], max_losses integer, messages text, memory text, children uuid[],
    max_queue_size integer default null, patient boolean default true)
returns text language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set lock_timeout = '100ms' as $$
declare
    v_with_all boolean;
    v_sender record;
    v_status text;
begin
    foreach v_with_all in array array[true, false] loop
        begin
            if v_with_all and messages is not null then
                v_sender := treadle._lock_sender(id => id, lease => lease, messages => messages::jsonb,
                    with_own => true, patient => patient);
            end if;
            v_status := treadle._finish_one(
                id => id, lease => lease, outcome => outcome, result => result, error => error, traceback => traceback,
                delay => delay, usage => usage, first_seq => first_seq, event_types => event_types,
                event_datas => event_datas,
                max_losses => max_losses, patient => patient);
            exit when not v_with_all or v_status = 'busy';
            if v_status not in ('completed', 'queued') then
                raise exception using errcode = 'TR001';
            end if;
            perform treadle._save_parked_and_memory(id => id, outcome => outcome, status => v_status, memory => memory,
                children => children);
            if messages is not null then
                perform treadle._send(
                    messages => messages::jsonb, tenant => v_sender.tenant, reach => v_sender.reach,
                    depth => v_sender.depth, max_queue_size => max_queue_size);
            end if;
            exit;
        exception
            when sqlstate 'TR001' then null;  -- it is undone: finish the attempt, and nothing else
        end;
    end loop;
    return v_status;
end $$;
comment on function treadle.conclude(
    uuid, uuid, text, text, text, text, double precision, text, integer, text[], text[], integer, text, text,
    uuid[], integer, boolean)
    is 'Finish one attempt, and with it submit what it sends, save the memory of its thread, or park it';
