-- Settle: an attempt ends. The one place where messages leave `processing`, and where queued ones are cancelled, or
-- taken by the running message of their thread.
--
--   outcome     by                             the message becomes
--   completed   finish                         completed
--   completed   take_incoming                  completed, without an attempt
--   error       finish                         queued, hold = backoff, while failures are left; else failed
--   rejected    finish                         failed
--   deferred    finish (an agent this worker   queued, hold = backoff, no failure charged
--               does not have)
--   overloaded  finish (a service that the     the same; overloaded_since says since when
--               agent needs is overloaded)
--   released    finish (shutdown), sign_off,   queued, before new messages of its priority: started work goes on first
--               heartbeat
--   lost        reap                           the same while losses are left; else failed
--   lost        finish (the agent's own        queued, hold = backoff, while losses are left; else failed
--               process died, not its worker)
--   children    conclude (it waits for         queued, hold = children or input, without a lane row, until
--   or input    others, or for a person)       treadle.tend_parents or treadle.input admits it
--   cancelled   cancel                         cancelled
-- and whatever the outcome, a message whose cancellation was requested becomes cancelled. A message that may be tried
-- only once (max_attempts and max_losses are 1: at_most_once) fails where another would run again.
--
-- In the same transaction: result, last events and the final or `retry` event, the lane row's end, the dead letter,
-- the thread's counts, and the thread's next message in its lane. Locks, in this order everywhere: idempotency keys,
-- threads (by id), leases (by message_id), messages, thread_log (by thread), lane rows. The callers of _settle hold
-- the threads and leases. Only a claim begins at the lane, and never waits.

comment on column treadle.messages.state
    is 'queued -> processing (claim), cancelled (cancel), completed (taken by the running message: steer). '
        'processing -> queued (retry, release, loss, park), completed, failed or cancelled (finish, reap). failed '
        '-> queued (redrive). completed, failed and cancelled -> queued (retry from a step)';
comment on column treadle.messages.hold
    is 'Why a queued message has no lane row; null: it has one. thread (another message has the turn) -> null by '
        'promotion, or completed (steer). delay (not due) -> thread or null when due. backoff (waits for a retry) '
        '-> null when due. children -> null when they are over. input -> null when a person answers. share (its '
        'tenant has its share of the lane, or is suspended) -> null when there is room';

-- The ten seconds that a time belongs to, in treadle.counters.
create or replace function treadle._slot(at timestamptz) returns timestamptz
language sql immutable parallel safe as $$
    select date_bin('10 seconds', at, timestamptz '2020-01-01 00:00:00+00')
$$;

-- The body of a message's lane row.
create or replace function treadle._lane_body(m treadle.messages) returns jsonb
language sql stable as $$
    select treadle._lane_message(
        message_id => m.message_id, thread_id => (select t.thread_id from treadle.threads t where t.id = m.thread),
        agent => m.agent, tenant => m.tenant)
$$;

-- The endings of messages that their worker does not finish itself: cancelled, lost or released, for the same reason.
create or replace function treadle._endings(ids uuid[], outcome text, error text default null) returns treadle.ending[]
language plpgsql immutable as $$
begin
    return array(
        select row(u.message_id, outcome, null, error, null, null, null, null)::treadle.ending
        from unnest(ids) with ordinality u (message_id, n)
        order by u.n);
end $$;

