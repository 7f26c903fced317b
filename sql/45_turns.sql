-- Turns: which message of a thread may run.
--
-- thread_turns.turn names it: it is in its lane, running, parked, waiting to retry or for its tenant's share. The
-- others wait with hold = thread. The turn passes on when its message is over (treadle._settle), and when messages
-- arrive (here).

-- The next message of a thread: redriven first, then by priority, then by ord. Each search begins where the last
-- message of that priority left: the index keeps the dead entries of those before it while an old snapshot is open. The
-- searches are made in this order, and none is made after the first row: `order by` would make all four.
--
-- Dead entries count in what the planner expects of messages_waiting, so that messages_ord, which has every message of
-- the thread, seems cheaper beside an old snapshot. Only messages_waiting has the order of these searches, without an
-- equation for the rank; and each function that calls this one has enable_sort = off.
create or replace function treadle._next_waiting(
    thread bigint,
    next_high bigint,
    next_normal bigint,
    next_low bigint)
returns table (message_id uuid, rank smallint, ord bigint)
language sql stable rows 1 as $$
    select n.*
    from (
        (
            select m.message_id, m.rank, m.ord
            from treadle.messages m
            where m.thread = _next_waiting.thread
                and m.hold = 'thread'
                and m.rank < 0
            order by m.rank, m.ord
            limit 1
        )
        union all
        (
            select m.message_id, m.rank, m.ord
            from treadle.messages m
            where m.thread = _next_waiting.thread
                and m.hold = 'thread'
                and (m.rank, m.ord) >= (0, _next_waiting.next_high)
                and m.rank <= 0
            order by m.rank, m.ord
            limit 1
        )
        union all
        (
            select m.message_id, m.rank, m.ord
            from treadle.messages m
            where m.thread = _next_waiting.thread
                and m.hold = 'thread'
                and (m.rank, m.ord) >= (1, _next_waiting.next_normal)
                and m.rank <= 1
            order by m.rank, m.ord
            limit 1
        )
        union all
        (
            select m.message_id, m.rank, m.ord
            from treadle.messages m
            where m.thread = _next_waiting.thread
                and m.hold = 'thread'
                and (m.rank, m.ord) >= (2, _next_waiting.next_low)
                and m.rank <= 2
            order by m.rank, m.ord
            limit 1
        )
    ) n
    limit 1
$$;

-- These messages wait for their thread's turn at places before others: the searches for the next one begin there. The
-- caller holds the threads.
create or replace function treadle._wait_at_old_places(ids uuid[]) returns void
language plpgsql as $$
begin
    update treadle.thread_turns t
        set version = t.version + 1,
            next_high = least(t.next_high, p.high),
            next_normal = least(t.next_normal, p.normal),
            next_low = least(t.next_low, p.low)
        from (
            select m.thread, min(m.ord) filter (where m.rank = 0) as high,
                min(m.ord) filter (where m.rank = 1) as normal, min(m.ord) filter (where m.rank = 2) as low
            from treadle.messages m
            where m.message_id = any(ids)
            group by m.thread
        ) p
        cross join lateral treadle._turns_of(p.thread) n
        where t.ctid = n.place;
end $$;

-- Give queued messages rows in the lane of their priority, whatever held them. `returned`: they have begun and go on,
-- so they go before the new ones.
create or replace function treadle._admit(ids uuid[], at timestamptz, returned boolean default false) returns void
language plpgsql as $$
declare
    v_lane_rows treadle.lane_row[];
    v_first uuid[];  -- those that go before the messages of other tenants
begin
    if treadle._sharing() and not returned then
        select h.going, h.first
            into ids, v_first
            from treadle._hold_beyond_share(ids) h;
    end if;
    with admitted as (
        update treadle.messages m
        set hold = null,
            lane = m.priority,
            lane_id = case
                when returned or m.message_id = any(v_first) then treadle._lane_next_returned(m.queue, m.priority)
                else treadle._lane_next(m.queue, m.priority)
            end
        where m.message_id = any(ids) and m.state = 'queued' and m.hold is not null
        returning m.*
    )
    select array_agg(row(a.queue, a.lane, a.lane_id, treadle._lane_body(a))::treadle.lane_row) into v_lane_rows
        from admitted a;
    if v_lane_rows is not null then
        perform treadle._lane_insert(lane_rows => v_lane_rows, at => at);
    end if;
