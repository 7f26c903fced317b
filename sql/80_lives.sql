-- Lives: a message that is over is queued again. Locks and notifies as the functions of 80_control.sql do.
--
-- In a new life the failures of the message are forgiven and its attempts keep counting. One of its losses is kept, so
-- that a message which may have killed its workers runs in a process of its own. In a thread it runs next. What it sent
-- that was cancelled with it is sent once more. Which results of steps a life keeps is in treadle.earlier_results.

-- Lock a message that is to begin a new life, and write to the audit. Raises TR404.
create or replace function treadle._lock_for_life(
    id uuid, action text, patient boolean, tenant text, reach jsonb, actor text)
returns treadle.messages
language plpgsql as $$
declare
    v_state text;
    m treadle.messages;
begin
    perform treadle._audit(actor => actor, action => action, target => id::text, tenant => tenant);
    select s.state
    into v_state
    from treadle._state_under_lock(id => id, tenant => tenant, reach => reach, patient => patient) s;
    if v_state is null then
        perform treadle._raise_unknown_message(id);
    end if;
    select *
    into m
    from treadle.messages x
    where x.message_id = id;
    return m;
end $$;

-- Queue a locked message that is over; `data` is that of the event `queued`.
create or replace function treadle._begin_life(m treadle.messages, data jsonb, at timestamptz) returns void
language plpgsql as $$
begin
    if m.state = 'failed' then
        perform treadle._lane_delete(lane_rows => array[row(m.queue, m.lane, m.lane_id, null)::treadle.lane_row]);
    end if;
    delete from treadle.not_completed n
    where n.tenant = m.tenant
        and n.state = m.state
        and n.message_id = m.message_id;
    delete from treadle.parked p
    where p.message_id = m.message_id;  -- children that are not cancelled yet go on
    if m.state = 'completed' then  -- what readers of the former life took from the message
        update treadle.events e
        set data = jsonb_build_object('state', 'completed', 'result', m.result, 'completed_at', m.completed_at)
        where e.message_id = m.message_id
            and e.seq = m.last_seq;
    end if;
    -- Held as 'thread' until it is admitted below, also if it takes no turn.
    update treadle.messages x
    set state = 'queued', hold = 'thread', rank = -1, lane = null, lane_id = null, failures = 0,
        losses = least(x.losses, 1), last_seq = x.last_seq + 1, run_at = at, started_at = null,
        completed_at = null, worker_id = null, error = null, result = null, interrupted = false
    where x.message_id = m.message_id;
    perform treadle._log_late(
        entries => array[row(m.message_id, m.last_seq + 1, m.thread, 'queued', data, m.tenant)::treadle.entry],
        at => at);
    insert into treadle.counters (tenant, queue, slot, queued, completed, failed, cancelled)
    values (m.tenant, m.queue, treadle._slot(at), 1, -(m.state = 'completed')::integer,
        -(m.state = 'failed')::integer, -(m.state = 'cancelled')::integer);
    perform treadle._count_redriven(m);
    update treadle.thread_turns t
    set version = t.version + 1, last_activity = at,
        completed = t.completed - (m.state = 'completed')::integer,
        failed = t.failed - (m.state = 'failed')::integer,
        cancelled = t.cancelled - (m.state = 'cancelled')::integer
    from treadle._turns_of(m.thread) n
    where t.ctid = n.place;
    if m.thread is null or m.aside then
        perform treadle._admit(array[m.message_id], at);
    else
        perform treadle._promote(array[m.thread], at);
    end if;
    perform treadle._hint('treadle_work', m.queue);
    perform treadle._notify_events(m.message_id, m.thread);
end $$;

-- A failed message gets a new life that keeps the results of all its steps. Raises TR404, and TR409 if the message has
-- not failed.
create or replace function treadle.redrive(
    message_id uuid, patient boolean default true, tenant text default 'default', reach jsonb default null,
    actor text default null)
returns text
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
declare
    m treadle.messages;
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    m := treadle._lock_for_life(id => message_id, action => 'message.redrive', patient => patient, tenant => tenant,
        reach => reach, actor => actor);
    if m.state <> 'failed' then
        raise exception using errcode = 'TR409', message = format('The message is %s, not failed.', m.state);
    end if;
    perform treadle._begin_life(m => m, data => '{"redriven": true}', at => treadle.clock());
    return 'queued';
end $$;
comment on function treadle.redrive(uuid, boolean, text, jsonb, text)
    is 'Give a failed message a new life';

-- A message that is over gets a new life that keeps the results of the steps before the one that is named `step`,
-- and what was sent with them. That step and all that came after it happen once more. Raises TR404, and TR409 if the
-- message is not over, or keeps no result of this step.
create or replace function treadle.retry_from(
    message_id uuid, step text, patient boolean default true, tenant text default 'default',
    reach jsonb default null, actor text default null)
returns text
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
declare
    m treadle.messages;
    v_seq integer;
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    m := treadle._lock_for_life(id => message_id, action => 'message.retry', patient => patient, tenant => tenant,
        reach => reach, actor => actor);
    if m.state in ('queued', 'processing') then
        raise exception using
            errcode = 'TR409', message = format('The message is %s: cancel it first, or wait for its end.', m.state);
    end if;
    select r.seq
    into v_seq
    from treadle._kept_entries(m.message_id) r
    where r.type = 'step'
        and r.data ->> 'name' = retry_from.step
    order by r.seq desc
    limit 1;
    if v_seq is null then
        raise exception using
            errcode = 'TR409', message = format('The message has no result of a step %L.', retry_from.step);
    end if;
    perform treadle._begin_life(
        m => m, data => jsonb_build_object('redriven', true, 'from_step', retry_from.step, 'from_seq', v_seq),
        at => treadle.clock());
    return 'queued';
end $$;
comment on function treadle.retry_from(uuid, text, boolean, text, jsonb, text)
    is 'Run a message that is over again, from one of its steps';
