-- What remote workers send, publish, ask and read under their leases.
--
-- These functions check that the lease is held by the worker, and then call those of every worker: append_and_send and
-- conclude. The API makes the ids of what a message sends, the same in every attempt.

-- What a remote worker's message may send, and what it has sent before: one row; none where the worker does not hold
-- the lease. `delivery`: how its subscription delivers it, if one does. `sent`, `cancelled` and `retries` are those of
-- treadle.earlier_results.
create or replace function treadle.remote_sender(tenant text, worker text, message_id uuid, lease uuid)
returns table (thread bigint, ord bigint, depth integer, delivery text, traceparent text, sent text[],
    cancelled text[], retries bigint)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    return query
        select m.thread, m.ord, m.depth::integer, m.metadata #>> '{record,delivery}', m.traceparent, r.sent,
            r.cancelled, r.retries
        from treadle.leases l
        join treadle.messages m on m.message_id = any(array[l.message_id])
        cross join lateral (
            select coalesce(array_agg(s.id) filter (where s.id is not null), '{}') as sent,
                coalesce(array_agg(s.id) filter (where e.type = 'cancelled'), '{}') as cancelled,
                count(distinct e.n) filter (where e.type = 'retried') as retries
            from treadle.earlier_results(l.message_id) with ordinality e (type, name, sent, data, n)
            left join lateral jsonb_array_elements_text(e.sent) s (id) on true
            where m.attempt > 1
        ) r
        where l.message_id = any(array[remote_sender.message_id])
            and l.lease = remote_sender.lease
            and l.worker_id = remote_sender.worker
            and l.tenant = remote_sender.tenant;
end $$;
comment on function treadle.remote_sender is 'What a remote worker''s message may send, and what it has sent before';

