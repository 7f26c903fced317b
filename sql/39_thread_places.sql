-- The places of submitted messages in their threads.
--
-- The row of a thread is locked while messages get their order: `ord` is last_ord counted up under the lock, and the
-- first message of an idle thread takes the turn in the same write.

-- Insert threads, except for those that another transaction has just created. `agents`: of their messages.
create or replace function treadle._insert_threads(
    thread_ids text[],
    tenant text,
    owner text,
    agents text[],
    at timestamptz)
returns void language plpgsql as $$
#variable_conflict use_column
begin
    with created as (
        insert into treadle.threads (tenant, thread_id, owner, agents, created_at)
            select _insert_threads.tenant, w.thread_id, _insert_threads.owner, _insert_threads.agents, at
            from unnest(thread_ids) w (thread_id)
            on conflict do nothing
            returning id, tenant
    ), with_turns as (
        insert into treadle.thread_turns (thread, tenant, last_activity)
            select c.id, c.tenant, at
            from created c
    )
    insert into treadle.thread_log (thread, tenant, last_pos)
        select c.id, c.tenant, 0
        from created c;
end $$;

-- Insert threads, except for those that another transaction is just creating. Together first; if one of them is held,
-- one by one, so that the others do not have to wait for it.
create or replace function treadle._try_insert_threads(
    thread_ids text[],
    tenant text,
    owner text,
    agents text[],
    at timestamptz)
returns void language plpgsql as $$
declare
    v_former_timeout text;
    v_one text;
begin
    begin
        v_former_timeout := treadle._set_lock_timeout('20ms');
        perform treadle._insert_threads(
            thread_ids => thread_ids, tenant => tenant, owner => owner, agents => agents, at => at);
        perform treadle._set_lock_timeout(v_former_timeout);
        return;
    exception
        when lock_not_available then null;
    end;
    foreach v_one in array thread_ids loop
        begin
            v_former_timeout := treadle._set_lock_timeout('1ms');
            perform treadle._insert_threads(
                thread_ids => array[v_one], tenant => tenant, owner => owner, agents => agents, at => at);
            perform treadle._set_lock_timeout(v_former_timeout);
        exception
            when lock_not_available then null;  -- this one is held
        end;
    end loop;
end $$;

-- The newest version of a thread's row in thread_turns: see treadle._log_era. An update finds that version at its
-- `place` (ctid), whatever the plan was made beside: a search by the key could read all dead versions of the thread.
-- The caller that updates it holds the thread, so no other transaction moves the row meanwhile.
create or replace function treadle._turns_of(thread bigint)
returns table (place tid, thread bigint, version bigint, last_ord bigint, turn uuid, completed bigint, failed bigint,
    cancelled bigint, next_high bigint, next_normal bigint, next_low bigint)
language sql stable rows 1 as $$
    select s.ctid, s.thread, s.version, s.last_ord, s.turn, s.completed, s.failed, s.cancelled, s.next_high,
        s.next_normal, s.next_low
    from treadle.thread_turns s
    where s.thread = _turns_of.thread
    order by s.version desc
    limit 1
$$;

-- Create the threads that are not there yet, and return the smallest id of those that are.
create or replace function treadle._create_threads(
    thread_ids text[],
    tenant text,
    owner text,
    agents text[],
    patient boolean,
    at timestamptz)
returns bigint language plpgsql as $$
#variable_conflict use_column
declare
    v_new text[];
    v_first bigint;
begin
    select array_agg(w.thread_id order by w.thread_id collate "C") filter (where t.id is null), min(t.id)
        into v_new, v_first
        from unnest(thread_ids) w (thread_id)
        left join treadle.threads t on t.tenant = _create_threads.tenant and t.thread_id = any(array[w.thread_id]);
    if v_new is null then
        return v_first;
    end if;
    if patient then
        perform treadle._insert_threads(
            thread_ids => v_new, tenant => tenant, owner => owner, agents => agents, at => at);
        return (  -- another transaction may have created one of them long ago and committed just now
            select min(t.id)
            from unnest(thread_ids) w (thread_id)
            join treadle.threads t on t.tenant = _create_threads.tenant and t.thread_id = w.thread_id);
    end if;
    perform treadle._try_insert_threads(
        thread_ids => v_new, tenant => tenant, owner => owner, agents => agents, at => at);
    return v_first;
end $$;

-- Lock the threads with these names, and create those that are not there. Returns the locked threads in the order of
-- their names: without those that other transactions hold, where the call is not `patient`.
create or replace function treadle._lock_threads(
    thread_ids text[],
    tenant text,
    owner text,
    agents text[],
    patient boolean,
    at timestamptz)
returns treadle.locked_thread[] language plpgsql as $$
#variable_conflict use_column
declare
    v_first bigint;
    v_locked treadle.locked_thread[];