-- What the endings make of their messages, in the same order.
create or replace function treadle._decide_settlements(endings treadle.ending[], max_losses integer)
returns treadle.settlement[] language plpgsql as $$
begin
    return (
        with decided as (
            select e.*, m.thread, m.queue, m.priority, m.state as old_state, m.started_at, m.attempt, m.subscription,
                m.lane as old_lane, m.lane_id as old_lane_id, m.tenant, m.agent, l.first_chunk_at, m.callback_url,
                case when m.attempt = 1 then greatest(m.created_at, m.run_at) end as ready_at,
                m.delivery is not null as is_post, m.questions[cardinality(m.questions)] as asked_seq,
                coalesce(e.last_seq, l.last_seq, m.last_seq) + 1 as seq,
                case
                    when e.outcome = 'cancelled' or l.cancel_requested then 'cancelled'
                    when e.outcome in ('completed', 'children', 'input') then e.outcome
                    when m.max_losses = 1 and m.max_attempts = 1 and e.outcome <> 'deferred' then 'failed'
                    when e.outcome in ('deferred', 'overloaded')
                        or (e.outcome = 'error' and f.new_failures < m.max_attempts)
                        then 'backoff'
                    when e.outcome = 'lost' and e.delay_seconds is not null
                        and f.new_losses < coalesce(m.max_losses, _decide_settlements.max_losses)
                        then 'backoff'
                    when e.outcome = 'released'
                        or (e.outcome = 'lost'
                            and f.new_losses < coalesce(m.max_losses, _decide_settlements.max_losses))
                        then 'again'
                    else 'failed'
                end as becomes,
                case when l.cancel_requested then m.failures else f.new_failures end as failures,
                f.new_losses as losses,
                case
                    when e.usage is null and l.progressed then treadle._usage_of_steps(m.message_id)
                    else e.usage
                end as used
            from unnest(endings) with ordinality
                e (message_id, outcome, result, error, traceback, delay_seconds, usage, last_seq, n)
            join treadle.messages m on m.message_id = any(array[e.message_id])
            left join treadle.leases l on l.message_id = any(array[e.message_id])
            cross join lateral treadle._charge(
                outcome => e.outcome, progressed => l.progressed, attempt => m.attempt, failures => m.failures,
                losses => m.losses) f
        )
        select array_agg(row(
                d.message_id, d.thread, d.queue, d.old_state, d.started_at, d.attempt, d.old_lane, d.old_lane_id,
                d.outcome, d.becomes,
                case when d.becomes in ('backoff', 'again', 'children', 'input') then 'queued' else d.becomes end,
                case when d.becomes = 'again' then d.priority when d.becomes = 'failed' and not d.dropped then 'dlq'
                    end,
                case
                    when d.becomes = 'again' then treadle._lane_next_returned(d.queue, d.priority)
                    when d.becomes = 'failed' and not d.dropped then treadle._lane_next(d.queue, 'dlq')
                end,
                d.seq, d.result, coalesce(d.error, case d.becomes when 'failed' then 'The worker stopped.' end),
                d.traceback, d.delay_seconds, d.used, d.failures, d.losses, d.tenant, d.subscription, d.dropped,
                d.agent, d.ready_at, d.first_chunk_at, d.callback_url, d.is_post, d.asked_seq)::treadle.settlement)
        from (
            select d.*, d.becomes = 'failed' and not treadle._keeps_dead_letters(d.subscription) as dropped
            from decided d
            order by d.n  -- here and not in the aggregate, so that lane ids are drawn in this order
            offset 0
        ) d);
end $$;

-- The event that tells what became of a message. (Stable and one expression, so that the planner inlines it.)
create or replace function treadle._closing_entry(s treadle.settlement, at timestamptz) returns treadle.entry
language sql stable as $$
    select row(
        s.message_id, s.seq, s.thread,
        case s.becomes
            when 'completed' then 'done'
            when 'failed' then 'error'
            when 'cancelled' then 'cancelled'
            when 'children' then 'parked'
            when 'input' then 'parked'
            else 'retry'
        end,
        case s.becomes
            when 'completed' then null
            when 'failed' then jsonb_build_object('state', 'failed', 'error', s.error, 'completed_at', at)
            when 'cancelled' then jsonb_build_object('state', 'cancelled')
            when 'backoff' then jsonb_build_object(
                'attempt', s.attempt, 'error', s.error, 'retry_at', at + s.delay_seconds * interval '1 second')
            when 'again' then jsonb_build_object('attempt', s.attempt, 'error', s.error, 'retry_at', at)
            else jsonb_build_object('attempt', s.attempt, 'hold', s.becomes) || s.result
        end,
        s.tenant)::treadle.entry
$$;

-- The lane rows of the messages that get a new one: of those that run again, and of dead letters.
create or replace function treadle._new_lane_rows(settled treadle.settlement[]) returns treadle.lane_row[]
language plpgsql stable as $$
begin
    return array(
        select row(
            s.queue, s.lane, s.lane_id,
            treadle._lane_body(m) || case s.lane
                when 'dlq' then jsonb_build_object('reason', s.error, 'attempts', s.attempt, 'traceback', s.traceback)
                else '{}'
            end)::treadle.lane_row
        from unnest(settled) s
        join treadle.messages m on m.message_id = any(array[s.message_id])
        where s.lane is not null);
end $$;

