-- Doors for people: cancel, redrive, delete a thread, pause and resume a queue. Each tells listeners what it did when it commits.
-- None waits longer than two seconds for a lock (lock_not_available, 55P03).

-- Lock a message's thread, if it has one, then look: returns its state, null where there is no such message.
create or replace function treadle._state_under_lock(id uuid, out state text, out thread bigint)
language plpgsql as $$
begin
    select m.thread into thread from treadle.messages m where m.message_id = id;
    if thread is not null then
        perform from treadle.threads t where t.id = thread for no key update;
    end if;
    select m.state into state from treadle.messages m where m.message_id = id for no key update;
end $$;

-- Cancel: a queued message is cancelled now ('cancelled'); for one that runs its worker is told ('requested'), and whatever
-- the attempt comes to, the message ends as cancelled. Raises TR404, and TR409 where it is over.
create or replace function treadle.cancel(message_id uuid) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
#variable_conflict use_column
declare
    p_id constant uuid := cancel.message_id;
    v_now constant timestamptz := treadle.clock();
    v record;
begin
    loop
        -- A running message is cancelled at its lease, without waiting for its thread.
        update treadle.leases l set cancel_requested = true where l.message_id = p_id;
        if found then
            perform pg_notify('treadle_cancel', p_id::text);
            return 'requested';
        end if;
        begin
            select * into v from treadle._state_under_lock(p_id);
            exit when v.state is distinct from 'processing';
            raise exception using errcode = 'TR000';  -- claimed in between: give the locks back, for a lease comes before its message
        exception when sqlstate 'TR000' then null;
        end;
    end loop;
    if v.state is null then
        raise exception using errcode = 'TR404', message = format('There is no message %s.', p_id);
    elsif v.state <> 'queued' then
        raise exception using errcode = 'TR409', message = format('The message is %s already.', v.state);
    end if;
    perform treadle._settle(endings => treadle._endings(ids => array[p_id], outcome => 'cancelled'), max_losses => 1, at => v_now);
    perform pg_notify('treadle_events', p_id::text || coalesce(':' || v.thread, ''));
    -- What it waited for is cancelled, too; and who waited for it may go on.
    perform treadle.tend_parents(array(select u from treadle.messages m, unnest(array[m.message_id, m.parent]) u
        where m.message_id = p_id and u is not null));
    perform pg_notify('treadle_work', '*');
    return 'cancelled';
end $$;
comment on function treadle.cancel is 'Cancel a message: ''cancelled'' now, or ''requested'' of the worker that runs it';

-- Input: answer the question that a message waits with (hold = input), and let it go on. `name`: of the question that is meant; another
-- one than it asks now is refused. Raises TR404, and TR409 where it does not wait for input.
create or replace function treadle.input(message_id uuid, input jsonb, name text default null) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
#variable_conflict use_column
declare
    p_id constant uuid := input.message_id;
    v_now constant timestamptz := treadle.clock();
    v record;
    m treadle.messages;
    v_asked text;
begin
    if input.input is null then
        raise exception using errcode = 'TR422', message = 'input must be given.';
    end if;
    select * into v from treadle._state_under_lock(p_id);
    if v.state is null then
        raise exception using errcode = 'TR404', message = format('There is no message %s.', p_id);
    end if;
    select * into m from treadle.messages x where x.message_id = p_id;
    if m.hold is distinct from 'input' then
        raise exception using errcode = 'TR409', message = format('The message does not wait for input: it is %s.',
            m.state || coalesce(' (hold = ' || m.hold || ')', ''));
    end if;
    select e.data ->> 'name' into v_asked from treadle.events e where e.message_id = p_id and e.seq = m.last_seq;
    if v_asked <> input.name then
        raise exception using errcode = 'TR409', message = format('The message asks %L now, not %L.', v_asked, input.name);
    end if;
    update treadle.messages x set last_seq = x.last_seq + 1 where x.message_id = p_id;
    perform treadle._log(
        entries => array[row(p_id, m.last_seq + 1, m.thread, 'input',
            jsonb_build_object('name', v_asked, 'input', input.input))::treadle.entry],
        at => v_now);
    if m.thread is not null then
        update treadle.threads t set last_activity = v_now where t.id = m.thread;
    end if;
    perform treadle._admit(array[p_id], v_now, 'high');
    perform pg_notify('treadle_work', m.queue);
    perform pg_notify('treadle_events', p_id::text || coalesce(':' || m.thread, ''));
    return 'queued';
end $$;
comment on function treadle.input is 'Answer the question that a message waits with';

