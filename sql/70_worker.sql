-- The life of a worker: it registers its agents, sends heartbeats, and signs off.

-- The rows of register_agents' argument.
create or replace function treadle._declared_agents(agents jsonb)
returns table (agent text, queue text, timeout_seconds double precision, max_attempts integer, input jsonb,
    description text, settings jsonb)
language sql stable as $$
    select d.agent, d.queue, d.timeout_seconds, d.max_attempts, d.input, coalesce(d.description, ''),
        jsonb_strip_nulls(coalesce(d.settings, '{}'))
    from jsonb_to_recordset(agents) d (agent text, queue text, timeout_seconds double precision, max_attempts integer,
        input jsonb, description text, settings jsonb)
$$;

-- Mark the agent that answers messages which name none: the declared one, registered or not; without a declaration
-- `claude` if a worker has registered it, else `openai`, else `echo`. So the order in which workers start decides
-- nothing.
create or replace function treadle._mark_default_agent() returns void
language plpgsql as $$
declare
    v_default constant text := coalesce(
        (select m.value from treadle.meta m where m.name = 'default_agent'),
        (select min(a.agent) from treadle.agents a where a.agent in ('claude', 'openai')),
        'echo');
begin
    update treadle.agents a
        set is_default = false
        where a.is_default and a.agent <> v_default;
    update treadle.agents a
        set is_default = true
        where not a.is_default and a.agent = v_default;
end $$;

-- A queue's concurrency is the smallest that its registered agents declare, whichever worker registered them.
create or replace function treadle._limit_queues() returns void
language plpgsql as $$
begin
    update treadle.queues q
        set concurrency = c.concurrency
        from (
            select u.queue, min((a.settings ->> 'concurrency')::integer) as concurrency
            from treadle.queues u
            left join treadle.agents a on a.queue = u.queue
            group by u.queue
        ) c
        where q.queue = c.queue and q.concurrency is distinct from c.concurrency;
end $$;

-- Refuse agents whose queue or name is that of deliveries, and new ones with a name that no path can hold. (TR422)
-- The rule is AGENT_NAME_RULE of service/limits.py; an agent that was registered before it goes on.
create or replace function treadle._require_agent_names(agents jsonb) returns void
language plpgsql stable as $$
declare
    v_problem constant text := (
        select coalesce(
                min(format('The queue %s is for deliveries only.', d.queue))
                    filter (where d.queue = treadle._webhook_queue()),
                min('The name webhook is that of the agent that makes deliveries: choose another.')
                    filter (where d.agent = 'webhook'),
                min(format('An agent''s name must be a text of 1 to 100 characters, none of them a control character '
                        'or a slash, and neither "." nor ".."; %L is not.',
                        regexp_replace(left(d.agent, 100), '[[:cntrl:]]', '?', 'g')))
                    filter (where (length(d.agent) not between 1 and 100 or d.agent ~ '[[:cntrl:]/]'
                        or d.agent in ('.', '..')) and d.agent not in (select a.agent from treadle.agents a)))
        from treadle._declared_agents(agents) d);
begin
    if v_problem is not null then
        raise exception using errcode = 'TR422', message = v_problem;
    end if;
end $$;

-- agents: [{"agent", "queue", "timeout_seconds", "max_attempts", "input", "description", "settings"}]
-- default_agent: declares the agent that answers messages which name none; null leaves the declaration as it is.
-- Returns the agent that was declared before, if it was another one. Raises TR422 as _require_agent_names does.
create or replace function treadle.register_agents(agents jsonb, default_agent text default null) returns text
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
#variable_conflict use_column
declare
    v_declared text;
begin
    perform treadle._require_agent_names(agents);
    perform treadle._wait_for_mutex('register_agents');
    select m.value
        into v_declared
        from treadle.meta m
        where m.name = 'default_agent';
    perform treadle.create_queue(q.queue) from (select distinct d.queue from treadle._declared_agents(agents) d) q;
    insert into treadle.agents as a (
            agent, queue, timeout_seconds, max_attempts, input, description, registered_at, settings)
        select d.agent, d.queue, d.timeout_seconds, d.max_attempts, d.input, d.description, treadle.clock(), d.settings
        from treadle._declared_agents(agents) d
        on conflict (agent) do update
            set queue = excluded.queue,
                timeout_seconds = excluded.timeout_seconds,
                max_attempts = excluded.max_attempts,
                input = excluded.input,
                description = excluded.description,
                registered_at = excluded.registered_at,
                settings = excluded.settings;
    if default_agent is not null then
        insert into treadle.meta as m (name, value)
            values ('default_agent', default_agent)
            on conflict (name) do update set value = excluded.value;
    end if;
    perform treadle._mark_default_agent();
    perform treadle._limit_queues();
    return case when v_declared <> default_agent then v_declared end;
