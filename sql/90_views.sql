-- Views: what the API answers from and a person with psql looks at. New columns are added at the end only.
--
-- A migration that replaces a view locks it until it commits. So calls that must not wait for a migration (submit,
-- claim, append, streams, health) read tables through functions, not views.
--
-- A view runs with the rights of the role that reads it (security_invoker): row-level security shows a tenant's login
-- role the rows of its tenant alone.

create or replace view treadle.message_overview with (security_invoker) as
    select m.message_id, m.state, m.hold, m.body as user_message, m.priority, m.created_at, m.started_at,
        m.completed_at,
        m.result, m.error, t.thread_id, m.agent, m.queue, m.attempt, m.max_attempts, m.failures, m.losses, m.run_at,
        m.worker_id, m.metadata, m.usage, m.timeout_seconds, m.ord, m.aside, m.thread, m.tenant, m.parent,
        (
            select p.children
            from treadle.parked p
            where p.message_id = m.message_id
                and m.hold = 'children'
        ) as children,
        case when m.hold = 'input' then (
            select e.data
            from treadle.events e
            where e.message_id = m.message_id
                and e.seq = m.last_seq
        ) end as asks,
        m.owner, m.interrupted, m.callback_url
    from treadle.messages m
    left join treadle.threads t on t.id = m.thread;
comment on view treadle.message_overview is 'Every message with its thread''s id; state and hold say where it stands';
comment on column treadle.message_overview.children is 'The messages that it waits for (hold = children)';
comment on column treadle.message_overview.asks is 'The question that it waits with (hold = input)';

