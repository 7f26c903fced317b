-- Control: cancel, answer, pause a queue; new lives are 80_lives.sql, deletion of a thread is 81_delete_thread.sql.
-- Each function notifies listeners when it commits, and waits at most two seconds for a lock (lock_not_available,
-- 55P03). Not `patient`: it does not wait for a thread, and the detail of 55P03 is the id of the thread that another
-- transaction holds. The transaction may stay open afterwards: the events that it writes, and its requests to cancel
-- what runs, are late (31_late_writes.sql).

-- Lock the message and, before it, its thread. `state` is null if the principal sees no such message.
create or replace function treadle._state_under_lock(
    id uuid, tenant text, reach jsonb, patient boolean, out state text, out thread bigint)
language plpgsql as $$
begin
    select m.thread
    into thread
    from treadle.messages m
    where m.message_id = id
        and m.tenant = _state_under_lock.tenant
        and treadle._sees(
            reach => reach, owner => m.owner, agent => m.agent,
            thread_id => (select t.thread_id from treadle.threads t where t.id = m.thread),
            message_id => m.message_id);
    if not found then
        return;
    end if;
    if thread is not null then
        perform treadle._lock_thread(thread, patient);
    end if;
    select m.state
    into state
    from treadle.messages m
    where m.message_id = id
    for no key update;
end $$;

-- Lock a thread. Not `patient`: raise 55P03 if another transaction holds it, and wait only a moment for the locks
-- that follow.
create or replace function treadle._lock_thread(thread bigint, patient boolean) returns void
language plpgsql as $$
begin
    if patient then
        perform
        from treadle.threads t
        where t.id = thread
        for no key update;
        return;
    end if;
    perform treadle._set_lock_timeout('100ms');
    perform
    from treadle.threads t
    where t.id = thread
    for no key update skip locked;
    if not found then
        perform treadle._raise_held(t.tenant, t.thread_id)
        from treadle.threads t
        where t.id = thread;
    end if;
end $$;

-- Raise TR404.
create or replace function treadle._raise_unknown_message(id uuid) returns void
language plpgsql as $$
begin
    raise exception using errcode = 'TR404', message = format('There is no message %s.', id);
end $$;

-- Notify the readers of a message's log and of its thread's log.
create or replace function treadle._notify_events(id uuid, thread bigint) returns void
language sql volatile as $$
    select treadle._hint('treadle_events', id::text || coalesce(':' || thread, ''))
$$;

-- Request the cancellation of a running message at its lease. Returns whether the principal sees one that runs. A
-- repeat changes nothing, so the audit has the first request only.
create or replace function treadle._request_cancel(id uuid, tenant text, reach jsonb, actor text) returns boolean
language plpgsql as $$
declare
    v_requested boolean;
begin
    select l.cancel_requested
    into v_requested
    from treadle.leases l
    join treadle.messages m on m.message_id = l.message_id
    where l.message_id = _request_cancel.id
        and m.tenant = _request_cancel.tenant
        and treadle._sees(
            reach => reach, owner => m.owner, agent => m.agent,
            thread_id => (select t.thread_id from treadle.threads t where t.id = m.thread),
            message_id => m.message_id)
    for key share of l;
    if not found then
        return false;
    end if;
    perform treadle._cancel_late(array[id]);
    perform treadle._audit(actor => actor, action => 'message.cancel', target => id::text, tenant => tenant)
        where not v_requested;
    return true;
end $$;

-- A queued message is cancelled now ('cancelled'). For a running message its worker is told ('requested'), and the
-- message ends as cancelled whatever the attempt's outcome is. Raises TR404, and TR409 if the message is over.
create or replace function treadle.cancel(
    message_id uuid, patient boolean default true, tenant text default 'default', reach jsonb default null,
    actor text default null)
