-- Lookups: what agents, workers and the API ask about threads, messages and the installation.

-- Row n is about thread_ids[n]: its key (threads.id), its number of messages and the last thread_pos of its log, all
-- null if there is no such thread.
create or replace function treadle.thread_logs(
    thread_ids text[], tenant text default 'default', reach jsonb default null)
returns table (n bigint, thread bigint, message_count bigint, last_pos bigint)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    reach := treadle._checked_reach(reach);
    return query
        select u.n, t.id, s.last_ord, case when t.id is not null then coalesce(l.last_pos, 0) end
        from unnest(thread_ids) with ordinality u (thread_id, n)
        left join treadle.threads t on t.tenant = thread_logs.tenant and t.thread_id = u.thread_id
            and treadle._sees_thread(reach => reach, owner => t.owner, agents => t.agents, thread_id => t.thread_id)
        left join lateral treadle._turns_of(t.id) s on true
        left join lateral (
            select g.last_pos
            from treadle.thread_log g
            where g.thread = t.id
            order by g.era desc
            limit 1
        ) l on true;
end $$;
comment on function treadle.thread_logs(text[], text, jsonb)
    is 'Key, number of messages and end of the log of each thread';

-- A thread's key, the last position in its log, and the time of the event at thread_pos `pos`, null if the log has no
-- event there; no row if there is no such thread.
create or replace function treadle.thread_place(
    thread_id text, pos bigint, tenant text default 'default', reach jsonb default null)
returns table (thread bigint, last_pos bigint, event_at timestamptz)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    reach := treadle._checked_reach(reach);
    return query
        select t.id, coalesce(l.last_pos, 0),
            (
                select e.created_at
                from treadle.events e
                where e.thread = t.id
                    and e.thread_pos = thread_place.pos
                    and thread_place.pos > 0
            )
        from treadle.threads t
        left join lateral (
            select g.last_pos
            from treadle.thread_log g
            where g.thread = t.id
            order by g.era desc
            limit 1
        ) l on true
        where t.tenant = thread_place.tenant
            and t.thread_id = thread_place.thread_id
            and treadle._sees_thread(reach => reach, owner => t.owner, agents => t.agents, thread_id => t.thread_id);
end $$;
comment on function treadle.thread_place(text, bigint, text, jsonb)
    is 'Key and log end of a thread, and the time of its event at a position';

-- The data of the `tool` events of a message's completing attempt, in order.
create or replace function treadle._tool_events(message_id uuid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select coalesce(jsonb_agg(e.data order by e.seq), '[]')
        from treadle.events e
        where e.message_id = _tool_events.message_id
            and e.type = 'tool'
            and e.seq > (
                select max(s.seq)
                from treadle.events s
                where s.message_id = _tool_events.message_id
                    and s.type = 'started'));
end $$;

-- The last `quantity` completed messages of a thread before the one with ord `before`, the newest first, and those that
-- were interrupted, whose result is what they have said; as many as have at most max_bytes of JSON text together (null:
-- no limit). `tools`: the data of their `tool` events; empty unless `with_tools`. An exchange that does not fit ends
-- the list; those before it are not read.
create or replace function treadle.exchanges(thread bigint, before bigint, quantity integer, with_tools boolean,
    max_bytes bigint default null)
returns table (message jsonb, result jsonb, tools jsonb)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
declare
    v_id uuid;
    v_bytes bigint := 0;
begin
    for v_id, message, result in
        select m.message_id, m.body,
            case
                when m.interrupted and m.state = 'cancelled' then to_jsonb(coalesce(treadle._said(m.message_id), ''))
                when m.steered_into is not null then '""'
                else m.result
            end
        from treadle.messages m
        where m.thread = exchanges.thread
            and m.ord < before
            and (m.state = 'completed' or (m.interrupted and m.state = 'cancelled'))
        order by m.ord desc
        limit quantity
    loop
        tools := case when with_tools then treadle._tool_events(v_id) else '[]' end;
        if max_bytes is not null then
            v_bytes := v_bytes
                + octet_length(message::text) + octet_length(result::text) + octet_length(tools::text);
            exit when v_bytes > max_bytes;
        end if;
        return next;
    end loop;
end $$;
comment on function treadle.exchanges(bigint, bigint, integer, boolean, bigint)
    is 'Earlier messages of a thread with their answers, the newest first';

-- The message that has the thread's turn, with the results of its steps by name and the data of its last
-- `progress_events` events of type progress; no row if no message has the turn.
create or replace function treadle.turn_in_progress(thread bigint, progress_events integer)
returns table (message_id uuid, agent text, message jsonb, steps jsonb, progress jsonb)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    return query
        select m.message_id, m.agent, m.body,
            (
                select coalesce(jsonb_object_agg(k.data ->> 'name', k.data -> 'result' order by k.seq), '{}')
                from treadle._kept_entries(m.message_id) k
                where k.type = 'step'
            ),
            (
                select coalesce(jsonb_agg(p.data order by p.seq), '[]')
                from (
                    select e.seq, e.data
                    from treadle.events e
                    where e.message_id = m.message_id
                        and e.type = 'progress'
                    order by e.seq desc
                    limit progress_events
                ) p
            )
        from treadle._turns_of(turn_in_progress.thread) t
        join treadle.messages m on m.message_id = t.turn;
