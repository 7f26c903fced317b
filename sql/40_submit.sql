-- Submit: messages come in.
--
-- One transaction writes the messages, their place in their threads, their `queued` events, and the lane rows of those
-- that may run at once. A message may run at once when it is due and has its thread's turn. The others wait in
-- `messages`:
--   hold = delay    it is not due yet; the janitor admits it (treadle.admit_due)
--   hold = thread   another message of its thread has the turn; the transaction that ends that one admits the next
--                   (treadle._settle)
-- The row of a thread is locked while messages get their order: `ord` is last_ord counted up under the lock, and the
-- first message of an idle thread takes the turn in the same write.
--
-- messages: [{"message": text or object, "message_id"?, "priority"?, "thread_id"?, "agent"?, "metadata"?,
-- "delay_seconds"?, "max_attempts"?, "timeout_seconds"?, "aside"?, "parent"?}, ...].
-- A message whose id is already there is not written again: the answer is its present state, however full the queue is
-- by now.
--
-- A message can be refused: a value is not acceptable or its agent unknown (TR422), it was deleted (TR409), its queue
-- is full (TR429).
--   strict (the default)   the first refused message raises its refusal, and nothing is written
--   not strict             it comes back with the state `refused`, refusal_code and refusal; the others are written
-- A thread can be busy: another transaction holds it, or is just creating it.
--   patient (the default)  the call waits for it. With a `lock_timeout`, a longer wait raises 55P03
--                          (lock_not_available). If one of several threads is deleted meanwhile, it raises 40001
--                          (serialization_failure). Nothing is written then: try again
--   not patient            the messages of the thread come back with the state `busy`, unwritten

-- Why these values of a submission are refused; null: they are not. (Stable and with plain arguments, so that the
-- planner inlines it.)
create or replace function treadle._submission_problem(
    message jsonb,
    priority text,
    thread_id text,
    metadata jsonb,
    delay_seconds double precision,
    max_attempts integer,
    timeout_seconds double precision)
returns text language sql stable parallel safe as $$
    select case
        when jsonb_typeof(message) is distinct from 'string' and jsonb_typeof(message) is distinct from 'object'
            then 'message must be a text or an object.'
        when message = '""' then 'message must not be empty.'
        when priority not in ('high', 'normal', 'low')
            then format('priority must be high, normal or low, not %L.', priority)
        when length(thread_id) not between 1 and 255 or thread_id ~ '[[:cntrl:]/]'
            then 'thread_id must have 1 to 255 characters, none of them a control character or a slash.'
        when jsonb_typeof(metadata) <> 'object' then 'metadata must be an object.'
        when delay_seconds not between 0 and 31622400
            then 'delay_seconds must be between 0 and 31622400 (366 days).'
        when max_attempts not between 1 and 1000 then 'max_attempts must be between 1 and 1000.'
        when not (timeout_seconds > 0 and timeout_seconds <= 604800)
            then 'timeout_seconds must be above 0 and at most 604800 (7 days).'
    end
$$;

-- Decode the messages, each with its agent's queue and limits, and refuse those whose values are not acceptable. They
-- are not sorted: a sort of all that they carry takes longer than to decode them, and each has its number `n`.
create or replace function treadle._decode_submissions(messages jsonb, at timestamptz)
returns treadle.submission[] language plpgsql as $$
declare
    v_default_agent constant text := (select a.agent from treadle.agents a where a.is_default);
    -- A row of another kind of id, or of a time far ahead, would lie in no partition and never be purged.
    v_latest_id constant uuid := treadle.uuid_at(greatest(at, clock_timestamp()) + interval '1 day');
