-- Settle: an attempt ends. The one place where messages leave `processing` (and where queued ones are cancelled).
--
--   outcome     by                             becomes
--   completed   finish                         completed
--   error       finish                         queued, hold = backoff, while failures are left; else failed
--   rejected    finish                         failed
--   deferred    finish (an agent this worker   queued, hold = backoff, no failure charged
--               does not have)
--   released    finish (shutdown), heartbeat   queued, in the high lane: started work goes on first
--   lost        reap                           the same while losses are left; else failed
--   lost        finish (the agent's own        queued, hold = backoff, while losses are left; else failed
--               process died, not its worker)
--   children    conclude (it waits for         queued, hold = children or input, without a lane row, until
--   or input    others, or for a person)       treadle.tend_parents or treadle.input admits it
--   cancelled   cancel                         cancelled
-- and whatever the outcome, a message whose cancellation was requested becomes cancelled.
--
-- In the same transaction: result, last events and the terminal or `retry` event, the lane row's end, the dead letter, the
-- thread's counts, and the thread's next message in its lane.
-- Locks, in this order everywhere: idempotency keys, threads (by id), leases (by message_id), messages, thread_log
-- (by thread), lane rows. The callers of _settle hold the threads and leases. Only a claim begins at the lane, and never waits.

create or replace function treadle._slot(at timestamptz) returns timestamptz
language sql immutable parallel safe as $$
    select date_bin('10 seconds', at, timestamptz '2020-01-01 00:00:00+00')
$$;

-- Who is next in a thread: redriven first, then by priority, then by ord. (For many threads at once the same is written into the
-- query, below: a function is called anew for each of them, which takes three times as long.)
create or replace function treadle._next_of(thread bigint) returns uuid
language sql stable as $$
    select m.message_id from treadle.messages m where m.thread = _next_of.thread and m.hold = 'thread' order by m.rank, m.ord limit 1
$$;

create or replace function treadle._lane_body(m treadle.messages) returns jsonb
language sql stable as $$
    select jsonb_build_object('message_id', m.message_id, 'thread_id', (select t.thread_id from treadle.threads t where t.id = m.thread), 'agent', m.agent)
$$;

-- Give queued messages their lane rows, whatever held them: of their own priority, or in this lane.
create or replace function treadle._admit(ids uuid[], at timestamptz, lane text default null) returns void
language plpgsql as $$
declare
    v_queues text[];
    v_lanes text[];
    v_lane_ids bigint[];
    v_bodies jsonb[];
begin
    with admitted as (
        update treadle.messages m set hold = null, lane = coalesce(_admit.lane, m.priority),
            lane_id = treadle._lane_next(m.queue, coalesce(_admit.lane, m.priority))
        where m.message_id = any(ids) and m.state = 'queued' and m.hold is not null
        returning m.*
    )
    select array_agg(a.queue), array_agg(a.lane), array_agg(a.lane_id), array_agg(treadle._lane_body(a))
        into v_queues, v_lanes, v_lane_ids, v_bodies from admitted a;
    if v_queues is not null then
        perform treadle._lane_insert(v_queues, v_lanes, v_lane_ids, v_bodies, at);
    end if;
end $$;

-- After arrivals: threads with nobody's turn get their next; an unstarted head gives way to a waiting message of higher
-- priority, unless a worker is taking it just now. The caller holds the threads.
create or replace function treadle._promote(threads bigint[], at timestamptz) returns void
language plpgsql as $$
declare
    v_heads uuid[];
    v_queues text[];
    v_lanes text[];
    v_lane_ids bigint[];
    v_turns uuid[];
