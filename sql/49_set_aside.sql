-- Messages of tenants that are at their limits or stopped leave a lane in which claims would meet them again.

-- Take queued messages of these tenants out of their lane, where later claims would meet them again: they wait with
-- hold = share until the janitor admits them (treadle.admit_due). The transaction holds their lane rows. Returns how
-- many.
create or replace function treadle._set_aside(ids uuid[], lane_ids bigint[], tenants text[]) returns integer
language plpgsql as $$
declare
    v_lane_rows treadle.lane_row[];
begin
    with locked as (
        select m.message_id, m.queue, m.lane, m.lane_id
        from treadle.messages m
        where m.message_id = any(ids) and m.lane_id = any(lane_ids) and m.state = 'queued'
            and m.tenant = any(tenants)
        order by m.message_id
        for update skip locked
    ), held as (
        update treadle.messages m
        set hold = 'share', lane = null, share_place = coalesce(m.share_place, m.lane_id)
        from locked k
        where m.message_id = k.message_id
    )
    select array_agg(row(k.queue, k.lane, k.lane_id, null)::treadle.lane_row)
        into v_lane_rows
        from locked k;
    if v_lane_rows is not null then
        perform treadle._lane_delete(lane_rows => v_lane_rows);
    end if;
    return coalesce(cardinality(v_lane_rows), 0);
end $$;

-- How many messages of stopped tenants a claim sets aside at once, and about how many in all.
create or replace function treadle._set_aside_limits(out at_once integer, out in_all integer)
language sql immutable parallel safe as $$
    select 1000, 10000
$$;

-- Set the next messages of stopped tenants in a lane aside, after row `after`: there may be very many, and a claim of a
-- few messages would meet a few at a time. Returns how many.
create or replace function treadle._set_next_aside(queue text, lane text, after bigint, at timestamptz) returns integer
language plpgsql as $$
declare
    v_rows record;
begin
    v_rows := treadle._lane_peek(
        queue => queue, lane => lane, after => after, quantity => (treadle._set_aside_limits()).at_once, at => at,
        tenants => treadle._stopped_tenants(), agents => null, passed_over => null);
    if v_rows.lane_ids is null then
        return 0;
    end if;
    return treadle._set_aside(
        ids => v_rows.message_ids, lane_ids => v_rows.lane_ids, tenants => treadle._stopped_tenants());
end $$;