begin
    return (
        with decoded as (
            select d.n, d.priority, d.thread_id, d.agent, d.delay_seconds, d.max_attempts, d.timeout_seconds, d.aside,
                d.parent, coalesce(d.message_id, treadle.uuid7()) as id, jsonb_typeof(d.message) as message_type,
                treadle._submission_problem(
                    message => d.message, priority => d.priority, thread_id => d.thread_id, metadata => d.metadata,
                    delay_seconds => d.delay_seconds, max_attempts => d.max_attempts,
                    timeout_seconds => d.timeout_seconds) as value_problem
            from
                rows from (jsonb_to_recordset(messages) as (
                    message_id uuid, message jsonb, priority text, thread_id text, agent text, metadata jsonb,
                    delay_seconds double precision, max_attempts integer, timeout_seconds double precision,
                    aside boolean, parent uuid)
                ) with ordinality d (message_id, message, priority, thread_id, agent, metadata, delay_seconds,
                    max_attempts, timeout_seconds, aside, parent, n)
        ), checked as materialized (
            select d.*, a.queue, a.max_attempts as agent_max_attempts, a.timeout_seconds as agent_timeout_seconds,
                coalesce(
                    d.value_problem,
                    case
                        when a.agent is null and d.agent is null
                            then 'No agent is registered yet: start a worker, or name one.'
                        when a.agent is null then format('There is no agent %L.', d.agent)
                        when a.input is null and d.message_type = 'object'
                            then format('The agent %L takes text, not an object.', a.agent)
                        when get_byte(uuid_send(d.id), 6) not between 112 and 127 or d.id >= v_latest_id
                            then format('A message_id must be a UUIDv7 of a time at most a day ahead; %s is not.', d.id)
                    end) as problem
            from decoded d
            left join treadle.agents a on a.agent = coalesce(d.agent, v_default_agent)
        )
        select array_agg(row(
                c.n, c.id, coalesce(c.priority, 'normal'),
                case c.priority when 'high' then 0 when 'low' then 2 else 1 end,
                coalesce(c.agent, v_default_agent), c.queue, c.thread_id, coalesce(c.aside, false),
                coalesce(c.max_attempts, c.agent_max_attempts), coalesce(c.timeout_seconds, c.agent_timeout_seconds),
                c.run_at, c.parent,
                case when c.problem is not null then 'refused' end,
                case when c.problem is not null then 'TR422' end,
                c.problem,
                case when c.run_at > at then 'delay' end, null, null, null)::treadle.submission)
        from (
            select c.*,
                case
                    when c.delay_seconds > 0 and c.problem is null then at + c.delay_seconds * interval '1 second'
                    else at
                end as run_at
            from checked c
        ) c);
exception
    when invalid_parameter_value then  -- an element is not an object
        raise exception using errcode = 'TR422', message = 'message must be a text or an object.';
end $$;

-- Mark the submissions with these ids as known, and refuse those that were deleted while their log is still being
-- removed.
create or replace function treadle._mark_known(submissions treadle.submission[], known uuid[], deleted uuid[])
returns treadle.submission[] language plpgsql as $$
declare
    v_all treadle.submission[] := '{}';
    v_one treadle.submission;
begin
    foreach v_one in array submissions loop
        if v_one.state is not null then  -- refused for its values
            null;
        elsif v_one.message_id = any(deleted) then  -- a log has one owner
            v_one.state := 'refused';
            v_one.refusal_code := 'TR409';
            v_one.refusal := format('There was a message %s, and it was deleted.', v_one.message_id);
        elsif v_one.message_id = any(known) then
            v_one.state := 'known';
        end if;
        v_all := v_all || v_one;
    end loop;
    return v_all;
end $$;

-- Refuse the submissions for which there is no room in their queues; `queued` says how many messages each queue holds.
create or replace function treadle._refuse_beyond(submissions treadle.submission[], max_queue_size integer,
    queued jsonb)
returns treadle.submission[] language plpgsql as $$
declare
    v_all treadle.submission[] := '{}';
    v_one treadle.submission;
    v_number bigint;
begin
    foreach v_one in array submissions loop
        if v_one.state is null then
            v_number := coalesce((queued ->> v_one.queue)::bigint, 0) + 1;
            if v_number > max_queue_size then
                v_one.state := 'refused';
                v_one.refusal_code := 'TR429';
                v_one.refusal := format('The queue %L is full: it holds at most %s messages.', v_one.queue,
                    max_queue_size);
            else
                queued := queued || jsonb_build_object(v_one.queue, v_number);
            end if;
        end if;
        v_all := v_all || v_one;
    end loop;
    return v_all;
