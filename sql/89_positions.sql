-- Positions in the queue.

-- How many messages of its tenant wait for their share of the lane before this one; at most 1,000.
create or replace function treadle._ahead_in_share(m treadle.messages) returns bigint
language sql stable as $$
    select count(*)
    from (
        select
        from treadle.messages w
        where w.hold = 'share'
            and w.tenant = m.tenant
            and w.queue = m.queue
            and w.priority = m.priority
            and w.share_place < m.share_place
        order by w.share_place
        limit 1000
    ) earlier
$$;

-- The places of the first 1,000 messages that wait for the turn of a thread, in the order in which they get it: a place
-- is a number, its rank, then its ord. That order, with enable_sort = off, keeps the planner on messages_waiting: see
-- treadle._next_waiting.
create or replace function treadle._places_behind(thread bigint) returns bigint[]
language plpgsql stable set enable_sort = off as $$
begin
    return array(
        select (w.rank + 1::bigint << 55) + w.ord
        from treadle.messages w
        where w.thread = _places_behind.thread
            and w.hold = 'thread'
        order by w.rank, w.ord
        limit 1000);
end $$;

-- How many rows the lanes of a queue can give, from the high one to that of the rank.
create or replace function treadle._ready_through(queue text, rank integer, at timestamptz) returns bigint
language plpgsql stable as $$
begin
    return treadle._lane_depth(queue, 'high', at)
        + case when rank >= 1 then treadle._lane_depth(queue, 'normal', at) else 0 end
        + case when rank >= 2 then treadle._lane_depth(queue, 'low', at) else 0 end;
end $$;

-- How many messages will be claimed before this one; exact to 1,000. null if it does not wait for a worker (it is not
-- due, parked, running or over). A message behind its thread comes after the ready messages of its lanes and after the
-- messages that are before it in the thread; one that waits for its tenant's share, after the ready messages and after
-- the messages of the tenant that wait before it.
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
        return treadle._ready_through(queue => m.queue, rank => m.rank, at => at)
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
    elsif m.hold = 'share' then
        return treadle._ready_through(
                queue => m.queue, rank => case m.priority when 'high' then 0 when 'normal' then 1 else 2 end, at => at)
            + treadle._ahead_in_share(m);
    end if;
    return null;
end $$;

create or replace function treadle.queue_position(
    message_id uuid, tenant text default 'default', reach jsonb default null)
returns bigint
language sql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select treadle._position(m, treadle.clock())
    from treadle.messages m
    where m.message_id = queue_position.message_id
        and m.tenant = treadle._bound_tenant(queue_position.tenant)
        and treadle._sees(
            reach => treadle._checked_reach(reach), owner => m.owner, agent => m.agent,
            thread_id => (select t.thread_id from treadle.threads t where t.id = m.thread), message_id => m.message_id)
$$;
comment on function treadle.queue_position(uuid, text, jsonb)
    is 'How many messages will be claimed before this one, from 0; null if it does not wait for a worker';

-- How many rows of a lane lie before an id, by the ids of its first 1,001 rows. Beyond these, the span of the ids of
-- messages that have not returned stands for their number; the ids of those that have are below 0.
create or replace function treadle._rows_before(ids bigint[], lane_id bigint) returns bigint
language sql immutable parallel safe as $$
    select case
        when width_bucket(lane_id - 1, ids) <= 1000 then width_bucket(lane_id - 1, ids)
        else width_bucket(0::bigint, ids) + coalesce(lane_id - ids[width_bucket(0::bigint, ids) + 1], 0)
    end
$$;

-- The same for many messages: each lane is counted once for all of them, and so is each thread. (For one message the
-- function above takes half the time.) A message is looked up by its key, and `limit` keeps it so: a join that is
-- planned while there are few messages would read the whole table later.
create or replace function treadle._positions(message_ids uuid[], at timestamptz)
returns table (n bigint, state text, queue_position bigint)
language sql stable as $$
    with asked as (
        select u.n, m.state, m.hold, m.queue, m.lane, m.lane_id, m.thread, m.ord, m.rank,
            case
                when m.state <> 'queued' then null
                when m.hold is null then case m.lane when 'high' then 0 when 'normal' then 1 when 'low' then 2 end
                when m.hold = 'thread' then greatest(m.rank, 0)
                when m.hold = 'share' then case m.priority when 'high' then 0 when 'normal' then 1 when 'low' then 2 end
            end as lane_rank,
            case when m.hold = 'share' then treadle._ahead_in_share(m) end as ahead_in_share
        from unnest(message_ids) with ordinality u (message_id, n)
        left join lateral (
            select m.*
            from treadle.messages m
            where m.message_id = u.message_id
            limit 1
        ) m on true
    ), heads as materialized (
        select q.queue, l.rank, h.ids,
            case
                when h.last_id is null then cardinality(h.ids)
                else treadle._rows_before(h.ids, h.last_id + 1)
            end as depth
        from (
            select a.queue, max(a.lane_rank) as lane_rank
            from asked a
            where a.lane_rank is not null
            group by a.queue
        ) q
        join (values ('high', 0), ('normal', 1), ('low', 2)) l (lane, rank) on l.rank <= q.lane_rank
        cross join lateral treadle._lane_head(q.queue, l.lane, at) h
    ), held as materialized (
        select t.thread, treadle._places_behind(t.thread) as places
        from (select distinct a.thread from asked a where a.hold = 'thread') t
    )
    select a.n, a.state, (
            select sum(case
                when h.rank < a.lane_rank or a.lane is null then h.depth
                else treadle._rows_before(h.ids, a.lane_id)
            end)
            from heads h
            where h.queue = a.queue
                and h.rank <= a.lane_rank
        )::bigint
        + case
            when a.hold is null then 0
            else coalesce(a.ahead_in_share, width_bucket((a.rank + 1::bigint << 55) + a.ord - 1, t.places))
        end
    from asked a
    left join held t on t.thread = a.thread and a.hold = 'thread'
