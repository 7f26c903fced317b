-- Views: what a person with psql looks at, and what the API answers from. Columns are only ever added at the end.

-- How many messages will be claimed before this one: null where it is not waiting for a worker (not due, parked, running, over).
-- Exact to 1,000. Behind its thread: what is ready in the lanes, and those before it in the thread.
create or replace function treadle._position(m treadle.messages, at timestamptz) returns bigint
language plpgsql stable as $$
begin
    if m.state <> 'queued' or m.hold in ('delay', 'backoff', 'children', 'input') then
        return null;
    elsif m.hold is null then
        return treadle._lane_ahead(m.queue, m.lane, m.lane_id, at)
            + case when m.lane in ('normal', 'low') then treadle._lane_depth(m.queue, 'high', at) else 0 end
            + case when m.lane = 'low' then treadle._lane_depth(m.queue, 'normal', at) else 0 end;
    else
        return treadle._lane_depth(m.queue, 'high', at)
            + case when m.rank >= 1 then treadle._lane_depth(m.queue, 'normal', at) else 0 end
            + case when m.rank >= 2 then treadle._lane_depth(m.queue, 'low', at) else 0 end
            + (select count(*) from (
                select from treadle.messages w where w.thread = m.thread and w.hold = 'thread' and (w.rank, w.ord) < (m.rank, m.ord)
                order by w.rank, w.ord limit 1000) w);
    end if;
end $$;

create or replace function treadle.queue_position(message_id uuid) returns bigint
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select treadle._position(m, treadle.clock()) from treadle.messages m where m.message_id = queue_position.message_id
$$;
comment on function treadle.queue_position is 'How many messages will be claimed before this one, from 0; null where it does not wait for a worker';

create or replace view treadle.message_overview as
    select m.message_id, m.state, m.hold, m.body as user_message, m.priority, m.created_at, m.started_at, m.completed_at, m.result, m.error,
        t.thread_id, m.agent, m.queue, m.attempt, m.max_attempts, m.failures, m.losses, m.run_at, m.worker_id, m.metadata, m.usage,
        m.timeout_seconds, m.ord, m.aside, m.thread, m.tenant, m.parent,
        (select p.children from treadle.parked p where p.message_id = m.message_id) as children
    from treadle.messages m left join treadle.threads t on t.id = m.thread;
comment on view treadle.message_overview is 'Every message with its thread''s id; where it stands is state and hold';

