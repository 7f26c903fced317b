-- Double-texting: what becomes of the open messages of a thread when a message arrives that says so (`on_busy`).
--
--   enqueue    it waits for its turn (the default)
--   reject     it is refused while a message of the thread is open (TR409)
--   interrupt  the open messages are cancelled. What they have said so far stays in the history of the thread
--   rollback   the open messages are cancelled, and the history of the thread does not have them
--   steer      the agent that runs may take it (treadle.take_incoming); else it waits for its turn
-- Open are the message that has the turn, and those that wait for it; not asides, and not those that are not due yet.
-- All of it happens under the lock of the thread's row, in the transaction of the submit: no message comes between.
--
-- A message with `ends_question` (of clients whose next message takes the place of an answer) first ends the question
-- with which the thread waits, whatever its `on_busy` is. A submit that is refused ends nothing.

-- The messages of a thread that wait for its turn, without asides, in the order in which they get it; `steering`: only
-- those that may steer. That order, with enable_sort = off, keeps the planner on messages_waiting: see
-- treadle._next_waiting.
create or replace function treadle._waiting_turns(thread bigint, steering boolean default false) returns uuid[]
language plpgsql stable set enable_sort = off as $$
begin
    return array(
        select m.message_id
        from treadle.messages m
        where m.thread = _waiting_turns.thread and m.hold = 'thread' and not m.aside and (m.steers or not steering)
        order by m.rank, m.ord);
end $$;

-- The open messages of a thread.
create or replace function treadle._open_turns(thread bigint) returns uuid[]
language sql stable as $$
    select array(
        select m.message_id
        from treadle._turns_of(_open_turns.thread) t
        join treadle.messages m on m.message_id = any(array[t.turn]) and m.state in ('queued', 'processing')
    ) || treadle._waiting_turns(_open_turns.thread)
$$;

-- Cancel queued messages of a thread that the caller has locked.
create or replace function treadle._cancel_queued(ids uuid[], thread bigint, at timestamptz) returns void
language plpgsql as $$
begin
    perform treadle._settle(
        endings => treadle._endings(ids => ids, outcome => 'cancelled'), max_losses => 1, at => at, late => true);
    perform treadle._hint_each(
        'treadle_events',
        array(select u || ':' || _cancel_queued.thread from unnest(ids) u));
    -- What they sent is cancelled too, and messages that wait for them may go on.
    perform treadle._hint_each('treadle_work', p.queues)
    from treadle.tend_parents(array(
        select u
        from treadle.messages m
        cross join unnest(array[m.message_id, m.parent]) u
        where m.message_id = any(ids) and u is not null)) p;
end $$;

-- Cancel the open messages of a thread that the caller holds: queued ones now, running ones by their workers. A claim
-- and a finish take the lock of the thread, too, so none of its messages begins or ends meanwhile. Returns all of them.
create or replace function treadle._cancel_open_turns(thread bigint, at timestamptz) returns uuid[]
language plpgsql as $$
declare
    v_open constant uuid[] := treadle._open_turns(_cancel_open_turns.thread);
    v_running constant uuid[] := array(
        select l.message_id
        from treadle.leases l
        where l.message_id = any(v_open)
        order by l.message_id
        for key share);
    v_queued constant uuid[] := array(
        select m.message_id
        from treadle.messages m
        where m.message_id = any(v_open) and m.state = 'queued'
        order by m.message_id
        for update);
begin
    perform treadle._cancel_late(v_running);
    perform treadle._cancel_queued(ids => v_queued, thread => _cancel_open_turns.thread, at => at);
    return v_open;
end $$;

-- Note in the audit that the arrival of a message has cancelled these, which were open. `actor`: who submits it.
create or replace function treadle._audit_arrival(ids uuid[], actor text, tenant text, details jsonb) returns void
language sql as $$
    select treadle._audit(
        actor => actor, action => 'message.cancel', target => u::text, tenant => tenant, details => details)
    from unnest(ids) u
$$;