-- Redrive: a failed message gets a new life. Its failures are forgiven, and its losses but for one, so that what may have killed its
-- workers runs in a process of its own; its attempts keep counting. In a thread it runs next. Raises TR404, and TR409 where it has not failed.
create or replace function treadle.redrive(message_id uuid) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
#variable_conflict use_column
declare
    p_id constant uuid := redrive.message_id;
    v_now constant timestamptz := treadle.clock();
    v record;
    m treadle.messages;
begin
    select * into v from treadle._state_under_lock(p_id);
    if v.state is null then
        raise exception using errcode = 'TR404', message = format('There is no message %s.', p_id);
    elsif v.state <> 'failed' then
        raise exception using errcode = 'TR409', message = format('The message is %s, not failed.', v.state);
    end if;
    select * into m from treadle.messages x where x.message_id = p_id;
    perform treadle._lane_delete(lane_rows => array[row(m.queue, m.lane, m.lane_id, null)::treadle.lane_row]);
    -- 'thread' stands for "held until admitted" here; a message without a turn to wait for is admitted below.
    update treadle.messages x set state = 'queued', hold = 'thread', rank = -1, lane = null, lane_id = null, failures = 0,
            losses = least(x.losses, 1),
            last_seq = x.last_seq + 1, run_at = v_now, started_at = null, completed_at = null, worker_id = null, error = null
        where x.message_id = p_id;
    perform treadle._log(
        entries => array[row(p_id, m.last_seq + 1, m.thread, 'queued', '{"redriven": true}')::treadle.entry],
        at => v_now);
    insert into treadle.counters (tenant, queue, slot, queued, failed) values (m.tenant, m.queue, treadle._slot(v_now), 1, -1);
    if m.thread is not null then
        update treadle.threads t set failed = t.failed - 1, last_activity = v_now where t.id = m.thread;
    end if;
    if m.thread is null or m.aside then
        perform treadle._admit(array[p_id], v_now);
    else
        perform treadle._promote(array[m.thread], v_now);
    end if;
    perform pg_notify('treadle_work', m.queue);
    perform pg_notify('treadle_events', p_id::text || coalesce(':' || m.thread, ''));
    return 'queued';
end $$;
comment on function treadle.redrive is 'Give a failed message a new life';

-- Delete a thread with its messages, events and dead letters; what runs is cancelled. Raises TR404. Nobody sees any of it from then on;
-- of the longest logs a rest is in the trash, for purge.
create or replace function treadle.delete_thread(thread_id text, tenant text default 'default') returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
#variable_conflict use_column
declare
    v_thread bigint;
    v_ids uuid[];
    v_running uuid[];
    v_count integer;
begin
    select t.id into v_thread from treadle.threads t where t.tenant = delete_thread.tenant and t.thread_id = delete_thread.thread_id for update;
    if v_thread is null then
        raise exception using errcode = 'TR404', message = format('There is no thread %L.', delete_thread.thread_id);
    end if;
    select array_agg(l.message_id) into v_running from treadle.leases l where l.thread = v_thread;
    select array_agg(m.message_id) into v_ids from treadle.messages m where m.thread = v_thread;
    v_count := treadle._forget(v_ids, 50000);
    delete from treadle.thread_log l where l.thread = v_thread;
    delete from treadle.threads t where t.id = v_thread;
    perform treadle.tend_parents(v_ids);  -- what they waited for is cancelled
    perform pg_notify('treadle_cancel', r::text) from unnest(v_running) r;
    perform pg_notify('treadle_events', '*');
    return v_count;
end $$;
comment on function treadle.delete_thread is 'Delete a thread with its messages and events; what runs is cancelled. Returns how many messages went';

-- Drop what workers keep warm for an agent and a thread. Raises TR404 where there is no such agent.
create or replace function treadle.drop_instance(agent text, thread_id text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if not exists (select from treadle.agents a where a.agent = drop_instance.agent) then
        raise exception using errcode = 'TR404', message = format('There is no agent %L.', agent);
    end if;
    perform pg_notify('treadle_instances', jsonb_build_array(agent, thread_id)::text);
end $$;
comment on function treadle.drop_instance is 'Drop what workers keep warm for an agent and a thread';

create or replace function treadle.pause(queue text, paused boolean default true) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    update treadle.queues q set paused = pause.paused where q.queue = pause.queue;
    if not found then
        raise exception using errcode = 'TR404', message = format('There is no queue %L.', pause.queue);
    end if;
    if not paused then
        perform pg_notify('treadle_work', pause.queue);
    end if;
end $$;
comment on function treadle.pause is 'Stop claims from a queue (or, with paused => false, let them go on); submits go on';
