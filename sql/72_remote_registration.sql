-- The registration of remote workers (72_remote_workers.sql).

-- Refuse agents that are not registered, where the worker may not register them.
create or replace function treadle._require_agents(agents jsonb) returns void
language plpgsql stable as $$
declare
    v_missing constant text := (
        select min(d.agent)
        from treadle._declared_agents(agents) d
        where d.agent not in (select a.agent from treadle.agents a));
begin
    if v_missing is not null then
        raise exception using
            errcode = 'TR403',
            message = format(
                'There is no agent %s, and only a worker of the tenant default may register new ones.',
                quote_literal(v_missing));
    end if;
end $$;

-- Whether a tenant has this remote worker already: the answer to its registration was lost. If not, refuse one more
-- than 1,000 (TR409), of which those that a janitor has not yet found dead count too. Registrations at the same moment
-- do not count each other: there are as many as the APIs have connections for them, and none waits for another.
create or replace function treadle._has_remote_worker(tenant text, worker text) returns boolean
language plpgsql stable as $$
begin
    if exists (
        select
        from treadle.workers w
        where w.worker_id = _has_remote_worker.worker and w.serves = _has_remote_worker.tenant)
    then
        return true;
    end if;
    perform treadle._refuse_more(
        has => (select count(*) from treadle.workers w where w.serves = _has_remote_worker.tenant), most => 1000,
        what => 'remote workers', advice => 'let one sign off, or raise the concurrency of those that there are');
    return false;
end $$;

-- agents: as in treadle.register_agents, with which they are registered if the worker `may_register` them; else each
-- must be registered already, and keeps its queue. Returns the queues from which the worker claims. Raises TR409 for
-- more workers than a tenant may have.
create or replace function treadle.remote_register(
    tenant text, worker text, host text, pid integer, agents jsonb, concurrency integer, may_register boolean)
returns text[] language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    v_now constant timestamptz := treadle.clock();
    v_agents constant text[] := array(
        select distinct d.agent
        from treadle._declared_agents(agents) d
        order by d.agent);
    v_queues text[];
    v_is_repeat boolean;
begin
    perform treadle._limits_of_active(tenant);
    v_is_repeat := treadle._has_remote_worker(tenant => tenant, worker => worker);
    if may_register then
        perform treadle.register_agents(agents);
    else
        perform treadle._require_agents(agents);
    end if;
    v_queues := array(
        select distinct a.queue
        from treadle.agents a
        where a.agent = any(v_agents)
        order by a.queue);
    if not v_is_repeat then
        insert into treadle.workers (
                worker_id, host, pid, queues, agents, concurrency, in_flight, started_at, heartbeat_at, reported_at,
                beating_since, serves)
            values (worker, host, pid, v_queues, v_agents, concurrency, 0, v_now, v_now, v_now, v_now, tenant);
    end if;
    return v_queues;
end $$;
comment on function treadle.remote_register is 'Register a remote worker of a tenant, with its agents';
