-- Lane rows that no claim would find: two chores that every worker's janitor repeats.
--
--   sweep       lets the low-water marks of lanes and leases follow their first rows (25_low_water.sql), and brings
--               back rows that lie below a mark or were truncated
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
    with renewed as (
        update treadle.messages m
        set lane_id = case
            when m.lane_id < 0 then treadle._lane_next_returned(m.queue, m.lane)
            else treadle._lane_next(m.queue, m.lane)
        end
        where m.message_id in (
            select w.message_id
            from unnest(ids, lane_ids) u (message_id, lane_id)
            join treadle.messages w on w.message_id = u.message_id and w.lane_id = u.lane_id
            where w.state = 'queued' and w.queue = _renew_lane_rows.queue and w.lane = _renew_lane_rows.lane
            order by u.lane_id
            for update of w skip locked)
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

-- The marks of lanes, and where their searches begin now.
create or replace function treadle._lane_marks()
returns table (name text, queue text, lane text, sequence text, start bigint, low bigint)
language sql stable as $$
    select n.name, t.queue, t.lane, format('pgmq.%I', t.name || '_msg_id_seq'), n.start,
        greatest(treadle._low_water_mark(n.name), n.start)
    from treadle._lane_tables() t
    cross join lateral (
        values (t.name, 0::bigint), (treadle._returned_mark(t.name), treadle._first_returned_id())
    ) n (name, start)
$$;

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

-- Give messages whose lane rows a truncate removed (treadle.lost_rows) new ones: up to `quantity`. Returns their
-- queues.
create or replace function treadle._restore_lost_rows(quantity integer, at timestamptz) returns text[]
language plpgsql as $$
declare
    v_group record;
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
        perform treadle._renew_lane_rows(
            queue => v_group.queue, lane => v_group.lane, ids => v_group.ids, lane_ids => v_group.lane_ids, at => at);
        v_queues := v_queues || v_group.queue;
    end loop;
    return v_queues;
end $$;

-- The id of the oldest lease; without one, the id that will come next.
create or replace function treadle._first_lease() returns bigint
language plpgsql as $$
declare
    v_first bigint;
begin
    select l.id
        into v_first
        from treadle.leases l
        where l.id >= treadle._low_water_mark('leases')
        order by l.id
        limit 1;
    if v_first is null then
        select s.last_value + s.is_called::integer
            into v_first
            from treadle.leases_id_seq s;
    end if;
    return v_first;
end $$;

-- When the clock was set back, let the delays and backoffs that wait end that much earlier, so that they take as long
-- as they should. treadle.meta has the last time that a sweep saw.
create or replace function treadle._shift_waits(at timestamptz) returns void
language plpgsql as $$
declare
    c_seen constant text := 'clock_seen';
    c_step constant interval := '5 seconds';  -- a smaller one is not worth it
    v_seen constant timestamptz := (
        select to_timestamp(m.value::double precision)
        from treadle.meta m
        where m.name = c_seen);
begin
    if v_seen > at + c_step then
        update treadle.messages m
            set run_at = m.run_at - (v_seen - at)
            where m.message_id in (
                select w.message_id
                from treadle.messages w
                where w.hold in ('delay', 'backoff')
                    and w.run_at > at
                    and not (w.hold = 'delay' and w.created_at between at - c_step and at)  -- sent since then
                order by w.message_id
                for update skip locked);
    end if;
    insert into treadle.meta as m (name, value)
        values (c_seen, extract(epoch from at)::text)
        on conflict (name) do update set value = excluded.value;
end $$;

-- Move the marks of the lanes and the leases. Returns how many ids the first rows are above their marks, at most.
create or replace function treadle._raise_marks(open jsonb, at timestamptz) returns bigint
language plpgsql as $$
declare
    c_patience constant integer := 10000;  -- ids: so many dead rows cost a claim about as much as its messages
    c_leases constant text := 'treadle.leases_id_seq';
    v_firsts constant jsonb := (
        select jsonb_object_agg(
            m.name, treadle._lane_first(queue => m.queue, lane => m.lane, at => _raise_marks.at, start => m.low))
        from treadle._lane_marks() m);
    v_lease constant bigint := treadle._first_lease();
    v_drawn constant jsonb := treadle._open_draws();  -- after the searches: see treadle._raise_low_water
    v_above bigint;
begin
    select max(treadle._raise_low_water(
            mark => m.name, candidate => (v_firsts ->> m.name)::bigint,
            open => treadle._draws_of(m.sequence, open), drawn => treadle._draws_of(m.sequence, v_drawn),
            patience => c_patience))
        into v_above
        from treadle._lane_marks() m;
    -- Only claims draw ids of leases. They are short, so none is passed.
    perform treadle._raise_low_water(
        mark => 'leases', candidate => v_lease, open => treadle._draws_of(c_leases, open),
        drawn => treadle._draws_of(c_leases, v_drawn), patience => 9223372036854775807);
    return coalesce(v_above, 0);
end $$;

-- Let the marks follow: of the lanes, their first visible row; of the leases, the oldest one. Bring lane rows back.
--   look_back_seconds  also rows that were hidden, by hand or by a delay, until a time so recent
--   above              how many ids the first rows are above their marks, at most: if many, call again soon
--   queues             where rows came back
create or replace function treadle.sweep(
    look_back_seconds double precision default null, out above bigint, out queues text[])
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
    c_lost_rows constant integer := 5000;  -- in one call
    v_open constant jsonb := treadle._open_draws();  -- before all searches
    v_now constant timestamptz := treadle.clock();
    v_since constant timestamptz := case
        when look_back_seconds < 1e9 then v_now - look_back_seconds * interval '1 second'
        when look_back_seconds is not null then '-infinity'
    end;
    v_mark record;
begin
    above := 0;
    if not treadle._sees_commits() or not treadle._try_mutex('sweep') then
        return;
    end if;
    above := treadle._raise_marks(open => v_open, at => v_now);
    for v_mark in
        select m.*
        from treadle._lane_marks() m
    loop
        if treadle._look_below(
            mark => v_mark.name, queue => v_mark.queue, lane => v_mark.lane, start => v_mark.start,
            open => treadle._draws_of(v_mark.sequence, v_open), since => v_since, at => v_now) > 0
        then
            queues := queues || v_mark.queue;
        end if;
    end loop;
    perform treadle._shift_waits(at => v_now);
    queues := queues || treadle._restore_lost_rows(quantity => c_lost_rows, at => v_now);
    if exists (select from treadle.lost_rows) then
        above := greatest(above, c_lost_rows);
    end if;
end $$;
comment on function treadle.sweep
    is 'Let the low-water marks follow their first rows; bring back the lane rows below them';

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
    if (select coalesce(sum(c.queued), 0) from treadle.queue_counts c) = 0 then
        return;
    end if;
    select m.message_id
        into last
        from (
            select m.message_id
            from treadle.messages m
            where after is null or m.message_id > after
            order by m.message_id
            limit quantity
        ) m
        order by m.message_id desc
        limit 1;
    for v in
        select m.queue, m.lane, array_agg(m.message_id order by m.lane_id) as ids,
            array_agg(m.lane_id order by m.lane_id) as lane_ids
        from treadle.messages m
        where (after is null or m.message_id > after)
            and m.message_id <= last
            and m.state = 'queued'
            and m.hold is null
        group by m.queue, m.lane
    loop
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
comment on function treadle.mend_lanes
    is 'Give runnable messages whose lane row is missing (deleted by hand) a new one';