end $$;
comment on function treadle.turn_in_progress is 'The message that has the turn in a thread, with its log so far';

-- The message that has the turn in a thread, and whether it waits for the answer to a question.
create or replace function treadle.turn_holder(thread_id text, tenant text, reach jsonb)
returns table (message_id uuid, asks boolean)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    reach := treadle._checked_reach(reach);
    return query
        select m.message_id, m.hold is not distinct from 'input'
        from treadle.threads t
        cross join lateral treadle._turns_of(t.id) s
        join treadle.messages m on m.message_id = any(array[s.turn])
        where t.tenant = turn_holder.tenant
            and t.thread_id = turn_holder.thread_id
            and treadle._sees_thread(reach => reach, owner => t.owner, agents => t.agents, thread_id => t.thread_id);
end $$;
comment on function treadle.turn_holder is 'The message that has the turn in a thread';

-- The agent that answers at once while another agent is at work in the thread: the working agent names it in its
-- setting `while_busy`. `agent` is the agent that the new message names, if any; null as well if it names a third
-- agent.
create or replace function treadle.agent_while_busy(
    thread_id text, agent text, tenant text default 'default', reach jsonb default null)
returns text
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    reach := treadle._checked_reach(reach);
    return (
        select o.agent
        from treadle.threads t
        cross join lateral treadle._turns_of(t.id) s
        join treadle.messages m on m.message_id = s.turn and (m.state = 'processing' or m.attempt > 0)
        join treadle.agents a on a.agent = m.agent
        join treadle.agents o on o.agent = a.settings ->> 'while_busy'
        where t.tenant = agent_while_busy.tenant
            and t.thread_id = agent_while_busy.thread_id
            and treadle._sees_thread(reach => reach, owner => t.owner, agents => t.agents, thread_id => t.thread_id)
            and treadle._may_address(reach, o.agent)
            and (agent_while_busy.agent is null or agent_while_busy.agent in (a.agent, o.agent)));
end $$;
comment on function treadle.agent_while_busy(text, text, text, jsonb)
    is 'The agent that answers while another one is at work in the thread';

create or replace function treadle.thread_usage(thread bigint, out messages bigint, out usage jsonb)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    select * into messages, usage
    from (
        select
            (
                select count(*)
                from treadle.messages m
                where m.thread = thread_usage.thread
                    and m.usage is not null
            ),
            (
                select coalesce(jsonb_object_agg(s.key, s.total), '{}')
                from (
                    select u.key, sum(u.value::numeric) as total
                    from treadle.messages m
                    cross join jsonb_each(m.usage) u
                    where m.thread = thread_usage.thread
                        and jsonb_typeof(u.value) = 'number'
                    group by u.key
                ) s
            )) x;
end $$;
comment on function treadle.thread_usage is 'What a thread''s messages used, summed by kind, and how many reported it';

-- What the message `asker` wants to know of others. Row n is about message_ids[n]; its state is null if the message
-- does not exist in the asker's tenant, or belongs to another owner than the asker. `thread_id`: the thread whose turn
-- the message takes.
create or replace function treadle.children(asker uuid, message_ids uuid[])
returns table (n bigint, message_id uuid, state text, result text, error text, parent uuid, thread_id text)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    return query
        select u.n, u.message_id, m.state, m.result::text, m.error, m.parent,
            case when not m.aside then t.thread_id end
        from unnest(message_ids) with ordinality u (message_id, n)
        left join treadle.messages a on a.message_id = asker
        left join treadle.messages m on m.message_id = u.message_id and m.tenant = a.tenant
            and (a.owner is null or m.owner = a.owner)
        left join treadle.threads t on t.id = m.thread;
end $$;
comment on function treadle.children is 'State and outcome of messages that another message waits for';

comment on column treadle.messages.traceparent is 'W3C trace context of the submit; null: it had none';

create or replace function treadle.trace_parents(message_ids uuid[])
returns table (message_id uuid, traceparent text)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    return query
        select m.message_id, m.traceparent
        from unnest(message_ids) u (id)
        join treadle.messages m on m.message_id = any(array[u.id])
        where m.traceparent is not null;
end $$;
comment on function treadle.trace_parents is 'The W3C trace context of the submit of each message that has one';

-- A summary for load balancers. `live_workers`: those whose heartbeat is at most ten seconds old.
create or replace function treadle.health(out has_queues boolean, out live_workers bigint)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    select * into has_queues, live_workers
    from (
        select exists (select from treadle.queues),
            (
                select count(*)
                from treadle.workers w
                where abs(extract(epoch from treadle.clock() - w.heartbeat_at)) < 10
            )) x;
end $$;
comment on function treadle.health is 'Whether there are queues, and how many workers live';
