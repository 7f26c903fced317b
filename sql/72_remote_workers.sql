-- Remote workers: programs that claim, write and end messages over HTTP, each for one tenant.
--
-- These functions check that the worker is one of the tenant, and then call those of every worker: claim, append,
-- finish, heartbeat, sign_off. The fence is the same. A remote worker holds no advisory lock, so it is dead once it was
-- silent for WORKER_TIMEOUT (treadle.reap); its row is deleted then, and it must register again.

-- The row of a remote worker of a tenant. Raises TR404 where the tenant has no such worker.
create or replace function treadle._remote_worker(tenant text, worker text) returns treadle.workers
language plpgsql stable as $$
declare
    v treadle.workers;
begin
    select *
        into v
        from treadle.workers w
        where w.worker_id = _remote_worker.worker and w.serves = _remote_worker.tenant;
    if not found then
        raise exception using
            errcode = 'TR404',
            message = 'There is no such worker; or it sent no heartbeat for WORKER_TIMEOUT: register again.';
    end if;
    return v;
end $$;

-- What a remote worker may claim: from these queues, for these agents.
create or replace function treadle.remote_worker(tenant text, worker text, out queues text[], out agents text[])
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    v constant treadle.workers := treadle._remote_worker(tenant => tenant, worker => worker);
begin
    queues := v.queues;
    agents := v.agents;
end $$;
comment on function treadle.remote_worker is 'The queues and agents of a remote worker; raises TR404';

-- Take up to `quantity` messages of the worker's tenant for its agents. The columns and room_bytes are those of
-- treadle.claim. The row of the worker stays locked until the commit: a worker that signs off meanwhile gives these
-- messages back too, and the claim of one that signs off, or has signed off, raises TR404. So no lease is left behind
-- without its worker.
create or replace function treadle.remote_claim(
    of_tenant text, worker text, quantity integer, lease_seconds double precision, first_lane text default 'high',
    room_bytes bigint default null)
