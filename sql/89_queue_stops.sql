-- What keeps messages waiting although none is before them: their hold, or their queue is paused, or no living worker
-- claims from it or has their agent.

-- How many workers with a heartbeat of the last ten seconds claim from a queue.
create or replace function treadle._claiming_workers(queue text) returns bigint
language sql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select count(*)
    from treadle.workers w
    where _claiming_workers.queue = any(w.queues)
        and w.heartbeat_at > treadle.clock() - interval '10 seconds'
$$;

-- Whether one of these workers has an agent.
create or replace function treadle._has_agent(queue text, agent text) returns boolean
language sql stable as $$
    select exists (
        select
        from treadle.workers w
        where _has_agent.queue = any(w.queues)
            and _has_agent.agent = any(w.agents)
            and w.heartbeat_at > treadle.clock() - interval '10 seconds')
$$;

create or replace function treadle.queue_stops(message_ids uuid[]) returns table (n bigint, reason text)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
#variable_conflict use_column
begin
    return query
        with asked as materialized (
            select u.n, m.queue, m.agent, m.hold
            from unnest(message_ids) with ordinality u (message_id, n)
            join treadle.messages m on m.message_id = u.message_id
            where m.state = 'queued'
        ), stopped as (
            select a.queue, a.agent, case
                    when q.paused then 'paused'
                    when treadle._claiming_workers(a.queue) = 0 then 'unclaimed'
                    when not treadle._has_agent(queue => a.queue, agent => a.agent) then 'no_agent'
                end as reason
            from (select distinct x.queue, x.agent from asked x) a
            join treadle.queues q on q.queue = a.queue
        )
        select a.n, w.reason
        from asked a
        join stopped s on s.queue = a.queue and s.agent = a.agent
        cross join lateral (
            select case
                when a.hold in ('delay', 'backoff') then a.hold
                when s.reason is not null then s.reason
                when a.hold = 'share' then a.hold
            end as reason
        ) w
        where w.reason is not null;
end $$;
comment on function treadle.queue_stops
    is 'In a word, why these messages wait (delay, backoff, share, paused, unclaimed, no_agent); others are left out';

-- The agents of these workers.
create or replace function treadle._claimed_agents(queue text) returns text[]
language sql stable as $$
    select array(
        select distinct a.agent
        from treadle.workers w
        cross join unnest(w.agents) a (agent)
        where _claimed_agents.queue = any(w.queues)
            and w.heartbeat_at > treadle.clock() - interval '10 seconds')
$$;

-- Of the first messages of each lane, and of those that are due next, the agents that no living worker of their queue
-- has.
create or replace function treadle.missing_agents() returns table (queue text, agent text)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
#variable_conflict use_column
begin
    return query
        with next as (
            select l.message_id
            from treadle.queues q
            cross join (values ('high'), ('normal'), ('low')) n (lane)
            cross join lateral treadle._lane_list(
                queue => q.queue, lane => n.lane, quantity => 100, at => treadle.clock()) l
            union all
            (
                select d.message_id
                from treadle.messages d
                where d.hold in ('delay', 'backoff')
                order by d.run_at
                limit 100
            )
        ), asked as materialized (
            select distinct m.queue, m.agent
            from next x
            cross join lateral (
                select y.queue, y.agent
                from treadle.messages y
                where y.message_id = x.message_id and y.state = 'queued'
                limit 1
            ) m
        )
        select a.queue, a.agent
        from asked a
        where treadle._claiming_workers(a.queue) > 0
            and not treadle._has_agent(queue => a.queue, agent => a.agent)
        order by a.queue, a.agent;
end $$;
comment on function treadle.missing_agents
    is 'Agents for which messages wait, and that no living worker of their queue has';

create or replace function treadle.unclaimed_queues() returns table (queue text, queued bigint)
language sql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select c.queue, sum(c.queued)::bigint
    from treadle.counters c
    where c.id >= treadle._low_water_mark('counters')
    group by c.queue
    having sum(c.queued) > 0
        and treadle._claiming_workers(c.queue) = 0
    order by c.queue
$$;
comment on function treadle.unclaimed_queues
    is 'Queues with queued messages from which no living worker claims';
