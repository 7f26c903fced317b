-- Lanes whose PGMQ queue was dropped by hand.
--
-- Without the table of a lane, every call that reads or writes the lane fails (42P01). treadle.messages knows which
-- rows the lane had, so `treadle migrate` creates the lane again with them. In a dead letter the traceback is lost.

create or replace function treadle.missing_lanes() returns table (queue text, lane text)
language sql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select q.queue, l.lane
    from treadle.queues q
    cross join (values ('high', 0), ('normal', 1), ('low', 2), ('dlq', 3)) l (lane, rank)
    where to_regclass(format('pgmq.%I', treadle._lane_table(q.queue, l.lane))) is null
    order by q.queue, l.rank
$$;
comment on function treadle.missing_lanes
    is 'Lanes whose PGMQ queue does not exist; treadle migrate creates them again';

-- Write the lane rows of all messages that have one in this lane.
create or replace function treadle._refill_lane(queue text, lane text) returns void
language plpgsql as $$
begin
    execute format(
        $sql$
        insert into pgmq.%I (msg_id, vt, enqueued_at, message) overriding system value
        select m.lane_id, coalesce(l.expires_at, m.completed_at, m.run_at), coalesce(m.completed_at, m.run_at),
            treadle._lane_body(m) || case m.lane
                when 'dlq' then jsonb_build_object('reason', m.error, 'attempts', m.attempt, 'traceback', null)
                else '{}'
            end
        from treadle.messages m
        left join treadle.leases l on l.message_id = m.message_id
        where m.queue = $1
            and m.lane = $2
        $sql$,
        treadle._lane_table(queue, lane))
        using queue, lane;
end $$;

-- Let the next id of a lane be higher than every id that was drawn before. An id of a message that returns is far below
-- zero; see treadle._lane_next_returned.
create or replace function treadle._pass_drawn_ids(queue text, lane text) returns void
language plpgsql as $$
declare
    v_table constant text := treadle._lane_table(queue, lane);
    v_last constant bigint := (
        select max(case when u.id < 0 then u.id - treadle._first_returned_id() else u.id end)
        from (
            select m.lane_id
            from treadle.messages m
            where m.queue = _pass_drawn_ids.queue
                and m.lane = _pass_drawn_ids.lane
            union all
            select greatest(w.low, w.next_low)
            from treadle.low_water w
            where w.name in (v_table, treadle._returned_mark(v_table))
        ) u (id));
begin
    perform setval(format('pgmq.%I', v_table || '_msg_id_seq')::regclass, v_last + 1)
    where v_last > 0;
end $$;

create or replace function treadle.restore_lanes() returns text[]
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    v record;
    v_restored text[] := '{}';
begin
    perform treadle._lock_generation();
    for v in
        select m.queue, m.lane
        from treadle.missing_lanes() m
    loop
        perform treadle._create_lane(v.queue, v.lane);
        perform treadle._pass_drawn_ids(v.queue, v.lane);
        perform treadle._refill_lane(v.queue, v.lane);
        v_restored := v_restored || treadle._lane_table(v.queue, v.lane);
    end loop;
    return v_restored;
end $$;
comment on function treadle.restore_lanes
    is 'Create the missing lanes again, with the rows that they had; returns them';