-- A value for a list that people look at: itself, or if it is large, the beginning of its text.
create or replace function treadle._preview(value jsonb) returns jsonb
language sql stable parallel safe as $$
    select case
        when treadle._bytes(value) <= 2000 then value
        else to_jsonb(left(case jsonb_typeof(value) when 'string' then value #>> '{}' else value::text end, 500) || '…')
    end
$$;

-- The low-water mark of the leases, for roles that may not read treadle.low_water.
create or replace function treadle._first_lease_mark() returns bigint
language sql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select treadle._low_water_mark('leases')
$$;

create or replace view treadle.thread_overview with (security_invoker) as
    select t.thread_id, s.last_ord as message_count, t.created_at, s.last_activity,
        s.last_ord - s.completed - s.failed - s.cancelled - p.processing as queued, p.processing,
        s.completed, s.failed, s.cancelled, s.turn, t.metadata,
        (
            select left(case jsonb_typeof(m.body) when 'string' then m.body #>> '{}' else m.body::text end, 200)
            from treadle.messages m
            where m.thread = t.id
            order by m.ord desc
            limit 1
        ) as last_message_preview,
        s.thread, s.tenant, t.memory, t.owner, t.agents
    from treadle.threads t
    -- The newest version: an old snapshot keeps the dead ones, which lie below it in the index.
    join treadle.thread_turns s on s.thread = t.id and s.version >= (
        select max(n.version)
        from treadle.thread_turns n
        where n.thread = t.id
    )
    cross join lateral (
        select count(*) as processing
        from treadle.leases l
        where l.thread = t.id and l.id >= (select treadle._first_lease_mark())
    ) p;
comment on view treadle.thread_overview
    is 'Every thread: how many of its messages are in which state, and whose turn it is';

-- The low-water mark of the counters, for roles that may not read treadle.low_water.
create or replace function treadle._first_counter() returns bigint
language sql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select treadle._low_water_mark('counters')
$$;

-- How many rows of a queue a worker could claim now, and since when the oldest of them waits. Null in the session of
-- a tenant's login role: the lanes hold the messages of all tenants.
create or replace function treadle._ready_rows(queue text, out ready bigint, out oldest timestamptz)
language sql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select sum(treadle._lane_depth(_ready_rows.queue, l.lane, c.now)),
        min((
            select f.enqueued_at
            from treadle._lane_list(queue => _ready_rows.queue, lane => l.lane, quantity => 1, at => c.now) f
        ))
    from (select treadle.clock() as now) c
    cross join (values ('high'), ('normal'), ('low')) l (lane)
    where treadle._session_tenant() is null
$$;

-- The same of one tenant's rows, or (null) of all.
create or replace function treadle._ready_rows_of(
    queue text, tenant text, out ready bigint, out oldest timestamptz)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    v_lane text;
    v_found record;
begin
    if not exists (select from treadle.tenants t where t.tenant <> _ready_rows_of.tenant) then
        select r.ready, r.oldest
        into ready, oldest
        from treadle._ready_rows(_ready_rows_of.queue) r;
        return;
    end if;
    ready := 0;
    foreach v_lane in array array['high', 'normal', 'low'] loop
        v_found := treadle._lane_of_tenant(queue => queue, lane => v_lane, tenant => tenant, at => treadle.clock());
        ready := ready + v_found.depth;
        oldest := least(oldest, v_found.oldest);
    end loop;
end $$;

create or replace view treadle.queue_counts with (security_invoker) as
    select c.queue, sum(c.queued)::bigint as queued, sum(c.processing)::bigint as processing,
        sum(c.completed)::bigint as completed, sum(c.failed)::bigint as failed, sum(c.cancelled)::bigint as cancelled
    from treadle.counters c
    where c.id >= treadle._first_counter()
    group by c.queue;
comment on view treadle.queue_counts is 'How many messages of each queue are in which state; exact, and cheap to read';

-- The figures of a queue, of one tenant or (null) of all together. The planner inlines it.
create or replace function treadle._queue_figures(queue text, tenant text)
returns table (queued bigint, processing bigint, completed bigint, failed bigint, cancelled bigint,
    finished_per_minute bigint, mean_seconds double precision)
language sql stable rows 1 as $$
    select coalesce(sum(c.queued), 0)::bigint,
        coalesce(sum(c.processing), 0)::bigint,
        coalesce(sum(c.completed), 0)::bigint,
        coalesce(sum(c.failed), 0)::bigint,
        coalesce(sum(c.cancelled), 0)::bigint,
        coalesce(sum(d.finished) filter (where c.slot > t.now - interval '70 seconds'
            and c.slot <= t.now - interval '10 seconds'), 0)::bigint,
        sum(c.run_seconds) filter (where c.slot > t.now - interval '5 minutes')
            / nullif(sum(d.finished) filter (where c.slot > t.now - interval '5 minutes'), 0)
    from (select treadle.clock() as now) t
    left join treadle.counters c on c.queue = _queue_figures.queue
        and (_queue_figures.tenant is null or c.tenant = _queue_figures.tenant)
        and c.id >= treadle._first_counter()
    cross join lateral (select greatest(c.completed, 0) + greatest(c.failed, 0) as finished) d
$$;

create or replace view treadle.tenant_counts with (security_invoker) as
    select c.tenant, c.queue, sum(c.queued)::bigint as queued, sum(c.processing)::bigint as processing,
        sum(c.completed)::bigint as completed, sum(c.failed)::bigint as failed, sum(c.cancelled)::bigint as cancelled
    from treadle.counters c
    where c.id >= treadle._first_counter()
    group by c.tenant, c.queue;
comment on view treadle.tenant_counts is 'How many messages of each tenant and queue are in which state';

create or replace view treadle.queue_overview with (security_invoker) as
    select q.queue, q.paused, n.queued, n.processing, n.completed, n.failed, n.cancelled, r.ready,
        case
            when r.oldest is not null then greatest(extract(epoch from treadle.clock() - r.oldest), 0)::double precision
        end as oldest_seconds,
        n.finished_per_minute, n.mean_seconds, q.created_at, treadle._claiming_workers(q.queue) as workers
    from treadle.queues q
    cross join lateral treadle._queue_figures(queue => q.queue, tenant => null) n
    cross join lateral treadle._ready_rows(q.queue) r;
comment on view treadle.queue_overview
    is 'Every queue: messages by state, how many are ready for a worker, how old the oldest is, how fast they go';
comment on column treadle.queue_overview.ready is 'Lane rows a worker could claim now; exact to 1,000 a lane';
comment on column treadle.queue_overview.finished_per_minute is 'Messages completed or failed in the last full minute';
comment on column treadle.queue_overview.mean_seconds is 'Mean processing time of the last five minutes';

-- The queues as a tenant sees them: the figures count its own messages. Null: those of all tenants.
create or replace function treadle.queue_list(
    tenant text default null, queue_name text default null, after text default null, quantity integer default null)
returns table (
    queue text, paused boolean, queued bigint, processing bigint, completed bigint, failed bigint, cancelled bigint,
    ready bigint, oldest_seconds double precision, finished_per_minute bigint, mean_seconds double precision,
    created_at timestamptz, workers bigint)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
#variable_conflict use_column
begin
    tenant := treadle._bound_tenant(tenant);
    return query
        select q.queue, q.paused, n.queued, n.processing, n.completed, n.failed, n.cancelled, r.ready,
            case
                when r.oldest is not null
                    then greatest(extract(epoch from treadle.clock() - r.oldest), 0)::double precision
            end,
            n.finished_per_minute, n.mean_seconds, q.created_at, treadle._claiming_workers(q.queue)
        from (
            select l.queue, l.paused, l.created_at
            from treadle.queues l
            where (queue_name is null or l.queue = queue_name)
                and (queue_list.after is null or l.queue > queue_list.after)
            order by l.queue
            limit quantity
        ) q
        cross join lateral treadle._queue_figures(queue => q.queue, tenant => queue_list.tenant) n
        cross join lateral treadle._ready_rows_of(queue => q.queue, tenant => queue_list.tenant) r
        order by q.queue;
end $$;
comment on function treadle.queue_list(text, text, text, integer)
    is 'The queues with the figures of one tenant''s messages';

create or replace view treadle.dead_letters with (security_invoker) as
    select q.queue, treadle._uuid(d.body ->> 'message_id') as message_id, d.dead_at, d.body ->> 'reason' as reason,
        case when d.body ->> 'attempts' ~ '^[0-9]{1,9}$' then (d.body ->> 'attempts')::integer end as attempts,
        d.body ->> 'thread_id' as thread_id, d.body ->> 'agent' as agent, m.body as user_message,
        d.body ->> 'traceback' as traceback, d.dlq_id, d.body, coalesce(d.body ->> 'tenant', 'default') as tenant
    from treadle.queues q
    cross join lateral treadle._dead_letters(q.queue, 1000) d
    left join treadle.messages m on m.message_id = treadle._uuid(d.body ->> 'message_id');
comment on view treadle.dead_letters
    is 'The newest 1,000 dead letters of each queue; bring one back with select treadle.redrive(message_id)';

-- The newest dead letters of a queue before one (its dlq_id): at most `quantity`, which have about `page_bytes` bytes
-- together (see treadle._bytes), but at least one. `more`: others follow that the page has no room for.
create or replace function treadle.dead_letter_page(
    queue_name text, quantity integer, before bigint default null, page_bytes bigint default 1000000,
    tenant text default 'default', reach jsonb default null)
returns table (
    dlq_id bigint, queue text, message_id uuid, dead_at timestamptz, reason text, attempts integer, thread_id text,
    agent text, user_message jsonb, traceback text, more boolean)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
#variable_conflict use_column
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    return query
        select s.dlq_id, queue_name, s.message_id, s.dead_at, s.body ->> 'reason',
            case when s.body ->> 'attempts' ~ '^[0-9]{1,9}$' then (s.body ->> 'attempts')::integer end,
            s.body ->> 'thread_id', s.body ->> 'agent', s.user_message, s.body ->> 'traceback', s.place < s.found
        from (
            select d.dlq_id, d.dead_at, d.body, i.message_id, m.body as user_message, count(*) over () as found,
                row_number() over newest as place,
                sum(treadle._bytes(d.body) + treadle._bytes(m.body)) over newest as bytes
            from treadle._dead_letters(
                queue => queue_name, quantity => quantity + 1, before => dead_letter_page.before,
                tenant => dead_letter_page.tenant, reach => dead_letter_page.reach) d
            cross join lateral (select treadle._uuid(d.body ->> 'message_id') as message_id) i
            left join treadle.messages m on m.message_id = i.message_id
            window newest as (order by d.dlq_id desc rows unbounded preceding)
        ) s
        where s.place = 1 or (s.place <= quantity and s.bytes <= page_bytes)
        order by s.dlq_id desc;
end $$;
comment on function treadle.dead_letter_page(text, integer, bigint, bigint, text, jsonb)
    is 'A page of the dead letters of a queue, the newest first';

create or replace view treadle.tenant_overview with (security_invoker) as
    select t.tenant, t.created_at, t.suspended_at, t.deleted_at, t.limits, c.queued, c.processing,
        coalesce(cardinality(t.delete_awaits), 0) as awaited_transactions
    from treadle.tenants t
    cross join lateral (
        select coalesce(sum(c.queued), 0)::bigint as queued,
            coalesce(sum(c.processing), 0)::bigint as processing
        from treadle.counters c
        where c.tenant = t.tenant
            and c.id >= treadle._first_counter()
    ) c;
comment on view treadle.tenant_overview is 'Every tenant, with its open messages';

create or replace view treadle.worker_overview with (security_invoker) as
    select w.worker_id, w.host, w.pid, w.queues, w.concurrency,
        (
            select count(*)
            from treadle.leases l
            where l.id >= treadle._low_water_mark('leases')
                and l.worker_id = w.worker_id
        ) as in_flight,
        w.started_at, w.heartbeat_at,
        greatest(extract(epoch from treadle.clock() - w.heartbeat_at), 0)::double precision as silent_seconds,
        w.memory_bytes
    from treadle.workers w;
comment on view treadle.worker_overview is 'Workers that have neither signed off nor been reaped';

create or replace view treadle.store_overview with (security_invoker) as
    select i.namespace, i.key, i.value, i.owner, i.created_at, i.updated_at, i.tenant
    from treadle.store_items i;
comment on view treadle.store_overview is 'The stores: what clients and agents keep beside threads';

create or replace view treadle.instance_overview with (security_invoker) as
    select i.agent, t.thread_id, i.worker_id, i.made_at,
        greatest(extract(epoch from treadle.clock() - i.made_at), 0)::double precision as age_seconds, i.tenant,
        t.owner, t.agents
    from treadle.instances i
    join treadle.threads t on t.id = i.thread;
comment on view treadle.instance_overview is 'The warm instances that workers keep, by a report of the last seconds';
comment on column treadle.instance_overview.agents is 'The agents of the thread';

create or replace view treadle.agent_overview with (security_invoker) as
    select a.agent, a.queue, a.timeout_seconds, a.max_attempts, a.is_default, a.input, a.description, a.registered_at,
        a.settings
    from treadle.agents a;
comment on view treadle.agent_overview is 'Every agent that a worker has registered';

create or replace view treadle.installation with (security_invoker) as
    select (select m.value from treadle.meta m where m.name = 'release') as release,
        (select m.value from treadle.meta m where m.name = 'functions') as functions,
        (select m.value from treadle.meta m where m.name = 'pgmq') as pgmq,
        current_setting('server_version') as postgresql,
        (select count(*) from treadle.workers) as workers,
        (select coalesce(sum(c.queued), 0)::bigint from treadle.queue_counts c) as queued,
        (select coalesce(sum(c.processing), 0)::bigint from treadle.queue_counts c) as processing;
comment on view treadle.installation is 'One row: the versions of this installation, its workers and its load';
comment on column treadle.installation.functions is 'A digest of the SQL files that were applied';

create or replace view treadle.schema_overview with (security_invoker) as
select v.tenant, v.subject, v.version, v.schema_id, s.kind, s.schema, s.refs, s.extras, s.descriptor, s.digest,
    v.created_at, v.deleted_at
from treadle.schema_versions v
join treadle.schemas s on s.tenant = v.tenant and s.schema_id = v.schema_id;
comment on view treadle.schema_overview is 'The versions of all subjects with their schemas';