begin
    with locked as (
        select h.* from treadle.threads t
        join treadle.messages h on h.message_id = t.turn
        where t.id = any(threads) and h.state = 'queued' and h.hold is null and h.attempt = 0
            and h.rank > (select n.rank from treadle.messages n where n.thread = t.id and n.hold = 'thread' order by n.rank, n.ord limit 1)
        order by h.message_id
        for update of h skip locked
    )
    select array_agg(k.message_id), array_agg(k.queue), array_agg(k.lane), array_agg(k.lane_id)
        into v_heads, v_queues, v_lanes, v_lane_ids from locked k;
    if v_heads is not null then
        perform treadle._lane_delete(v_queues, v_lanes, v_lane_ids);
        update treadle.messages m set hold = 'thread', lane = null, lane_id = null where m.message_id = any(v_heads);
    end if;
    with passed as (
        update treadle.threads t set turn = treadle._next_of(t.id)
        where t.id = any(threads) and (t.turn is null or t.turn = any(v_heads)) and treadle._next_of(t.id) is not null
        returning t.turn
    )
    select array_agg(p.turn) into v_turns from passed p;
    if v_turns is not null then
        perform treadle._admit(v_turns, at);
    end if;
end $$;

-- The arrays ids .. usages are parallel; log_* are events to be written before the outcome's own. Answers in the order of ids.
create or replace function treadle._settle(ids uuid[], outcomes text[], results jsonb[], errors text[], tracebacks text[],
    delays double precision[], usages jsonb[], seqs integer[], log_ids uuid[], log_seqs integer[], log_threads bigint[],
    log_types text[], log_datas jsonb[], max_losses integer, at timestamptz)
returns table (message_id uuid, state text)
language plpgsql as $$
#variable_conflict use_column
declare
    -- One element a message, all of them in the order of ids.
    v_ids uuid[]; v_threads bigint[]; v_queues text[]; v_was text[]; v_started timestamptz[]; v_seqs integer[];
    v_outcomes text[]; v_results jsonb[]; v_errors text[]; v_tracebacks text[]; v_delays double precision[]; v_usages jsonb[];
    v_verdicts text[]; v_states text[]; v_types text[]; v_datas jsonb[];
    v_old_lanes text[]; v_old_ids bigint[]; v_new_lanes text[]; v_new_ids bigint[]; v_bodies jsonb[];
    -- One element a thread that goes on.
    v_turns uuid[]; v_names text[]; v_next_queues text[]; v_next_lanes text[]; v_next_ids bigint[]; v_next_bodies jsonb[];
