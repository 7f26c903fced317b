-- Find: messages by what a person looks for, the newest first.
--
-- A call looks at a bounded number of rows and, where it reads texts, at a bounded number of bytes. It says where it
-- stopped, and the next call goes on from there. So the cost of a call does not grow with the number of messages.
-- `filter` is an object of texts, all of which a message must satisfy:
--   state, agent, queue, thread_id, parent  equal these; the state open means queued or processing
--   since, until                            its id is from this time on, and before that time
--   error                                   its error contains this text
--   q                                       its message, result or metadata contains this text
-- Texts are compared without regard to upper and lower case.

-- The filter, where it has that shape. Raises TR422 for any other.
create or replace function treadle._checked_filter(filter jsonb) returns jsonb
language plpgsql stable as $$
declare
    c_names constant text[] :=
        array['state', 'agent', 'queue', 'thread_id', 'parent', 'since', 'until', 'error', 'q'];
begin
    if (case when jsonb_typeof(filter) = 'object' then
        filter - c_names = '{}'
        and not filter @? 'strict $.* ? (@.type() != "string")'
        and (not filter ? 'parent' or treadle._uuid(lower(filter ->> 'parent')) is not null)
    end) then
        return filter;
    end if;
    raise exception using
        errcode = 'TR422',
        message = 'filter must be an object with some of the texts ' || array_to_string(c_names, ', ') || '.';
end $$;

-- A value as a person reads it.
create or replace function treadle._text(value jsonb) returns text
language sql immutable parallel safe as $$
    select case jsonb_typeof(value) when 'string' then value #>> '{}' else value::text end
$$;

-- Whether a tenant can have a message of this state and queue: what the counters say. Of the other filters, and of
-- states whose messages are found by rows of their own, they say nothing.
create or replace function treadle._may_have(filter jsonb, tenant text) returns boolean
language sql stable as $$
    select case
        when filter ?| array['thread_id', 'parent'] then true
        when filter ? 'queue' or filter ->> 'state' in ('queued', 'open', 'completed') then (
            select coalesce(sum(case filter ->> 'state'
                    when 'queued' then c.queued
                    when 'open' then c.queued + c.processing
                    when 'completed' then c.completed
                    else c.queued + c.processing + c.completed + c.failed + c.cancelled
                end), 0) <> 0
            from treadle.counters c
            where c.tenant = _may_have.tenant
                and (not filter ? 'queue' or c.queue = filter ->> 'queue')
                and c.id >= treadle._low_water_mark('counters'))
        else true
    end
$$;

-- The rows m that a search looks at, the newest first: those of a thread by their places in it, children, those that
-- run, failed or were cancelled, those of a tenant, or all. $1: filter, $2: tenant, $3: before, $4: first, $5: the
-- thread, $6: before this place.
create or replace function treadle._rows_to_search(filter jsonb, tenant text) returns text
language sql immutable as $$
    select case
        when filter ? 'thread_id' then 'select m.*
            from treadle.messages m
            where m.thread = $5 and m.ord < $6
            order by m.ord desc'
        when filter ? 'parent' then 'select m.*
            from treadle.messages m
            where m.parent = ($1 ->> ''parent'')::uuid and m.message_id < $3
            order by m.message_id desc'
        when filter ->> 'state' = 'processing' then 'select m.*
            from treadle.leases l
            join treadle.messages m on m.message_id = any(array[l.message_id])
            where l.message_id < $3 and l.message_id >= $4
            order by l.message_id desc'
        when filter ->> 'state' in ('failed', 'cancelled') then 'select m.*
            from treadle.not_completed n
            join treadle.messages m on m.message_id = any(array[n.message_id])
            where n.tenant = $2 and n.state = $1 ->> ''state'' and n.message_id < $3 and n.message_id >= $4
            order by n.message_id desc'
        when tenant <> 'default' then 'select m.*
            from treadle.messages m
            where m.tenant = $2 and m.tenant <> ''default'' and m.message_id < $3 and m.message_id >= $4
            order by m.message_id desc'
        else 'select m.*
            from treadle.messages m
            where m.message_id < $3 and m.message_id >= $4
            order by m.message_id desc'
    end
$$;

-- The first $8 of these rows. With `q`, those of them that have about $10 bytes of text together, but at least one.
create or replace function treadle._rows_seen(filter jsonb, tenant text) returns text
language sql immutable as $$
    select format(
        case
            when filter ? 'q' then
                'select w.*
                from (
                    select m.*, row_number() over (rows unbounded preceding) as place,
                        sum(treadle._bytes(m.body) + treadle._bytes(m.result) + treadle._bytes(m.metadata))
                            over (rows unbounded preceding) as bytes
                    from (%s limit $8) m
                ) w
                where w.place = 1 or w.bytes <= $10'
            else '%s limit $8'
        end,
        treadle._rows_to_search(filter, tenant))
