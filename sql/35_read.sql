-- Reading the event log: one call serves many readers.

-- The data of an event as readers see it. The data of `queued` and `done` is taken from the message, whose body or
-- result is `content`. (Stable, as jsonb_build_object is: only so can the planner inline it.)
create or replace function treadle._event_data(
    type text, data jsonb, content jsonb, agent text, priority text, aside boolean, thread_id text,
    completed_at timestamptz)
returns text
language sql stable parallel safe as $$
    select case type
        when 'queued' then
            jsonb_build_object('message', content, 'agent', agent, 'priority', priority, 'thread_id', thread_id)
            || case when aside then '{"aside": true}' else '{}'::jsonb end
            || coalesce(data, '{}')
        when 'done' then  -- one of a former life has its own data
            coalesce(
                data, jsonb_build_object('state', 'completed', 'result', content, 'completed_at', completed_at))
        else data
    end::text
$$;

-- About how many bytes a value has as text, without reading it: PostgreSQL stores a large value beside its row, and to
-- read it costs milliseconds. Compressed values count for 16 times their stored size; at most they are 100 times as
-- large (pglz).
create or replace function treadle._bytes(data jsonb) returns bigint
language sql stable parallel safe as $$
    select coalesce(pg_column_size(data)::bigint * case when pg_column_compression(data) is null then 1 else 16 end, 0)
$$;

-- The value of the message that an event carries (see treadle._event_data), and about how many bytes the event has.
create or replace function treadle._event_content(
    type text, data jsonb, body jsonb, result jsonb)
returns table (content jsonb, bytes bigint)
language sql stable rows 1 as $$
    select x.content, treadle._bytes(data) + treadle._bytes(x.content)
    from (select case type when 'queued' then body when 'done' then result end as content) x
$$;

-- New events for readers of messages. The planner inlines this function and the next one into treadle.read_events. Each
-- has its own query: one that could read both kinds of logs would start a scan of every partition twice for each call.
-- All ids lie between `first_id` and `last_id`: these are known before the scans start, so only partitions that can
-- have these ids are opened.
create or replace function treadle._read_messages(
    message_ids uuid[], afters bigint[], quantity integer, page_bytes bigint, at_least_one boolean,
    first_id uuid, last_id uuid)
returns table (
    n integer, message_id uuid, seq integer, pos bigint, type text, data text, created_at timestamptz, last boolean,
    more boolean)
language sql stable as $$
    select r.n::integer, r.message_id, p.seq, coalesce(p.seq, e.last_seq)::bigint, p.type,
        treadle._event_data(
            type => p.type, data => p.data, content => p.content, agent => m.agent, priority => m.priority,
            aside => m.aside, thread_id => p.thread_id, completed_at => m.completed_at),
        p.created_at,
        coalesce(
            p.type in ('done', 'error', 'cancelled') and m.last_seq = p.seq
                and m.state in ('completed', 'failed', 'cancelled'),
            false),
        coalesce(p.more, e.last_seq > r.after, false)
    from unnest(message_ids, afters) with ordinality r (message_id, after, n)
    left join treadle.messages m on m.message_id = r.message_id
    left join lateral (
        select s.*, s.next_bytes is not null and (s.place >= quantity or s.bytes + s.next_bytes > page_bytes) as more
        from (
            select l.*, c.content, t.thread_id, row_number() over by_seq as place, sum(c.bytes) over by_seq as bytes,
                lead(c.bytes) over by_seq as next_bytes
            from (
                select v.seq, v.type, v.data, v.created_at, v.thread
                from treadle.events v
                where v.message_id = r.message_id
                    and v.message_id between first_id and last_id
                    and v.seq > r.after
                    and m.message_id is not null
                order by v.seq
                limit quantity + 1
            ) l
            left join treadle.threads t on l.type = 'queued' and t.id = l.thread
            cross join lateral treadle._event_content(
                type => l.type, data => l.data, body => m.body, result => m.result) c
            window by_seq as (order by l.seq rows unbounded preceding)
        ) s
        where s.place <= quantity
            and (s.bytes <= page_bytes or (s.place = 1 and at_least_one))
    ) p on true
    left join lateral (
        select coalesce(l.last_seq, m.last_seq) as last_seq
        from (select p.seq as first_seq) f
        left join treadle.leases l on l.message_id = r.message_id
        where f.first_seq is null
        limit 1
    ) e on true
    where r.message_id is not null
        and (p.seq is not null or m.message_id is null or e.last_seq < r.after
            or (e.last_seq > r.after and not at_least_one))
    order by r.n, p.seq
$$;