end $$;

-- How many messages each queue holds, and the fullest one. The table is read, not its view: a migration that replaces
-- the view keeps it locked for a while.
create or replace function treadle._queue_sizes(out by_queue jsonb, out largest bigint)
language plpgsql as $$
begin
    select coalesce(jsonb_object_agg(q.queue, q.queued), '{}'), coalesce(max(q.queued), 0)
        into by_queue, largest
        from (
            select c.queue, sum(c.queued) as queued
            from treadle.counters c
            where c.id >= treadle._low_water_mark('counters')
            group by c.queue
        ) q;
end $$;

-- Decode the messages, and say of each whether it is to be written. `strict`: raise the first refusal.
create or replace function treadle._check_submissions(
    messages jsonb,
    max_queue_size integer,
    strict boolean,
    at timestamptz,
    out submissions treadle.submission[],
    out threaded boolean)
language plpgsql as $$
declare
    v_sizes record;
    v_refused treadle.submission;
    v_ids uuid[];
    v_known uuid[];
    v_deleted uuid[];
begin
    if jsonb_typeof(messages) is distinct from 'array' then
        raise exception using errcode = 'TR422', message = 'messages must be an array.';
    end if;
    -- Before the search for known messages, so that no message is counted and then taken for new.
    if max_queue_size is not null then
        v_sizes := treadle._queue_sizes();
    end if;
    submissions := treadle._decode_submissions(messages => messages, at => at);
    select array_agg(s.message_id), bool_or(s.thread_id is not null)
        into v_ids, threaded
        from unnest(submissions) s;
    v_known := array(select m.message_id from treadle.messages m where m.message_id = any(v_ids));
    v_deleted := array(select t.message_id from treadle.trash t where t.message_id = any(v_ids));
    if cardinality(v_known) + cardinality(v_deleted) > 0 then
        submissions := treadle._mark_known(submissions => submissions, known => v_known, deleted => v_deleted);
    end if;
    -- A queue can only be full if all of them would overflow the fullest one.
    if max_queue_size is not null then
        if cardinality(submissions) + v_sizes.largest > max_queue_size then
            submissions := treadle._refuse_beyond(submissions => submissions, max_queue_size => max_queue_size,
                queued => v_sizes.by_queue);
        end if;
    end if;
    if strict then
        select s.*
            into v_refused
            from unnest(submissions) s
            where s.state = 'refused'
            order by s.n
            limit 1;
        if found then
            raise exception using errcode = v_refused.refusal_code, message = v_refused.refusal;
        end if;
    end if;
end $$;

-- Insert threads, except for those that another transaction has just created.
create or replace function treadle._insert_threads(thread_ids text[], tenant text, at timestamptz) returns void
language plpgsql as $$
#variable_conflict use_column
begin
    insert into treadle.threads (tenant, thread_id, created_at, last_activity)
        select _insert_threads.tenant, w.thread_id, at, at
        from unnest(thread_ids) w (thread_id)
        on conflict do nothing;
end $$;

-- Create the threads that are not there yet, and return the smallest id of those that are.
create or replace function treadle._create_threads(thread_ids text[], tenant text, patient boolean, at timestamptz)
returns bigint language plpgsql as $$
#variable_conflict use_column
declare
    v_new text[];
    v_first bigint;
    v_former_timeout text;
begin
    select array_agg(w.thread_id order by w.thread_id collate "C") filter (where t.id is null), min(t.id)
        into v_new, v_first
        from unnest(thread_ids) w (thread_id)
        left join treadle.threads t on t.tenant = _create_threads.tenant and t.thread_id = w.thread_id;
    if v_new is null then
        return v_first;
    end if;
    if patient then
        perform treadle._insert_threads(thread_ids => v_new, tenant => tenant, at => at);
        return (  -- another transaction may have created one of them long ago and committed just now
            select min(t.id)
            from unnest(thread_ids) w (thread_id)
            join treadle.threads t on t.tenant = _create_threads.tenant and t.thread_id = w.thread_id);
    end if;
    begin
        v_former_timeout := treadle._set_lock_timeout('100ms');
        perform treadle._insert_threads(thread_ids => v_new, tenant => tenant, at => at);
        perform treadle._set_lock_timeout(v_former_timeout);
    exception
        when lock_not_available then null;  -- another transaction is creating one of them: all new ones are busy
    end;
    return v_first;
