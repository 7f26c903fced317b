-- The places of submitted messages in their threads.
--
-- The row of a thread is locked while messages get their order: `ord` is last_ord counted up under the lock, and the
-- first message of an idle thread takes the turn in the same write.

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
    v_submissions treadle.submission[] := '{}';
    v_submission treadle.submission;
begin
    if v_unseen = '{}' then
        return submissions;
    end if;
    foreach v_submission in array submissions loop
        if v_submission.state is null and v_submission.thread_id = any(v_unseen) then
            v_submission.state := 'refused';
            v_submission.refusal_code := 'TR404';
            v_submission.refusal := format('There is no thread %L.', v_submission.thread_id);
        end if;
        v_submissions := v_submissions || v_submission;
    end loop;
    return v_submissions;
end $$;

-- Add the agents of the submissions to those of their threads. `ranks`: which of the threads is that of a submission.
create or replace function treadle._add_agents(
    submissions treadle.submission[],
    ranks integer[],
    locked treadle.locked_thread[])
returns void language plpgsql as $$
begin
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
-- thread; and whether the agent of one of them is new in its thread. `all_locked`: the threads of all submissions are
-- among them, so that none has to be searched.
create or replace function treadle._rank_arrivals(
    submissions treadle.submission[],
    locked treadle.locked_thread[],
    all_locked boolean,
    out ranks integer[],
    out numbers integer[],
    out new_agents boolean)
language plpgsql as $$
declare
    v_locked_ids text[];
begin
    if cardinality(submissions) = 1 then  -- the common case, without a query: no other thread was wanted
        numbers := array[1];
        ranks := array[case when cardinality(locked) = 1 then 1 end];
        new_agents := ranks[1] is not null and not submissions[1].agent = any(locked[1].agents);
        return;
    end if;
    if not all_locked then
        v_locked_ids := array(select l.thread_id from unnest(locked) l);
    end if;
    select array_agg(r.rank order by r.n), array_agg(r.number order by r.n),
            coalesce(bool_or(not r.agent = any((locked[r.rank]).agents)), false)
        into ranks, numbers, new_agents
        from (
            select w.n, w.agent,
                case when w.locked then dense_rank() over (partition by w.locked order by w.thread_id) end::integer
                    as rank,
                (row_number() over (partition by w.locked, w.thread_id order by w.n))::integer as number
            from (
                select s.n, s.agent, s.thread_id collate "C" as thread_id,
                    s.state is null and s.thread_id is not null
                        and (all_locked or s.thread_id = any(v_locked_ids)) as locked
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
    v_threads bigint[];
    v_arrivals record;
    v_targets treadle.target_thread[];  -- one per locked thread, in the order of their names
begin
    if cardinality(submissions) = 1 then  -- the common case, without a query
        v_wanted := case when submissions[1].state is null then array_remove(array[submissions[1].thread_id], null) end;
        v_agents := array[submissions[1].agent];
    else
        select array_agg(distinct s.thread_id),
            case
                when min(s.agent collate "C") = max(s.agent collate "C") then array[min(s.agent collate "C")]
                else '{}'
            end
            into v_wanted, v_agents
            from unnest(submissions) s
            where s.state is null and s.thread_id is not null;
    end if;
    if coalesce(cardinality(v_wanted), 0) = 0 then
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
    v_arrivals := treadle._rank_arrivals(
        submissions => submissions, locked => v_locked, all_locked => cardinality(v_locked) = cardinality(v_wanted));
    if v_arrivals.new_agents then
        perform treadle._add_agents(submissions => submissions, ranks => v_arrivals.ranks, locked => v_locked);
    end if;
    if cardinality(v_locked) = 1 then
        v_threads := array[v_locked[1].thread];
    else
        v_threads := array(select l.thread from unnest(v_locked) l);
    end if;
    v_targets := treadle._arrive_in_threads(
        submissions => submissions, ranks => v_arrivals.ranks, threads => v_threads, at => at);
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
                case when w.waits then 'thread' else s.hold end,
                (locked[p.rank]).thread, (targets[p.rank]).base_ord + p.number, (targets[p.rank]).open + p.number - 2,
                s.depth, case when p.rank is null then s.owner else (locked[p.rank]).owner end,
                s.goes_first, s.max_losses,
                case when w.waits then (targets[p.rank]).turn end)::treadle.submission
        from unnest(submissions) s
        cross join lateral (select ranks[s.n] as rank, numbers[s.n] as number) p
        cross join lateral (
            select s.hold is null and p.rank is not null and not s.aside
                and (targets[p.rank]).turn is distinct from s.message_id as waits
        ) w
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