-- New events for readers of threads.
create or replace function treadle._read_threads(
    threads bigint[], afters bigint[], quantity integer, page_bytes bigint, at_least_one boolean)
returns table (
    n integer, message_id uuid, seq integer, pos bigint, type text, data text, created_at timestamptz, last boolean,
    more boolean)
language sql stable as $$
    select r.n::integer, p.message_id, p.seq, coalesce(p.thread_pos, g.last_pos), p.type,
        treadle._event_data(
            type => p.type, data => p.data, content => p.content, agent => p.agent, priority => p.priority,
            aside => p.aside, thread_id => p.thread_id, completed_at => p.completed_at),
        p.created_at, false, coalesce(p.more, g.last_pos > r.after, false)
    from unnest(threads, afters) with ordinality r (thread, after, n)
    left join lateral (
        select l.thread, l.last_pos
        from treadle.thread_log l
        where l.thread = r.thread
        order by l.era desc
        limit 1
    ) g on true
    left join lateral (
        select s.*, s.next_bytes is not null and (s.place >= quantity or s.bytes + s.next_bytes > page_bytes) as more
        from (
            select l.*, c.content, m.agent, m.priority, m.aside, m.completed_at, t.thread_id,
                row_number() over by_pos as place, sum(c.bytes) over by_pos as bytes,
                lead(c.bytes) over by_pos as next_bytes
            from (
                select v.message_id, v.seq, v.thread_pos, v.type, v.data, v.created_at
                from treadle.events v
                where v.thread = r.thread
                    and v.thread_pos > r.after
                    and g.last_pos > r.after  -- else no partition is looked at
                order by v.thread_pos
                limit quantity + 1
            ) l
            left join treadle.messages m on l.type in ('queued', 'done') and m.message_id = l.message_id
            left join treadle.threads t on l.type = 'queued' and t.id = r.thread
            cross join lateral treadle._event_content(
                type => l.type, data => l.data, body => m.body, result => m.result) c
            window by_pos as (order by l.thread_pos rows unbounded preceding)
        ) s
        where s.place <= quantity
            and (s.bytes <= page_bytes or (s.place = 1 and at_least_one))
    ) p on true
    where r.thread is not null
        and (p.thread_pos is not null or g.thread is null or g.last_pos < r.after
            or (g.last_pos > r.after and not at_least_one))
    order by r.n, p.thread_pos
$$;

-- Reader n reads the log of message message_ids[n] after seq afters[n] or, where that id is null, the log of thread
-- threads[n] (threads.id) after thread_pos afters[n]. Each reader gets at most `quantity` events that have about
-- `page_bytes` bytes of data together (see treadle._bytes), but with `at_least_one` its first event in any case.
--   pos    the reader's cursor after this event: its seq, or its thread_pos in the log of a thread
--   last   this final event is the last of a message's log: no event can follow, except after a redrive. Always false
--          in the log of a thread
--   more   events follow that this page has no room for
-- A reader without an event gets no row, or one row with type null:
--   its message or thread does not exist      pos is null
--   its first event is larger than the page   more is true
--   its log ends at pos, before the cursor    so the cursor belongs to another log, or to a part that a failover lost
create or replace function treadle.read_events(
    message_ids uuid[], afters bigint[], quantity integer default 200, threads bigint[] default null,
    page_bytes bigint default 256000, at_least_one boolean default true)
returns table (
    n integer, message_id uuid, seq integer, pos bigint, type text, data text, created_at timestamptz, last boolean,
    more boolean)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
declare
    v_ids uuid[] := array_remove(message_ids, null);
begin
    if v_ids <> '{}' then
        if cardinality(v_ids) > 1 then
            v_ids := array(select u from unnest(v_ids) u order by u);
        end if;
        return query
            select r.*
            from treadle._read_messages(
                message_ids => read_events.message_ids, afters => read_events.afters, quantity => read_events.quantity,
                page_bytes => read_events.page_bytes, at_least_one => read_events.at_least_one,
                first_id => v_ids[1], last_id => v_ids[cardinality(v_ids)]) r;
    end if;
    if array_remove(threads, null) <> '{}' then
        return query
            select r.*
            from treadle._read_threads(
                threads => read_events.threads, afters => read_events.afters, quantity => read_events.quantity,
                page_bytes => read_events.page_bytes, at_least_one => read_events.at_least_one) r;
    end if;
end $$;
comment on function treadle.read_events(uuid[], bigint[], integer, bigint[], bigint, boolean)
    is 'New events for many readers: reader n has seen message_ids[n], or else threads[n], up to afters[n]';

