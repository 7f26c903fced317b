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

-- The next events of one log in its order: of the message, or of the thread where `message_id` is null. `pos` is the
-- place in that log: seq, or thread_pos. The planner inlines the function. `offset 0` stops the planner from merging a
-- key with its branch. The branch whose key is null is then not executed, and reads no partition.
create or replace function treadle._log_page(message_id uuid, thread bigint, after bigint, quantity integer)
returns table (
    pos bigint, event_message_id uuid, seq integer, event_thread bigint, type text, data jsonb, created_at timestamptz)
language sql stable as $$
    select p.*
    from (select _log_page.message_id where _log_page.message_id is not null offset 0) key
    cross join lateral (
        select e.seq::bigint, e.message_id, e.seq, e.thread, e.type, e.data, e.created_at
        from treadle.events e
        where e.message_id = key.message_id
            and e.seq > _log_page.after
        order by e.seq
        limit quantity
    ) p
    union all
    select p.*
    from (select _log_page.thread where _log_page.message_id is null offset 0) key
    cross join lateral (
        select e.thread_pos, e.message_id, e.seq, e.thread, e.type, e.data, e.created_at
        from treadle.events e
        where e.thread = key.thread
            and e.thread_pos > _log_page.after
        order by e.thread_pos
        limit quantity
    ) p
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
    return query
    select r.n::integer, p.message_id, p.seq, p.pos, p.type, p.data, p.created_at, p.last
    from unnest(message_ids, threads, afters) with ordinality r (message_id, thread, after, n)
    cross join lateral (
        select
            e.pos, e.message_id, e.seq, e.type, e.shown as data, e.created_at,
            r.message_id is not null and e.type in ('done', 'error', 'cancelled') and exists (
                select
                from treadle.messages m
                where m.message_id = e.message_id
                    and m.last_seq = e.seq
                    and m.state in ('completed', 'failed', 'cancelled')) as last
        from (
            select l.*, d.shown, sum(length(d.shown)) over (order by l.pos) - length(d.shown) as characters_before
            from treadle._log_page(
                message_id => r.message_id, thread => r.thread, after => r.after, quantity => quantity)
                l (pos, message_id, seq, thread, type, data, created_at)
            left join treadle.messages m on l.type in ('queued', 'done') and m.message_id = l.message_id
            left join treadle.threads t on l.type = 'queued' and t.id = l.thread
            cross join lateral (
                select treadle._event_data(type => l.type, data => l.data, m => m, thread_id => t.thread_id) as shown
            ) d
        ) e
        where e.characters_before < c_page_characters
        union all
        select null, r.message_id, null, null, null, null, null
        where not case
            when r.message_id is not null
                then exists (select from treadle.messages m where m.message_id = r.message_id)
            else exists (select from treadle.threads t where t.id = r.thread)
        end
    ) p
    order by r.n, p.pos;
end $$;
comment on function treadle.read_events
    is 'New events for many readers: reader n has seen message_ids[n], or else threads[n], up to afters[n]';

-- The seq of a message's last event so far, and whether the message is over; no row where it does not exist.
create or replace function treadle.log_end(message_id uuid) returns table (last_seq integer, over boolean)
language sql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select coalesce(l.last_seq, m.last_seq), m.state in ('completed', 'failed', 'cancelled')
    from treadle.messages m
    left join treadle.leases l using (message_id)
    where m.message_id = log_end.message_id
$$;
comment on function treadle.log_end is 'The seq of a message''s last event so far, and whether the message is over';
