-- What other workers claim, and which agents they have.

-- Whether a worker claims messages of a tenant: a remote worker those of the one that it serves.
create or replace function treadle._serves(w treadle.workers, tenant text) returns boolean
language sql immutable as $$
    select (w.serves is null or w.serves = tenant) and (w.tenants is null or tenant = any(w.tenants))
$$;

-- Whether another worker, which is not suspected to be dead, claims from this queue for this tenant and has this agent.
create or replace function treadle.another_claims(worker text, queue text, agent text, tenant text) returns boolean
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    return exists (
        select
        from treadle.workers w
        where w.worker_id <> another_claims.worker
            and w.suspected_at is null
            and another_claims.queue = any(w.queues)
            and another_claims.agent = any(w.agents)
            and treadle._serves(w, another_claims.tenant));
end $$;
comment on function treadle.another_claims
    is 'Whether another worker claims messages of a tenant from a queue and has an agent';

-- Whether another worker, which is not suspected to be dead, has this agent and claims whatever this worker claims.
create or replace function treadle.another_replaces(worker text, agent text) returns boolean
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    return exists (
        select
        from treadle.workers o
        join treadle.workers w on w.worker_id <> o.worker_id and w.suspected_at is null
        where o.worker_id = another_replaces.worker
            and another_replaces.agent = any(w.agents)
            and o.queues <@ w.queues
            and (w.serves is null or w.serves is not distinct from o.serves)
            and (w.tenants is null or o.tenants <@ w.tenants));
end $$;
comment on function treadle.another_replaces
    is 'Whether another worker has an agent and claims whatever this worker claims';