-- Which of these readers (see treadle.read_events) have something to read: the log of reader n does not end at
-- afters[n], or its message or thread does not exist. It reads no events, so one call serves thousands of readers.
create or replace function treadle.grown_logs(message_ids uuid[], threads bigint[], afters bigint[])
returns table (n integer)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    if array_remove(message_ids, null) <> '{}' then
        return query
            select r.n::integer
            from unnest(grown_logs.message_ids, grown_logs.afters) with ordinality r (message_id, after, n)
            left join treadle.messages m on m.message_id = any(array[r.message_id])
            left join treadle.leases l on l.message_id = any(array[r.message_id])
            where r.message_id is not null
                and coalesce(l.last_seq, m.last_seq) is distinct from r.after;
    end if;
    if array_remove(threads, null) <> '{}' then
        return query
            select r.n::integer
            from unnest(grown_logs.threads, grown_logs.afters) with ordinality r (thread, after, n)
            left join lateral (
                select e.last_pos
                from treadle.thread_log e
                where e.thread = r.thread
                order by e.era desc
                limit 1
            ) g on true
            where r.thread is not null
                and g.last_pos is distinct from r.after;
    end if;
end $$;
comment on function treadle.grown_logs is 'Which of these readers have something to read, without its events';

-- The seq of a message's last event so far, and whether the message is over; no row where it does not exist.
create or replace function treadle.log_end(
    message_id uuid, tenant text default 'default', reach jsonb default null)
returns table (last_seq integer, over boolean)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    reach := treadle._checked_reach(reach);
    return query
        select coalesce(l.last_seq, m.last_seq), m.state in ('completed', 'failed', 'cancelled')
        from treadle.messages m
        left join treadle.leases l using (message_id)
        where m.message_id = log_end.message_id
            and m.tenant = log_end.tenant
            and treadle._sees(
                reach => reach, owner => m.owner, agent => m.agent,
                thread_id => (select t.thread_id from treadle.threads t where t.id = m.thread),
                message_id => m.message_id);
end $$;
comment on function treadle.log_end(uuid, text, jsonb)
    is 'The seq of a message''s last event so far, and whether the message is over';

-- A page of the log of one message, as treadle.read_events reads it, where the principal sees the message: no row where
-- it does not exist, one with n null where the page is empty.
create or replace function treadle.read_log(
    message_id uuid, after bigint, quantity integer, page_bytes bigint, tenant text default 'default',
    reach jsonb default null)
returns table (
    n integer, seq integer, pos bigint, type text, data text, created_at timestamptz, last boolean, more boolean)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    if not exists (
        select
        from treadle.messages m
        where m.message_id = read_log.message_id
            and m.tenant = read_log.tenant
            and treadle._sees(
                reach => reach, owner => m.owner, agent => m.agent,
                thread_id => (select t.thread_id from treadle.threads t where t.id = m.thread),
                message_id => m.message_id))
    then
        return;
    end if;
    return query
        select r.n, r.seq, r.pos, r.type, r.data, r.created_at, r.last, r.more
        from treadle._read_messages(
            message_ids => array[read_log.message_id], afters => array[read_log.after],
            quantity => read_log.quantity, page_bytes => read_log.page_bytes, at_least_one => true,
            first_id => read_log.message_id, last_id => read_log.message_id) r;
    if not found then
        return next;
    end if;
end $$;
comment on function treadle.read_log(uuid, bigint, integer, bigint, text, jsonb)
    is 'A page of the log of one message that the principal sees';

-- The messages of a thread that are not over, in the thread's order: the one that has the turn, and those among the
-- last `searched`. `question`: the name of the question that it waits with.
create or replace function treadle.open_messages(
    thread bigint, tenant text, reach jsonb, searched integer default 1000)
returns table (message_id uuid, agent text, question text)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    reach := treadle._checked_reach(reach);
    return query
        select m.message_id, m.agent, e.data ->> 'name'
        from (
            select s.turn as message_id
            from treadle._turns_of(open_messages.thread) s
            union
            select l.message_id
            from (
                select x.message_id, x.state
                from treadle.messages x
                where x.thread = open_messages.thread
                order by x.ord desc
                limit searched
            ) l
            where l.state in ('queued', 'processing')
        ) o
        join treadle.messages m on m.message_id = any(array[o.message_id])
        join treadle.threads t on t.id = m.thread
        left join treadle.events e on m.hold = 'input' and e.message_id = m.message_id and e.seq = m.last_seq
        where m.tenant = open_messages.tenant
            and treadle._sees(
                reach => reach, owner => m.owner, agent => m.agent, thread_id => t.thread_id,
                message_id => m.message_id)
        order by m.ord;
end $$;
comment on function treadle.open_messages(bigint, text, jsonb, integer)
    is 'The messages of a thread that are not over, and what they ask';
