-- Find: messages by what a person looks for, the newest first.
--
-- A call looks at a bounded number of rows and, where it reads texts, at a bounded number of bytes. It says where it
-- stopped, and the next call goes on from there. So the cost of a call does not grow with the number of messages.
-- `filter` is an object of texts, all of which a message must satisfy:
--   state, agent, queue, thread_id, parent  equal these; the state open means queued or processing
--   since, until                            its id is from this time on, and before that time
--   error                                   its error contains this text
--   q                                       its message, result or metadata contains this text
-- Texts are compared without regard to upper and lower case. Deliveries of webhooks are left out, unless the filter
-- names their queue or agent, a thread or a parent: a message can have several, and people look for messages.

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
        perform (filter ->> 'since')::timestamptz, (filter ->> 'until')::timestamptz;
        return filter;
    end if;
    raise data_exception;
exception when data_exception then
    raise exception using
        errcode = 'TR422',
        message = 'filter must be an object with some of the texts ' || array_to_string(c_names, ', ')
            || '; parent is an id, since and until are times.';
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

-- Whether so few messages are open, of all tenants together, that each of them can be looked up.
create or replace function treadle._few_are_open() returns boolean
language sql stable as $$
    select coalesce(sum(c.queued + c.processing), 0) <= 300
    from treadle.counters c
    where c.id >= treadle._low_water_mark('counters')
$$;

-- The open messages, wherever they wait or run: in a lane, held, or under a lease. Some of them twice.
create or replace function treadle._open_messages() returns setof uuid
language plpgsql stable as $$
declare
    v record;
begin
    for v in
        select q.queue, l.lane
        from treadle.queues q
        cross join unnest(array['high', 'normal', 'low']) l (lane)
    loop
        return query
            select l.message_id
            from treadle._lane_list(queue => v.queue, lane => v.lane, quantity => 1000, at => treadle.clock()) l;
    end loop;
    return query
        select w.message_id
        from treadle.messages w
        where w.hold = 'thread'
        union all
        select w.message_id
        from treadle.messages w
        where w.hold in ('delay', 'backoff')
        union all
        select w.message_id
        from treadle.messages w
        where w.hold = 'share'
        union all
        select w.message_id
        from treadle.messages w
        where w.hold in ('children', 'input')
        union all
        select l.message_id
        from treadle.leases l
        where l.id >= treadle._low_water_mark('leases');
end $$;

-- The rows m that a search looks at, the newest first: those of a thread by their places in it, children, those that
-- run, failed or were cancelled, those that are open if they are few, those of a tenant, or all. $1: filter,
-- $2: tenant, $3: before, $4: first, $5: the thread, $6: before this place.
create or replace function treadle._rows_to_search(filter jsonb, tenant text, few_are_open boolean) returns text
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
        when filter ->> 'state' in ('queued', 'open') and few_are_open then 'select m.*
            from (select distinct o as message_id from treadle._open_messages() o) o
            join treadle.messages m on m.message_id = any(array[o.message_id])
            where m.message_id < $3 and m.message_id >= $4
            order by m.message_id desc'
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
create or replace function treadle._rows_seen(filter jsonb, rows text) returns text
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
        _rows_seen.rows)
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
        and (s.queue <> treadle._webhook_queue() or $1 ?| '{queue,agent,thread_id,parent}')
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
    v_rows text;
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
    v_rows := treadle._rows_to_search(
        filter => filter, tenant => tenant,
        few_are_open => filter ->> 'state' in ('queued', 'open') and treadle._few_are_open());
    v_seen := treadle._rows_seen(filter => filter, rows => v_rows);
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
    execute format('select count(*) = $8 or count(*) > $9 from (%s limit $8) s', v_rows)
        into v_more  -- rows follow, or the call has stopped at the bytes
        using filter, tenant, v_before, v_first, v_thread, v_place, reach, rows, cardinality(v_looked_at);
    if v_more then
        next_before := v_looked_at[cardinality(v_looked_at)];
    end if;
end $$;
comment on function treadle.find_messages(jsonb, uuid, integer, text, jsonb, integer, bigint)
    is 'Messages that satisfy a filter, the newest first, and where to go on';
