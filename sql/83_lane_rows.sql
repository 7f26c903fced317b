-- Lane rows that no claim would find come back, by two chores that every worker's janitor repeats.
--
--   sweep       (83_sweep.sql) brings back rows that lie below a mark or were removed by hand
--   mend_lanes  gives messages without their lane row a new one: the last safety net
--
-- How a row comes to lie below the mark of its lane:
--   late    its transaction stayed open after the submit, and the mark passed it
--   hidden  it was hidden by hand (pgmq.set_vt), or a PGMQ client sent it with a delay, and that time is over
-- Such a row gets a new id, behind the other rows of its section. A row that names no message goes to the dead
-- letters.

-- Give these messages, which are queued in this lane under these lane ids, new lane ids and rows. Messages that other
-- transactions hold are left out. The old rows stay. Returns the messages.
create or replace function treadle._renew_lane_rows(
    queue text,
    lane text,
    ids uuid[],
    lane_ids bigint[],
    at timestamptz)
returns uuid[] language plpgsql as $$
#variable_conflict use_column
declare
    v_ids uuid[];
    v_lane_rows treadle.lane_row[];
begin
    with locked as (
        select w.message_id, w.lane_id
        from unnest(ids, lane_ids) u (message_id, lane_id)
        join treadle.messages w on w.message_id = u.message_id and w.lane_id = u.lane_id
        where w.state = 'queued' and w.queue = _renew_lane_rows.queue and w.lane = _renew_lane_rows.lane
        order by u.lane_id
        for update of w skip locked
    ), numbered as materialized (  -- in their order
        select k.message_id,
            case
                when k.lane_id < 0 then treadle._lane_next_returned(_renew_lane_rows.queue, _renew_lane_rows.lane)
                else treadle._lane_next(_renew_lane_rows.queue, _renew_lane_rows.lane)
            end as lane_id
        from (select l.* from locked l order by l.lane_id offset 0) k
    ), renewed as (
        update treadle.messages m
        set lane_id = n.lane_id
        from numbered n
        where m.message_id = n.message_id
        returning m.*
    )
    select array_agg(r.message_id),
            array_agg(row(r.queue, r.lane, r.lane_id, treadle._lane_body(r))::treadle.lane_row order by r.lane_id)
        into v_ids, v_lane_rows
        from renewed r;
    if v_ids is null then
        return '{}';
    end if;
    perform treadle._lane_insert(lane_rows => v_lane_rows, at => at);
    return v_ids;
end $$;

-- Bring the visible rows of a lane from id `first` to below `past` back, which this call locks; of those, only rows
-- that have become visible after `since` (null: all). Returns how many messages came back, and whether none was held
-- by another transaction.
create or replace function treadle._bring_back(
    queue text,
    lane text,
    first bigint,
    past bigint,
    since timestamptz,
    at timestamptz,
    out brought integer,
    out complete boolean)
language plpgsql as $$
declare
    v_lane_ids bigint[];
    v_ids uuid[];
    v_renewed uuid[];
begin
    execute format(
        'select array_agg(h.msg_id), array_agg(treadle._uuid(h.message ->> ''message_id''))
        from (
            select q.msg_id, q.message
            from pgmq.%I q
            where q.msg_id >= $1 and q.msg_id < $2
                and ($3 is null or q.vt > $3)
                and (q.vt <= $4 or q.vt = q.enqueued_at)
            order by q.msg_id
            for update skip locked
        ) h',
        treadle._lane_table(queue, lane))
        into v_lane_ids, v_ids
        using first, past, since, at;
    brought := 0;
    complete := true;
    if v_ids is null then
        return;
    end if;
    v_renewed := treadle._renew_lane_rows(
        queue => queue, lane => lane, ids => v_ids, lane_ids => v_lane_ids, at => at);
    perform treadle._clear_lane(
        lane_ids => v_lane_ids, named => v_ids, taken => v_renewed, queue => queue, lane => lane,
        at => at, until => at + interval '1 minute');
    brought := cardinality(v_renewed);
    complete := not exists (
        select
        from unnest(v_ids, v_lane_ids) u (message_id, lane_id)
        join treadle.messages m on m.message_id = u.message_id and m.lane_id = u.lane_id
        where m.state = 'queued' and m.queue = _bring_back.queue and m.lane = _bring_back.lane);
end $$;

-- Bring back what lies below a mark and has become visible: late rows of the passed transactions that are not `open`
-- any more and, with `since`, rows that were hidden until a time after it. Returns how many messages came back.
create or replace function treadle._look_below(
    mark text,
    queue text,
    lane text,
    start bigint,
    open text[],
    since timestamptz,
    at timestamptz)