returns text
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
#variable_conflict use_column
declare
    p_id constant uuid := cancel.message_id;
    v_now constant timestamptz := treadle.clock();
    v record;
    v_queues text[];
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    if not patient then
        perform treadle._set_lock_timeout('100ms');
    end if;
    loop
        -- A running message is cancelled at its lease, without waiting for its thread.
        if treadle._request_cancel(id => p_id, tenant => tenant, reach => reach, actor => actor) then
            return 'requested';
        end if;
        begin
            v := treadle._state_under_lock(id => p_id, tenant => tenant, reach => reach, patient => patient);
            exit when v.state is distinct from 'processing';
            -- It was claimed in between. A lease is locked before its message, so release the locks and try again.
            raise exception using errcode = 'TR000';
        exception when sqlstate 'TR000' then null;
        end;
    end loop;
    if v.state is null then
        perform treadle._raise_unknown_message(p_id);
    elsif v.state <> 'queued' then
        raise exception using errcode = 'TR409', message = format('The message is %s already.', v.state);
    end if;
    perform treadle._audit(
        actor => actor, action => 'message.cancel', target => p_id::text, tenant => tenant);
    perform treadle._settle(
        endings => treadle._endings(ids => array[p_id], outcome => 'cancelled'), max_losses => 1, at => v_now,
        late => true);
    perform treadle._notify_events(p_id, v.thread);
    -- The messages that it waits for are cancelled too, and a message that waits for it may go on.
    v_queues := (
        select p.queues
        from treadle.tend_parents(array(
            select u
            from treadle.messages m
            cross join unnest(array[m.message_id, m.parent]) u
            where m.message_id = p_id
                and u is not null)) p);
    -- Its thread's next message may run, of whatever agent it is.
    v_queues := v_queues || treadle._queues_of(array(select t.turn from treadle._turns_of(v.thread) t));
    perform treadle._hint_each('treadle_work', array(select distinct q from unnest(v_queues) q));
    return 'cancelled';
end $$;
comment on function treadle.cancel(uuid, boolean, text, jsonb, text)
    is 'Cancel a message: ''cancelled'' now, or ''requested'' of the worker that runs it';

-- Whether a message has an answer under this key; false without a key.
create or replace function treadle._has_answer(id uuid, key text) returns boolean
language sql stable as $$
    select exists (
        select
        from treadle.events e
        where e.message_id = _has_answer.id
            and e.type = 'input'
            and e.data ->> 'key' = _has_answer.key)
$$;

-- Raises TR422 for an answer, or a key of it, that cannot be stored.
create or replace function treadle._check_answer(input jsonb, key text) returns void
language plpgsql stable as $$
begin
    if input is null or treadle._json_problem(input) is not null then
        raise exception using
            errcode = 'TR422', message = 'input ' || coalesce(treadle._json_problem(input), 'must be given.');
    elsif length(key) not between 1 and 255 then
        raise exception using errcode = 'TR422', message = 'key must be a text of 1 to 255 characters.';
    end if;
    perform treadle._refuse_large(input, 'input');
end $$;

-- Answer the question that a message waits with (hold = input), and admit the message. `name`: the question that the
-- caller means; another question is refused. `key`: an answer under a key that has been given before changes nothing.
-- The caller has checked the reach. Raises TR404, and TR409 if the message does not wait for this input.
create or replace function treadle._give_input(
    message_id uuid, input jsonb, name text, key text, patient boolean, tenant text, reach jsonb)
returns text
language plpgsql as $$
#variable_conflict use_column
declare
    p_id constant uuid := _give_input.message_id;
    v_now constant timestamptz := treadle.clock();
    v_state text;
    v_question text;
    m treadle.messages;
