-- Deliver: records become messages of subscriptions.
--
-- A subscription has at most max_in_flight open messages; the other records stay in the log. The messages and the new
-- position are written in one transaction, under the lock of the subscription's row, so each record is delivered once.
-- To catch up and to deliver what was just published are the same step. Records of a key are one thread of the
-- subscription (records/<subscription>/<key>, a name that no client can choose); records without a key have no order.
-- A message lies one deeper than the message whose attempt published its record, so a chain through topics ends as one
-- of sent messages does. A record that a client published begins a chain.
-- Where another transaction holds the thread of a key, the records of that key wait in treadle.held_records
-- (49_held_records.sql), and those of other keys go on.

-- How many messages of a subscription are open.
create or replace function treadle._open_of(subscription bigint) returns bigint
language sql stable as $$
    select coalesce(sum(c.open), 0)::bigint
    from treadle.subscription_counts c
    where c.subscription = _open_of.subscription
        and c.id >= treadle._low_water_mark('subscription_counts')
$$;

-- The topics in which a subscription is behind: from where to which offset.
create or replace function treadle._behind(subscription bigint)
returns table (topic bigint, name text, first bigint, past bigint, fresh bigint, expired bigint)
language sql stable as $$
    select t.id, t.topic, greatest(p.next_offset, t.first_offset), e.next_offset, p.fresh_offset,
        greatest(t.first_offset - p.next_offset, 0)
    from treadle.subscription_topics j
    join treadle.topics t on t.id = j.topic and t.deleted_at is null
    cross join lateral treadle._position_of(j.subscription, j.topic) p
    cross join lateral treadle._topic_end(j.topic) e
    where j.subscription = _behind.subscription
        and p.next_offset < e.next_offset
$$;

-- Whether the record was delivered before and its message is still open, or it is held.
create or replace function treadle._is_open(subscription bigint, topic bigint, "offset" bigint) returns boolean
language sql stable as $$
    select exists (
        select
        from treadle.messages m
        where m.subscription = _is_open.subscription
            and m.record_topic = _is_open.topic
            and m.record_offset = _is_open."offset"
            and m.state in ('queued', 'processing')
        offset 0)
        or exists (
            select
            from treadle.held_records h
            where h.subscription = _is_open.subscription
                and h.topic = _is_open.topic
                and h."offset" = _is_open."offset"
            offset 0)
$$;

-- The next records of a topic for a subscription: up to `quantity` that are delivered, of about `max_bytes`, but at
-- least one. Those that the filter leaves out, or whose message is still open, are not `wanted`.
create or replace function treadle._next_records(
    s treadle.subscriptions, topic bigint, first bigint, past bigint, fresh bigint, quantity bigint, max_bytes bigint)
returns treadle.delivery[] language plpgsql stable as $$
begin
    return array(
        select row(
                null, _next_records.topic, p."offset", p.record_id, p.key, p.headers, p.value, p.schema_id,
                p.passes and not (p."offset" < fresh and treadle._is_open(s.id, _next_records.topic, p."offset")),
                not p.passes, p.traceparent, p.depth)::treadle.delivery
        from (
            select l."offset", r.*, sum(r.bytes) over (order by l."offset") - r.bytes as bytes_before,
                s.filter is null or (
                    coalesce(r.value @> (s.filter -> 'value'), true)
                    and coalesce(r.headers @> (s.filter -> 'headers'), true)) as passes
            from (
                select g."offset", g.record_id
                from treadle.topic_log g
                where g.topic = _next_records.topic
                    and g."offset" >= first
                    and g."offset" < past
                order by g."offset"
                limit quantity
            ) l
            cross join lateral (
                select o.*
                from treadle.records o
                where o.record_id = l.record_id
                limit 1
            ) r
        ) p
        where p.bytes_before < max_bytes
        order by p."offset");
end $$;

-- The wanted records as submissions to the agent of the subscription, numbered from 1.
create or replace function treadle._delivered_submissions(
    wanted treadle.delivery[], s treadle.subscriptions, a treadle.agents, at timestamptz)
returns treadle.submission[] language plpgsql as $$
begin
    return array(
        select row(
                w.n, treadle.uuid7(), 'normal', 1, a.agent, a.queue,
                'records/' || s.subscription || '/' || (w.w).key, false,
                case when s.delivery = 'at_most_once' then 1 else a.max_attempts end, a.timeout_seconds, at, null, null,
                null, null, null, null, null, null, coalesce((w.w).depth + 1, 0), null, null,
                case when s.delivery = 'at_most_once' then 1 else (a.settings ->> 'max_losses')::integer end, null
                )::treadle.submission
        from (select unnest(wanted) as w, generate_series(1, cardinality(wanted)) as n) w);
end $$;