$$;

-- Whether a row s satisfies the filter; $7: the reach.
create or replace function treadle._search_condition() returns text
language sql immutable as $$
    select $c$s.tenant = $2 and s.message_id >= $4
        and ($1 ->> 'until' is null or s.message_id < treadle.uuid_at(($1 ->> 'until')::timestamptz))
        and ($1 ->> 'state' is null or s.state = $1 ->> 'state'
            or ($1 ->> 'state' = 'open' and s.state in ('queued', 'processing')))
        and ($1 ->> 'agent' is null or s.agent = $1 ->> 'agent')
        and ($1 ->> 'queue' is null or s.queue = $1 ->> 'queue')
        and ($1 ->> 'parent' is null or s.parent = ($1 ->> 'parent')::uuid)
        and ($1 ->> 'error' is null or strpos(lower(s.error), lower($1 ->> 'error')) > 0)
        and ($1 ->> 'q' is null or strpos(lower(treadle._text(s.body)), lower($1 ->> 'q')) > 0
            or strpos(lower(treadle._text(s.result)), lower($1 ->> 'q')) > 0
            or strpos(lower(s.metadata::text), lower($1 ->> 'q')) > 0)
        and treadle._sees(
            reach => $7, owner => s.owner, agent => s.agent,
            thread_id => (select t.thread_id from treadle.threads t where t.id = s.thread),
            message_id => s.message_id)$c$
$$;

-- Up to `quantity` messages that satisfy the filter, older than `before` (in a thread: at an earlier place).
-- `next_before`: where the next call goes on; null: there are no others. It looks at `rows` rows at most and, with `q`,
-- at about so many bytes of text.
create or replace function treadle.find_messages(
    filter jsonb default '{}', before uuid default null, quantity integer default 100, tenant text default 'default',
    reach jsonb default null, rows integer default 10000, bytes bigint default 16000000,
    out message_ids uuid[], out next_before uuid)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set enable_seqscan = off set enable_bitmapscan = off as $$
declare
    v_first uuid;
    v_before uuid;
    v_thread bigint;
    v_place bigint;
    v_seen text;
    v_looked_at uuid[];
    v_more boolean;
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    filter := treadle._checked_filter(filter);
    v_first := treadle.uuid_at(coalesce((filter ->> 'since')::timestamptz, '-infinity'));
    v_before := least(before, case when filter ? 'until' then treadle.uuid_at((filter ->> 'until')::timestamptz) end);
    v_before := coalesce(v_before, 'ffffffff-ffff-ffff-ffff-ffffffffffff');
    if filter ? 'thread_id' then
        v_thread := (
            select t.id
            from treadle.threads t
            where t.tenant = find_messages.tenant and t.thread_id = filter ->> 'thread_id');
        v_place := coalesce(
            (select m.ord from treadle.messages m where m.message_id = before and m.thread = v_thread),
            case when before is null then 9223372036854775807 else 0 end);
    end if;
    if not treadle._may_have(filter => filter, tenant => tenant) then
        message_ids := '{}';
        return;
    end if;
    v_seen := treadle._rows_seen(filter => filter, tenant => tenant);
    execute format(
        'select array(select s.message_id from (%s) s where %s limit $9 + 1)', v_seen, treadle._search_condition())
        into message_ids
        using filter, tenant, v_before, v_first, v_thread, v_place, reach, rows, quantity, bytes;
    if cardinality(message_ids) > quantity then
        message_ids := message_ids[:quantity];
        next_before := message_ids[quantity];
        return;
    end if;
    execute format('select array(select s.message_id from (%s) s)', v_seen)
        into v_looked_at
        using filter, tenant, v_before, v_first, v_thread, v_place, reach, rows, quantity, bytes;
    v_more := cardinality(v_looked_at) = rows;
    if filter ? 'q' and not v_more then  -- it may have stopped at the bytes
        execute format(
            'select count(*) > $9 from (%s limit $8) s', treadle._rows_to_search(filter => filter, tenant => tenant))
            into v_more
            using filter, tenant, v_before, v_first, v_thread, v_place, reach, rows, cardinality(v_looked_at);
    end if;
    if v_more then
        next_before := v_looked_at[cardinality(v_looked_at)];
    end if;
end $$;
comment on function treadle.find_messages is 'Messages that satisfy a filter, the newest first, and where to go on';

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
comment on function treadle.descendants is 'The messages that a message has sent, and those that they have sent';

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
comment on function treadle.count_events is 'How many events of each type a message''s log has at its beginning';

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
comment on function treadle.milestones is 'Where the attempts of a message begin and end, its steps and its tools';

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