end $$;
comment on function treadle.register_agents(jsonb, text)
    is 'Upsert agents, create their queues, and declare the default agent';

-- Settle messages that their worker does not finish itself: lost with the worker, or released because no process runs
-- them. Between the choice and the lock another transaction may have finished a lease, or extended it: only leases
-- that are unchanged are taken.
create or replace function treadle._settle_leases(
    chosen treadle.leases[],
    outcome text,
    reason text,
    max_losses integer,
    at timestamptz)
returns setof uuid language plpgsql as $$
declare
    v_threads constant bigint[] := array(
        select t.id
        from treadle.threads t
        where t.id in (select c.thread from unnest(chosen) c)
        order by t.id
        for no key update skip locked);
    v_ids constant uuid[] := array(
        select l.message_id
        from unnest(chosen) c
        join treadle.leases l on l.message_id = any(array[c.message_id]) and l.lease = c.lease
            and l.expires_at = c.expires_at
        where l.thread is null or l.thread = any(v_threads)
        order by l.message_id
        for update of l skip locked);
begin
    perform treadle._settle(
        endings => treadle._endings(ids => v_ids, outcome => outcome, error => reason), max_losses => max_losses,
        at => at);
    return query select u
        from unnest(v_ids) u;
end $$;

-- Release the leases of this worker that it does not name: their claim's answer was lost. A report may arrive long
-- after it was written, and then it leaves out later claims. But the worker wrote it after its former one, of
-- `reported_at`, was answered: so it would name every earlier claim.
create or replace function treadle._release_orphans(worker text, ids uuid[], leases uuid[],
    grace_seconds double precision, reported_at timestamptz, at timestamptz)
returns void language plpgsql as $$
declare
    v_orphans treadle.leases[];
begin
    select array_agg(o.row_of)
        into v_orphans
        from (  -- in this order, so that the planner reads no other index, where all leases are that ever were
            select l as row_of, l.message_id, l.lease
            from treadle.leases l
            where l.id >= treadle._low_water_mark('leases')
                and l.worker_id = worker
                -- Also a claim of the future, from before the clock was set back.
                and (l.claimed_at < reported_at or l.claimed_at > at)
                and abs(extract(epoch from at - l.claimed_at)) > grace_seconds
            order by l.id
            offset 0
        ) o
        where not exists (
            select
            from unnest(ids, leases) g (message_id, lease)
            where g.message_id = o.message_id and g.lease = o.lease);
    if v_orphans is not null then
        perform treadle._settle_leases(
            chosen => v_orphans, outcome => 'released', reason => 'The answer to the claim was lost.', max_losses => 1,
            at => at);
    end if;
end $$;

-- Extend the visibility timeout of these leases and of their lane rows, once half of it is over.
create or replace function treadle._extend_leases(ids uuid[], leases uuid[], lease_seconds double precision,
    at timestamptz)
returns void language plpgsql as $$
declare
    v_until constant timestamptz := at + lease_seconds * interval '1 second';
    v_expiring uuid[];
    v_group record;
begin
    select array_agg(l.message_id)
        into v_expiring
        from (
            select l.message_id
            from unnest(ids, leases) g (message_id, lease)
            join treadle.leases l on l.message_id = any(array[g.message_id]) and l.lease = g.lease
            where l.expires_at < at + lease_seconds / 2 * interval '1 second'
            order by l.message_id
            for no key update of l skip locked
        ) l;
    if v_expiring is null then
        return;
    end if;
    update treadle.leases l
        set expires_at = v_until
        where l.message_id = any(v_expiring);
    for v_group in
        select m.queue, m.lane, array_agg(m.lane_id) as lane_ids
        from treadle.messages m
        where m.message_id = any(v_expiring) and m.state = 'processing'
        group by m.queue, m.lane
    loop
        perform treadle._lane_extend(queue => v_group.queue, lane => v_group.lane, ids => v_group.lane_ids,
            until => v_until);
    end loop;
end $$;

-- A heartbeat: the worker lives, and these are the leases it holds. Upserts its row, extends its leases, names those
-- that are cancelled or lost, and releases the leases that are the worker's in the table and that it does not name:
-- claims whose answer was lost. grace_seconds: leases that were claimed within this time are not released yet (the
-- answer may still be on its way to the worker); null: none is. `agents`: those that it has. `tenants`: whose messages
-- it claims; null: those of all.
create or replace function treadle.heartbeat(
    worker text, host text, pid integer, queues text[], concurrency integer, started_at timestamptz,
    server_started timestamptz,
    ids uuid[], leases uuid[], interval_seconds double precision, lease_seconds double precision,
    grace_seconds double precision, agents text[] default '{}', memory_bytes bigint default null,
    tenants text[] default null)