returns integer language plpgsql as $$
declare
    v_mark constant treadle.low_water := treadle._mark(mark);
    v_late_from constant bigint := treadle._late_from(mark => v_mark, open => open);
    v_late record;
    v_shown record;
    v_brought integer := 0;
begin
    if v_late_from is not null then
        v_late := treadle._bring_back(
            queue => queue, lane => lane, first => v_late_from, past => v_mark.low, since => null, at => at);
        v_brought := v_late.brought;
        if v_late.complete then
            perform treadle._forget_passed(mark, open);
        end if;
    end if;
    if since is not null and v_mark.low > start then
        v_shown := treadle._bring_back(
            queue => queue, lane => lane, first => start, past => v_mark.low, since => since, at => at);
        v_brought := v_brought + v_shown.brought;
    end if;
    return v_brought;
end $$;

-- Give messages whose lane rows were removed by hand (treadle.lost_rows) new ones: up to `quantity`. A message that
-- another transaction holds waits for a later call. Returns the queues of the others.
create or replace function treadle._restore_lost_rows(quantity integer, at timestamptz) returns text[]
language plpgsql as $$
declare
    v_group record;
    v_restored uuid[];
    v_queues text[];
begin
    for v_group in
        with lost as (
            delete from treadle.lost_rows l
            where l.ctid in (
                select x.ctid
                from treadle.lost_rows x
                limit quantity
                for update skip locked)
            returning l.*
        )
        select l.queue, l.lane, array_agg(l.message_id order by l.lane_id) as ids,
            array_agg(l.lane_id order by l.lane_id) as lane_ids
        from lost l
        group by l.queue, l.lane
    loop
        v_restored := treadle._renew_lane_rows(
            queue => v_group.queue, lane => v_group.lane, ids => v_group.ids, lane_ids => v_group.lane_ids, at => at);
        if v_restored <> '{}' then
            v_queues := v_queues || v_group.queue;
        end if;
        insert into treadle.lost_rows (message_id, queue, lane, lane_id)
            select m.message_id, m.queue, m.lane, m.lane_id
            from unnest(v_group.ids, v_group.lane_ids) u (message_id, lane_id)
            join treadle.messages m on m.message_id = u.message_id and m.lane_id = u.lane_id
            where m.state = 'queued' and m.queue = v_group.queue and m.lane = v_group.lane
                and not m.message_id = any(v_restored);
    end loop;
    return v_queues;
end $$;

-- Looks at the next `quantity` messages after `after` (null: from the start). `last`: the last message looked at;
-- null at the end of the table, and while no message is queued. `queues`: those of the mended messages.
create or replace function treadle.mend_lanes(
    after uuid, quantity integer default 5000, out last uuid, out mended integer, out queues text[])
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    v_now constant timestamptz := treadle.clock();
    v record;
    v_missing bigint[];
    v_mended integer;
begin
    mended := 0;
    if (select coalesce(sum(c.queued), 0) from treadle.counters c where c.id >= treadle._first_counter()) = 0 then
        return;
    end if;
    for v in  -- in one pass: a null queue stands for the messages that need no lane row
        select q.queue, q.lane, array_agg(q.message_id order by q.lane_id) as ids,
            array_agg(q.lane_id order by q.lane_id) as lane_ids,
            (array_agg(q.message_id order by q.message_id desc))[1] as last
        from (
            select m.message_id, m.lane_id, case when n.runnable then m.queue end as queue,
                case when n.runnable then m.lane end as lane
            from (
                select w.message_id, w.lane_id, w.queue, w.lane, w.state, w.hold
                from treadle.messages w
                where w.message_id > coalesce(after, treadle.uuid_at('epoch'))
                order by w.message_id
                limit quantity
            ) m
            cross join lateral (select m.state = 'queued' and m.hold is null as runnable) n
        ) q
        group by q.queue, q.lane
    loop
        last := case when last is null or v.last > last then v.last else last end;
        continue when v.queue is null;
        v_missing := array(select treadle._lane_missing(queue => v.queue, lane => v.lane, ids => v.lane_ids));
        continue when v_missing = '{}';
        v_mended := cardinality(treadle._renew_lane_rows(
            queue => v.queue, lane => v.lane,
            ids => array(
                select u.id
                from unnest(v.ids, v.lane_ids) u (id, lane_id)
                where u.lane_id = any(v_missing)
                order by u.lane_id),
            lane_ids => v_missing, at => v_now));
        mended := mended + v_mended;
        if v_mended > 0 then
            queues := queues || v.queue;
        end if;
    end loop;
end $$;
comment on function treadle.mend_lanes(uuid, integer)
    is 'Give runnable messages whose lane row is missing (deleted by hand) a new one';