end $$;

-- Lock the threads with these names, and create those that are not there. Returns the ids and names of the locked
-- threads in the order of their names: without those that other transactions hold, where the call is not `patient`.
create or replace function treadle._lock_threads(
    thread_ids text[],
    tenant text,
    patient boolean,
    at timestamptz,
    out threads bigint[],
    out locked_ids text[])
language plpgsql as $$
#variable_conflict use_column
declare
    v_first bigint;
begin
    loop
        -- First create threads, while this transaction holds none; then lock all of them by id, as every transaction
        -- does.
        v_first := treadle._create_threads(thread_ids => thread_ids, tenant => tenant, patient => patient, at => at);
        if not patient then
            with locked as (
                select t.id, t.thread_id
                from treadle.threads t
                where t.tenant = _lock_threads.tenant and t.thread_id = any(thread_ids)
                order by t.id
                for no key update skip locked
            )
            select array_agg(l.id order by l.thread_id collate "C"),
                    array_agg(l.thread_id order by l.thread_id collate "C")
                into threads, locked_ids
                from locked l;
            return;
        end if;
        -- A transaction that holds many of them holds the first: wait there, and see the others as they are afterwards.
        if cardinality(thread_ids) > 1 then
            perform from treadle.threads t
                where t.id = v_first
                for no key update;
        end if;
        with locked as (
            select t.id, t.thread_id
            from treadle.threads t
            where t.tenant = _lock_threads.tenant and t.thread_id = any(thread_ids)
            order by t.id
            for no key update
        )
        select array_agg(l.id order by l.thread_id collate "C"), array_agg(l.thread_id order by l.thread_id collate "C")
            into threads, locked_ids
            from locked l;
        exit when cardinality(threads) = cardinality(thread_ids);
        if threads is not null then  -- to wait for one more while holding others could make a circle
            raise exception using errcode = 'serialization_failure', message = format(
                'The thread %L was deleted just now; submit again.',
                (select w from unnest(thread_ids) w where not w = any(locked_ids) limit 1));
        end if;
    end loop;
end $$;

-- Give the submissions their places in their threads; those of threads that other transactions hold become busy, where
-- the call is not `patient`.
create or replace function treadle._place_in_threads(
    submissions treadle.submission[],
    tenant text,
    patient boolean,
    at timestamptz)
returns treadle.submission[] language plpgsql as $$
declare
    v_wanted constant text[] := array(
        select distinct s.thread_id
        from unnest(submissions) s
        where s.state is null and s.thread_id is not null);
    v_threads bigint[];
    v_locked_ids text[];
    -- One element per submission: which of the locked threads is its own (by name), and its number among the arrivals
    -- of that thread.
    v_ranks integer[];
    v_numbers integer[];
    v_targets treadle.target_thread[];  -- one per locked thread, in the order of their names