returns table (message_id uuid, lease uuid, verdict text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_mergejoin = off set enable_hashjoin = off as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := treadle.clock();
    v_gap_before constant timestamptz := v_now - interval_seconds * 2 * interval '1 second';
    v_step_after constant timestamptz := v_now + interval '1 second';  -- later: the clock was set back
    v_reported_at constant timestamptz := (
        select w.reported_at
        from treadle.workers w
        where w.worker_id = worker);
    v_resumed boolean;
begin
    insert into treadle.workers as w (
            worker_id, host, pid, queues, agents, concurrency, in_flight, started_at, heartbeat_at, reported_at,
            beating_since, server_started, memory_bytes, tenants)
        values (worker, host, pid, queues, heartbeat.agents, concurrency, cardinality(ids), heartbeat.started_at,
            v_now, v_now, v_now, heartbeat.server_started, heartbeat.memory_bytes, heartbeat.tenants)
        on conflict (worker_id) do update
            set queues = excluded.queues,
                agents = excluded.agents,
                concurrency = excluded.concurrency,
                in_flight = excluded.in_flight,
                heartbeat_at = v_now,
                reported_at = v_now,
                server_started = excluded.server_started,
                memory_bytes = excluded.memory_bytes,
                tenants = excluded.tenants,
                suspected_at = null,
                beating_since = case
                    when w.heartbeat_at between v_gap_before and v_step_after then w.beating_since
                    else v_now
                end
        returning w.beating_since = v_now and w.xmax <> 0  -- not of a new row
        into v_resumed;
    -- After a gap, or a step of the clock, the age of a lease says nothing: an answer may still be on its way.
    if not v_resumed then
        perform treadle._release_orphans(
            worker => worker, ids => ids, leases => leases, grace_seconds => grace_seconds,
            reported_at => v_reported_at, at => v_now);
    end if;
    perform treadle._extend_leases(ids => ids, leases => leases, lease_seconds => lease_seconds, at => v_now);
    return query
        select g.message_id, g.lease, case when l.message_id is null then 'lost' else 'cancelled' end
        from unnest(ids, leases) g (message_id, lease)
        left join treadle.leases l on l.message_id = any(array[g.message_id]) and l.lease = g.lease
        where l.message_id is null or l.cancel_requested;
end $$;
comment on function treadle.heartbeat(
    text, text, integer, text[], integer, timestamptz, timestamptz, uuid[], uuid[], double precision, double precision,
    double precision, text[], bigint, text[])
    is 'A worker lives and holds these leases; the answer names those cancelled or lost';

-- A heartbeat in the place of a worker whose process runs, but whose agents keep it from sending its own. It keeps
-- all its leases. A worker that was taken for dead stays dead.
create or replace function treadle.stand_in(worker text, lease_seconds double precision) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := treadle.clock();
    v_ids uuid[];
    v_leases uuid[];
begin
    update treadle.workers w
        set heartbeat_at = v_now, suspected_at = null
        where w.worker_id = stand_in.worker;
    select array_agg(l.message_id), array_agg(l.lease)
        into v_ids, v_leases
        from treadle.leases l
        where l.id >= treadle._low_water_mark('leases')
            and l.worker_id = stand_in.worker;
    if v_ids is not null then
        perform treadle._extend_leases(
            ids => v_ids, leases => v_leases, lease_seconds => lease_seconds, at => v_now);
    end if;
end $$;
comment on function treadle.stand_in is 'A heartbeat in the place of a worker that lives and cannot send its own';

-- The advisory lock that a worker's listener holds as long as its session lives.
create or replace function treadle.worker_key(worker text) returns bigint
language sql immutable parallel safe as $$
    select hashtextextended('treadle.worker.' || worker, 0)
$$;

-- A worker signs off: what it still has is released, without a loss. What another transaction locks at that moment is
-- left to the janitors.
create or replace function treadle.sign_off(worker text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    v_left constant treadle.leases[] := array(
        select l
        from treadle.leases l
        where l.id >= treadle._low_water_mark('leases') and l.worker_id = worker);
begin
    perform treadle._settle_leases(
        chosen => v_left, outcome => 'released', reason => 'The worker was stopped.', max_losses => 1,
        at => treadle.clock());
    delete from treadle.workers w where w.worker_id = worker;
end $$;