end $$;

-- Admit those of these messages that waited for the turn of their thread.
create or replace function treadle._admit_turns(ids uuid[], at timestamptz) returns void
language plpgsql as $$
begin
    perform treadle._admit(
        ids => array(
            select m.message_id
            from treadle.messages m
            where m.message_id = any(ids) and coalesce(m.hold, '') = 'thread'),
        at => at);
end $$;

-- Lock the heads of these threads that give way to a waiting message of higher priority. The head of a thread is the
-- message that thread_turns.turn names. A head that has never started gives way. One that a worker claims at this
-- moment (its row is locked) keeps the turn. The searches are those of treadle._next_waiting, without those of the
-- head's own rank and below; `offset 0` keeps their order, which `exists` would drop.
create or replace function treadle._lock_overtaken_heads(threads bigint[]) returns uuid[]
language plpgsql set enable_sort = off as $$
begin
    return array(
        select h.message_id
        from unnest(threads) u
        cross join lateral treadle._turns_of(u) t
        join treadle.messages h on h.message_id = any(array[t.turn])
        where h.state = 'queued' and coalesce(h.hold, 'share') = 'share' and h.attempt = 0
            and (
                exists (
                    select
                    from treadle.messages m
                    where m.thread = t.thread and m.hold = 'thread' and m.rank < 0 and h.rank > -1
                    order by m.rank, m.ord
                    limit 1 offset 0)
                or exists (
                    select
                    from treadle.messages m
                    where m.thread = t.thread and m.hold = 'thread' and (m.rank, m.ord) >= (0, t.next_high)
                        and m.rank <= 0 and h.rank > 0
                    order by m.rank, m.ord
                    limit 1 offset 0)
                or exists (
                    select
                    from treadle.messages m
                    where m.thread = t.thread and m.hold = 'thread' and (m.rank, m.ord) >= (1, t.next_normal)
                        and m.rank <= 1 and h.rank > 1
                    order by m.rank, m.ord
                    limit 1 offset 0))
        for update of h skip locked);
end $$;

-- Let the heads of these threads give way to waiting messages of higher priority: they leave their lanes and wait with
-- hold = thread. Returns the heads that gave way.
create or replace function treadle._give_way(threads bigint[]) returns uuid[]
language plpgsql as $$
declare
    v_heads constant uuid[] := treadle._lock_overtaken_heads(threads);
begin
    if v_heads <> '{}' then
        perform treadle._lane_delete(
            lane_rows => array(
                select row(m.queue, m.lane, m.lane_id, null)::treadle.lane_row
                from treadle.messages m
                where m.message_id = any(v_heads)));
        update treadle.messages m
            set hold = 'thread', lane = null, lane_id = null
            where m.message_id = any(v_heads);
        perform treadle._wait_at_old_places(v_heads);
    end if;
    return v_heads;
end $$;

-- The threads in which one of these submissions, which were written, goes before the message with the turn. (Others
-- change nothing in their threads: without an arrival that takes the turn, no thread is idle while messages wait.)
create or replace function treadle._overtaken(submissions treadle.submission[]) returns bigint[]
language plpgsql as $$
begin
    if cardinality(submissions) = 1 and submissions[1].turn is null then  -- the common case, without a query
        return '{}';
    end if;
    return array(
        select w.thread
        from (
            select s.thread, s.turn, min(s.rank) as rank
            from unnest(submissions) s
            where s.turn is not null and s.rank < 2
            group by s.thread, s.turn
        ) w
        join treadle.messages h on h.message_id = any(array[w.turn])
        where h.rank > w.rank);
end $$;

-- Give the turns of these threads, where they are idle or their head is one of `heads`, to the messages that come next.
-- Returns these messages.
create or replace function treadle._give_turns(threads bigint[], heads uuid[]) returns uuid[]
language plpgsql set enable_sort = off as $$
declare
    v_turns uuid[];