$$;

-- Row n is about message_ids[n]; its state is null if the message does not exist.
create or replace function treadle.queue_positions(message_ids uuid[])
returns table (n bigint, state text, queue_position bigint)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
#variable_conflict use_column
begin
    return query
        select p.*
        from treadle._positions(message_ids => queue_positions.message_ids, at => treadle.clock()) p;
end $$;
comment on function treadle.queue_positions is 'State and queue position of each message';

-- Where messages stand, for callers that then follow the lines: with lane_id the row of a lane, with thread and place a
-- place behind the turn of a thread. Without both, only the next call of this function tells the position.
create or replace function treadle.message_places(message_ids uuid[])
returns table (
    n bigint, state text, queue_position bigint, reason text, queue text, tenant text, agent text, lane_rank integer,
    lane_id bigint, thread bigint, place bigint)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
#variable_conflict use_column
begin
    return query
        select p.n, p.state, p.queue_position,
            case
                when s.reason is not null then s.reason
                when p.queue_position = 0 and m.hold is null then treadle._head_stop(m)
            end,
            m.queue, m.tenant, m.agent,
            case
                when m.hold = 'thread' then greatest(m.rank, 0)::integer
                when m.hold is null then case m.lane when 'high' then 0 when 'normal' then 1 when 'low' then 2 end
            end,
            case when m.hold is null and m.state = 'queued' then m.lane_id end,
            case when m.hold = 'thread' then m.thread end,
            case when m.hold = 'thread' then (m.rank + 1::bigint << 55) + m.ord end
        from treadle._positions(message_ids => message_places.message_ids, at => treadle.clock()) p
        left join treadle.queue_stops(message_places.message_ids) s on s.n = p.n
        left join lateral (
            select x.*
            from treadle.messages x
            where x.message_id = message_places.message_ids[p.n]
            limit 1
        ) m on true;
end $$;
comment on function treadle.message_places is 'State, position and place of each message, and what keeps it waiting';

-- The first rows of the lanes of these queues, and what keeps all messages of a queue waiting, or those of a tenant or
-- for an agent. `stopped`: tenants that are suspended. `last_id` is the last id of a lane that has more than a thousand
-- rows.
create or replace function treadle.queue_lines(queues text[])
returns table (
    queue text, paused boolean, stopped text[], claimed jsonb, lane_rank integer, ids bigint[], last_id bigint)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := treadle.clock();
    v_stopped constant text[] := treadle._stopped_tenants();
begin
    return query
        select q.queue, q.paused, v_stopped, a.claimed, l.rank, h.ids, h.last_id
        from treadle.queues q
        cross join lateral (select treadle._agents_by_tenants(q.queue) as claimed offset 0) a
        cross join (values ('high', 0), ('normal', 1), ('low', 2)) l (lane, rank)
        cross join lateral treadle._lane_head(queue => q.queue, lane => l.lane, at => v_now) h
        where q.queue = any(queue_lines.queues)
        order by q.queue, l.rank;
end $$;
comment on function treadle.queue_lines is 'The first rows of the lanes of queues, to tell positions in them';

-- The first places behind the turns of these threads, in order (see treadle.message_places).
create or replace function treadle.thread_lines(threads bigint[], quantity integer default 200)
returns table (thread bigint, places bigint[])
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
#variable_conflict use_column
begin
    return query
        select t.thread, array(
                select (w.rank + 1::bigint << 55) + w.ord
                from treadle.messages w
                where w.thread = t.thread
                    and w.hold = 'thread'
                order by w.rank, w.ord
                limit quantity)
        from unnest(threads) t (thread);
end $$;
comment on function treadle.thread_lines(bigint[], integer)
    is 'The first places behind the turns of threads, to tell positions in them';
