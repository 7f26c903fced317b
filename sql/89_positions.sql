-- Positions in the queue, and the messages that wait or run.

-- How many messages will be claimed before this one; exact to 1,000. null if it does not wait for a worker (it is not
-- due, parked, running or over). A message behind its thread comes after the ready messages of its lanes and after the
-- messages that are before it in the thread.
create or replace function treadle._position(m treadle.messages, at timestamptz) returns bigint
language plpgsql stable as $$
begin
    if m.state is distinct from 'queued' then  -- also if there is no such message
        return null;
    elsif m.hold is null then
        return treadle._lane_ahead(queue => m.queue, lane => m.lane, lane_id => m.lane_id, at => at)
            + case when m.lane in ('normal', 'low') then treadle._lane_depth(m.queue, 'high', at) else 0 end
            + case when m.lane = 'low' then treadle._lane_depth(m.queue, 'normal', at) else 0 end;
    elsif m.hold = 'thread' then
        return treadle._lane_depth(m.queue, 'high', at)
            + case when m.rank >= 1 then treadle._lane_depth(m.queue, 'normal', at) else 0 end
            + case when m.rank >= 2 then treadle._lane_depth(m.queue, 'low', at) else 0 end
            + (
                select count(*)
                from (
                    select
                    from treadle.messages w
                    where w.thread = m.thread
                        and w.hold = 'thread'
                        and (w.rank, w.ord) < (m.rank, m.ord)
                    order by w.rank, w.ord
                    limit 1000
                ) earlier
            );
    end if;
    return null;
end $$;

create or replace function treadle.queue_position(message_id uuid) returns bigint
language sql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select treadle._position(m, treadle.clock())
    from treadle.messages m
    where m.message_id = queue_position.message_id
$$;
comment on function treadle.queue_position
    is 'How many messages will be claimed before this one, from 0; null if it does not wait for a worker';

-- Row n is about message_ids[n]; its state is null if the message does not exist.
create or replace function treadle.queue_positions(message_ids uuid[])
returns table (n bigint, state text, queue_position bigint)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
#variable_conflict use_column
begin
    return query
        select u.n, m.state, treadle._position(m, treadle.clock())
        from unnest(message_ids) with ordinality u (message_id, n)
        left join treadle.messages m on m.message_id = u.message_id;
end $$;
comment on function treadle.queue_positions is 'State and queue position of each message';

-- First the rows of the lanes, lane by lane, then the messages that are held. A plan that is made while the table is
-- small is kept, so hash and merge joins, which would read the whole table later, are switched off.
create or replace function treadle.queued_messages(quantity integer default 100) returns table (message_id uuid)
language plpgsql stable rows 100 security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
    set enable_mergejoin = off as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := treadle.clock();
    v record;
    v_left integer := quantity;
    v_found integer;
begin
    for v in
        select q.queue, l.lane
        from (values ('high', 0), ('normal', 1), ('low', 2)) l (lane, rank), treadle.queues q
        order by l.rank, q.queue
    loop
        exit when v_left <= 0;
        return query
            select m.message_id
            from treadle._lane_list(queue => v.queue, lane => v.lane, quantity => v_left, at => v_now) l
            join treadle.messages m on m.message_id = l.message_id and m.state = 'queued'
            order by l.lane_id;
        get diagnostics v_found = row_count;
        v_left := v_left - v_found;
    end loop;
    return query
        select h.message_id
        from (
            (
                select m.message_id
                from treadle.messages m
                where m.hold = 'thread'
                order by m.thread, m.rank, m.ord
                limit greatest(v_left, 0)
            )
            union all
            (
                select m.message_id
                from treadle.messages m
                where m.hold in ('delay', 'backoff')
                order by m.run_at
                limit greatest(v_left, 0)
            )
        ) h
        order by h.message_id
        limit greatest(v_left, 0);
end $$;
comment on function treadle.queued_messages is 'Ids of waiting messages, the next to be claimed first';

create or replace function treadle.processing(quantity integer default 100) returns table (message_id uuid)
language plpgsql stable rows 100 security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_sort = off as $$
begin
    return query
        select l.message_id
        from treadle.leases l
        where l.id >= treadle._low_water_mark('leases')
        order by l.id
        limit quantity;
end $$;
comment on function treadle.processing is 'Ids of messages that workers hold, the first claimed first';