begin
    loop
        -- First create threads, while this transaction holds none; then lock all of them by id, as every transaction
        -- does.
        v_first := treadle._create_threads(
            thread_ids => thread_ids, tenant => tenant, owner => owner, agents => agents, patient => patient, at => at);
        -- A transaction that holds many of them holds the first: wait there, and see the others as they are
        -- afterwards.
        if patient and cardinality(thread_ids) > 1 then
            perform from treadle.threads t
                where t.id = v_first
                for no key update;
        end if;
        v_locked := treadle._lock_existing(thread_ids => thread_ids, tenant => tenant, patient => patient);
        exit when not patient or cardinality(v_locked) = cardinality(thread_ids);
        if v_locked <> '{}' then  -- to wait for one more while holding others could make a circle
            raise exception using errcode = 'serialization_failure', message = format(
                'The thread %L was deleted just now; submit again.',
                (select w from unnest(thread_ids) w except select l.thread_id from unnest(v_locked) l limit 1));
        end if;
    end loop;
    return v_locked;
end $$;

-- Lock those of these threads that exist, by id, and return them in the order of their names. Not `patient`: without
-- those that other transactions hold.
create or replace function treadle._lock_existing(thread_ids text[], tenant text, patient boolean)
returns treadle.locked_thread[] language plpgsql as $$
begin
    if patient then
        return array(
            with locked as (
                select t.id, t.thread_id, t.owner, t.agents
                from treadle.threads t
                where t.tenant = _lock_existing.tenant and t.thread_id = any(thread_ids)
                order by t.id
                for no key update
            )
            select row(l.id, l.thread_id, l.owner, l.agents)::treadle.locked_thread
            from locked l
            order by l.thread_id collate "C");
    end if;
    return array(
        with locked as (
            select t.id, t.thread_id, t.owner, t.agents
            from treadle.threads t
            where t.tenant = _lock_existing.tenant and t.thread_id = any(thread_ids)
            order by t.id
            for no key update skip locked
        )
        select row(l.id, l.thread_id, l.owner, l.agents)::treadle.locked_thread
        from locked l
        order by l.thread_id collate "C");
end $$;

-- Raise 55P03 for a thread that another transaction holds. The detail is its tenant, a slash and its id: the caller
-- knows what to wait for, and no thread of another tenant with the same id.
create or replace function treadle._raise_held(tenant text, thread_id text) returns void
language plpgsql as $$
begin
    raise exception using
        errcode = 'lock_not_available',
        message = format('Another transaction holds the thread %L.', thread_id),
        detail = tenant || '/' || thread_id;
end $$;

-- Raise 55P03 if a submission is busy.
create or replace function treadle._refuse_busy(submissions treadle.submission[], tenant text) returns void
language plpgsql as $$
declare
    v_held text;
begin
    select s.thread_id
        into v_held
        from unnest(submissions) s
        where s.state = 'busy'
        order by s.n
        limit 1;
    if found then
        perform treadle._raise_held(tenant, v_held);
    end if;
end $$;

-- Refuse the submissions to threads that the principal does not see, as to threads that do not exist.
create or replace function treadle._refuse_unseen(
    submissions treadle.submission[],
    locked treadle.locked_thread[],
    reach jsonb)
returns treadle.submission[] language plpgsql as $$
declare
    v_unseen constant text[] := array(
        select l.thread_id
        from unnest(locked) l
        where not treadle._sees_thread(
            reach => _refuse_unseen.reach, owner => l.owner, agents => l.agents, thread_id => l.thread_id));
    v_all treadle.submission[] := '{}';
    v_one treadle.submission;
begin
    if v_unseen = '{}' then
        return submissions;
    end if;
    foreach v_one in array submissions loop
        if v_one.state is null and v_one.thread_id = any(v_unseen) then
            v_one.state := 'refused';
            v_one.refusal_code := 'TR404';
            v_one.refusal := format('There is no thread %L.', v_one.thread_id);
        end if;
        v_all := v_all || v_one;
    end loop;
    return v_all;
end $$;

-- Add the agents of the submissions to those of their threads. `ranks`: which of the threads is that of a submission.
create or replace function treadle._add_agents(
    submissions treadle.submission[],
    ranks integer[],
    locked treadle.locked_thread[])
returns void language plpgsql as $$
begin
    if not exists (
        select
        from unnest(submissions) s
        where ranks[s.n] is not null and not s.agent = any((locked[ranks[s.n]]).agents))
    then
        return;
    end if;
    update treadle.threads t
        set agents = array(
            select a
            from unnest(t.agents || n.agents) a
            group by a
            order by a)
        from (
            select (locked[ranks[s.n]]).thread, array_agg(s.agent) as agents
            from unnest(submissions) s
            where ranks[s.n] is not null
            group by 1
        ) n
        where t.id = n.thread and not t.agents @> n.agents;
end $$;