-- Give submissions their places in their threads, after they have made way for a message that is submitted alone.
create or replace function treadle._arrive(messages jsonb, submissions treadle.submission[], tenant text, reach jsonb,
    patient boolean, at timestamptz)
returns treadle.submission[] language plpgsql as $$
begin
    if cardinality(submissions) = 1 and messages -> 0 ? 'ends_question' and submissions[1].state is null then
        perform treadle._end_question(
            thread_id => submissions[1].thread_id, tenant => tenant, reach => reach, patient => patient, at => at,
            actor => messages -> 0 ->> 'actor');
    end if;
    if cardinality(submissions) = 1 and messages -> 0 ? 'on_busy' and submissions[1].state is null then
        perform treadle._make_way(
            on_busy => messages -> 0 ->> 'on_busy', thread_id => submissions[1].thread_id, tenant => tenant,
            reach => reach, patient => patient, at => at, actor => messages -> 0 ->> 'actor');
    end if;
    return treadle._place_in_threads(
        submissions => submissions, tenant => tenant, reach => reach, patient => patient, at => at);
end $$;

-- Give threads the metadata (`thread_metadata`) that came with their first message. A thread that has begun keeps its
-- own.
create or replace function treadle._describe_threads(messages jsonb, answers treadle.submit_answer[]) returns void
language plpgsql as $$
declare
    v_first record;
    v_problem text;
begin
    for v_first in
        select r.thread, messages -> (r.n - 1) -> 'thread_metadata' as metadata
        from unnest(answers) r
        join treadle.messages m on m.message_id = any(array[r.message_id])
        where r.state = 'queued' and m.ord = 1 and jsonb_typeof(messages -> (r.n - 1) -> 'thread_metadata') <> 'null'
        order by r.thread
    loop
        v_problem := case
            when jsonb_typeof(v_first.metadata) <> 'object' then 'must be an object.'
            else treadle._json_problem(v_first.metadata)
        end;
        if v_problem is not null then
            raise exception using errcode = 'TR422', message = 'thread_metadata ' || v_problem;
        end if;
        update treadle.threads t
            set metadata = v_first.metadata
            where t.id = v_first.thread;
    end loop;
end $$;

-- Arrivals have been written: the one that may steer is marked, and new threads get their metadata.
create or replace function treadle._mark_arrivals(messages jsonb, answers treadle.submit_answer[])
returns void language plpgsql as $$
begin
    if cardinality(answers) = 1 and messages -> 0 ->> 'on_busy' = 'steer' and answers[1].state = 'queued' then
        update treadle.messages m
        set steers = true
        where m.message_id = answers[1].message_id;
    end if;
    if messages @? '$[*].thread_metadata' then
        perform treadle._describe_threads(messages => messages, answers => answers);
    end if;
end $$;

-- The thread of this name that the principal sees; null: none.
create or replace function treadle._seen_thread(thread_id text, tenant text, reach jsonb) returns bigint
language sql stable as $$
    select t.id
    from treadle.threads t
    where t.tenant = _seen_thread.tenant
        and t.thread_id = _seen_thread.thread_id
        and treadle._sees_thread(reach => reach, owner => t.owner, agents => t.agents, thread_id => t.thread_id)
$$;

-- End the question with which a thread waits for its client: the message that asks is cancelled, and what it has said
-- stays in the history. A message that has its answer goes on.
create or replace function treadle._end_question(
    thread_id text, tenant text, reach jsonb, patient boolean, at timestamptz, actor text) returns void
language plpgsql as $$
declare
    v_thread constant bigint := treadle._seen_thread(thread_id => thread_id, tenant => tenant, reach => reach);
    v_asking uuid[];
begin
    if v_thread is null then
        return;
    end if;
    perform treadle._lock_thread(v_thread, patient);
    v_asking := array(
        select m.message_id
        from treadle._turns_of(v_thread) t
        join treadle.messages m on m.message_id = any(array[t.turn])
        where m.state = 'queued' and m.hold = 'input'
        for update of m);
    if v_asking <> '{}' then
        perform treadle._cancel_queued(ids => v_asking, thread => v_thread, at => at);
        perform treadle._audit_arrival(
            ids => v_asking, actor => actor, tenant => tenant, details => '{"by": "ends_question"}');
        update treadle.messages m
        set interrupted = true
        where m.message_id = any(v_asking);
    end if;