begin
    perform treadle._check_answer(input => _give_input.input, key => _give_input.key);
    select s.state
    into v_state
    from treadle._state_under_lock(id => p_id, tenant => tenant, reach => reach, patient => patient) s;
    if v_state is null then
        perform treadle._raise_unknown_message(p_id);
    end if;
    if treadle._has_answer(id => p_id, key => _give_input.key) then
        return v_state;
    end if;
    select *
    into m
    from treadle.messages x
    where x.message_id = p_id;
    if m.hold is distinct from 'input' then
        raise exception using errcode = 'TR409', message = format(
            'The message does not wait for input: it is %s.', m.state || coalesce(' (hold = ' || m.hold || ')', ''));
    end if;
    select e.data ->> 'name'
    into v_question
    from treadle.events e
    where e.message_id = p_id
        and e.seq = m.last_seq;
    if v_question <> _give_input.name then
        raise exception using
            errcode = 'TR409', message = format('The message asks %L now, not %L.', v_question, _give_input.name);
    end if;
    update treadle.messages x
    set last_seq = x.last_seq + 1
    where x.message_id = p_id;
    perform treadle._log_late(
        entries => array[row(p_id, m.last_seq + 1, m.thread, 'input',
            jsonb_build_object('name', v_question, 'input', _give_input.input)
                || jsonb_strip_nulls(jsonb_build_object('key', _give_input.key)), m.tenant)::treadle.entry],
        at => v_now);
    update treadle.thread_turns t
    set version = t.version + 1, last_activity = v_now
    from treadle._turns_of(m.thread) n
    where t.ctid = n.place;
    perform treadle._admit(ids => array[p_id], at => v_now, returned => true);
    perform treadle._hint('treadle_work', m.queue);
    perform treadle._notify_events(p_id, m.thread);
    perform treadle._charge_bytes(
        tenant => tenant, bytes => octet_length(_give_input.input::text), patient => patient);
    return 'queued';
end $$;

create or replace function treadle.input(
    message_id uuid, input jsonb, name text default null, patient boolean default true,
    tenant text default 'default', reach jsonb default null)
returns text
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
begin
    return treadle._give_input(
        message_id => message_id, input => input, name => name, key => null, patient => patient,
        tenant => treadle._bound_tenant(tenant), reach => treadle._checked_reach(reach));
end $$;
comment on function treadle.input(uuid, jsonb, text, boolean, text, jsonb)
    is 'Answer the question that a message waits with';

-- The same under a key of the caller: an answer that is sent again is accepted once, even if another question follows.
create or replace function treadle.input_once(
    message_id uuid, key text, input jsonb, name text, patient boolean default true,
    tenant text default 'default', reach jsonb default null)
returns text
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
begin
    return treadle._give_input(
        message_id => message_id, input => input, name => name, key => key, patient => patient,
        tenant => treadle._bound_tenant(tenant), reach => treadle._checked_reach(reach));
end $$;
comment on function treadle.input_once(uuid, text, jsonb, text, boolean, text, jsonb)
    is 'Answer a question under a key, which can be repeated';

-- Drop the warm instance that workers keep for an agent and a thread of the tenant. Raises TR404 if there is no such
-- agent for the principal.
create or replace function treadle.drop_instance(
    agent text, thread_id text, tenant text default 'default', reach jsonb default null)
returns void
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    reach := treadle._checked_reach(reach);
    if not exists (
        select
        from treadle.agents a
        where a.agent = drop_instance.agent
            and treadle._may_address(reach, a.agent))
    then
        raise exception using errcode = 'TR404', message = format('There is no agent %L.', agent);
    end if;
    perform treadle._hint(
        'treadle_instances',
        encode(
            sha256(treadle._secret('instances') || convert_to(concat_ws(E'\n', tenant, agent, thread_id), 'UTF8')),
            'hex'))
    where not exists (
        select
        from treadle.threads t
        where t.tenant = drop_instance.tenant
            and t.thread_id = drop_instance.thread_id
            and not treadle._sees_thread(
                reach => reach, owner => t.owner, agents => t.agents, thread_id => t.thread_id));
end $$;
comment on function treadle.drop_instance(text, text, text, jsonb)
    is 'Drop the warm instance that workers keep for an agent and a thread';

-- Raises TR404 if there is no such queue.
create or replace function treadle.pause(queue text, paused boolean default true, actor text default null)
returns void
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
declare
    v_former constant boolean := (
        select q.paused
        from treadle.queues q
        where q.queue = pause.queue
        for no key update);
begin
    if v_former is null then
        raise exception using errcode = 'TR404', message = format('There is no queue %L.', pause.queue);
    elsif v_former <> pause.paused then
        update treadle.queues q
        set paused = pause.paused
        where q.queue = pause.queue;
        perform treadle._audit(
            actor => actor, action => case when paused then 'queue.pause' else 'queue.resume' end, target => queue,
            tenant => 'default');
    end if;
    if not paused then
        perform treadle._hint('treadle_work', pause.queue);
    end if;
end $$;
comment on function treadle.pause(text, boolean, text)
    is 'Stop claims from a queue or, with paused => false, resume them; submits go on';
