-- Explain: why a message has not finished, one reason a row, the nearest first, each with what to do.

-- Behind which message of its thread one waits. `reach`: whose ids may be named.
create or replace function treadle._thread_reason(
    m treadle.messages, at timestamptz, reach jsonb, out cause text, out sentence text, out advice text)
language plpgsql stable as $$
#variable_conflict use_variable
declare
    t treadle.messages;
    v_waited constant text := treadle._span(at - treadle._stands_since(m));
begin
    select x.*
    into t
    from treadle._turns_of(m.thread) s
    join treadle.messages x on x.message_id = s.turn;
    cause := 'thread';
    if t.message_id is null then
        sentence := format('It has waited %s for its turn in the thread, which no message has now.', v_waited);
        advice := 'A worker''s janitor gives it the turn within seconds; treadle check --invariants looks for defects.';
    elsif treadle._sees(
        reach => reach, owner => t.owner, agent => t.agent,
        thread_id => (select x.thread_id from treadle.threads x where x.id = t.thread), message_id => t.message_id)
    then
        sentence := format('It has waited %s behind the message %s of its thread, which is %s.',
            v_waited, t.message_id, treadle._standing(t));
        advice := format('treadle explain %s says why that one has not finished; to cancel it passes the turn on.',
            t.message_id);
    else
        sentence := format('It has waited %s behind another message of its thread.', v_waited);
        advice := 'It gets the turn when that message has ended.';
    end if;
end $$;

-- Which children a parked message waits for.
create or replace function treadle._children_reason(
    m treadle.messages, out cause text, out sentence text, out advice text)
language plpgsql stable as $$
declare
    v_open text[];
begin
    v_open := array(
        select format('%s (%s)', c.message_id, coalesce(c.hold, c.state))
        from treadle.parked p
        cross join unnest(p.children) with ordinality u (message_id, n)
        join treadle.messages c on c.message_id = u.message_id
        where p.message_id = m.message_id and c.state in ('queued', 'processing')
        order by u.n);
    cause := 'children';
    if v_open = '{}' then
        sentence := 'The messages that it waited for have ended.';
        advice := 'A worker''s janitor lets it go on within two seconds.';
        return;
    end if;
    sentence := format('It waits for %s of the messages that it sent: %s%s.', cardinality(v_open),
        array_to_string(v_open[:5], ', '), case when cardinality(v_open) > 5 then ', and others' else '' end);
    advice := 'treadle explain says of each why it has not finished; to cancel one ends the wait for it.';
end $$;

-- Its tenant is suspended, runs as many messages as it may, or has its share of the lane.
create or replace function treadle._share_reason(
    m treadle.messages, for_operator boolean, out cause text, out sentence text, out advice text)
language plpgsql stable as $$
declare
    v_suspended timestamptz;
    v_running bigint;  -- so many may run
begin
    select t.suspended_at, t.in_force ->> 'running'
    into v_suspended, v_running
    from treadle.tenants t
    where t.tenant = m.tenant;
    if v_suspended is not null then
        cause := 'tenant_suspended';
        sentence := format('Its tenant %s has been suspended since %s%s.', m.tenant, treadle._time_text(v_suspended),
            case when for_operator then ',' || treadle._done_by('tenant.suspend', m.tenant) else '' end);
        advice := format('treadle tenants resume %s lets it go on.', m.tenant);
    elsif treadle._runs_all_it_may(tenant => m.tenant, queue => m.queue) then
        cause := 'tenant_running';
        sentence := format('Its tenant runs %s, as many as it may at once.', treadle._counted(v_running, 'message'));
        advice := format(
            'It starts once one of them has ended; treadle tenants limit %s --running changes the limit.', m.tenant);
    elsif m.hold = 'share' then
        cause := 'share';
        sentence := format(
            'Its tenant has its share of the lane, %s, and %s before this one.',
            treadle._counted(treadle._share_of(m.tenant), 'row'),
            treadle._counted(treadle._ahead_in_share(m), 'of its messages waits', 'of its messages wait'));
        advice := 'It enters the lane as messages of the tenant are claimed; more workers make that faster.';
    end if;
end $$;

-- The nearest reason of a message that is held; for one in its lane none, or that its tenant is stopped.
create or replace function treadle._hold_reason(
    m treadle.messages, at timestamptz, reach jsonb, for_operator boolean, out cause text, out sentence text,
    out advice text)