-- Count what became of the messages, with what the statistics need of it (84_stats.sql), and note those that did not
-- complete.
-- `chunked`: messages whose attempt writes a chunk with its end.
create or replace function treadle._count_settlements(settled treadle.settlement[], chunked uuid[], at timestamptz)
returns void
language plpgsql as $$
begin
    with noted as (
        insert into treadle.not_completed (tenant, state, message_id)
        select s.tenant, s.state, s.message_id
        from unnest(settled) s
        where s.state in ('failed', 'cancelled')
        on conflict do nothing
    )
    insert into treadle.counters (
        tenant, queue, agent, slot, queued, processing, completed, failed, cancelled, run_seconds, retried, lost, waits,
        runs, first_chunks, input_tokens, output_tokens, cost)
    select s.tenant, s.queue, s.agent, treadle._slot(at),
        count(*) filter (where s.state = 'queued') - count(*) filter (where s.old_state = 'queued'),
        -count(*) filter (where s.old_state = 'processing'),
        count(*) filter (where s.state = 'completed'),
        count(*) filter (where s.state = 'failed'),
        count(*) filter (where s.state = 'cancelled'),
        coalesce(sum(extract(epoch from at - s.started_at)) filter (where s.state in ('completed', 'failed')), 0),
        nullif(count(*) filter (where s.becomes = 'backoff' or (s.becomes = 'again' and s.outcome = 'lost')), 0),
        nullif(count(*) filter (where s.outcome = 'lost'), 0),
        array_agg(treadle._bucket(date_part('epoch', s.started_at - s.ready_at))) filter (
            where s.started_at is not null and s.ready_at is not null),
        array_agg(treadle._bucket(date_part('epoch', at - s.started_at))) filter (where s.started_at is not null),
        array_agg(treadle._bucket(date_part('epoch', coalesce(s.first_chunk_at, at) - s.started_at))) filter (
            where s.started_at is not null and (s.first_chunk_at is not null or s.message_id = any(chunked))),
        sum(treadle._number(s.usage, 'input_tokens', 'prompt_tokens')) filter (where s.usage is not null),
        sum(treadle._number(s.usage, 'output_tokens', 'completion_tokens')) filter (where s.usage is not null),
        sum(treadle._number(s.usage, 'cost_usd', 'cost')) filter (where s.usage is not null)
    from unnest(settled) s
    group by s.tenant, s.queue, s.agent;
end $$;

-- For how many seconds a message that is claimed has waited for a service that is overloaded: until its last backoff
-- ended. Null: its last attempt found no service overloaded.
create or replace function treadle._overloaded_seconds(m treadle.messages) returns double precision
language sql immutable parallel safe as $$
    select case
        when m.overloaded_since is not null then greatest(extract(epoch from m.run_at - m.overloaded_since), 0)
    end::double precision
$$;

-- For how long a message has waited for an overloaded service when another attempt ends. Backoffs and attempts count;
-- the time in a lane and a step of the clock do not. So overloaded_since moves on with each such end.
create or replace function treadle._overloaded_for(m treadle.messages, at timestamptz) returns interval
language sql immutable parallel safe as $$
    select treadle._overloaded_seconds(m) * interval '1 second'
        + greatest(least(at - m.started_at, m.timeout_seconds * interval '1 second'), '0')
$$;

-- Write what became of the messages: counters and messages; their leases end.
create or replace function treadle._store_settlements(settled treadle.settlement[], chunked uuid[], at timestamptz)
returns void language plpgsql as $$
begin
    perform treadle._count_settlements(settled => settled, chunked => chunked, at => at);
    update treadle.messages m
        set state = s.state,
            hold = case when s.becomes in ('backoff', 'children', 'input') then s.becomes end,
            lane = s.lane,
            lane_id = s.lane_id,
            last_seq = s.seq,
            questions = case when s.becomes = 'input' then m.questions || s.seq else m.questions end,
            failures = s.failures,
            losses = s.losses,
            overloaded_since = case
                when s.outcome = 'overloaded' and m.overloaded_since is null then at
                when s.outcome in ('deferred', 'overloaded', 'lost') and s.becomes = 'backoff'
                    then at - treadle._overloaded_for(m, at)
                when s.outcome in ('released', 'lost') then m.overloaded_since
            end,
            run_at = case s.becomes when 'backoff' then at + s.delay_seconds * interval '1 second' else m.run_at end,
            started_at = case when s.state = 'queued' then null else m.started_at end,
            completed_at = case when s.state <> 'queued' then at end,
            worker_id = case when s.state = 'queued' then null else m.worker_id end,
            result = case s.state when 'completed' then s.result end,
            error = case when s.state in ('failed', 'queued') then s.error end,
            usage = case
                when s.usage is null or m.usage is null then coalesce(s.usage, m.usage)
                else treadle._add_usage(m.usage, s.usage)
            end
        from unnest(settled) s
        where m.message_id = any(array[s.message_id]);
    delete from treadle.leases l where l.message_id = any(array(select s.message_id from unnest(settled) s));