-- What earlier attempts at these messages left in their logs, for a remote worker: see treadle.earlier_results.
create or replace function treadle.remote_earlier(ids uuid[])
returns table (message_id uuid, type text, name text, data text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    return query
        select u.id, e.type, e.name, e.data
        from unnest(ids) u (id)
        cross join lateral treadle.earlier_results(u.id) e
        where e.type in ('step', 'input', 'parked')
            and e.name is not null
            and e.data is not null;
end $$;
comment on function treadle.remote_earlier
    is 'The steps, questions and answers of messages, for a remote worker that tries them again';

-- The lease, where a remote worker of the tenant holds it.
create or replace function treadle._remote_lease(tenant text, worker text, message_id uuid, lease uuid)
returns setof treadle.leases language sql stable as $$
    select l.*
    from treadle.leases l
    where l.message_id = any(array[_remote_lease.message_id])
        and l.lease = _remote_lease.lease
        and l.worker_id = _remote_lease.worker
        and l.tenant = _remote_lease.tenant
$$;

-- For how many seconds the attempts of a message that a remote worker holds have found a service of its agent
-- overloaded. Null: not the last one, or the worker does not hold the lease.
create or replace function treadle.remote_overloaded(tenant text, worker text, message_id uuid, lease uuid)
returns double precision
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    return (
        select treadle._overloaded_seconds(m)
        from treadle._remote_lease(tenant => tenant, worker => worker, message_id => message_id, lease => lease) l
        join treadle.messages m on m.message_id = any(array[l.message_id]));
end $$;
comment on function treadle.remote_overloaded
    is 'For how long the attempts of a remote worker''s message have found a service overloaded';

-- Whether a remote worker of the tenant holds the lease.
create or replace function treadle._holds_remotely(tenant text, worker text, message_id uuid, lease uuid)
returns boolean language sql stable as $$
    select exists (
        select
        from treadle._remote_lease(tenant => tenant, worker => worker, message_id => message_id, lease => lease))
$$;

-- treadle.append_and_send for a remote worker. `thread`: the key of the message's thread; `former_seq`: where the log
-- ended before.
create or replace function treadle.remote_append_step(
    tenant text, worker text, message_id uuid, lease uuid, first_seq integer, event_types text[], event_datas text[],
    messages text, max_queue_size integer, patient boolean,
    out status text, out cancel_requested boolean, out thread bigint, out former_seq integer)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    former_seq := (
        select l.last_seq
        from treadle._remote_lease(tenant => tenant, worker => worker, message_id => message_id, lease => lease) l);
    if former_seq is null then
        status := 'lost';
        return;
    end if;
    select a.status, a.cancel_requested, m.thread
    into status, cancel_requested, thread
    from treadle.append_and_send(
        id => message_id, lease => lease, first_seq => first_seq, event_types => event_types,
        event_datas => event_datas, messages => messages, max_queue_size => max_queue_size, patient => patient) a
    join treadle.messages m on m.message_id = any(array[a.message_id]);
end $$;
comment on function treadle.remote_append_step
    is 'Append a step to a message that a remote worker holds, and submit what it sends, in one transaction';

-- The same without the place in the log, for API processes of the release before.
create or replace function treadle.remote_append_and_send(
    tenant text, worker text, message_id uuid, lease uuid, first_seq integer, event_types text[], event_datas text[],
    messages text, max_queue_size integer, patient boolean,
    out status text, out cancel_requested boolean, out thread bigint)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    select a.status, a.cancel_requested, a.thread
    into status, cancel_requested, thread
    from treadle.remote_append_step(
        tenant => tenant, worker => worker, message_id => message_id, lease => lease, first_seq => first_seq,
        event_types => event_types, event_datas => event_datas, messages => messages,
        max_queue_size => max_queue_size, patient => patient) a;
end $$;
comment on function treadle.remote_append_and_send is 'As remote_append_step; older API processes call it';

-- The messages that a remote worker's message waits for: see treadle.children. No row where the worker does not hold
-- the lease.
create or replace function treadle.remote_children(
    tenant text, worker text, message_id uuid, lease uuid, message_ids uuid[])
returns table (n bigint, child uuid, state text, result text, error text, parent uuid, thread_id text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    if treadle._holds_remotely(
        tenant => remote_children.tenant, worker => remote_children.worker, message_id => remote_children.message_id,
        lease => remote_children.lease) then
        return query
            select c.*
            from treadle.children(remote_children.message_id, message_ids) c;
    end if;
end $$;
comment on function treadle.remote_children
    is 'State and outcome of messages that a remote worker''s message waits for';

-- treadle.conclude for a remote worker; the answer is that of treadle.remote_end_attempts.
create or replace function treadle.remote_end_attempt(
    tenant text, worker text, message_id uuid, lease uuid, attempt integer, outcome text, result text, usage text,
    first_seq integer, event_types text[], event_datas text[], max_losses integer, messages text, memory text,
    children uuid[], max_queue_size integer, patient boolean,
    out status text, out thread bigint, out queue text, out subscription text, out repeated boolean, out agent text,
    out created_at timestamptz, out former_seq integer, out seconds double precision, out chunked boolean,
    out delay_seconds double precision)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
declare
    m treadle.messages;
    l treadle.leases;
begin
    select *
    into l
    from treadle._remote_lease(tenant => tenant, worker => worker, message_id => message_id, lease => lease);
    status := 'lost';
    if l.lease is not null then
        status := treadle.conclude(
            id => message_id, lease => lease, outcome => outcome, result => result, error => null, traceback => null,
            delay => null, usage => usage, first_seq => first_seq, event_types => event_types,
            event_datas => event_datas, max_losses => max_losses, messages => messages, memory => memory,
            children => children, max_queue_size => max_queue_size, patient => patient);
    end if;
    select *
    into m
    from treadle.messages x
    where x.message_id = any(array[remote_end_attempt.message_id])
        and x.tenant = remote_end_attempt.tenant;
    repeated := coalesce(status = 'lost' and m.attempt = remote_end_attempt.attempt and m.worker_id = worker
        and m.state in ('completed', 'failed', 'cancelled'), false);
    status := case when repeated then m.state else status end;
    select m.thread, m.queue, m.agent, m.created_at, l.last_seq, date_part('epoch', treadle.clock() - l.claimed_at),
        l.first_chunk_at is not null, date_part('epoch', m.run_at - treadle.clock()), (
            select s.tenant || '/' || s.subscription
            from treadle.subscriptions s
            where s.id = m.subscription)
    into thread, queue, agent, created_at, former_seq, seconds, chunked, delay_seconds, subscription;
end $$;
comment on function treadle.remote_end_attempt
    is 'End an attempt of a remote worker, and with it submit what it sends, save the memory of its thread, or park it';

-- The same without what telemetry measures, for API processes of the release before.
create or replace function treadle.remote_conclude_attempt(
    tenant text, worker text, message_id uuid, lease uuid, attempt integer, outcome text, result text, usage text,
    first_seq integer, event_types text[], event_datas text[], max_losses integer, messages text, memory text,
    children uuid[], max_queue_size integer, patient boolean,
    out status text, out thread bigint, out queue text, out subscription text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    select e.status, e.thread, e.queue, e.subscription
    into status, thread, queue, subscription
    from treadle.remote_end_attempt(
        tenant => tenant, worker => worker, message_id => message_id, lease => lease, attempt => attempt,
        outcome => outcome, result => result, usage => usage, first_seq => first_seq, event_types => event_types,
        event_datas => event_datas, max_losses => max_losses, messages => messages, memory => memory,
        children => children, max_queue_size => max_queue_size, patient => patient) e;
end $$;
comment on function treadle.remote_conclude_attempt is 'As remote_end_attempt; older API processes call it';
