-- Submit: messages come in.
--
-- One transaction checks the messages (38_submission_checks.sql), gives them their places in their threads
-- (39_thread_places.sql), and writes them, their `queued` events, and the lane rows of those that may run at once. A
-- message may run at once when it is due and has its thread's turn. The others wait in `messages`:
--   hold = delay    it is not due yet; the janitor admits it (treadle.admit_due)
--   hold = thread   another message of its thread has the turn; the transaction that ends that one admits the next
--                   (treadle._settle)
--   hold = share    its tenant has its share of the lane (46_shares.sql)
--
-- messages: [{"message": text or object, "message_id"?, "priority"?, "thread_id"?, "agent"?, "metadata"?,
-- "delay_seconds"?, "max_attempts"?, "max_losses"?, "timeout_seconds"?, "aside"?, "parent"?, "traceparent"?,
-- "callback_url"?, "on_busy"?, "ends_question"?, "thread_metadata"?, "actor"?}, ...]. `on_busy` and `ends_question`
-- (43_on_busy.sql) are for a message that is submitted alone; `actor` is then the principal for the audit.
-- A message whose id is already there is not written again: the answer is its present state, however full the queue is
-- by now.
--
-- Of two calls at once with one new id, the second waits for the first and raises 23505 (unique_violation): repeated,
-- it finds the message. (Another error would cost each call a subtransaction.)
--
-- A message can be refused: a value is not acceptable or its agent unknown (TR422), its id was used before by another
-- message or stands twice in the call (TR409), its thread belongs to another owner (TR404, as if it did not exist), its
-- queue is full (TR429). All are refused if the tenant is unknown (TR404) or suspended (TR403).
--   strict (the default)   the first refused message raises its refusal (of several, with its place as in
--                          `messages[1]: `), and nothing is written
--   not strict             it comes back with the state `refused`, refusal_code and refusal; the others are written
-- A thread can be busy: another transaction holds it, or is just creating it.
--   patient (the default)  the call waits for it. With a `lock_timeout`, a longer wait raises 55P03
--                          (lock_not_available). If one of several threads is deleted meanwhile, it raises 40001
--                          (serialization_failure). Nothing is written then: try again
--   not patient            the messages of the thread come back with the state `busy`, unwritten. If strict, it raises
--                          55P03 with the thread's id as its detail
-- The transaction may stay open after the call: it delays the end of the message that runs in the thread, and nothing
-- else. `autocommit` says that the transaction ends with the call, which makes the call a little cheaper.

-- Write the `queued` events of messages in threads: `entries` get their positions now, `late` when the transaction
-- commits (31_late_writes.sql). Null: there are none.
create or replace function treadle._log_arrivals(entries treadle.entry[], late treadle.entry[], at timestamptz)
returns void language plpgsql as $$
begin
    if entries is not null then
        perform treadle._log(entries => entries, at => at);
    end if;
    if late is not null then
        perform treadle._log_late(entries => late, at => at);
    end if;
end $$;

-- Write the submissions that have no state: messages, `queued` events, lane rows, counters. Returns an answer for each
-- of all. Not `autocommit`: where messages of the thread are open, one may be running, so the `queued` events are late.
-- `last`: the place among those that get rows in the same lane, counted from the end.
create or replace function treadle._write_submissions(
    submissions treadle.submission[], messages jsonb, tenant text, autocommit boolean, at timestamptz)
returns treadle.submit_answer[] language plpgsql as $$
declare
    v_answers treadle.submit_answer[];
    v_entries treadle.entry[];
    v_late treadle.entry[];
    v_lane_rows treadle.lane_row[];