end $$;

-- Make way for a message that is submitted alone to a thread. Raises TR409 where it is refused; TR422 for an unknown
-- way.
create or replace function treadle._make_way(
    on_busy text, thread_id text, tenant text, reach jsonb, patient boolean, at timestamptz, actor text)
returns void language plpgsql as $$
declare
    v_thread bigint;
    v_open uuid[];
begin
    if on_busy not in ('enqueue', 'reject', 'interrupt', 'rollback', 'steer') then
        raise exception using
            errcode = 'TR422', message = 'on_busy must be enqueue, reject, interrupt, rollback or steer.';
    end if;
    v_thread := treadle._seen_thread(thread_id => thread_id, tenant => tenant, reach => reach);
    if v_thread is null or on_busy in ('enqueue', 'steer') then
        return;
    end if;
    perform treadle._lock_thread(v_thread, patient);
    if on_busy = 'reject' then
        if treadle._open_turns(v_thread) <> '{}' then
            raise exception using
                errcode = 'TR409', message = format(
                    'The thread %L is busy: wait until its open message has ended.', thread_id);
        end if;
        return;
    end if;
    v_open := treadle._cancel_open_turns(thread => v_thread, at => at);
    perform treadle._audit_arrival(
        ids => v_open, actor => actor, tenant => tenant, details => jsonb_build_object('by', on_busy));
    if on_busy = 'interrupt' then
        update treadle.messages m
        set interrupted = true
        where m.message_id = any(v_open);
    end if;
end $$;

-- The messages that a running message takes from those that wait in its thread and may steer it, and those that an
-- earlier attempt took; in their order. They are completed, and their results name the message that took them. A lease
-- that has ended takes nothing, nor does one whose thread another transaction holds: its agent asks again.
create or replace function treadle.take_incoming(taker uuid, lease uuid)
returns table (message_id uuid, message text)
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '50ms' as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := treadle.clock();
    v_thread bigint;
    v_ids uuid[];
begin
    select t.id
        into v_thread
        from treadle.leases l
        join treadle.threads t on t.id = l.thread
        where l.message_id = taker and l.lease = take_incoming.lease
        for no key update of t skip locked;
    perform from treadle.leases l
        where l.message_id = taker and l.lease = take_incoming.lease and v_thread is not null
        for no key update;
    if found then
        v_ids := array(
            select m.message_id
            from treadle.messages m
            where m.message_id = any(treadle._waiting_turns(v_thread, steering => true))
            order by m.message_id
            for update);
        update treadle.messages m
            set steered_into = taker, started_at = v_now
            where m.message_id = any(v_ids);
        perform treadle._settle(
            endings => array(
                select row(u, 'completed', jsonb_build_object('steered_into', taker), null, null, null, null, null
                    )::treadle.ending
                from unnest(v_ids) u),
            max_losses => 1, at => v_now, late => true);
        perform treadle._hint_each('treadle_events', array(select u || ':' || v_thread from unnest(v_ids) u));
    end if;
    return query
        select m.message_id, m.body::text
        from treadle.messages m
        where m.steered_into = taker and exists (
            select
            from treadle.leases l
            where l.message_id = taker and l.lease = take_incoming.lease)
        order by m.ord;
end $$;
comment on function treadle.take_incoming is 'What clients have said to a running message since it began';

-- What the last attempt of a message has said.
create or replace function treadle._said(message_id uuid) returns text
language plpgsql stable as $$
begin
    return (
        select string_agg(e.data ->> 'chunk', '' order by e.seq)
        from treadle.events e
        where e.message_id = _said.message_id
            and e.type = 'chunk'
            and e.seq > (
                select max(s.seq)
                from treadle.events s
                where s.message_id = _said.message_id
                    and s.type = 'started'));
end $$;