language plpgsql stable as $$
#variable_conflict use_variable
declare
    v_due constant text := case
        when m.run_at > at then format('is due at %s, in %s',
            treadle._time_text(m.run_at), treadle._span(m.run_at - at))
        else format('has been due for %s, and a worker''s janitor admits it within a second or two',
            treadle._span(at - m.run_at))
    end;
begin
    case coalesce(m.hold, 'share')
        when 'thread' then
            select r.*
            into cause, sentence, advice
            from treadle._thread_reason(m, at, reach) r;
        when 'children' then
            select r.*
            into cause, sentence, advice
            from treadle._children_reason(m) r;
        when 'input' then
            cause := 'input';
            sentence := format('It has been asking a person for %s.', treadle._span(at - treadle._stands_since(m)));
            advice := format('treadle input %s "..." answers, or POST /messages/%s/input.', m.message_id, m.message_id);
        when 'delay' then
            cause := 'delay';
            sentence := format('It was submitted with a delay and %s.', v_due);
            advice := format('It runs then. To run it now: PATCH /messages/%s {"delay_seconds": 0}.', m.message_id);
        when 'backoff' then
            cause := case when m.overloaded_since is not null then 'overloaded' else 'backoff' end;
            sentence := format('Its next attempt %s, after %s of %s failures; the last attempt ended with: %s',
                v_due, m.failures, m.max_attempts, left(coalesce(m.error, 'no error.'), 300));
            advice := case cause
                when 'overloaded' then format(
                    'A service of the agent %s has been overloaded since %s: look at it, or wait for '
                    'OVERLOAD_PATIENCE.',
                    m.agent, treadle._time_text(m.overloaded_since))
                else 'Fix what failed before then; otherwise it fails for good after the last attempt.' end;
        else
            select r.*
            into cause, sentence, advice
            from treadle._share_reason(m, for_operator) r;
    end case;
end $$;

-- What stops the queue of a message: it is paused, has no worker, has no worker with the agent, or is at its limit.
create or replace function treadle._queue_reasons(m treadle.messages, for_operator boolean)
returns table (cause text, sentence text, advice text)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_paused constant boolean := (select q.paused from treadle.queues q where q.queue = m.queue);
    v_workers constant bigint := (
        select count(*)
        from treadle._workers_for(queue => m.queue, tenant => m.tenant));
begin
    if v_paused then
        return query select 'queue_paused',
            format('The queue %s is paused%s.', m.queue,
                case when for_operator then treadle._done_by('queue.pause', m.queue) else '' end),
            format('treadle resume %s, or POST /queues/%s/resume, lets its workers claim again.', m.queue, m.queue);
    end if;
    if v_workers = 0 and treadle._claiming_workers(m.queue) > 0 then
        return query select 'no_worker',
            format('The living workers of the queue %s claim no messages of its tenant %s.', m.queue, m.tenant),
            format('Start a worker that has %s in QUEUES, and %s in TENANTS or no TENANTS.', m.queue, m.tenant);
    elsif v_workers = 0 then
        return query select 'no_worker', format('No living worker claims from the queue %s.', m.queue),
            format('Start a worker that has %s in QUEUES.', m.queue);
    elsif not exists (
        select
        from treadle._workers_for(queue => m.queue, tenant => m.tenant) w
        where m.agent = any(w.agents))
    then
        return query select 'no_agent',
            case v_workers
                when 1 then format('The only living worker of the queue %s lacks the agent %s.', m.queue, m.agent)
                else format('None of the %s living workers of the queue %s has the agent %s.', v_workers, m.queue,
                    m.agent)
            end,
            'Name its module in AGENTS of the workers of this queue.';
    end if;
    if treadle._queue_is_full(m.queue) then
        return query select 'queue_concurrency',
            format('The queue %s runs as many messages as it may, %s.', m.queue, (
                select q.concurrency
                from treadle.queues q
                where q.queue = m.queue)),
            'It starts when one of them ends. The limit is the smallest `concurrency` that its agents declare.';
    end if;
end $$;

