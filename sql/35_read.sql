-- Reading the event log: one call serves many readers.

-- The data of an event as readers see it. The data of `queued` and `done` is taken from the message, which the caller
-- joins for these two types only.
create or replace function treadle._event_data(type text, data jsonb, m treadle.messages, thread_id text) returns text
language sql immutable parallel safe as $$
    select case type
        when 'queued' then
            jsonb_build_object('message', m.body, 'agent', m.agent, 'priority', m.priority, 'thread_id', thread_id)
            || case when m.aside then '{"aside": true}' else '{}'::jsonb end
            || coalesce(data, '{}')
        when 'done' then
            jsonb_build_object('state', 'completed', 'result', m.result, 'completed_at', m.completed_at)
        else data
    end::text
$$;

-- New events for readers of messages. The planner inlines this function and the next one into treadle.read_events. Each
-- has its own query: one that could read both kinds of logs would start a scan of every partition twice for each call.
create or replace function treadle._read_messages(
    message_ids uuid[], afters bigint[], quantity integer, page_characters integer)
returns table (
    n integer, message_id uuid, seq integer, pos bigint, type text, data text, created_at timestamptz, last boolean)
language sql stable as $$
    select r.n::integer, r.message_id, p.seq, p.seq::bigint, p.type, p.data, p.created_at, p.last
    from unnest(message_ids, afters) with ordinality r (message_id, after, n)
    cross join lateral (
        select
            e.seq, e.type, e.data, e.created_at,
            e.type in ('done', 'error', 'cancelled') and exists (
                select
                from treadle.messages m
                where m.message_id = r.message_id
                    and m.last_seq = e.seq
                    and m.state in ('completed', 'failed', 'cancelled')) as last
        from (
            select
                l.seq, l.type, d.data, l.created_at,
                sum(length(d.data)) over (order by l.seq) - length(d.data) as characters_before
            from (
                select v.*
                from treadle.events v
                where v.message_id = r.message_id
                    and v.seq > r.after
                order by v.seq
                limit quantity
            ) l
            left join treadle.messages m on l.type in ('queued', 'done') and m.message_id = r.message_id
            left join treadle.threads t on l.type = 'queued' and t.id = l.thread
            cross join lateral (
                select treadle._event_data(type => l.type, data => l.data, m => m, thread_id => t.thread_id) as data
            ) d
        ) e
        where e.characters_before < page_characters
        union all
        select null, null, null, null, null
        where not exists (select from treadle.messages m where m.message_id = r.message_id)
    ) p
    where r.message_id is not null
    order by r.n, p.seq
$$;

-- New events for readers of threads.
create or replace function treadle._read_threads(
    threads bigint[], afters bigint[], quantity integer, page_characters integer)
returns table (
    n integer, message_id uuid, seq integer, pos bigint, type text, data text, created_at timestamptz, last boolean)
language sql stable as $$
    select r.n::integer, p.message_id, p.seq, p.thread_pos, p.type, p.data, p.created_at, false
    from unnest(threads, afters) with ordinality r (thread, after, n)
    cross join lateral (
        select e.message_id, e.seq, e.thread_pos, e.type, e.data, e.created_at
        from (
            select
                l.message_id, l.seq, l.thread_pos, l.type, d.data, l.created_at,
                sum(length(d.data)) over (order by l.thread_pos) - length(d.data) as characters_before
            from (
                select v.*
                from treadle.events v
                where v.thread = r.thread
                    and v.thread_pos > r.after
                order by v.thread_pos
                limit quantity
            ) l
            left join treadle.messages m on l.type in ('queued', 'done') and m.message_id = l.message_id
            left join treadle.threads t on l.type = 'queued' and t.id = r.thread
            cross join lateral (
                select treadle._event_data(type => l.type, data => l.data, m => m, thread_id => t.thread_id) as data
            ) d
        ) e
        where e.characters_before < page_characters
        union all
        select null, null, null, null, null, null
        where not exists (select from treadle.threads t where t.id = r.thread)
    ) p
    where r.thread is not null
    order by r.n, p.thread_pos
$$;

-- Reader n reads the log of message message_ids[n] after seq afters[n] or, where that id is null, the log of thread
-- threads[n] (threads.id) after thread_pos afters[n]. Each reader gets at most `quantity` events and about 256,000
-- characters of data, but at least one event if there is one. A reader whose message or thread does not exist gets one
-- row with type null.
--   pos    the reader's cursor after this event: its seq, or its thread_pos in the log of a thread
--   last   this final event is the last of a message's log: no event can follow, except after a redrive. Always false
--          in the log of a thread
create or replace function treadle.read_events(
    message_ids uuid[], afters bigint[], quantity integer default 200, threads bigint[] default null)
returns table (
    n integer, message_id uuid, seq integer, pos bigint, type text, data text, created_at timestamptz, last boolean)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
#variable_conflict use_column
declare
    c_page_characters constant integer := 256000;
begin
    if array_remove(message_ids, null) <> '{}' then
        return query
            select r.*
            from treadle._read_messages(
                message_ids => read_events.message_ids, afters => read_events.afters, quantity => read_events.quantity,
                page_characters => c_page_characters) r;
    end if;
    if array_remove(threads, null) <> '{}' then
        return query
            select r.*
            from treadle._read_threads(
                threads => read_events.threads, afters => read_events.afters, quantity => read_events.quantity,
                page_characters => c_page_characters) r;
    end if;
end $$;
comment on function treadle.read_events
    is 'New events for many readers: reader n has seen message_ids[n], or else threads[n], up to afters[n]';

-- The seq of a message's last event so far, and whether the message is over; no row where it does not exist.
create or replace function treadle.log_end(message_id uuid) returns table (last_seq integer, over boolean)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
#variable_conflict use_column
begin
    return query
        select coalesce(l.last_seq, m.last_seq), m.state in ('completed', 'failed', 'cancelled')
        from treadle.messages m
        left join treadle.leases l using (message_id)
        where m.message_id = log_end.message_id;
end $$;
comment on function treadle.log_end is 'The seq of a message''s last event so far, and whether the message is over';