begin
    with placed as materialized (
        select s.*,
            case when s.state is null and s.hold is null then s.priority end as lane,
            case when s.state is null and coalesce(s.hold, 'share') = 'share' then
                treadle._lane_next(s.queue, s.priority)
                + case when s.goes_first then treadle._first_returned_id() else 0 end
            end as lane_id,
            count(*) filter (where s.state is null and s.hold is null) over rest as last
        from unnest(submissions) s
        window rest as (partition by s.queue, s.rank order by s.n rows between current row and unbounded following)
    ), written as (
        insert into treadle.messages (message_id, tenant, thread, ord, aside, queue, lane, lane_id, share_place, agent,
            priority, rank, state, hold, max_attempts, max_losses, timeout_seconds, created_at, run_at, body, metadata,
            parent, depth, owner, traceparent, callback_url)
        select p.message_id, _write_submissions.tenant, p.thread, p.ord, p.aside, p.queue, p.lane, p.lane_id,
            case when p.hold = 'share' then p.lane_id end, p.agent, p.priority, p.rank, 'queued', p.hold,
            p.max_attempts, p.max_losses, p.timeout_seconds, at, p.run_at, messages -> (p.n - 1) -> 'message',
            coalesce(nullif(messages -> (p.n - 1) -> 'metadata', 'null'), '{}'), p.parent, p.depth, p.owner,
            substring(messages -> (p.n - 1) ->> 'traceparent' from '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'),
            messages -> (p.n - 1) ->> 'callback_url'
        from placed p
        where p.state is null
    ), logged as (
        insert into treadle.events (message_id, seq, tenant, type, created_at)
        select p.message_id, 1, _write_submissions.tenant, 'queued', at
        from placed p
        where p.state is null and p.thread is null
    ), counted as (
        insert into treadle.counters (tenant, queue, agent, slot, queued, submitted)
        select _write_submissions.tenant, p.queue, p.agent, treadle._slot(at), count(*), count(*)
        from placed p
        where p.state is null
        group by p.queue, p.agent
    )
    select
            array_agg(row(
                p.n, p.message_id, coalesce(p.state, 'queued'), p.queue, p.rank, p.lane,
                case when p.lane is not null then -p.last when p.hold = 'thread' then p.behind end,
                p.thread, p.thread_id, p.refusal_code, p.refusal, false)::treadle.submit_answer order by p.n),
            array_agg(row(p.message_id, 1, p.thread, 'queued', null, tenant)::treadle.entry order by p.n)
                filter (where p.state is null and p.thread is not null and (autocommit or p.behind < 0)),
            array_agg(row(p.message_id, 1, p.thread, 'queued', null, tenant)::treadle.entry order by p.n)
                filter (where p.state is null and p.thread is not null and not (autocommit or p.behind < 0)),
            array_agg(row(p.queue, p.lane, p.lane_id, treadle._lane_message(message_id => p.message_id,
                thread_id => p.thread_id, agent => p.agent, tenant => tenant))::treadle.lane_row order by p.n)
                filter (where p.lane is not null)
        into v_answers, v_entries, v_late, v_lane_rows
        from placed p;
    perform treadle._log_arrivals(v_entries, v_late, at), treadle._lane_insert(lane_rows => v_lane_rows, at => at);
    return v_answers;
end $$;

-- Tell listeners, with the commit, of messages that were written.
create or replace function treadle._announce(answers treadle.submit_answer[]) returns void
language plpgsql as $$
begin
    if cardinality(answers) = 1 then  -- the common case, without a query
        if (answers[1]).state = 'queued' then
            perform treadle._hint('treadle_work', (answers[1]).queue), treadle._hint(
                'treadle_events', (answers[1]).message_id || coalesce(':' || (answers[1]).thread, ''));
        end if;
        return;
    end if;
    perform treadle._hint_each('treadle_work', array_agg(distinct r.queue)),
            treadle._hint_each(
                'treadle_events', array_agg(r.message_id || coalesce(':' || r.thread, '') order by r.n))
        from unnest(answers) r
        where r.state = 'queued'
        having count(*) > 0;
end $$;

-- Answer each message of a submit.
create or replace function treadle._answer_submit(answers treadle.submit_answer[], at timestamptz)
returns table (n integer, message_id uuid, state text, queue text, queue_position bigint, created_at timestamptz,
    thread_id text, thread bigint, refusal_code text, refusal text)
language plpgsql as $$
#variable_conflict use_column
begin
    return query
        with depth as materialized (  -- the ready rows of these lanes and of those that go before them, with ours
            select q.queue, q.rank, treadle._ready_through(queue => q.queue, rank => q.rank, at => at) as ready
            from (select distinct r.queue, r.rank from unnest(answers) r where r.state = 'queued') q
        )
        select r.n,
            case when r.state = 'queued' or m.message_id is not null then r.message_id end,
            -- A known message that was deleted since it was found: the caller tries again.
            coalesce(m.state, case r.state when 'known' then 'busy' else r.state end),
            coalesce(m.queue, case when r.state = 'queued' then r.queue end),
            case
                when r.state = 'queued' and (m.message_id is null or m.lane is not distinct from r.lane)
                    then case when r.ahead is not null then greatest(r.ahead + d.ready, 0)::bigint end
                when m.state = 'queued' then treadle._position(m, at)
            end,
            coalesce(m.created_at, case when r.state = 'queued' then at end),
            r.thread_id,
            coalesce(m.thread, r.thread),
            r.refusal_code,
            r.refusal
        from unnest(answers) r
        -- A message that was just written is as it was written, unless it has moved.
        left join treadle.messages m
            on m.message_id = case
                when r.state = 'known' or coalesce(r.moved, r.thread is not null) then r.message_id
            end
        left join depth d on d.queue = r.queue and d.rank = r.rank and r.state = 'queued'
        order by r.n;