begin
    if v_wanted = '{}' then
        return submissions;
    end if;
    select l.threads, l.locked_ids
        into v_threads, v_locked_ids
        from treadle._lock_threads(thread_ids => v_wanted, tenant => tenant, patient => patient, at => at) l;
    select array_agg(r.rank order by r.n), array_agg(r.number order by r.n)
        into v_ranks, v_numbers
        from (
            select w.n,
                case when w.locked then dense_rank() over (partition by w.locked order by w.thread_id) end::integer
                    as rank,
                (row_number() over (partition by w.locked, w.thread_id order by w.n))::integer as number
            from (
                select s.n, s.thread_id collate "C" as thread_id,
                    s.state is null and s.thread_id is not null
                        and (cardinality(v_threads) = cardinality(v_wanted)
                            or s.thread_id = any(coalesce(v_locked_ids, '{}'))) as locked
                from unnest(submissions) s
            ) w
        ) r;
    v_targets := treadle._arrive_in_threads(
        submissions => submissions, ranks => v_ranks, threads => v_threads, at => at);
    return array(
        select row(
                s.n, s.message_id, s.priority, s.rank, s.agent, s.queue, s.thread_id, s.aside,
                s.max_attempts, s.timeout_seconds, s.run_at, s.parent,
                case when s.state is null and s.thread_id is not null and p.rank is null then 'busy' else s.state end,
                s.refusal_code, s.refusal,
                case
                    when s.hold is not null then s.hold
                    when p.rank is not null and not s.aside and (v_targets[p.rank]).turn is distinct from s.message_id
                        then 'thread'
                end,
                v_threads[p.rank], (v_targets[p.rank]).base_ord + p.number, (v_targets[p.rank]).open + p.number - 2
            )::treadle.submission
        from unnest(submissions) s
        cross join lateral (select v_ranks[s.n] as rank, v_numbers[s.n] as number) p
        order by s.n);
end $$;

-- Count the arrivals in their threads, and give idle threads to the first of theirs that may run. Returns the
-- threads.
create or replace function treadle._arrive_in_threads(
    submissions treadle.submission[],
    ranks integer[],
    threads bigint[],
    at timestamptz)
returns treadle.target_thread[] language plpgsql as $$
declare
    v_targets treadle.target_thread[];
begin
    with arriving as (
        select ranks[s.n] as rank, count(*) as messages,
            (array_agg(s.message_id order by s.rank, s.n) filter (where s.hold is null and not s.aside))[1] as first
        from unnest(submissions) s
        where ranks[s.n] is not null
        group by 1
    ), counted as (
        update treadle.threads t
        set last_ord = t.last_ord + a.messages,
            turn = coalesce(t.turn, a.first),
            last_activity = greatest(t.last_activity, at)
        from arriving a
        where t.id = threads[a.rank]
        returning a.rank, t.id, t.last_ord - a.messages as base_ord, t.completed + t.failed + t.cancelled as ended,
        t.turn
    )
    select array_agg(row(c.id, c.base_ord, c.base_ord - c.ended, c.turn)::treadle.target_thread order by c.rank)
        into v_targets
        from counted c;
    insert into treadle.thread_log (thread, last_pos)
        select t.thread, 0
        from unnest(v_targets) t
        where t.base_ord = 0
        order by t.thread
        on conflict (thread) do nothing;
    return v_targets;
end $$;

-- Write the submissions that have no state: messages, `queued` events, lane rows, counters. Returns an answer for each
-- of all.
create or replace function treadle._write_submissions(
    submissions treadle.submission[],
    messages jsonb,
    tenant text,
    at timestamptz)
returns treadle.submit_answer[] language plpgsql as $$
declare
    v_answers treadle.submit_answer[];
    v_entries treadle.entry[];
    v_lane_rows treadle.lane_row[];