begin
    with judged as (
        select g.*, m.thread, m.queue, m.state as was, m.started_at, m.lane, m.lane_id, m.attempt,
            coalesce(g.last, l.last_seq, m.last_seq) + 1 as seq,
            case when g.outcome = 'cancelled' or l.cancel_requested then 'cancelled'
                when g.outcome in ('completed', 'children', 'input') then g.outcome
                when g.outcome = 'deferred' or (g.outcome = 'error' and m.failures + 1 < m.max_attempts) then 'backoff'
                when g.outcome = 'lost' and m.losses + 1 < _settle.max_losses and g.delay is not null then 'backoff'
                when g.outcome = 'released' or (g.outcome = 'lost' and m.losses + 1 < _settle.max_losses) then 'again'
                else 'failed' end as verdict
        from unnest(ids, outcomes, results, errors, tracebacks, delays, usages, seqs) with ordinality
            g (id, outcome, result, error, traceback, delay, usage, last, o)
        join treadle.messages m on m.message_id = g.id
        left join treadle.leases l on l.message_id = g.id
        order by g.o
    ), placed as materialized (
        select j.*, case j.verdict when 'again' then 'high' when 'failed' then 'dlq' end as new_lane,
            case when j.verdict in ('backoff', 'again', 'children', 'input') then 'queued' else j.verdict end as state
        from judged j
    )
    select array_agg(p.id), array_agg(p.thread), array_agg(p.queue), array_agg(p.was), array_agg(p.started_at), array_agg(p.seq),
            array_agg(p.outcome), array_agg(p.result), array_agg(p.error), array_agg(p.traceback), array_agg(p.delay), array_agg(p.usage),
            array_agg(p.verdict), array_agg(p.state),
            array_agg(case p.verdict when 'completed' then 'done' when 'failed' then 'error' when 'cancelled' then 'cancelled'
                when 'children' then 'parked' when 'input' then 'parked' else 'retry' end),
            array_agg(case p.verdict
                when 'failed' then jsonb_build_object('state', 'failed', 'error', p.error, 'completed_at', at)
                when 'cancelled' then jsonb_build_object('state', 'cancelled')
                when 'backoff' then jsonb_build_object('attempt', p.attempt, 'error', p.error, 'retry_at', at + p.delay * interval '1 second')
                when 'again' then jsonb_build_object('attempt', p.attempt, 'error', p.error, 'retry_at', at)
                when 'completed' then null
                else jsonb_build_object('attempt', p.attempt, 'hold', p.verdict) || p.result end),
            array_agg(p.lane), array_agg(p.lane_id), array_agg(p.new_lane),
            array_agg(case when p.new_lane is not null then treadle._lane_next(p.queue, p.new_lane) end)
        into v_ids, v_threads, v_queues, v_was, v_started, v_seqs, v_outcomes, v_results, v_errors, v_tracebacks, v_delays, v_usages,
            v_verdicts, v_states, v_types, v_datas, v_old_lanes, v_old_ids, v_new_lanes, v_new_ids
        from placed p;
    if v_ids is null then
        return;
    end if;
    if exists (select from unnest(v_new_lanes) n where n is not null) then
        select array_agg(case v.lane
                when 'high' then treadle._lane_body(m)
                when 'dlq' then treadle._lane_body(m) || jsonb_build_object('reason', v.error, 'attempts', m.attempt, 'traceback', v.traceback)
                end order by v.o)
            into v_bodies
            from unnest(v_ids, v_new_lanes, v_errors, v_tracebacks) with ordinality v (id, lane, error, traceback, o)
            join treadle.messages m on m.message_id = v.id;
    end if;

    insert into treadle.counters (queue, slot, queued, processing, completed, failed, cancelled, run_seconds)
        select v.queue, treadle._slot(at),
            count(*) filter (where v.state = 'queued') - count(*) filter (where v.was = 'queued'), - count(*) filter (where v.was = 'processing'),
            count(*) filter (where v.state = 'completed'), count(*) filter (where v.state = 'failed'), count(*) filter (where v.state = 'cancelled'),
            coalesce(sum(extract(epoch from at - v.started_at)) filter (where v.state in ('completed', 'failed')), 0)
        from unnest(v_queues, v_states, v_was, v_started) v (queue, state, was, started_at)
        group by v.queue;
    update treadle.messages m set
            state = v.state,
            hold = case when v.verdict in ('backoff', 'children', 'input') then v.verdict end,
            lane = v.lane, lane_id = v.lane_id, last_seq = v.seq,
            failures = m.failures + (v.outcome in ('error', 'rejected') and v.verdict <> 'cancelled')::integer,
            losses = m.losses + (v.outcome = 'lost')::integer,
            run_at = case v.verdict when 'backoff' then at + v.delay * interval '1 second' else m.run_at end,
            started_at = case when v.state = 'queued' then null else m.started_at end,
            completed_at = case when v.state <> 'queued' then at end,
            worker_id = case when v.state = 'queued' then null else m.worker_id end,
            result = case v.state when 'completed' then v.result end,
            error = case when v.state in ('failed', 'queued') then v.error end,
            usage = coalesce(v.usage, m.usage)
        from unnest(v_ids, v_outcomes, v_verdicts, v_states, v_seqs, v_new_lanes, v_new_ids, v_results, v_errors, v_delays, v_usages)
            v (id, outcome, verdict, state, seq, lane, lane_id, result, error, delay, usage)
        where m.message_id = v.id;
    delete from treadle.leases l where l.message_id = any(v_ids);

    -- The threads go on: counts, and the turn to the next.
    if exists (select from unnest(v_threads, v_states) u (thread, state) where u.thread is not null and u.state <> 'queued') then
        with ended as (
            select v.thread, array_agg(v.id) as ids, count(*) filter (where v.state = 'completed') as completed,
                count(*) filter (where v.state = 'failed') as failed, count(*) filter (where v.state = 'cancelled') as cancelled
            from unnest(v_ids, v_threads, v_states) v (id, thread, state)
            where v.thread is not null and v.state <> 'queued' group by v.thread
        ), passed as (
            update treadle.threads t set completed = t.completed + e.completed, failed = t.failed + e.failed, cancelled = t.cancelled + e.cancelled,
                last_activity = at,
                turn = case when t.turn = any(e.ids) then (
                        select n.message_id from treadle.messages n where n.thread = t.id and n.hold = 'thread' order by n.rank, n.ord limit 1)
                    else t.turn end
            from ended e where t.id = e.thread
            returning t.turn, t.thread_id
        )
        select array_agg(p.turn), array_agg(p.thread_id) into v_turns, v_names from passed p where p.turn is not null;
        if v_turns is not null then
            with admitted as (
                update treadle.messages m set hold = null, lane = m.priority, lane_id = treadle._lane_next(m.queue, m.priority)
                from unnest(v_turns, v_names) n (id, thread_id)
                where m.message_id = n.id and coalesce(m.hold, '') = 'thread'  -- said so, lest the index of all that wait be read
                returning m.queue, m.lane, m.lane_id,
                    jsonb_build_object('message_id', m.message_id, 'thread_id', n.thread_id, 'agent', m.agent) as body
            )
            select array_agg(a.queue), array_agg(a.lane), array_agg(a.lane_id), array_agg(a.body)
                into v_next_queues, v_next_lanes, v_next_ids, v_next_bodies from admitted a;
        end if;
    end if;

    perform treadle._log(log_ids || v_ids, log_seqs || v_seqs, log_threads || v_threads, log_types || v_types, log_datas || v_datas, at);
    perform treadle._lane_delete(v_queues, v_old_lanes, v_old_ids);
    if v_bodies is not null then
        perform treadle._lane_insert(v_queues, v_new_lanes, v_new_ids, v_bodies, at);
    end if;
    if v_next_queues is not null then
        perform treadle._lane_insert(v_next_queues, v_next_lanes, v_next_ids, v_next_bodies, at);
    end if;
    return query select u.id, u.state from unnest(v_ids, v_states) u (id, state);