end $$;

-- Count what ended in its thread, and admit the next message of each thread whose turn ended. Returns the lane rows
-- of those. The caller tells the workers of the queues of `settled`, and this function those of other queues.
create or replace function treadle._pass_turns(settled treadle.settlement[], at timestamptz) returns treadle.lane_row[]
language plpgsql as $$
declare
    v_turns constant uuid[] := treadle._end_turns(settled => settled, at => at);
    v_lane_rows treadle.lane_row[];
begin
    if v_turns is null then
        return '{}';
    elsif treadle._sharing() then
        perform treadle._admit_turns(ids => v_turns, at => at);
        perform treadle._hint_each('treadle_work', treadle._queues_of(v_turns));
        return '{}';
    end if;
    with admitted as (
        update treadle.messages m
        set hold = null, lane = m.priority, lane_id = treadle._lane_next(m.queue, m.priority)
        where m.message_id = any(v_turns)
            and coalesce(m.hold, '') = 'thread'  -- coalesce keeps the planner off the index messages_waiting
        returning m.queue, m.lane, m.lane_id,
        treadle._lane_message(
            message_id => m.message_id, thread_id => (select t.thread_id from treadle.threads t where t.id = m.thread),
            agent => m.agent, tenant => m.tenant) as body
    )
    select array_agg(row(a.queue, a.lane, a.lane_id, a.body)::treadle.lane_row)
        into v_lane_rows from admitted a;
    perform treadle._hint_each('treadle_work', array(
        select distinct r.queue
        from unnest(v_lane_rows) r
        where r.queue <> all(array(select s.queue from unnest(settled) s))));
    return v_lane_rows;
end $$;

-- End attempts. `entries` are events to be written before those that tell the outcome. `late`: the transaction may
-- stay open, so the events get their positions when it commits. Returns the new states in the order of the endings.
create or replace function treadle._settle(
    endings treadle.ending[], max_losses integer, at timestamptz, entries treadle.entry[] default '{}',
    late boolean default false)
returns text[] language plpgsql as $$
declare
    v_settled constant treadle.settlement[] := treadle._decide_settlements(endings, max_losses);
    v_states text[];
    v_closing treadle.entry[];
    v_ended treadle.lane_row[];
    v_coming treadle.lane_row[] := '{}';
    v_again boolean;      -- some run again, or are dead letters
    v_turns_end boolean;  -- some are over, in threads
    v_left uuid[];        -- those that ended without a result: what they sent is to be cancelled
    v_delivered boolean;  -- some were delivered by subscriptions
    v_told boolean;       -- webhooks or callbacks may be told
begin
    if v_settled is null then
        return '{}';
    end if;
    select array_agg(s.state), array_agg(treadle._closing_entry(s, at)),
            array_agg(row(s.queue, s.old_lane, s.old_lane_id, null)::treadle.lane_row),
            bool_or(s.lane is not null), bool_or(s.thread is not null and s.state <> 'queued'),
            array_agg(s.message_id) filter (where s.state in ('failed', 'cancelled') and s.attempt > 0),
            bool_or(s.subscription is not null),
            bool_or(s.callback_url is not null)
                or (bool_or(not s.is_post) and exists (select from treadle.webhooks w where w.enabled))
        into v_states, v_closing, v_ended, v_again, v_turns_end, v_left, v_delivered, v_told
        from unnest(v_settled) s;
    if v_again then
        v_coming := treadle._new_lane_rows(v_settled);
    end if;
    perform treadle._store_settlements(
        settled => v_settled, at => at, chunked => case
            when entries <> '{}' then array(select e.message_id from unnest(entries) e where e.type = 'chunk')
            else '{}'
        end);
    perform treadle._count_settled(v_settled)
        where v_delivered;
    perform treadle._leave_children(ids => v_left)
        where v_left is not null;
    if v_turns_end then
        v_coming := v_coming || treadle._pass_turns(settled => v_settled, at => at);
    end if;
    if late then
        perform treadle._log_late(entries => entries || v_closing, at => at);
    else
        perform treadle._log(entries => entries || v_closing, at => at);
    end if;
    perform treadle._lane_delete(lane_rows => v_ended);
    if cardinality(v_coming) > 0 then
        perform treadle._lane_insert(lane_rows => v_coming, at => at);
    end if;
    perform treadle._tell_webhooks(v_settled, at)
        where v_told or treadle._have_push_configs(v_settled);
    if treadle._limiting() then
        perform treadle._hint_places(v_settled);
    end if;
    return v_states;
end $$;