begin
    with placed as materialized (
        select s.*,
            case when s.state is null and s.hold is null then s.priority end as lane,
            case when s.state is null and s.hold is null then treadle._lane_next(s.queue, s.priority) end as lane_id,
            count(*) filter (where s.state is null and s.hold is null)
                over (partition by s.queue order by s.rank, s.n) as before,
            count(*) filter (where s.state is null and s.hold is null)
                over (partition by s.queue order by s.rank) as peers
        from unnest(submissions) s
    ), written as (
        insert into treadle.messages (
            message_id, tenant, thread, ord, aside, queue, lane, lane_id, agent, priority, rank, state, hold,
            max_attempts, timeout_seconds, created_at, run_at, body, metadata, parent)
        select p.message_id, _write_submissions.tenant, p.thread, p.ord, p.aside, p.queue, p.lane, p.lane_id, p.agent,
            p.priority, p.rank,
            'queued', p.hold, p.max_attempts, p.timeout_seconds, at, p.run_at,
            messages -> (p.n - 1) -> 'message',
            coalesce(nullif(messages -> (p.n - 1) -> 'metadata', 'null'), '{}'),
            p.parent
        from placed p
        where p.state is null
    )
    select
            array_agg(row(
                p.n, p.message_id, coalesce(p.state, 'queued'), p.queue, p.rank, p.lane,
                case when p.lane is not null then p.before - 1 when p.hold = 'thread' then p.peers + p.behind end,
                p.thread, p.thread_id, p.refusal_code, p.refusal)::treadle.submit_answer order by p.n),
            array_agg(row(p.message_id, 1, p.thread, 'queued', null)::treadle.entry order by p.n)
                filter (where p.state is null),
            array_agg(row(
                p.queue, p.lane, p.lane_id,
                jsonb_build_object('message_id', p.message_id, 'thread_id', p.thread_id, 'agent', p.agent)
                )::treadle.lane_row order by p.n) filter (where p.lane is not null)
        into v_answers, v_entries, v_lane_rows
        from placed p;
    if v_entries is not null then
        perform treadle._log(entries => v_entries, at => at);
        perform treadle._lane_insert(lane_rows => v_lane_rows, at => at);
        insert into treadle.counters (tenant, queue, slot, queued)
            select _write_submissions.tenant, r.queue, treadle._slot(at), count(*)
            from unnest(v_answers) r
            where r.state = 'queued'
            group by r.queue;
    end if;
    return v_answers;
end $$;