end $$;

-- Finish: the holder of a lease ends its attempt. Carries the attempt's unsent events: event i belongs to ids[event_items[i]],
-- and the first of each message has seq first_seqs[item].
-- status: the message's new state; `lost`: the lease is not held any more (or this is the repeat of a finish that went through);
-- `gap`: events before first_seq are missing; `busy` (only where not `patient`): somebody holds the thread or the lease, finish it alone.
-- A patient call waits a second for them, then raises lock_not_available (55P03): nothing is written, try again.
create or replace function treadle.finish(ids uuid[], leases uuid[], outcomes text[], results text[], errors text[], tracebacks text[],
    delays double precision[], usages text[], first_seqs integer[], event_items integer[], event_types text[], event_datas text[],
    patient boolean, max_losses integer default 3)
returns table (message_id uuid, status text)
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := treadle.clock();
    v_threads bigint[];
    v_held bigint[];
    v_items integer[]; v_seqs integer[]; v_lasts integer[];
    v_log_ids uuid[]; v_log_seqs integer[]; v_log_threads bigint[]; v_log_types text[]; v_log_datas jsonb[];
    v_done uuid[]; v_states text[];
    v_gaps bigint[];
    v_patience constant text := current_setting('lock_timeout');  -- the caller's own
begin
    select array_agg(distinct l.thread) into v_threads from unnest(ids, leases) g (id, lease)
        join treadle.leases l on l.message_id = g.id and l.lease = g.lease where l.thread is not null;
    if patient then
        perform set_config('lock_timeout', '1s', true);
    end if;
    if v_threads is not null then
        if patient then
            perform from treadle.threads t where t.id = any(v_threads) order by t.id for no key update;
            v_held := v_threads;
        else
            select array_agg(t.id) into v_held from
                (select t.id from treadle.threads t where t.id = any(v_threads) order by t.id for no key update skip locked) t;
        end if;
    end if;
    if patient then
        perform from treadle.leases l where l.message_id = any(ids) order by l.message_id for no key update;
    end if;
    -- seqs: where the item's last event will be; event_items count from 1.
    with locked as (
        select l.message_id, l.last_seq, l.thread, g.o from unnest(ids, leases) with ordinality g (id, lease, o)
        join treadle.leases l on l.message_id = g.id and l.lease = g.lease
        where l.thread is null or l.thread = any(v_held)
        order by l.message_id for no key update of l skip locked
    ), counted as (
        select k.*, first_seqs[k.o] as first, (select count(*) from unnest(event_items) i where i = k.o)::integer as many from locked k
    )
    select array_agg(c.o) filter (where c.first <= c.last_seq + 1),
            array_agg(greatest(c.last_seq, c.first + c.many - 1)) filter (where c.first <= c.last_seq + 1),
            array_agg(c.last_seq) filter (where c.first <= c.last_seq + 1),
            array_agg(c.o) filter (where c.first > c.last_seq + 1)
        into v_items, v_seqs, v_lasts, v_gaps from counted c;
    if v_items is not null then
        if cardinality(event_items) > 0 then
            select array_agg(ids[e.item] order by e.o), array_agg(e.seq order by e.o), array_agg(l.thread order by e.o),
                    array_agg(e.type order by e.o), array_agg(e.data::jsonb order by e.o)
                into v_log_ids, v_log_seqs, v_log_threads, v_log_types, v_log_datas
                from (
                    select u.item, u.type, u.data, u.o, first_seqs[u.item] + (row_number() over (partition by u.item order by u.o))::integer - 1 as seq
                    from unnest(event_items, event_types, event_datas) with ordinality u (item, type, data, o)
                ) e
                join unnest(v_items, v_lasts) k (item, last_seq) on k.item = e.item and e.seq > k.last_seq
                join treadle.leases l on l.message_id = ids[e.item];
        end if;
        select array_agg(s.message_id), array_agg(s.state) into v_done, v_states
            from (select array_agg(ids[k.item]) as ids, array_agg(outcomes[k.item]) as outcomes, array_agg(results[k.item]::jsonb) as results,
                    array_agg(errors[k.item]) as errors, array_agg(tracebacks[k.item]) as tracebacks, array_agg(delays[k.item]) as delays,
                    array_agg(usages[k.item]::jsonb) as usages, array_agg(k.seq) as seqs
                from unnest(v_items, v_seqs) k (item, seq)) a
            cross join lateral treadle._settle(a.ids, a.outcomes, a.results, a.errors, a.tracebacks, a.delays, a.usages, a.seqs,
                v_log_ids, v_log_seqs, v_log_threads, v_log_types, v_log_datas, max_losses, v_now) s;
    end if;
    if patient then
        perform set_config('lock_timeout', v_patience, true);
    end if;
    if cardinality(v_done) = cardinality(ids) then  -- nearly always, and without joining arrays
        return query select u.id, u.state from unnest(v_items, v_done, v_states) u (o, id, state) order by u.o;
    else
        return query
            select g.id, coalesce(d.state, case when g.o = any(v_gaps) then 'gap' when l.message_id is not null then 'busy' else 'lost' end)
            from unnest(ids, leases) with ordinality g (id, lease, o)
            left join unnest(v_items, v_done, v_states) d (o, id, state) on d.o = g.o
            left join treadle.leases l on l.message_id = g.id and l.lease = g.lease
            order by g.o;
    end if;
end $$;
comment on function treadle.finish is 'End attempts: results, last events, lane rows, dead letters and the threads'' next messages, in one transaction';