end $$;

-- The same while there are several tenants: some messages wait for a share, others go first, so their positions are
-- looked up.
create or replace function treadle._answer_among_tenants(answers treadle.submit_answer[], at timestamptz)
returns table (n integer, message_id uuid, state text, queue text, queue_position bigint, created_at timestamptz,
    thread_id text, thread bigint, refusal_code text, refusal text)
language plpgsql as $$
#variable_conflict use_column
begin
    return query
        select a.n, a.message_id, a.state, a.queue, p.queue_position, a.created_at, a.thread_id, a.thread,
            a.refusal_code, a.refusal
        from treadle._answer_submit(answers => answers, at => at) a
        left join treadle._positions(
            message_ids => array(select r.message_id from unnest(answers) r order by r.n), at => at) p
            on p.n = a.n and a.message_id is not null
        order by a.n;
end $$;

-- If `strict`, raise what keeps a submission from its place: its thread is not seen, or another transaction holds it.
create or replace function treadle._refuse_unplaced(
    submissions treadle.submission[], tenant text, patient boolean, reach jsonb, strict boolean)
returns void language plpgsql as $$
begin
    if not strict then
        return;
    end if;
    if reach is not null then
        perform treadle._raise_refusal(submissions);
    end if;
    if not patient then
        perform treadle._refuse_busy(submissions, tenant);
    end if;
end $$;

-- What submit_many does, without its answer: queue positions cost a look at the lanes, and treadle.submit needs none.
create or replace function treadle._submit_all(
    messages jsonb, tenant text, notify boolean, max_queue_size integer, patient boolean, strict boolean,
    autocommit boolean, reach jsonb, at timestamptz)
returns treadle.submit_answer[] language plpgsql as $$
declare
    v_limits constant jsonb := case when not treadle._is_plain(tenant) then treadle._limits_of_active(tenant) end;
    v_checked constant record := treadle._check_submissions(
        messages => messages, tenant => tenant, reach => reach, limits => v_limits, at => at,
        max_queue_size => treadle._queue_size_of_session(max_queue_size), strict => strict);
    v_threaded constant boolean := v_checked.threaded;  -- some name a thread
    v_submissions treadle.submission[] := v_checked.submissions;
    v_answers treadle.submit_answer[];
begin
    if v_threaded then
        v_submissions := treadle._arrive(messages => messages, submissions => v_submissions, tenant => tenant,
            reach => reach, patient => patient, at => at);
        perform treadle._refuse_unplaced(
            submissions => v_submissions, tenant => tenant, patient => patient, reach => reach, strict => strict);
    end if;
    if treadle._sharing() then
        v_submissions := treadle._share_out(submissions => v_submissions, tenant => tenant);
    end if;
    v_answers := treadle._write_submissions(
        submissions => v_submissions, messages => messages, tenant => tenant, autocommit => autocommit, at => at);
    if v_threaded then
        perform treadle._mark_arrivals(messages => messages, answers => v_answers);
        v_answers := treadle._overtake(answers => v_answers, submissions => v_submissions, at => at);
    end if;
    if v_limits is not null then
        perform treadle._charge_submit(at => at,
            submissions => v_submissions, messages => messages, tenant => tenant, autocommit => autocommit,
            patient => patient);
    end if;
    if notify then
        perform treadle._announce(v_answers);
    end if;
    return v_answers;
end $$;

create or replace function treadle.submit_many(
    messages jsonb, tenant text default 'default', notify boolean default false,
    max_queue_size integer default null, patient boolean default true, lock_timeout text default null,
    strict boolean default true, autocommit boolean default false, reach jsonb default null)