-- Write the messages of wanted records, which have their places, with their `queued` events and lane rows.
create or replace function treadle._write_deliveries(
    submissions treadle.submission[], wanted treadle.delivery[], s treadle.subscriptions, names jsonb, at timestamptz)
returns void language plpgsql as $$
declare
    v_entries treadle.entry[];
    v_lane_rows treadle.lane_row[];
begin
    with written as (
        insert into treadle.messages as m (
            message_id, tenant, thread, ord, queue, lane, lane_id, share_place, agent, priority, rank, state, hold,
            max_attempts, max_losses, timeout_seconds, created_at, run_at, schema_id, body, metadata, subscription,
            record_topic, record_offset, traceparent, depth)
        select p.message_id, s.tenant, p.thread, p.ord, p.queue, case when p.hold is null then p.priority end,
            p.lane_id, case when p.hold = 'share' then p.lane_id end, p.agent, p.priority, p.rank, 'queued', p.hold,
            p.max_attempts, p.max_losses, p.timeout_seconds, at, p.run_at,
            (p.w).schema_id, (p.w).value,
            jsonb_build_object('record', jsonb_strip_nulls(jsonb_build_object(
                'subscription', s.subscription, 'delivery', s.delivery, 'topic', names -> (p.w).topic::text,
                'offset', (p.w)."offset", 'record_id', (p.w).record_id, 'key', (p.w).key, 'headers', (p.w).headers))),
            s.id, (p.w).topic, (p.w)."offset", (p.w).traceparent, p.depth
        from (
            select (z.p).*, z.w,
                case
                    when coalesce((z.p).hold, 'share') <> 'share' then null
                    when (z.p).goes_first then treadle._lane_next_returned((z.p).queue, (z.p).priority)
                    else treadle._lane_next((z.p).queue, (z.p).priority)
                end as lane_id
            from (select unnest(submissions) as p, unnest(wanted) as w) z
            offset 0
        ) p
        returning m.message_id, m.thread, m.queue, m.lane, m.lane_id, m.agent, m.record_topic, m.record_offset
    )
    select
            array_agg(row(w.message_id, 1, w.thread, 'queued', null, s.tenant)::treadle.entry
                order by w.record_topic, w.record_offset),
            array_agg(row(w.queue, w.lane, w.lane_id, treadle._lane_message(
                message_id => w.message_id,
                thread_id => (select t.thread_id from treadle.threads t where t.id = any(array[w.thread])),
                agent => w.agent, tenant => s.tenant))::treadle.lane_row
                order by w.lane_id) filter (where w.lane is not null)
        into v_entries, v_lane_rows
        from written w;
    perform treadle._log(entries => v_entries, at => at);
    perform treadle._lane_insert(lane_rows => v_lane_rows, at => at);
    insert into treadle.counters (tenant, queue, agent, slot, queued, submitted)
        values (
            s.tenant, (submissions[1]).queue, (submissions[1]).agent, treadle._slot(at), cardinality(submissions),
            cardinality(submissions));
end $$;

-- Give submissions their places in the threads of their keys. Those of threads that another transaction holds for more
-- than a moment become busy. (Workers hold threads for moments all the time: to wait costs less than to hold records.)
create or replace function treadle._place_deliveries(submissions treadle.submission[], tenant text, at timestamptz)
returns treadle.submission[] language plpgsql as $$
declare
    v_former_timeout text;
    v_placed treadle.submission[];
begin
    v_former_timeout := treadle._set_lock_timeout('20ms');
    v_placed := treadle._place_in_threads(
        submissions => submissions, tenant => tenant, reach => null, patient => true, at => at);
    perform treadle._set_lock_timeout(v_former_timeout);
    return v_placed;
exception
    when lock_not_available or serialization_failure then
        return treadle._place_in_threads(
            submissions => submissions, tenant => tenant, reach => null, patient => false, at => at);
end $$;

-- Write messages for records, in their order, except for those whose threads another transaction holds.
create or replace function treadle._write_or_hold(
    wanted treadle.delivery[], s treadle.subscriptions, a treadle.agents, names jsonb, at timestamptz,
    out written integer, out held treadle.delivery[])
language plpgsql as $$
declare
    v_submissions treadle.submission[] := treadle._delivered_submissions(wanted => wanted, s => s, a => a, at => at);
    v_threaded constant boolean := exists (select from unnest(v_submissions) u where u.thread_id is not null);
    v_placed integer[];  -- the numbers of those that are written
