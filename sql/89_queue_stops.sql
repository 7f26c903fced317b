-- What keeps messages waiting although none is before them: their hold, or their queue is paused, or no living worker
-- claims from it for their tenant or has their agent; and for the first of a lane, limits and locks.

-- How many workers with a heartbeat of the last ten seconds claim from a queue. One of the future is from before the
-- clock was set back.
create or replace function treadle._claiming_workers(queue text) returns bigint
language sql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select count(*)
    from treadle.workers w
    where _claiming_workers.queue = any(w.queues)
        and abs(extract(epoch from treadle.clock() - w.heartbeat_at)) < 10
$$;

-- The living workers that claim messages of a tenant from a queue.
create or replace function treadle._workers_for(queue text, tenant text) returns setof treadle.workers
language sql stable as $$
    select w.*
    from treadle.workers w
    where _workers_for.queue = any(w.queues)
        and treadle._serves(w, _workers_for.tenant)
        and abs(extract(epoch from treadle.clock() - w.heartbeat_at)) < 10
$$;

-- What stops all messages of a tenant for an agent in a queue: the queue is paused, the tenant is suspended, or no
-- living worker claims them, or none of those has the agent. Null: nothing does.
create or replace function treadle._stop_of(queue text, tenant text, agent text) returns text
language sql stable as $$
    select case
        when q.paused then 'paused'
        when _stop_of.tenant = any(treadle._stopped_tenants()) then 'tenant_suspended'
        when w.workers = 0 then 'unclaimed'
        when w.with_agent = 0 then 'no_agent'
    end
    from treadle.queues q
    cross join lateral (
        select count(*) as workers, count(*) filter (where _stop_of.agent = any(x.agents)) as with_agent
        from treadle._workers_for(queue => q.queue, tenant => _stop_of.tenant) x
    ) w
    where q.queue = _stop_of.queue
$$;

-- Whether so many messages of a tenant run as may. (No limit counts deliveries.)
create or replace function treadle._runs_all_it_may(tenant text, queue text) returns boolean
language sql stable as $$
    select coalesce((
        select _runs_all_it_may.queue <> treadle._webhook_queue()
            and treadle._running_of(t.tenant) >= (t.in_force ->> 'running')::bigint
        from treadle.tenants t
        where t.tenant = _runs_all_it_may.tenant and t.in_force ? 'running'), false)
$$;

-- Whether a queue runs as many messages as its agents allow.
create or replace function treadle._queue_is_full(queue text) returns boolean
language sql stable as $$
    select coalesce((
        select q.concurrency <= (
                select coalesce(sum(c.processing), 0)
                from treadle.counters c
                where c.queue = q.queue and c.id >= treadle._low_water_mark('counters'))
        from treadle.queues q
        where q.queue = _queue_is_full.queue and q.concurrency is not null), false)
$$;

-- The transactions that may lock a row with this xmax: the one with this id, or those that share the lock with this
-- id. (The row does not say which of the two its xmax is.)
create or replace function treadle._lockers(xmax xid) returns xid[]
language plpgsql stable as $$
begin
    return _lockers.xmax || array(
        select m.xid
        from pg_get_multixact_members(_lockers.xmax) m);
exception
    when internal_error or invalid_parameter_value then
        return array[_lockers.xmax];  -- no shared lock has this id
end $$;

-- Whether another transaction locks a message (or, if its key is given, its thread) so that a claim passes over it. Not
-- every lock does: a foreign key to a thread lets claims take its messages. So this takes the lock of a claim, and
-- gives it back at once.
create or replace function treadle._is_passed_over(message_id uuid, thread bigint) returns boolean
language plpgsql as $$
#variable_conflict use_variable
declare
    v_free boolean := false;
begin
    if thread is null then
        perform from treadle.messages m
            where m.message_id = _is_passed_over.message_id
            for update skip locked;
    else
        perform from treadle.threads t
            where t.id = thread
            for no key update skip locked;
    end if;
    v_free := found;
    raise exception using errcode = 'TR001';  -- undoes the lock
exception
    when sqlstate 'TR001' then
        return not v_free;
    when serialization_failure then
        return false;  -- another transaction has changed the row and committed
    when read_only_sql_transaction then
        return true;  -- a lock that claims do not mind is rare
end $$;

