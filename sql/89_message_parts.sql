-- A message as a person looks at it: what it sent, its events, its traceback.

-- The messages that a message has sent, and those that they have sent: up to `quantity`, each after its parent.
create or replace function treadle.descendants(
    ancestor uuid, quantity integer default 200, tenant text default 'default', reach jsonb default null)
returns table (message_id uuid, parent uuid, depth integer, agent text, state text, hold text, created_at timestamptz,
    started_at timestamptz, completed_at timestamptz, error text, usage jsonb)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    return query
        with recursive tree as (
            select m.message_id, 1 as depth
            from treadle.messages m
            where m.parent = descendants.ancestor
            union all
            select m.message_id, t.depth + 1
            from tree t
            join treadle.messages m on m.parent = any(array[t.message_id])
            where t.depth < 32
        )
        select m.message_id, m.parent, t.depth, m.agent, m.state, m.hold, m.created_at, m.started_at, m.completed_at,
            left(m.error, 500), m.usage
        from (select * from tree limit quantity) t
        join treadle.messages m on m.message_id = any(array[t.message_id])
        where m.tenant = descendants.tenant
            and treadle._sees(
                reach => reach, owner => m.owner, agent => m.agent,
                thread_id => (select h.thread_id from treadle.threads h where h.id = m.thread),
                message_id => m.message_id)
        order by t.depth, m.message_id;
end $$;
comment on function treadle.descendants(uuid, integer, text, jsonb)
    is 'The messages that a message has sent, and those that they have sent';

-- How many events of each type a message's log has among its first events, the last seq of them, and that of
-- the log.
create or replace function treadle.count_events(message_id uuid, among integer default 10000)
returns table (type text, events bigint, first_at timestamptz, last_at timestamptz, last_seq integer,
    log_end integer)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    return query
        select e.type, count(*), min(e.created_at), max(e.created_at), max(e.seq),
            (
                select coalesce(l.last_seq, m.last_seq)
                from treadle.messages m
                left join treadle.leases l on l.message_id = any(array[m.message_id])
                where m.message_id = count_events.message_id
            )
        from treadle.events e
        where e.message_id = count_events.message_id
            and e.seq <= count_events.among
        group by e.type
        order by min(e.seq);
end $$;
comment on function treadle.count_events(uuid, integer)
    is 'How many events of each type a message''s log has at its beginning';

-- The events of a message's log that tell how it went: where attempts begin and end, its steps and its tools. Of the
-- first events of the log, and of these the first thousand that have about so many bytes together.
create or replace function treadle.milestones(
    message_id uuid, among integer default 10000, page_bytes bigint default 4000000)
returns table (seq integer, type text, data jsonb, created_at timestamptz)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    return query
        select s.seq, s.type,
            case
                when s.type in ('step', 'tool', 'input', 'parked')
                    then s.data - array['result', 'input', 'output', 'question', 'sent']
                        || jsonb_build_object('shown', treadle._preview(
                            coalesce(s.data -> 'result', s.data -> 'output', s.data -> 'input', s.data -> 'question')))
                else s.data
            end,
            s.created_at
        from (
            select e.seq, e.type, e.data, e.created_at,
                sum(treadle._bytes(e.data)) over (order by e.seq rows unbounded preceding) as bytes
            from treadle.events e
            where e.message_id = milestones.message_id
                and e.seq <= milestones.among
                and e.type in (
                    'queued', 'started', 'retry', 'parked', 'input', 'step', 'tool', 'done', 'error', 'cancelled')
            order by e.seq
            limit 1000
        ) s
        where s.bytes <= page_bytes
        order by s.seq;
end $$;
comment on function treadle.milestones(uuid, integer, bigint)
    is 'Where the attempts of a message begin and end, its steps and its tools';

-- The traceback with which a message failed, as its dead letter keeps it; null: it has none.
create or replace function treadle.traceback(message_id uuid) returns text
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    m treadle.messages;
    v_traceback text;
begin
    m := (select x from treadle.messages x where x.message_id = traceback.message_id);
    if m.lane = 'dlq' then
        execute format(
            'select q.message ->> ''traceback'' from pgmq.%I q where q.msg_id = $1',
            treadle._lane_table(m.queue, 'dlq'))
            into v_traceback
            using m.lane_id;
    end if;
    return v_traceback;
end $$;
comment on function treadle.traceback is 'The traceback with which a message failed';