-- Tell listeners, with the commit, of messages that were written.
create or replace function treadle._announce(answers treadle.submit_answer[]) returns void
language plpgsql as $$
begin
    perform pg_notify('treadle_work', string_agg(distinct r.queue, ',')),
            pg_notify('treadle_events', case
                when count(*) <= 100 then string_agg(r.message_id || coalesce(':' || r.thread, ''), ',' order by r.n)
                else '*' end)
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
        with own as materialized (
            select r.queue, r.rank, count(r.lane) as messages
            from unnest(answers) r
            where r.state = 'queued'
            group by r.queue, r.rank
        ), depth as materialized (  -- rows that were ready before ours, in this lane and in those that go before it
            select q.queue, l.rank,
                sum(treadle._lane_depth(queue => q.queue, lane => l.lane, at => at) - coalesce(o.messages, 0))
                    over (partition by q.queue order by l.rank) as ready
            from (select o.queue, max(o.rank) as rank from own o group by o.queue) q
            join (values ('high', 0), ('normal', 1), ('low', 2)) l (lane, rank) on l.rank <= q.rank
            left join own o on o.queue = q.queue and o.rank = l.rank
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
        -- A message that was just written is as it was written, except for heads of threads that gave way.
        left join treadle.messages m
            on m.message_id = case when r.state = 'known' or r.thread is not null then r.message_id end
        left join depth d on d.queue = r.queue and d.rank = r.rank and r.state = 'queued'
        order by r.n;
end $$;

create or replace function treadle.submit_many(
    messages jsonb,
    tenant text default 'default',
    notify boolean default false,
    max_queue_size integer default null,
    patient boolean default true,
    lock_timeout text default null,
    strict boolean default true)
returns table (n integer, message_id uuid, state text, queue text, queue_position bigint, created_at timestamptz,
    thread_id text, thread bigint, refusal_code text, refusal text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := treadle.clock();
    v_former_timeout constant text := treadle._set_lock_timeout(lock_timeout);
    v_submissions treadle.submission[];
    v_answers treadle.submit_answer[];
    v_threaded boolean;  -- some name a thread
begin
    select c.submissions, c.threaded
        into v_submissions, v_threaded
        from treadle._check_submissions(
            messages => messages, max_queue_size => max_queue_size, strict => coalesce(strict, true), at => v_now) c;
    perform pg_current_xact_id();  -- before any id is drawn: see treadle._raise_low_water
    if v_threaded then
        v_submissions := treadle._place_in_threads(
            submissions => v_submissions, tenant => tenant, patient => coalesce(patient, true), at => v_now);
    end if;
    v_answers := treadle._write_submissions(
        submissions => v_submissions, messages => messages, tenant => tenant, at => v_now);
    if v_threaded then
        perform treadle._promote(
            threads => array(select distinct r.thread from unnest(v_answers) r where r.thread is not null),
            at => v_now);
    end if;
    if notify then
        perform treadle._announce(v_answers);
    end if;
    return query select *
        from treadle._answer_submit(answers => v_answers, at => v_now);
    perform treadle._set_lock_timeout(v_former_timeout);
end $$;
comment on function treadle.submit_many(jsonb, text, boolean, integer, boolean, text, boolean)
    is 'Submit an array of messages in the order given: all or nothing, or (not strict) each by itself';

create or replace function treadle.submit(
    message jsonb, thread_id text default null, priority text default 'normal', agent text default null,
    metadata jsonb default '{}', delay_seconds double precision default 0, max_attempts integer default null,
    timeout_seconds double precision default null, aside boolean default false, notify boolean default false)
returns uuid language sql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select s.message_id
    from treadle.submit_many(
        messages => jsonb_build_array(
            jsonb_strip_nulls(jsonb_build_object(
                'thread_id', thread_id, 'priority', priority, 'agent', agent, 'delay_seconds', delay_seconds,
                'max_attempts', max_attempts, 'timeout_seconds', timeout_seconds, 'aside', aside))
            || jsonb_build_object('message', message, 'metadata', metadata)),
        notify => notify) s
$$;
comment on function treadle.submit(jsonb, text, text, text, jsonb, double precision, integer, double precision, boolean,
    boolean)
    is 'Submit one message whose agent takes an object; it is sent when your transaction commits. Returns its id';

create or replace function treadle.submit(
    message text, thread_id text default null, priority text default 'normal', agent text default null,
    metadata jsonb default '{}', delay_seconds double precision default 0, max_attempts integer default null,
    timeout_seconds double precision default null, aside boolean default false, notify boolean default false)
returns uuid language sql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select treadle.submit(
        message => to_jsonb(message), thread_id => thread_id, priority => priority, agent => agent,
        metadata => metadata,
        delay_seconds => delay_seconds, max_attempts => max_attempts, timeout_seconds => timeout_seconds,
        aside => aside, notify => notify)
$$;
comment on function treadle.submit(text, text, text, text, jsonb, double precision, integer, double precision, boolean,
    boolean)
    is 'Submit one message; it is sent when your transaction commits. Returns its id';

-- Submit under an Idempotency-Key: the first call's answer is kept for 24 hours, and a caller that repeats the call
-- receives it again. A call that finds the first one still running waits two seconds for it, then fails with
-- lock_not_available (55P03).
create or replace function treadle.submit_once(
    key text,
    request_hash bytea,
    messages jsonb,
    tenant text default 'default',
    max_queue_size integer default null,
    out answer jsonb,
    out repeated boolean)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := treadle.clock();
    v_first_hash bytea;
begin
    insert into treadle.idempotency as i (tenant, key, request_hash, created_at)
        values (submit_once.tenant, submit_once.key, submit_once.request_hash, v_now)
        on conflict (tenant, key) do update
            set request_hash = excluded.request_hash, answer = null, created_at = v_now
            where i.created_at < v_now - interval '24 hours';
    repeated := not found;
    if repeated then
        select i.request_hash, i.answer
            into v_first_hash, answer
            from treadle.idempotency i
            where i.tenant = submit_once.tenant and i.key = submit_once.key;
        if v_first_hash <> submit_once.request_hash then
            raise exception using errcode = 'TR422', message = 'This Idempotency-Key was used with another body.';
        end if;
        return;
    end if;
    select coalesce(jsonb_agg(to_jsonb(s) order by s.n), '[]')
        into answer
        from treadle.submit_many(messages => messages, tenant => submit_once.tenant,
            max_queue_size => max_queue_size) s;
    update treadle.idempotency i
        set answer = submit_once.answer
        where i.tenant = submit_once.tenant and i.key = submit_once.key;
end $$;
comment on function treadle.submit_once is 'Submit under an Idempotency-Key: a repeat gets the first answer';