-- The transaction that has held a message or its thread for a second or longer, so that claims pass over the message.
-- pid null: it is prepared. seconds null: it holds it now, and PostgreSQL tells the owner of this function (which is
-- not a member of pg_read_all_stats) no ages of other users' transactions.
create or replace function treadle._holder_of(message_id uuid)
returns table (pid integer, program text, seconds double precision)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v record;
begin
    for v in
        select l.pid, coalesce(nullif(a.application_name, ''), a.usename::text) as program, held.thread,
            date_part('epoch', clock_timestamp() - coalesce(a.xact_start, p.prepared)) as seconds
        from (
            select m.xmax as xid, null as thread
            from treadle.messages m
            where m.message_id = _holder_of.message_id and m.xmax <> '0'
            union all
            select t.xmax, t.id
            from treadle.messages m
            join treadle.threads t on t.id = any(array[m.thread])
            where m.message_id = _holder_of.message_id and t.xmax <> '0'
        ) held
        cross join lateral unnest(treadle._lockers(held.xid)) u (xid)
        join pg_locks l on l.locktype = 'transactionid' and l.granted and l.transactionid = u.xid
        left join pg_stat_activity a on a.pid = l.pid
        left join pg_prepared_xacts p on l.pid is null and p.transaction = u.xid
        where coalesce(a.xact_start, p.prepared, '-infinity') < clock_timestamp() - interval '1 second'
        order by a.xact_start
    loop
        if treadle._is_passed_over(_holder_of.message_id, v.thread) then
            return query select v.pid, v.program, v.seconds;
            return;
        end if;
    end loop;
end $$;

-- What keeps the first message of a lane waiting, although nothing stops its queue.
create or replace function treadle._head_stop(m treadle.messages) returns text
language sql stable as $$
    select case
        when exists (select from treadle._holder_of(m.message_id) h where h.seconds >= 1) then 'locked'
        when treadle._runs_all_it_may(tenant => m.tenant, queue => m.queue) then 'tenant_running'
        when treadle._queue_is_full(m.queue) then 'queue_concurrency'
    end
$$;

create or replace function treadle.queue_stops(message_ids uuid[]) returns table (n bigint, reason text)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
#variable_conflict use_column
begin
    return query
        with asked as materialized (
            select u.n, m.queue, m.tenant, m.agent, m.hold
            from unnest(message_ids) with ordinality u (message_id, n)
            join treadle.messages m on m.message_id = u.message_id
            where m.state = 'queued'
        ), stopped as (
            select a.queue, a.tenant, a.agent,
                treadle._stop_of(queue => a.queue, tenant => a.tenant, agent => a.agent) as reason,
                treadle._runs_all_it_may(tenant => a.tenant, queue => a.queue) as runs_all
            from (select distinct x.queue, x.tenant, x.agent from asked x) a
        )
        select a.n, w.reason
        from asked a
        join stopped s on s.queue = a.queue and s.tenant = a.tenant and s.agent = a.agent
        cross join lateral (
            select case
                when a.hold in ('delay', 'backoff') then a.hold
                when s.reason is not null then s.reason
                when a.hold = 'share' and s.runs_all then 'tenant_running'
                when a.hold = 'share' then a.hold
            end as reason
        ) w
        where w.reason is not null;
end $$;
comment on function treadle.queue_stops
    is 'In a word, why these messages wait, where it is not for those before them; others are left out';

-- The agents of the living workers of a queue, for each set of tenants (null: all) whose messages some of them claim.
create or replace function treadle._agents_by_tenants(queue text) returns jsonb
language sql stable as $$
    select coalesce(jsonb_agg(jsonb_build_object('tenants', g.tenants, 'agents', g.agents)), '[]')
    from (
        select s.tenants, coalesce(jsonb_agg(distinct a.agent) filter (where a.agent is not null), '[]') as agents
        from treadle.workers w
        cross join lateral (
            select case when w.serves is not null then array[w.serves] else w.tenants end as tenants
        ) s
        left join lateral unnest(w.agents) a (agent) on true
        where _agents_by_tenants.queue = any(w.queues)
            and abs(extract(epoch from treadle.clock() - w.heartbeat_at)) < 10
        group by s.tenants
    ) g
$$;

-- Of the first messages of each lane, and of those that are due next, the agents that none of the living workers of
-- their queue and tenant has.
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
            select distinct m.queue, m.tenant, m.agent
            from next x
            cross join lateral (
                select y.queue, y.tenant, y.agent
                from treadle.messages y
                where y.message_id = x.message_id and y.state = 'queued'
                limit 1
            ) m
        )
        select distinct a.queue, a.agent
        from asked a
        where exists (select from treadle._workers_for(queue => a.queue, tenant => a.tenant))
            and not exists (
                select
                from treadle._workers_for(queue => a.queue, tenant => a.tenant) w
                where a.agent = any(w.agents))
        order by a.queue, a.agent;
end $$;
comment on function treadle.missing_agents
    is 'Agents for which messages wait, and that no living worker of their queue has';

create or replace function treadle.unclaimed_queues() returns table (queue text, queued bigint)
language sql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select c.queue, sum(c.queued)::bigint
    from (
        select x.queue, x.tenant, sum(x.queued) as queued
        from treadle.counters x
        where x.id >= treadle._low_water_mark('counters')
        group by x.queue, x.tenant
    ) c
    where c.queued > 0
        and not exists (select from treadle._workers_for(queue => c.queue, tenant => c.tenant))
    group by c.queue
    order by c.queue
$$;
comment on function treadle.unclaimed_queues
    is 'Queues with queued messages that no living worker claims: it has another queue, or claims of other tenants';