returns table (message_id uuid, lease uuid, thread bigint, thread_id text, ord bigint, queue text, agent text,
    priority text, body text, metadata text, attempt integer, max_attempts integer, failures integer, losses integer,
    timeout_seconds double precision, last_seq integer, created_at timestamptz, aside boolean, parent uuid, memory text,
    overloaded_seconds double precision, depth integer, tenant text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    v_worker constant treadle.workers := treadle._remote_worker(tenant => of_tenant, worker => worker);
    v_queues constant text[] := array(  -- in another order each time, so that no queue starves
        select u
        from unnest(v_worker.queues) u
        order by random());
begin
    return query
        select c.*
        from treadle.claim(
            worker => v_worker.worker_id, queues => v_queues, quantity => quantity, lease_seconds => lease_seconds,
            first_lane => first_lane, tenants => array[v_worker.serves], agents => v_worker.agents,
            room_bytes => room_bytes) c;
    if found then
        perform from treadle.workers w  -- without a wait: a sign-off may wait for what was claimed
            where w.worker_id = v_worker.worker_id
            for key share skip locked;
        if not found then
            raise exception using
                errcode = 'TR404',
                message = 'This worker signs off, or was taken for dead: register again.';
        end if;
    end if;
end $$;
comment on function treadle.remote_claim(text, text, integer, double precision, text, bigint)
    is 'Take messages of its tenant, for its agents, for a remote worker';

-- The W3C trace context of the submit of a message that the same statement has claimed. It is volatile so that it sees
-- what the claim saw: a message may have been submitted after the statement began.
create or replace function treadle.remote_trace_parent(claimed uuid) returns text
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    return (
        select m.traceparent
        from treadle.messages m
        where m.message_id = claimed);
end $$;
comment on function treadle.remote_trace_parent is 'The W3C trace context of a message that was just claimed';

-- The leases that remote workers name in a call and hold, in the order of the call. Null: one that is not the worker's,
-- or whose message stands in the call before (`again`). Such an item locks no row.
create or replace function treadle._remote_leases(
    tenants text[], workers text[], ids uuid[], leases uuid[], out held treadle.leases[], out again boolean[])
language plpgsql stable as $$
begin
    select array_agg(l order by n.item),
            array_agg(n.place > 1 order by n.item)
        into held, again
        from (
            select u.*, row_number() over (partition by u.message_id order by u.item) as place
            from unnest(tenants, workers, ids, leases) with ordinality u (tenant, worker, message_id, lease, item)
        ) n
        left join treadle.leases l on l.message_id = any(array[n.message_id]) and l.lease = n.lease
            and l.tenant = n.tenant and l.worker_id = n.worker and n.place = 1;
end $$;

-- Append events to messages that remote workers hold. The arguments and statuses are those of treadle.append, with the
-- tenant and the worker of each item. `thread`: the key of the message's thread. The other columns tell what telemetry
-- measures: `former_seq`: where the log ended before; `seconds`: since the claim; and, where the attempt had written no
-- chunk yet, whose message it is.
create or replace function treadle.remote_append_events(
    tenants text[], workers text[], ids uuid[], leases uuid[], first_seqs integer[], event_items integer[],
    event_types text[], event_datas text[], patient boolean)
returns table (status text, cancel_requested boolean, thread bigint, former_seq integer, seconds double precision,
    queue text, agent text, attempt integer, created_at timestamptz)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_mergejoin = off set enable_hashjoin = off
set enable_memoize = off as $$
declare
    v record;
begin
    v := treadle._remote_leases(tenants => tenants, workers => workers, ids => ids, leases => leases);
    return query
        select case when v.again[a.item] then 'busy' else a.status end, a.cancel_requested, (v.held[a.item]).thread,
            (v.held[a.item]).last_seq, date_part('epoch', treadle.clock() - (v.held[a.item]).claimed_at), m.queue,
            m.agent, m.attempt, m.created_at
        from treadle.append(
            ids => array(select h.message_id from unnest(v.held) h),
            leases => array(select h.lease from unnest(v.held) h),
            first_seqs => first_seqs, event_items => event_items, event_types => event_types,
            event_datas => event_datas, patient => patient)
            with ordinality a (message_id, status, cancel_requested, item)
        left join treadle.messages m on (v.held[a.item]).first_chunk_at is null
            and m.message_id = any(array[(v.held[a.item]).message_id])
        order by a.item;
end $$;
comment on function treadle.remote_append_events is 'Append events to messages that remote workers hold; repeatable';

-- The same without what telemetry measures, for API processes of the release before.
create or replace function treadle.remote_append(
    tenants text[], workers text[], ids uuid[], leases uuid[], first_seqs integer[], event_items integer[],
    event_types text[], event_datas text[], patient boolean)
returns table (status text, cancel_requested boolean, thread bigint)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    return query
        select a.status, a.cancel_requested, a.thread
        from treadle.remote_append_events(
            tenants => tenants, workers => workers, ids => ids, leases => leases, first_seqs => first_seqs,
            event_items => event_items, event_types => event_types, event_datas => event_datas,
            patient => patient) a;
end $$;
comment on function treadle.remote_append is 'As remote_append_events; older API processes call it';

-- Seconds until the next attempt of each message whose worker names none: exponential with full jitter.
create or replace function treadle._backoffs(
    held treadle.leases[], outcomes text[], delays double precision[], base double precision, longest double precision)
returns double precision[] language plpgsql as $$
begin
    return array(
        select case u.outcome
                when 'error' then coalesce(u.delay, random() * least(longest, base * 2.0 ^ least(m.failures, 30)))
                when 'overloaded' then u.delay
            end
        from unnest(outcomes, delays) with ordinality u (outcome, delay, item)
        left join treadle.messages m on m.message_id = any(array[(held[u.item]).message_id])
        order by u.item);
end $$;

-- End attempts of remote workers. The arguments and statuses are those of treadle.finish, with the tenant, the worker
-- and the number of the attempt of each item. An end that went through before, and whose answer was lost, is answered
-- with the final state of the message, and `repeated`. `thread`, `queue` and `subscription` (tenant/subscription) are
-- for the hints; the other columns tell what telemetry measures, as in treadle.remote_append_events. `chunked`: the
-- attempt had written a chunk before; `delay_seconds`: until the next attempt.
create or replace function treadle.remote_end_attempts(
    tenants text[], workers text[], ids uuid[], leases uuid[], attempts integer[], outcomes text[], results text[],
    errors text[], delays double precision[], usages text[], first_seqs integer[], event_items integer[],
    event_types text[], event_datas text[], patient boolean, max_losses integer, retry_base double precision,
    retry_max double precision)
returns table (status text, thread bigint, queue text, subscription text, repeated boolean, agent text,
    created_at timestamptz, former_seq integer, seconds double precision, chunked boolean,
    delay_seconds double precision)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_mergejoin = off set enable_hashjoin = off
set enable_memoize = off as $$
#variable_conflict use_column
declare
    v record;
    v_statuses text[];
begin
    v := treadle._remote_leases(tenants => tenants, workers => workers, ids => ids, leases => leases);
    v_statuses := array(
        select f.status
        from treadle.finish(
            ids => array(select h.message_id from unnest(v.held) h),
            leases => array(select h.lease from unnest(v.held) h),
            outcomes => outcomes, results => results, errors => errors, tracebacks => null,
            delays => treadle._backoffs(
                held => v.held, outcomes => outcomes, delays => delays, base => retry_base, longest => retry_max),
            usages => usages, first_seqs => first_seqs, event_items => event_items, event_types => event_types,
            event_datas => event_datas, patient => patient, max_losses => max_losses)
            with ordinality f (message_id, status, item)
        order by f.item);
    return query
        select case
                when v.again[n.item] then 'busy'
                when r.repeated then m.state
                else v_statuses[n.item]
            end,
            m.thread, m.queue, s.tenant || '/' || s.subscription, r.repeated, m.agent, m.created_at,
            (v.held[n.item]).last_seq, date_part('epoch', treadle.clock() - (v.held[n.item]).claimed_at),
            (v.held[n.item]).first_chunk_at is not null, date_part('epoch', m.run_at - treadle.clock())
        from unnest(tenants, workers, ids, attempts) with ordinality n (tenant, worker, message_id, attempt, item)
        left join treadle.messages m on m.message_id = any(array[n.message_id]) and m.tenant = n.tenant
        left join treadle.subscriptions s on s.id = any(array[m.subscription])
        cross join lateral (
            select coalesce(v_statuses[n.item] = 'lost' and not v.again[n.item] and m.attempt = n.attempt
                and m.worker_id = n.worker and m.state in ('completed', 'failed', 'cancelled'), false) as repeated
        ) r
        order by n.item;
end $$;
comment on function treadle.remote_end_attempts
    is 'End attempts of remote workers; repeatable where the message is over';

-- The same without what telemetry measures, for API processes of the release before.
create or replace function treadle.remote_finish(
    tenants text[], workers text[], ids uuid[], leases uuid[], attempts integer[], outcomes text[], results text[],
    errors text[], delays double precision[], usages text[], first_seqs integer[], event_items integer[],
    event_types text[], event_datas text[], patient boolean, max_losses integer, retry_base double precision,
    retry_max double precision)
returns table (status text, thread bigint, queue text, subscription text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    return query
        select e.status, e.thread, e.queue, e.subscription
        from treadle.remote_end_attempts(
            tenants => tenants, workers => workers, ids => ids, leases => leases, attempts => attempts,
            outcomes => outcomes, results => results, errors => errors, delays => delays, usages => usages,
            first_seqs => first_seqs, event_items => event_items, event_types => event_types,
            event_datas => event_datas, patient => patient, max_losses => max_losses, retry_base => retry_base,
            retry_max => retry_max) e;
end $$;
comment on function treadle.remote_finish is 'As remote_end_attempts; older API processes call it';

-- A remote worker lives and holds these leases: see treadle.heartbeat. Its row is locked first, so that it is not taken
-- for dead meanwhile.
create or replace function treadle.remote_heartbeat(
    tenant text, worker text, ids uuid[], leases uuid[], interval_seconds double precision,
    lease_seconds double precision, grace_seconds double precision)
returns table (message_id uuid, lease uuid, verdict text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    v_worker treadle.workers;
begin
    perform from treadle.workers w
        where w.worker_id = worker and w.serves = tenant
        for no key update;
    v_worker := treadle._remote_worker(tenant => tenant, worker => worker);
    return query
        select h.message_id, h.lease, h.verdict
        from treadle.heartbeat(
            worker => v_worker.worker_id, host => v_worker.host, pid => v_worker.pid, queues => v_worker.queues,
            concurrency => v_worker.concurrency, started_at => v_worker.started_at, server_started => null,
            ids => ids, leases => leases, interval_seconds => interval_seconds, lease_seconds => lease_seconds,
            grace_seconds => grace_seconds, agents => v_worker.agents) h;
end $$;
comment on function treadle.remote_heartbeat
    is 'A remote worker lives and holds these leases; the answer names those cancelled or lost';

-- A remote worker ends: what it still has is released, without a loss. A repeat finds no worker, and raises nothing.
-- A claim of the worker that runs ends first, so that what it takes is released too.
create or replace function treadle.remote_sign_off(tenant text, worker text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    perform from treadle.workers w
        where w.worker_id = worker and w.serves = tenant
        for update;
    if found then
        perform treadle.sign_off(worker);
    end if;
end $$;
comment on function treadle.remote_sign_off is 'A remote worker signs off: what it still has is released';