-- For each submission, which of the locked threads is its own (by name), and its number among the arrivals of that
-- thread.
create or replace function treadle._rank_arrivals(
    submissions treadle.submission[],
    locked treadle.locked_thread[],
    out ranks integer[],
    out numbers integer[])
language plpgsql as $$
declare
    v_locked_ids constant text[] := array(select l.thread_id from unnest(locked) l);
begin
    select array_agg(r.rank order by r.n), array_agg(r.number order by r.n)
        into ranks, numbers
        from (
            select w.n,
                case when w.locked then dense_rank() over (partition by w.locked order by w.thread_id) end::integer
                    as rank,
                (row_number() over (partition by w.locked, w.thread_id order by w.n))::integer as number
            from (
                select s.n, s.thread_id collate "C" as thread_id,
                    s.state is null and s.thread_id is not null and s.thread_id = any(v_locked_ids) as locked
                from unnest(submissions) s
            ) w
        ) r;
end $$;

-- Give the submissions their places in their threads; those of threads that other transactions hold become busy, where
-- the call is not `patient`. Those of threads that the principal does not see are refused.
create or replace function treadle._place_in_threads(
    submissions treadle.submission[],
    tenant text,
    reach jsonb,
    patient boolean,
    at timestamptz)
returns treadle.submission[] language plpgsql as $$
declare
    v_wanted text[];
    v_agents text[];  -- the agent of all of them, or none: a thread that is created has it from the start
    v_locked treadle.locked_thread[];
    v_arrivals record;
    v_targets treadle.target_thread[];  -- one per locked thread, in the order of their names
begin
    select array_agg(distinct s.thread_id),
            case when min(s.agent) = max(s.agent) then array[min(s.agent)] else '{}' end
        into v_wanted, v_agents
        from unnest(submissions) s
        where s.state is null and s.thread_id is not null;
    if v_wanted is null then
        return submissions;
    end if;
    v_locked := treadle._lock_threads(
        thread_ids => v_wanted, tenant => tenant, owner => reach ->> 'owner', agents => v_agents, patient => patient,
        at => at);
    if reach is not null then
        submissions := treadle._refuse_unseen(submissions => submissions, locked => v_locked, reach => reach);
        v_locked := array(
            select l
            from unnest(v_locked) l
            where treadle._sees_thread(
                reach => _place_in_threads.reach, owner => l.owner, agents => l.agents, thread_id => l.thread_id));
    end if;
    v_arrivals := treadle._rank_arrivals(submissions => submissions, locked => v_locked);
    perform treadle._add_agents(submissions => submissions, ranks => v_arrivals.ranks, locked => v_locked);
    v_targets := treadle._arrive_in_threads(
        submissions => submissions, ranks => v_arrivals.ranks,
        threads => array(select l.thread from unnest(v_locked) l), at => at);
    return treadle._placed(
        submissions => submissions, ranks => v_arrivals.ranks, numbers => v_arrivals.numbers, locked => v_locked,
        targets => v_targets);
end $$;

-- The submissions with their places.
create or replace function treadle._placed(
    submissions treadle.submission[],
    ranks integer[],
    numbers integer[],
    locked treadle.locked_thread[],
    targets treadle.target_thread[])
returns treadle.submission[] language plpgsql as $$
begin
    return array(
        select row(
                s.n, s.message_id, s.priority, s.rank, s.agent, s.queue, s.thread_id, s.aside,
                s.max_attempts, s.timeout_seconds, s.run_at, s.parent,
                case when s.state is null and s.thread_id is not null and p.rank is null then 'busy' else s.state end,
                s.refusal_code, s.refusal,
                case
                    when s.hold is not null then s.hold
                    when p.rank is not null and not s.aside and (targets[p.rank]).turn is distinct from s.message_id
                        then 'thread'
                end,
                (locked[p.rank]).thread, (targets[p.rank]).base_ord + p.number, (targets[p.rank]).open + p.number - 2,
                s.depth, case when p.rank is null then s.owner else (locked[p.rank]).owner end,
                s.goes_first)::treadle.submission
        from unnest(submissions) s
        cross join lateral (select ranks[s.n] as rank, numbers[s.n] as number) p
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
        update treadle.thread_turns t
        set version = t.version + 1,
            last_ord = t.last_ord + a.messages,
            turn = coalesce(t.turn, a.first),
            last_activity = greatest(t.last_activity, at)
        from arriving a
        cross join lateral treadle._turns_of(threads[a.rank]) n
        where t.ctid = n.place
        returning a.rank, t.thread, t.last_ord - a.messages as base_ord, t.completed + t.failed + t.cancelled as ended,
        t.turn
    )
    select array_agg(row(c.thread, c.base_ord, c.base_ord - c.ended, c.turn)::treadle.target_thread order by c.rank)
        into v_targets
        from counted c;
    return v_targets;
end $$;
