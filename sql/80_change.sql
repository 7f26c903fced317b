-- Change: what a client may change of a message that waits, and of a thread. As in 80_control.sql each function waits
-- at most two seconds for a lock; without `patient`, for no lock of a thread.

-- A queued message leaves its lane, the line for its tenant's share or the line of its thread, to be admitted or held
-- in another way. The caller holds its thread and the message.
create or replace function treadle._take_out(m treadle.messages, new_hold text) returns void
language plpgsql as $$
begin
    if m.hold is null then
        perform treadle._lane_delete(lane_rows => array[row(m.queue, m.lane, m.lane_id, null)::treadle.lane_row]);
    end if;
    update treadle.messages x
    set hold = new_hold, lane = null, lane_id = null, share_place = null
    where x.message_id = m.message_id;
end $$;

-- Give a queued message another priority, and its place in the line that follows from it.
create or replace function treadle._change_priority(m treadle.messages, priority text, at timestamptz) returns void
language plpgsql as $$
begin
    update treadle.messages x
    set priority = _change_priority.priority,
        rank = case
            when x.rank = -1 then -1
            else array_position(array['high', 'normal', 'low'], _change_priority.priority) - 1
        end
    where x.message_id = m.message_id;
    if m.hold = 'thread' then
        perform treadle._wait_at_old_places(array[m.message_id]);
    elsif m.hold is null or m.hold = 'share' then
        perform treadle._take_out(m, new_hold => 'thread');
        perform treadle._admit(ids => array[m.message_id], at => at, returned => m.attempt > 0);
    end if;
    if m.thread is not null and not m.aside then
        perform treadle._promote(array[m.thread], at);
    end if;
end $$;

-- Let a queued message run so many seconds from now. One that has begun keeps the turn of its thread and its place, so
-- it can only be given another end of its backoff. Raises TR409.
create or replace function treadle._change_delay(m treadle.messages, seconds double precision, at timestamptz)
returns void
language plpgsql as $$
begin
    if m.hold in ('children', 'input') or (m.attempt > 0 and m.hold is distinct from 'backoff') then
        raise exception using
            errcode = 'TR409', message = 'The message has begun: delay_seconds can no longer be changed.';
    end if;
    update treadle.messages x
    set run_at = at + seconds * interval '1 second'
    where x.message_id = m.message_id;
    if m.hold in ('delay', 'backoff') then
        return;
    end if;
    perform treadle._take_out(m, new_hold => 'delay');
    update treadle.thread_turns t
    set version = t.version + 1, turn = null
    from treadle._turns_of(m.thread) n
    where t.ctid = n.place
        and n.turn = m.message_id;
    if m.thread is not null and not m.aside then
        perform treadle._promote(array[m.thread], at);
    end if;
end $$;

-- Refuse values that a message cannot have (TR422).
create or replace function treadle._check_changes(priority text, delay_seconds double precision, metadata jsonb)
returns void
language plpgsql as $$
declare
    c_max_delay_seconds constant double precision := 31622400;
    v_problem text;
begin
    v_problem := case
        when priority not in ('high', 'normal', 'low') then 'priority must be high, normal or low.'
        when not delay_seconds between 0 and c_max_delay_seconds
            then 'delay_seconds must be a number from 0 to 31622400 (366 days).'
        when jsonb_typeof(metadata) <> 'object' then 'metadata must be an object.'
        when treadle._json_problem(metadata) is not null then 'metadata ' || treadle._json_problem(metadata)
    end;
    if v_problem is not null then
        raise exception using errcode = 'TR422', message = v_problem;
    end if;
    perform treadle._refuse_large(metadata, 'metadata');
end $$;

-- Change a queued message: of these values, those that are not null. What changes nothing is neither charged nor in the
-- audit. Raises TR404, and TR409 if it is not queued, or has begun and is to be delayed.
create or replace function treadle.change_message(
    message_id uuid, priority text default null, delay_seconds double precision default null,
    metadata jsonb default null, patient boolean default true, tenant text default 'default',
    reach jsonb default null, actor text default null)
returns void
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
#variable_conflict use_column
declare
    p_id constant uuid := change_message.message_id;
    v_now constant timestamptz := treadle.clock();
    v_state text;
    m treadle.messages;
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    perform treadle._check_changes(priority => priority, delay_seconds => delay_seconds, metadata => metadata);
    v_state := (
        select s.state
        from treadle._state_under_lock(id => p_id, tenant => tenant, reach => reach, patient => patient) s);
    if v_state is null then
        perform treadle._raise_unknown_message(p_id);
    elsif v_state <> 'queued' then
        raise exception using errcode = 'TR409', message = format('The message is %s, not queued.', v_state);
    end if;
    m := (select x from treadle.messages x where x.message_id = p_id);
    if delay_seconds is null and coalesce(priority, m.priority) = m.priority
        and coalesce(metadata, m.metadata)::text is not distinct from m.metadata::text  -- 1 and 1.0 differ
    then
        return;
    end if;
    perform treadle._audit(
        actor => actor, action => 'message.change', target => p_id::text, tenant => tenant,
        details => jsonb_strip_nulls(jsonb_build_object('priority', priority, 'delay_seconds', delay_seconds)));
    update treadle.messages x
    set metadata = change_message.metadata
    where x.message_id = p_id and change_message.metadata is not null;
    m := (select x from treadle.messages x where x.message_id = p_id);
    if priority <> m.priority then
        perform treadle._change_priority(m, priority, v_now);
        m := (select x from treadle.messages x where x.message_id = p_id);
    end if;
    if delay_seconds is not null then
        perform treadle._change_delay(m, delay_seconds, v_now);
    end if;
    perform treadle._hint_each('treadle_work', treadle._queues_of(
        array(select t.turn from treadle._turns_of(m.thread) t) || p_id));
    perform treadle._charge_bytes(tenant => tenant, bytes => octet_length(metadata::text), patient => patient);
end $$;
comment on function treadle.change_message(uuid, text, double precision, jsonb, boolean, text, jsonb, text)
    is 'Change the priority, the delay or the metadata of a queued message';

-- What changes nothing is neither charged nor in the audit. Raises TR404.
create or replace function treadle.change_thread(
    thread_id text, metadata jsonb, patient boolean default true, tenant text default 'default',
    reach jsonb default null, actor text default null)
returns void
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
declare
    v_thread bigint;
    v_former jsonb;
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    perform treadle._check_changes(
        priority => null, delay_seconds => null, metadata => coalesce(change_thread.metadata, 'null'));
    select t.id
    into v_thread
    from treadle.threads t
    where t.tenant = change_thread.tenant
        and t.thread_id = change_thread.thread_id
        and treadle._sees_thread(reach => reach, owner => t.owner, agents => t.agents, thread_id => t.thread_id);
    perform treadle._lock_thread(v_thread, patient);
    v_former := (select t.metadata from treadle.threads t where t.id = v_thread);
    if v_former::text = change_thread.metadata::text then  -- 1 and 1.0 differ
        return;
    end if;
    update treadle.threads t
    set metadata = change_thread.metadata
    where t.id = v_thread;
    if not found then
        raise exception using
            errcode = 'TR404', message = format('There is no thread %L.', change_thread.thread_id);
    end if;
    perform treadle._audit(
        actor => actor, action => 'thread.change', target => thread_id, tenant => tenant);
    perform treadle._charge_bytes(tenant => tenant, bytes => octet_length(metadata::text), patient => patient);
end $$;
comment on function treadle.change_thread(text, jsonb, boolean, text, jsonb, text)
    is 'Change the metadata of a thread';