create or replace view treadle.thread_overview as
    select t.thread_id, t.last_ord as message_count, t.created_at, t.last_activity,
        t.last_ord - t.completed - t.failed - t.cancelled - p.processing as queued, p.processing, t.completed, t.failed, t.cancelled,
        t.turn, t.metadata,
        (select left(case jsonb_typeof(m.body) when 'string' then m.body #>> '{}' else m.body::text end, 200)
            from treadle.messages m where m.thread = t.id order by m.ord desc limit 1) as last_message_preview,
        t.id as thread, t.tenant, t.memory
    from treadle.threads t
    cross join lateral (select count(*) as processing from treadle.leases l where l.thread = t.id) p;
comment on view treadle.thread_overview is 'Every thread: how many of its messages are in which state, whose turn it is';

create or replace function treadle._ready(queue text, out ready bigint, out oldest timestamptz)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select sum(treadle._lane_depth(_ready.queue, l.lane, c.now)),
        min((select f.enqueued_at from treadle._lane_list(_ready.queue, l.lane, 1, c.now) f))
    from (select treadle.clock() as now) c, (values ('high'), ('normal'), ('low')) l (lane)
$$;

create or replace view treadle.queue_counts as
    select c.queue, sum(c.queued)::bigint as queued, sum(c.processing)::bigint as processing, sum(c.completed)::bigint as completed,
        sum(c.failed)::bigint as failed, sum(c.cancelled)::bigint as cancelled
    from treadle.counters c where c.id >= treadle._mark('counters')
    group by c.queue;
comment on view treadle.queue_counts is 'How many messages of each queue are in which state; exact, and cheap';

create or replace view treadle.queue_overview as
    select q.queue, q.paused, n.queued, n.processing, n.completed, n.failed, n.cancelled,
        r.ready, extract(epoch from treadle.clock() - r.oldest)::double precision as oldest_seconds,
        n.finished_per_minute, n.mean_seconds, q.created_at
    from treadle.queues q
    cross join lateral (
        select coalesce(sum(c.queued), 0)::bigint as queued, coalesce(sum(c.processing), 0)::bigint as processing,
            coalesce(sum(c.completed), 0)::bigint as completed, coalesce(sum(c.failed), 0)::bigint as failed,
            coalesce(sum(c.cancelled), 0)::bigint as cancelled,
            coalesce(sum(greatest(c.completed, 0) + greatest(c.failed, 0)) filter (where c.slot > n.now - interval '70 seconds'
                and c.slot <= n.now - interval '10 seconds'), 0)::bigint as finished_per_minute,
            sum(c.run_seconds) filter (where c.slot > n.now - interval '5 minutes')
                / nullif(sum(greatest(c.completed, 0) + greatest(c.failed, 0)) filter (where c.slot > n.now - interval '5 minutes'), 0) as mean_seconds
        from (select treadle.clock() as now) n
        left join treadle.counters c on c.queue = q.queue and c.id >= treadle._mark('counters')
    ) n
    cross join lateral treadle._ready(q.queue) r;
comment on view treadle.queue_overview is 'Every queue: messages by state, how many are ready for a worker, how old the oldest is, how fast they go';
comment on column treadle.queue_overview.ready is 'Lane rows a worker could claim now; exact to 1,000 a lane';
comment on column treadle.queue_overview.finished_per_minute is 'Messages completed or failed in the last full minute';
comment on column treadle.queue_overview.mean_seconds is 'Mean processing time of the last five minutes';

create or replace view treadle.dead_letters as
    select q.queue, treadle._uuid(d.body ->> 'message_id') as message_id, d.dead_at, d.body ->> 'reason' as reason,
        case when d.body ->> 'attempts' ~ '^[0-9]{1,9}$' then (d.body ->> 'attempts')::integer end as attempts,
        d.body ->> 'thread_id' as thread_id, d.body ->> 'agent' as agent, m.body as user_message, d.body ->> 'traceback' as traceback,
        d.dlq_id, d.body
    from treadle.queues q
    cross join lateral treadle._dead_letters(q.queue, 1000) d
    left join treadle.messages m on m.message_id = treadle._uuid(d.body ->> 'message_id');
comment on view treadle.dead_letters is 'The newest 1,000 dead letters of each queue; bring one back with select treadle.redrive(message_id)';

create or replace view treadle.worker_overview as
    select w.worker_id, w.host, w.pid, w.queues, w.concurrency, (select count(*) from treadle.leases l
            where l.id >= treadle._mark('leases') and l.worker_id = w.worker_id) as in_flight,
        w.started_at, w.heartbeat_at, extract(epoch from treadle.clock() - w.heartbeat_at)::double precision as silent_seconds
    from treadle.workers w;
comment on view treadle.worker_overview is 'Workers that have neither signed off nor been reaped';

-- The messages that wait, in the order they will be claimed as far as that is known: lanes first, then what is held.
create or replace function treadle.waiting(quantity integer default 100) returns table (message_id uuid)
language plpgsql stable rows 100 security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set enable_seqscan = off
    -- A plan made while the table was small is kept: never one that reads all of it.
    set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := treadle.clock();
    v record;
    v_left integer := quantity;
    v_got integer;
begin
    for v in select q.queue, l.lane from (values ('high', 0), ('normal', 1), ('low', 2)) l (lane, rank), treadle.queues q order by l.rank, q.queue loop
        exit when v_left <= 0;
        return query select m.message_id from treadle._lane_list(v.queue, v.lane, v_left, v_now) l
            join treadle.messages m on m.message_id = l.message_id and m.state = 'queued' order by l.lane_id;
        get diagnostics v_got = row_count;
        v_left := v_left - v_got;
    end loop;
    return query select h.message_id from (
            (select m.message_id from treadle.messages m where m.hold = 'thread' order by m.thread, m.rank, m.ord limit greatest(v_left, 0))
            union all
            (select m.message_id from treadle.messages m where m.hold in ('delay', 'backoff') order by m.run_at limit greatest(v_left, 0))
        ) h order by h.message_id limit greatest(v_left, 0);
end $$;
comment on function treadle.waiting is 'Ids of waiting messages, the next to be claimed first';

create or replace function treadle.processing(quantity integer default 100) returns table (message_id uuid)
language plpgsql stable rows 100 security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
    set enable_seqscan = off set enable_sort = off as $$
begin
    return query select l.message_id from treadle.leases l where l.id >= treadle._mark('leases')
        order by l.id limit quantity;
end $$;
comment on function treadle.processing is 'Ids of messages that workers hold, the first claimed first';