-- The transaction that holds a message of a lane, or its thread, so that claims pass over it.
create or replace function treadle._lock_reason(m treadle.messages, for_operator boolean)
returns table (cause text, sentence text, advice text)
language sql stable as $$
    select 'locked',
        case
            when not for_operator then 'An open transaction holds it or its thread, and claims pass over it.'
            else format('%s %s, and claims pass over it.',
                case
                    when h.pid is null then 'A prepared transaction'
                    else format('The transaction of process %s (%s)', h.pid, h.program)
                end,
                case
                    when h.seconds is null then 'holds it or its thread now'
                    else 'has held it or its thread for ' || treadle._span(make_interval(secs => h.seconds))
                end)
        end,
        case
            when not for_operator then 'It starts once that transaction has ended.'
            when h.pid is null then 'Commit it or roll it back: pg_prepared_xacts lists it.'
            else format('Commit that transaction or roll it back, or: select pg_terminate_backend(%s).', h.pid)
        end
    from treadle._holder_of(m.message_id) h
$$;

-- What keeps a queued message waiting, the messages before it apart.
create or replace function treadle._stops(m treadle.messages, at timestamptz, reach jsonb, for_operator boolean)
returns table (cause text, sentence text, advice text)
language sql stable as $$
    select r.*
    from treadle._hold_reason(m => m, at => at, reach => reach, for_operator => for_operator) r
    where r.cause is not null
    union all
    select q.*
    from treadle._queue_reasons(m, for_operator) q
    union all
    select l.*
    from treadle._lock_reason(m, for_operator) l
    where m.hold is null
$$;

-- How far a message in its lane is from its start; `is_stopped`: other reasons were told before.
create or replace function treadle._lane_reason(
    m treadle.messages, at timestamptz, for_operator boolean, is_stopped boolean, out cause text, out sentence text,
    out advice text)
language plpgsql stable as $$
#variable_conflict use_variable
declare
    v_before constant bigint := treadle._position(m, at);
    v record;
begin
    select count(*) as workers, sum(w.in_flight) as running, sum(w.concurrency) as places
    into v
    from treadle._workers_for(queue => m.queue, tenant => m.tenant) w;
    cause := case when v.workers > 0 and v.running >= v.places then 'workers_busy' else 'position' end;
    sentence := format('It has been ready for %s; %s claimed before it%s.',
        treadle._span(at - treadle._stands_since(m)),
        case v_before when 0 then 'no others are' when 1 then '1 message is' else v_before || ' messages are' end,
        case
            when cause = 'position' then ''
            when for_operator then format(', and the workers of the queue run %s of %s', v.running,
                treadle._counted(v.places, 'message'))
            else ', and all workers of the queue are busy'
        end);
    advice := case cause
        when 'workers_busy' then 'Start more workers of this queue, or raise WORKER_CONCURRENCY.'
        else case when is_stopped then 'After that, a' else 'A' end || ' worker claims it as soon as it has room.'
    end;
end $$;

create or replace function treadle.explain(
    message_id uuid, tenant text default 'default', reach jsonb default null)
returns table (cause text, sentence text, advice text)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
#variable_conflict use_column
declare
    v_tenant constant text := treadle._bound_tenant(explain.tenant);
    v_now constant timestamptz := treadle.clock();
    v_for_operator constant boolean := v_tenant = 'default' and reach is null and treadle._session_tenant() is null;
    m treadle.messages;
begin
    reach := treadle._checked_reach(reach);
    select x.*
    into m
    from treadle.messages x
    where x.message_id = explain.message_id
        and x.tenant = v_tenant
        and treadle._sees(
            reach => reach, owner => x.owner, agent => x.agent,
            thread_id => (select t.thread_id from treadle.threads t where t.id = x.thread), message_id => x.message_id);
    if not found then
        perform treadle._raise_unknown_message(explain.message_id);
    elsif m.state = 'processing' then
        return query
            select r.*
            from treadle._running_reasons(m, v_now) r;
    elsif m.state <> 'queued' then
        return query
            select r.*
            from treadle._end_reason(m) r;
    else
        return query
            select r.*
            from treadle._stops(m => m, at => v_now, reach => reach, for_operator => v_for_operator) r;
        if m.hold is null then
            return query
                select r.*
                from treadle._lane_reason(
                    m => m, at => v_now, for_operator => v_for_operator, is_stopped => found) r;
        end if;
    end if;
end $$;
comment on function treadle.explain(uuid, text, jsonb)
    is 'Why a message has not finished: the reasons, the nearest first, each with what to do; raises TR404';