begin
    with passed as (
        update treadle.thread_turns t
        set version = t.version + 1,
            turn = w.message_id,
            next_high = case when w.rank = 0 then w.ord + 1 else t.next_high end,
            next_normal = case when w.rank = 1 then w.ord + 1 else t.next_normal end,
            next_low = case when w.rank = 2 then w.ord + 1 else t.next_low end
        from unnest(threads) u
        cross join lateral treadle._turns_of(u) n
        cross join lateral treadle._next_waiting(
            thread => n.thread, next_high => n.next_high, next_normal => n.next_normal, next_low => n.next_low) w
        where t.ctid = n.place and (n.turn is null or n.turn = any(heads))
        returning t.turn
    )
    select array_agg(p.turn)
        into v_turns
        from passed p;
    return v_turns;
end $$;

-- Count what ended in its thread, and give the turn that ended to the message that comes next. Returns these messages.
create or replace function treadle._end_turns(settled treadle.settlement[], at timestamptz) returns uuid[]
language plpgsql set enable_sort = off as $$
declare
    v_turns uuid[];
begin
    with ended as (
        select s.thread, array_agg(s.message_id) as ids,
            count(*) filter (where s.state = 'completed') as completed,
            count(*) filter (where s.state = 'failed') as failed,
            count(*) filter (where s.state = 'cancelled') as cancelled
        from unnest(settled) s
        where s.thread is not null and s.state <> 'queued'
        group by s.thread
    ), coming as (
        select e.*, t.place, t.turn = any(e.ids) as turn_ends, w.message_id, w.rank, w.ord
        from ended e
        cross join lateral treadle._turns_of(e.thread) t
        left join lateral treadle._next_waiting(
            thread => t.thread, next_high => t.next_high, next_normal => t.next_normal, next_low => t.next_low) w
            on t.turn = any(e.ids)
                and t.last_ord > t.completed + t.failed + t.cancelled + cardinality(e.ids)  -- others are open
    ), passed as (
        update treadle.thread_turns t
        set version = t.version + 1,
            completed = t.completed + c.completed,
            failed = t.failed + c.failed,
            cancelled = t.cancelled + c.cancelled,
            last_activity = at,
            turn = case when c.turn_ends then c.message_id else t.turn end,
            next_high = case when c.rank = 0 then c.ord + 1 else t.next_high end,
            next_normal = case when c.rank = 1 then c.ord + 1 else t.next_normal end,
            next_low = case when c.rank = 2 then c.ord + 1 else t.next_low end
        from coming c
        where t.ctid = c.place
        returning t.turn
    )
    select array_agg(p.turn) into v_turns
        from passed p
        where p.turn is not null;
    return v_turns;
end $$;

-- After arrivals that wait: idle threads get their next message, and heads give way. (An arrival that may run at once
-- has the turn or takes none.) The caller holds the threads.
create or replace function treadle._promote(threads bigint[], at timestamptz) returns void
language plpgsql as $$
declare
    v_turns uuid[];
begin
    if threads = '{}' then
        return;
    end if;
    v_turns := treadle._give_turns(threads => threads, heads => treadle._give_way(threads));
    if v_turns is not null then
        perform treadle._admit(ids => v_turns, at => at);
    end if;
end $$;

-- Give turns to those of the messages just written that go before the message with the turn. Returns the answers, in
-- which the messages of these threads have moved.
create or replace function treadle._overtake(
    answers treadle.submit_answer[], submissions treadle.submission[], at timestamptz)
returns treadle.submit_answer[] language plpgsql as $$
declare
    v_threads constant bigint[] := treadle._overtaken(submissions);
begin
    if v_threads = '{}' then
        return answers;
    end if;
    perform treadle._promote(threads => v_threads, at => at);
    return array(
        select row(
            r.n, r.message_id, r.state, r.queue, r.rank, r.lane, r.ahead, r.thread, r.thread_id, r.refusal_code,
            r.refusal, r.thread is not null and r.thread = any(v_threads))::treadle.submit_answer
        from unnest(answers) r
        order by r.n);
end $$;
