-- Turns: which message of a thread may run.
--
-- threads.turn names it: it is in its lane, running, waiting to retry, or parked. The others wait with hold = thread.
-- The turn passes on when its message is over (treadle._settle), and when messages arrive (here).

-- The next message of a thread: redriven first, then by priority, then by ord. (treadle._pass_turns has the same
-- query in line.)
create or replace function treadle._next_of(thread bigint) returns uuid
language sql stable as $$
    select m.message_id
    from treadle.messages m
    where m.thread = _next_of.thread and m.hold = 'thread'
    order by m.rank, m.ord
    limit 1
$$;

-- Give queued messages rows in the lane of their priority, whatever held them. `returned`: they have begun and go on,
-- so they go before the new ones.
create or replace function treadle._admit(ids uuid[], at timestamptz, returned boolean default false) returns void
language plpgsql as $$
declare
    v_lane_rows treadle.lane_row[];
begin
    with admitted as (
        update treadle.messages m
        set hold = null,
            lane = m.priority,
            lane_id = case
                when returned then treadle._lane_next_returned(m.queue, m.priority)
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

-- Let the heads of these threads give way to waiting messages of higher priority. The head of a thread is the message
-- that threads.turn names. A head that has never started gives way: it leaves its lane and waits with hold = thread.
-- A head that a worker claims at this moment (its row is locked) keeps the turn. Returns the heads that gave way.
create or replace function treadle._give_way(threads bigint[]) returns uuid[]
language plpgsql as $$
declare
    v_heads uuid[];
    v_lane_rows treadle.lane_row[];
begin
    with locked as (
        select h.*
        from treadle.threads t
        join treadle.messages h on h.message_id = t.turn
        where t.id = any(threads) and h.state = 'queued' and h.hold is null and h.attempt = 0
            and h.rank > (
                select n.rank
                from treadle.messages n
                where n.thread = t.id and n.hold = 'thread'
                order by n.rank, n.ord
                limit 1)
        order by h.message_id
        for update of h skip locked
    )
    select array_agg(k.message_id), array_agg(row(k.queue, k.lane, k.lane_id, null)::treadle.lane_row)
        into v_heads, v_lane_rows
        from locked k;
    if v_heads is not null then
        perform treadle._lane_delete(lane_rows => v_lane_rows);
        update treadle.messages m
            set hold = 'thread', lane = null, lane_id = null
            where m.message_id = any(v_heads);
    end if;
    return v_heads;
end $$;

-- After arrivals: idle threads get their next message, and heads give way. The caller holds the threads.
create or replace function treadle._promote(threads bigint[], at timestamptz) returns void
language plpgsql as $$
declare
    v_heads constant uuid[] := treadle._give_way(threads);
    v_turns uuid[];
begin
    with passed as (
        update treadle.threads t
        set turn = treadle._next_of(t.id)
        where t.id = any(threads)
            and (t.turn is null or t.turn = any(v_heads))
            and treadle._next_of(t.id) is not null
        returning t.turn
    )
    select array_agg(p.turn)
        into v_turns
        from passed p;
    if v_turns is not null then
        perform treadle._admit(ids => v_turns, at => at);
    end if;
end $$;