returns table (n integer, message_id uuid, state text, queue text, queue_position bigint, created_at timestamptz,
    thread_id text, thread bigint, refusal_code text, refusal text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_mergejoin = off set enable_hashjoin = off
set enable_memoize = off as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := treadle.clock();
    v_former_timeout text := treadle._set_lock_timeout(lock_timeout);
    v_answers treadle.submit_answer[];
begin
    tenant := treadle._bound_tenant(tenant);
    v_answers := treadle._submit_all(
        messages => messages, tenant => tenant, notify => notify, max_queue_size => max_queue_size,
        patient => coalesce(patient, true), strict => coalesce(strict, true), autocommit => autocommit,
        reach => reach, at => v_now);
    if cardinality(v_answers) = 1 and v_answers[1].state = 'queued' and not v_answers[1].moved
        and not treadle._sharing()
    then  -- the common case, without a query
        n := 1;
        message_id := v_answers[1].message_id;
        state := 'queued';
        queue := v_answers[1].queue;
        if v_answers[1].ahead is not null then
            queue_position := greatest(
                v_answers[1].ahead + treadle._ready_through(queue => queue, rank => v_answers[1].rank, at => v_now),
                0);
        end if;
        created_at := v_now;
        thread_id := v_answers[1].thread_id;
        thread := v_answers[1].thread;
        return next;
    elsif treadle._sharing() then
        return query select *
            from treadle._answer_among_tenants(answers => v_answers, at => v_now);
    else
        return query select *
            from treadle._answer_submit(answers => v_answers, at => v_now);
    end if;
    v_former_timeout := treadle._set_lock_timeout(v_former_timeout);
end $$;
comment on function treadle.submit_many(jsonb, text, boolean, integer, boolean, text, boolean, boolean, jsonb)
    is 'Submit an array of messages in the order given: all or nothing, or (not strict) each by itself';

create or replace function treadle.submit(
    message jsonb, thread_id text default null, priority text default 'normal', agent text default null,
    metadata jsonb default '{}', delay_seconds double precision default 0, max_attempts integer default null,
    timeout_seconds double precision default null, aside boolean default false, notify boolean default false,
    tenant text default 'default', reach jsonb default null, max_losses integer default null,
    thread_metadata jsonb default null, callback_url text default null)
returns uuid language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_mergejoin = off set enable_hashjoin = off
set enable_memoize = off as $$
declare
    v_answers treadle.submit_answer[];
begin
    tenant := treadle._bound_tenant(tenant);
    v_answers := treadle._submit_all(
        messages => jsonb_build_array(
            jsonb_strip_nulls(jsonb_build_object(
                'thread_id', thread_id, 'priority', priority, 'agent', agent, 'delay_seconds', delay_seconds,
                'max_attempts', max_attempts, 'max_losses', max_losses, 'timeout_seconds', timeout_seconds,
                'aside', aside, 'thread_metadata', thread_metadata, 'callback_url', callback_url))
            || jsonb_build_object('message', message, 'metadata', metadata)),
        tenant => tenant, notify => notify, max_queue_size => null, patient => true, strict => true,
        autocommit => false, reach => reach, at => treadle.clock());
    return v_answers[1].message_id;
end $$;
comment on function treadle.submit(jsonb, text, text, text, jsonb, double precision, integer, double precision, boolean,
    boolean, text, jsonb, integer, jsonb, text)
    is 'Submit one message whose agent takes an object; it is sent when your transaction commits. Returns its id';

create or replace function treadle.submit(
    message text, thread_id text default null, priority text default 'normal', agent text default null,
    metadata jsonb default '{}', delay_seconds double precision default 0, max_attempts integer default null,
    timeout_seconds double precision default null, aside boolean default false, notify boolean default false,
    tenant text default 'default', reach jsonb default null, max_losses integer default null,
    thread_metadata jsonb default null, callback_url text default null)
returns uuid language sql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select treadle.submit(
        message => to_jsonb(message), thread_id => thread_id, priority => priority, agent => agent,
        metadata => metadata,
        delay_seconds => delay_seconds, max_attempts => max_attempts, timeout_seconds => timeout_seconds,
        aside => aside, notify => notify, tenant => tenant, reach => reach, max_losses => max_losses,
        thread_metadata => thread_metadata, callback_url => callback_url)
$$;
comment on function treadle.submit(text, text, text, text, jsonb, double precision, integer, double precision, boolean,
    boolean, text, jsonb, integer, jsonb, text)
    is 'Submit one message; it is sent when your transaction commits. Returns its id';
