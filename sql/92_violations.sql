-- What must hold in every database at any moment, whatever was done to it and whoever died: each part of treadle.violations finds the
-- exceptions to one rule, and there must be none. It looks at everything there is, from one snapshot and without a lock: a few
-- seconds for each hundred thousand messages, so it is for tests, for the morning after, for doubts; `treadle check --invariants`.

-- All rows of all lanes and dead letters.
create or replace function treadle._lane_rows() returns table (queue text, lane text, msg_id bigint, vt timestamptz, message jsonb)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_lanes text;
begin
    select string_agg(format('select %L, %L, q.msg_id, q.vt, q.message from pgmq.%I q', u.queue, l, treadle._lane_table(u.queue, l)), ' union all ')
        into v_lanes from treadle.queues u, unnest(array['high', 'normal', 'low', 'dlq']) l;
    if v_lanes is not null then
        return query execute v_lanes;
    end if;
end $$;

create or replace view treadle.violations as
with lanes as materialized (
    select * from treadle._lane_rows()
), broken (rule, subject, detail) as (
    select 'A log is dense from 1, and ends where its message or the lease says.', x.message_id::text, to_jsonb(x)
    from (
        select m.message_id, m.state, e.seqs, coalesce(l.last_seq, m.last_seq) as last_seq
        from treadle.messages m
        left join treadle.leases l using (message_id)
        cross join lateral (select array_agg(e.seq order by e.seq) as seqs from treadle.events e where e.message_id = m.message_id) e
        where e.seqs is distinct from (select array_agg(s::integer) from generate_series(1, coalesce(l.last_seq, m.last_seq)) s)) x
    union all
    select 'An event belongs to a message, and to that message''s thread.', x.message_id::text, to_jsonb(x)
    from (
        select e.message_id, e.seq, e.thread, e.thread_pos, m.thread as thread_of_message
        from treadle.events e left join treadle.messages m using (message_id)
        where (m.message_id is null or e.thread is distinct from m.thread or (e.thread is null) <> (e.thread_pos is null))
            and not exists (select from treadle.trash t where t.message_id = e.message_id and e.seq > t.deleted_seq and e.seq <= t.last_seq)) x
    union all
    select 'What is in the trash is no message any more, and all of its events are there that are not deleted yet.', t.message_id::text, to_jsonb(t)
    from treadle.trash t
    where exists (select from treadle.messages m where m.message_id = t.message_id)
        or t.last_seq - t.deleted_seq <> (select count(*) from treadle.events e where e.message_id = t.message_id)
    union all
    select 'A thread''s log is dense from 1 to its last_pos.', x.thread_id, to_jsonb(x)
    from (
        select t.id, t.thread_id, l.last_pos, e.positions
        from treadle.threads t left join treadle.thread_log l on l.thread = t.id
        cross join lateral (select array_agg(e.thread_pos order by e.thread_pos) as positions from treadle.events e where e.thread = t.id) e
        where l.last_pos is null or e.positions is distinct from (select array_agg(s) from generate_series(1, l.last_pos) s)) x
    union all
    select 'A thread''s log belongs to a thread.', l.thread::text, to_jsonb(l)
    from treadle.thread_log l where not exists (select from treadle.threads t where t.id = l.thread)
    union all
    select 'In a thread''s log each message''s events are in their own order.', x.message_id::text, to_jsonb(x)
    from (
        select o.* from (
            select e.message_id, e.seq, e.thread_pos, lag(e.thread_pos) over (partition by e.message_id order by e.seq) as before
            from treadle.events e where e.thread is not null) o
        where o.before >= o.thread_pos) x
    union all
    select 'Each life has one terminal event, of its message''s state, and a message that is over ends with it.', x.message_id::text, to_jsonb(x)
    from (
        select m.message_id, m.state, e.types
        from treadle.messages m
        cross join lateral (select array_agg(e.type order by e.seq) as types from treadle.events e
            where e.message_id = m.message_id and e.type in ('queued', 'done', 'error', 'cancelled')) e
        where array_to_string(e.types, ' ') <>
                repeat('queued error ', cardinality(array_positions(e.types, 'queued')) - 1) || 'queued'
                || case m.state when 'completed' then ' done' when 'failed' then ' error' when 'cancelled' then ' cancelled' else '' end
            or m.state in ('completed', 'failed', 'cancelled') and not exists (select from treadle.events e
                where e.message_id = m.message_id and e.seq = m.last_seq and e.type in ('done', 'error', 'cancelled'))) x
    union all
    select 'Every attempt has its `started`, and ends with `retry`, with `parked`, or with its life.', x.message_id::text, to_jsonb(x)
    from (
        select m.message_id, m.state, m.attempt, e.types
        from treadle.messages m
        cross join lateral (select coalesce(string_agg(e.type, ' ' order by e.seq), '') as types from treadle.events e
            where e.message_id = m.message_id and e.type in ('queued', 'started', 'retry', 'parked', 'done', 'error', 'cancelled')) e
        where m.attempt <> (select count(*) from treadle.events e where e.message_id = m.message_id and e.type = 'started')
            or e.types !~ ('^(queued( started (retry|parked))* started error )*queued( started (retry|parked))*'
                '( started| started done| started error| started cancelled| cancelled)?$')
            or (e.types ~ ' started$') <> (m.state = 'processing')) x
    union all
    select 'What may run or runs is in its lane, what is dead at most in the dead letters, once.', x.message_id::text, to_jsonb(x)
    from (
        select m.message_id, m.state, m.queue, m.lane, m.lane_id, r.bodies
        from treadle.messages m left join treadle.threads t on t.id = m.thread
        left join (select r.queue, r.lane, r.msg_id, jsonb_agg(r.message) as bodies from lanes r group by 1, 2, 3) r
            on r.queue = m.queue and r.lane = m.lane and r.msg_id = m.lane_id
        where m.lane is not null and (m.lane <> 'dlq' and r.bodies is null or jsonb_array_length(r.bodies) <> 1
                or m.lane <> 'dlq' and r.bodies -> 0 <> jsonb_build_object(
                    'message_id', m.message_id, 'thread_id', t.thread_id, 'agent', m.agent)
                or m.lane = 'dlq' and not r.bodies -> 0 @> jsonb_build_object('message_id', m.message_id,
                    'thread_id', t.thread_id, 'agent', m.agent, 'reason', m.error, 'attempts', m.attempt))
            or (m.lane is not null) <> (m.state = 'processing' or m.state = 'queued' and m.hold is null or m.state = 'failed')) x
    union all
    select 'No lane row is astray (dead letters that name no message apart).', r.queue || '_' || r.lane || ' ' || r.msg_id, to_jsonb(r)
    from lanes r
    left join treadle.messages m on m.message_id = treadle._uuid(r.message ->> 'message_id')
        and m.queue = r.queue and m.lane = r.lane and m.lane_id = r.msg_id
    where m.message_id is null and not (r.lane = 'dlq' and r.message ->> 'reason' is not distinct from 'foreign')
    union all
    select 'What may run is visible, what runs is hidden until its lease expires.', x.message_id::text, to_jsonb(x)
    from (
        select m.message_id, m.state, r.vt, l.expires_at
        from treadle.messages m join lanes r on r.queue = m.queue and r.lane = m.lane and r.msg_id = m.lane_id
        left join treadle.leases l using (message_id)
        where m.state = 'queued' and r.vt > treadle.clock() or m.state = 'processing' and r.vt < l.expires_at) x
    union all
    select 'Leases are there for what is processing, and for nothing else.', x.message_id::text, to_jsonb(x)
    from (
        select coalesce(m.message_id, l.message_id) as message_id, m.state, m.worker_id, m.thread, l.worker_id as lease_worker, l.thread as lease_thread
        from treadle.messages m full join treadle.leases l on l.message_id = m.message_id
        where (m.state is not distinct from 'processing') <> (l.message_id is not null)
            or l.message_id is not null and (l.worker_id, l.thread) is distinct from (m.worker_id, m.thread)) x
    union all
    select 'A result is there for what is completed, started_at for what runs or ran.', x.message_id::text, to_jsonb(x)
    from (
        select m.message_id, m.state, m.result, m.error, m.started_at, m.worker_id from treadle.messages m
        where m.result is not null and m.state <> 'completed' or m.state = 'failed' and m.error is null
            or m.state = 'processing' and (m.started_at is null or m.worker_id is null)
            or m.state = 'completed' and m.started_at is null
            or m.state = 'queued' and (m.started_at is not null or m.worker_id is not null)) x
    union all
    select 'Counters add up to the messages there are.', x.queue, to_jsonb(x)
    from (
        select queue, to_jsonb(c) as counted, to_jsonb(m) as there from (
            select c.queue, sum(c.queued) as queued, sum(c.processing) as processing, sum(c.completed) as completed,
                sum(c.failed) as failed, sum(c.cancelled) as cancelled
            from treadle.counters c group by c.queue) c
        full join (
            select m.queue, count(*) filter (where m.state = 'queued') as queued, count(*) filter (where m.state = 'processing') as processing,
                count(*) filter (where m.state = 'completed') as completed, count(*) filter (where m.state = 'failed') as failed,
                count(*) filter (where m.state = 'cancelled') as cancelled
            from treadle.messages m group by m.queue) m using (queue)
        where coalesce(c.queued, 0) <> coalesce(m.queued, 0) or coalesce(c.processing, 0) <> coalesce(m.processing, 0)
            or coalesce(c.completed, 0) <> coalesce(m.completed, 0) or coalesce(c.failed, 0) <> coalesce(m.failed, 0)
            or coalesce(c.cancelled, 0) <> coalesce(m.cancelled, 0)) x
    union all
    select 'A thread''s counts are those of its messages, and their places are dense.', x.thread_id, to_jsonb(x)
    from (
        select t.id, t.thread_id, t.last_ord, t.completed, t.failed, t.cancelled, m.* from treadle.threads t
        cross join lateral (select array_agg(m.ord order by m.ord) as ords, count(*) filter (where m.state = 'completed') as completed_,
                count(*) filter (where m.state = 'failed') as failed_, count(*) filter (where m.state = 'cancelled') as cancelled_
            from treadle.messages m where m.thread = t.id) m
        where (t.completed, t.failed, t.cancelled) <> (m.completed_, m.failed_, m.cancelled_)
            or m.ords is distinct from (select array_agg(s) from generate_series(1, t.last_ord) s)) x
    union all
    select 'A message''s thread is there.', m.message_id::text, jsonb_build_object('message_id', m.message_id, 'thread', m.thread)
    from treadle.messages m where m.thread is not null and not exists (select from treadle.threads t where t.id = m.thread)
    union all
    select 'A turn is held by an open message of the thread that may take one.', x.thread_id, to_jsonb(x)
    from (
        select t.id, t.thread_id, t.turn, m.thread, m.state, m.hold, m.aside from treadle.threads t
        left join treadle.messages m on m.message_id = t.turn
        where t.turn is not null and (m.thread is distinct from t.id or m.aside
            or m.state not in ('queued', 'processing') or m.hold in ('thread', 'delay'))) x
    union all
    select 'In a thread only the message with the turn is under way, and nobody waits where there is none.', x.thread_id, to_jsonb(x)
    from (
        select t.id, t.thread_id, t.turn, m.message_id, m.state, m.hold from treadle.threads t
        join treadle.messages m on m.thread = t.id and not m.aside and m.message_id is distinct from t.turn
        where m.state = 'processing' or m.state = 'queued' and m.hold is distinct from 'delay'
            and (m.hold is distinct from 'thread' or t.turn is null)) x
    union all
    select 'Only messages of a thread that take turns wait for one.', m.message_id::text, jsonb_build_object('message_id', m.message_id, 'thread', m.thread, 'aside', m.aside)
    from treadle.messages m where m.hold = 'thread' and (m.thread is null or m.aside)
    union all
    select 'Who waits for other messages names them, who waits for a person has asked, and nobody else does.', x.message_id::text, to_jsonb(x)
    from (
        select m.message_id, m.state, m.hold, p.children, e.type, e.data from treadle.messages m
        left join treadle.parked p using (message_id)
        left join treadle.events e on m.hold in ('children', 'input') and e.message_id = m.message_id and e.seq = m.last_seq
        where (p.children is not null and m.hold is distinct from 'children' and m.state <> 'cancelled')
            or (m.hold = 'children' and p.children is null)
            or (m.hold in ('children', 'input') and (e.type is distinct from 'parked' or e.data ->> 'hold' is distinct from m.hold))) x
    union all
    select 'Failures and losses stay within what a life allows.', x.message_id::text, to_jsonb(x)
    from (
        select m.message_id, m.state, m.attempt, m.failures, m.losses, m.max_attempts from treadle.messages m
        where m.failures > m.max_attempts or m.failures + m.losses > m.attempt
            or m.failures = m.max_attempts and m.state in ('queued', 'processing')) x
    union all
    select 'Nothing visible lies below its low-water mark.', r.queue || '_' || r.lane || ' ' || r.msg_id, to_jsonb(r)
    from lanes r join treadle.low_water w on w.name = treadle._lane_table(r.queue, r.lane)
    join treadle.messages m on m.message_id = treadle._uuid(r.message ->> 'message_id') and m.state = 'queued'
    where r.msg_id < w.low and r.vt <= treadle.clock()
    union all
    select 'No lease lies below its low-water mark.', l.message_id::text, to_jsonb(l)
    from treadle.leases l where l.id < treadle._mark('leases')
    union all
    select 'No counter lies below its low-water mark.', c.queue, to_jsonb(c)
    from treadle.counters c where c.id < treadle._mark('counters')
)
select b.rule, b.subject, b.detail from broken b;
comment on view treadle.violations is 'What must never be: empty in a healthy database; looks at everything, so it takes its time';