begin
    if v_threaded then
        v_submissions := treadle._place_deliveries(submissions => v_submissions, tenant => s.tenant, at => at);
        if exists (select from unnest(v_submissions) u where u.state = 'busy') then
            held := array(select wanted[u.n] from unnest(v_submissions) u where u.state = 'busy' order by u.n);
            v_placed := array(select u.n from unnest(v_submissions) u where u.state is null order by u.n);
            wanted := array(select wanted[p] from unnest(v_placed) p order by p);
            v_submissions := array(select v_submissions[p] from unnest(v_placed) p order by p);
        end if;
    end if;
    written := cardinality(wanted);
    if written = 0 then
        return;
    end if;
    if treadle._sharing() then
        v_submissions := treadle._share_out(submissions => v_submissions, tenant => s.tenant);
    end if;
    perform treadle._write_deliveries(
        submissions => v_submissions, wanted => wanted, s => s, names => names, at => at);
    if v_threaded then
        perform treadle._promote(threads => treadle._overtaken(v_submissions), at => at);
    end if;
end $$;

-- Move the position of a subscription in a topic.
create or replace function treadle._move_position(subscription bigint, topic bigint, next_offset bigint) returns void
language plpgsql as $$
begin
    update treadle.subscription_positions p
        set version = p.version + 1,
            next_offset = _move_position.next_offset,
            fresh_offset = greatest(p.fresh_offset, _move_position.next_offset)
        from treadle._position_of(_move_position.subscription, _move_position.topic) o
        where p.ctid = o.place;
end $$;

-- The next records of a subscription, from each of its topics a part, and the names of these topics. `expired`: how
-- many records retention deleted before they were delivered; the positions pass them.
create or replace function treadle._next_of_topics(
    s treadle.subscriptions, quantity bigint, max_bytes bigint, out records treadle.delivery[], out names jsonb,
    out expired bigint)
language plpgsql as $$
declare
    v_topic record;
    v_left bigint := quantity;
    v_topics bigint := (select count(*) from treadle._behind(s.id));
begin
    records := '{}';
    names := '{}';
    expired := 0;
    for v_topic in
        select b.*
        from treadle._behind(s.id) b
    loop
        exit when v_left <= 0;
        records := records || treadle._next_records(
            s => s, topic => v_topic.topic, first => v_topic.first, past => v_topic.past, fresh => v_topic.fresh,
            quantity => ceil(v_left::numeric / v_topics)::bigint, max_bytes => max_bytes / v_topics);
        names := names || jsonb_build_object(v_topic.topic, v_topic.name);
        if v_topic.expired > 0 then  -- also where nothing is left to deliver
            perform treadle._move_position(s.id, v_topic.topic, v_topic.first);
        end if;
        expired := expired + v_topic.expired;
        v_left := quantity - cardinality(records);
        v_topics := v_topics - 1;
    end loop;
end $$;

-- Deliver the next records of a subscription, whose row is locked: up to `quantity`, and first those that were held and
-- are free now. Returns how many records it passed, without those that it held back.
create or replace function treadle._deliver_to(s treadle.subscriptions, quantity bigint, at timestamptz) returns integer
language plpgsql as $$
declare
    c_bytes constant bigint := 8000000;
    v_agent treadle.agents;
    v_back record;
    v_next record;
    v_wanted treadle.delivery[];
    v_held treadle.delivery[];
    v_written integer := 0;
    v record;
begin
    select a.* into v_agent
        from treadle.agents a
        where a.agent = s.agent;
    v_back := treadle._take_back(s => s, quantity => quantity, max_bytes => c_bytes);
    v_next := treadle._next_of_topics(
        s => s, max_bytes => c_bytes, quantity => case
            when s.held - v_back.taken < treadle._most_held() then quantity - v_back.taken else 0 end);
    v_held := array(
        select r
        from (select unnest(v_next.records) as r) r
        where (r.r).wanted and (r.r).key = any(v_back.keys));
    v_wanted := v_back.records || array(
        select r
        from (select unnest(v_next.records) as r) r
        where (r.r).wanted and coalesce((r.r).key <> all(v_back.keys), true));
    if v_wanted <> '{}' then
        v := treadle._write_or_hold(
            wanted => v_wanted, s => s, a => v_agent, names => v_back.names || v_next.names, at => at);
        v_written := v.written;
        v_held := v_held || v.held;
    end if;
    perform treadle._hold(s => s, records => v_held, taken => v_back.taken);
    perform treadle._move_position(s.id, n.topic, n.next_offset)
        from (
            select r.topic, max(r."offset") + 1 as next_offset
            from (select (unnest(v_next.records)).topic, (unnest(v_next.records))."offset") r
            group by r.topic
        ) n;
    insert into treadle.subscription_counts (tenant, subscription, open, filtered, expired)
        select s.tenant, s.id, v_written, count(*) filter (where r.filtered),
            v_next.expired + v_back.taken - cardinality(v_back.records)
        from (select (unnest(v_next.records)).filtered) r;
    return cardinality(v_next.records) + v_back.taken - cardinality(v_held);
end $$;
