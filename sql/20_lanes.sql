-- Lanes: everything on the way of a message touches PGMQ's tables through this file, 21_lanes_of_tenants.sql and
-- 22_lane_functions.sql. Chores, repairs and checks (from 83_lane_rows.sql on) touch them, too. The inbox of records
-- (47_publish.sql, 48_sequence.sql) is a PGMQ queue by itself.
--
-- A queue is four PGMQ queues. Three lanes (high, normal, low) hold what may run now or is running, nothing else; the
-- fourth (dlq) holds dead letters. A plain PGMQ client sees all of them as ordinary queues. A lane row's body is
-- {"message_id", "thread_id", "agent"}: everything else is in treadle.messages, which knows the row by (lane,
-- lane_id). We draw lane ids from the lane's own sequence, so that message and row are written with each other's key
-- in one pass.
--
-- PGMQ gives each queue a table of its own. Functions of the hot paths are generated (22_lane_functions.sql). Functions
-- that are called rarely build their statement when they run.
--
-- A lane has two sections. The ids of new messages count up from 1. Messages that return (released, lost with their
-- worker, parked and continued) get negative ids: they go before the new messages of their priority, and after those
-- of higher priority. Both sections draw from the lane's sequence.
--
-- Rows leave a section at its head. While an old snapshot is open (a report, a dump), their dead versions stay there,
-- and every search for the first row would read them. So every search begins at the low-water marks of the lane: see
-- 25_low_water.sql.

-- The table of a lane, in the schema pgmq.
create or replace function treadle._lane_table(queue text, lane text) returns text
language sql immutable parallel safe as $$
    select 'q_' || queue || '_' || lane
$$;

-- All lanes, without the dead letters, and their tables.
create or replace function treadle._lane_tables() returns table (queue text, lane text, name text)
language sql stable as $$
    select q.queue, l.lane, treadle._lane_table(q.queue, l.lane)
    from treadle.queues q
    cross join (values ('high', 0), ('normal', 1), ('low', 2)) l (lane, rank)
    order by q.created_at, q.queue, l.rank
$$;

-- The queue of the deliveries of webhooks, which serves nothing else.
create or replace function treadle._webhook_queue() returns text
language sql immutable parallel safe as $$
    select 'webhooks'
$$;

-- The next id of a lane, from its own sequence.
create or replace function treadle._lane_next(queue text, lane text) returns bigint
language sql volatile as $$
    select nextval(('pgmq.q_' || queue || '_' || lane || '_msg_id_seq')::regclass)
$$;

-- Below every id of a message that returns.
create or replace function treadle._first_returned_id() returns bigint
language sql immutable parallel safe as $$
    select -(1::bigint << 62)
$$;

-- The next id of a lane for a message that returns.
create or replace function treadle._lane_next_returned(queue text, lane text) returns bigint
language sql volatile as $$
    select treadle._lane_next(queue, lane) + treadle._first_returned_id()
$$;

-- The name of the low-water mark of a lane's returned messages. That of the new ones is called like the lane's table.
create or replace function treadle._returned_mark(lane_table text) returns text
language sql immutable parallel safe as $$
    select lane_table || ' returned'
$$;

-- Queues

-- One transaction at a time creates queues and generates functions: each of them writes the same row. So a transaction
-- with an old snapshot, which does not see the queues of others, is refused (40001, try again).
create or replace function treadle._lock_generation() returns void
language plpgsql as $$
begin
    insert into treadle.meta (name, value)
        values ('generated', 'yes')
        on conflict (name) do update set value = excluded.value;
end $$;

-- Fit the table of a lane to what happens to its rows. A claim hides each row: without PGMQ's index on vt, and with
-- room in the page, that touches no index (a HOT update). Every search of a lane reads the key in order.
-- Rows that are deleted by hand (delete, pgmq.pop, pgmq.delete, pgmq.archive) are noted. Our own functions pin their
-- search_path, by which the condition knows them: it costs a drain no CPU that can be measured.
create or replace function treadle._fit_lane(lane_table text) returns void
language plpgsql as $$
begin
    execute format('drop index if exists pgmq.%I', lane_table || '_vt_idx');
    execute format('alter table pgmq.%I set (fillfactor = 45)', lane_table);
    execute format(
        'create or replace trigger treadle_deleted_rows after delete on pgmq.%I for each row '
        'when (current_setting(''search_path'') <> ''pg_catalog, pg_temp'') '
        'execute function treadle._keep_deleted_row()',
        lane_table);
end $$;

-- The tables of lanes that an earlier version created; `treadle migrate` fits them one by one.
create or replace function treadle._unfit_lanes() returns table (name text)
language sql stable as $$
    select t.name
    from treadle._lane_tables() t
    where to_regclass(format('pgmq.%I', t.name || '_vt_idx')) is not null
        or not exists (
            select
            from pg_trigger g
            where g.tgrelid = to_regclass(format('pgmq.%I', t.name)) and g.tgname = 'treadle_deleted_rows')
$$;

-- Create the PGMQ queue of one lane.
create or replace function treadle._create_lane(queue text, lane text) returns void
language plpgsql as $$
begin
    perform pgmq.create(queue || '_' || lane);
    -- Dead rows of a lane must go soon: vacuum by their number, never by their share of the table.
    execute format(
        'alter table pgmq.%I set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, '
        'autovacuum_vacuum_cost_delay = 0, autovacuum_vacuum_insert_threshold = -1)',
        treadle._lane_table(queue, lane));
    if lane <> 'dlq' then
        perform treadle._fit_lane(treadle._lane_table(queue, lane));
        execute format(
            'create trigger treadle_lost_rows before truncate on pgmq.%I '
            'execute function treadle._keep_lost_rows(%L, %L)',
            treadle._lane_table(queue, lane), queue, lane);
    end if;
end $$;

create or replace function treadle.create_queue(name text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    v_lane text;
begin
    if name is null or name !~ '^[a-z][a-z0-9_]{0,39}$' then
        raise exception using errcode = 'TR422', message =
            format('A queue''s name is 1 to 40 of a-z, 0-9 and _, beginning with a letter; %L is not.', name);
    end if;
    if exists (select from treadle.queues q where q.queue = name) then
        return;
    end if;
    perform treadle._lock_generation();
    if exists (select from treadle.queues q where q.queue = name) then  -- another transaction was first
        return;
    end if;
    foreach v_lane in array array['high', 'normal', 'low', 'dlq'] loop
        perform treadle._create_lane(name, v_lane);
    end loop;
    insert into treadle.queues (queue, created_at) values (name, treadle.clock()) on conflict do nothing;
    perform treadle._generate_lane_functions();
end $$;
comment on function treadle.create_queue is 'Create the queue and its PGMQ lanes; does nothing where it exists';

-- Before a truncate (pgmq.purge_queue): note the rows that the lane loses, so that treadle.sweep gives their messages
-- new ones. Its arguments are the queue and the lane.
create or replace function treadle._keep_lost_rows() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    execute format(
        'insert into treadle.lost_rows (message_id, queue, lane, lane_id)
        select m.message_id, m.queue, m.lane, m.lane_id
        from %s q
        join treadle.messages m on m.message_id = treadle._uuid(q.message ->> ''message_id'')
            and m.lane_id = q.msg_id
        where m.queue = $1 and m.lane = $2',
        tg_relid::regclass)
        using tg_argv[0], tg_argv[1];
    return null;
end $$;

-- After a delete by hand: note the row, as above.
create or replace function treadle._keep_deleted_row() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    insert into treadle.lost_rows (message_id, queue, lane, lane_id)
    select m.message_id, m.queue, m.lane, m.lane_id
    from treadle.messages m
    where m.message_id = treadle._uuid(old.message ->> 'message_id')
        and m.lane_id = old.msg_id
        and treadle._lane_table(m.queue, m.lane) = tg_table_name;
    return null;
end $$;

-- Rows of several queues and lanes at once

-- Write lane rows. Those of no lane are left out.
create or replace function treadle._lane_insert(lane_rows treadle.lane_row[], at timestamptz) returns void
language plpgsql as $$
declare
    v_group record;
begin
    if treadle._sharing() then
        perform treadle._count_lane_rows(lane_rows);
    end if;
    if cardinality(lane_rows) = 1 and (lane_rows[1]).lane is not null then  -- the common case, without a query
        perform treadle._lane_put(queue => (lane_rows[1]).queue, lane => (lane_rows[1]).lane, lane_rows => lane_rows,
            at => at);
        return;
    end if;
    for v_group in
        select r.queue, r.lane, array_agg(r order by r.lane_id) as lane_rows
        from unnest(lane_rows) r
        where r.lane is not null
        group by r.queue, r.lane
    loop
        perform treadle._lane_put(queue => v_group.queue, lane => v_group.lane, lane_rows => v_group.lane_rows,
            at => at);
    end loop;
end $$;

-- Delete lane rows. Those of no lane are left out.
create or replace function treadle._lane_delete(lane_rows treadle.lane_row[]) returns void
language plpgsql as $$
declare
    v_group record;
begin
    if cardinality(lane_rows) = 1 and (lane_rows[1]).lane is not null then
        perform treadle._lane_drop(queue => (lane_rows[1]).queue, lane => (lane_rows[1]).lane,
            ids => array[(lane_rows[1]).lane_id]);
        return;
    end if;
    for v_group in
        select r.queue, r.lane, array_agg(r.lane_id order by r.lane_id) as ids
        from unnest(lane_rows) r
        where r.lane is not null
        group by r.queue, r.lane
    loop
        perform treadle._lane_drop(queue => v_group.queue, lane => v_group.lane, ids => v_group.ids);
    end loop;
end $$;

-- Rare statements, built when they run

-- Move rows that name no message of ours (a PGMQ client sent them) to the dead letters. No message fails by it.
create or replace function treadle._lane_expel(queue text, lane text, ids bigint[], at timestamptz) returns void
language plpgsql as $$
begin
    execute format(
        $sql$
        with expelled as (
            delete from pgmq.%I
            where msg_id = any($1)
            returning msg_id, message
        )
        insert into pgmq.%I (vt, enqueued_at, message)
        select $2, $2, jsonb_build_object('reason', 'foreign', 'lane', $3::text, 'msg_id', e.msg_id, 'body', e.message)
        from expelled e
        $sql$,
        treadle._lane_table(queue, lane), treadle._lane_table(queue, 'dlq'))
        using ids, at, lane;
end $$;

-- Of these lane ids: those without a row, because the lane was purged.
create or replace function treadle._lane_missing(queue text, lane text, ids bigint[]) returns setof bigint
language plpgsql stable as $$
begin
    return query execute format(
        'select u.id
        from unnest($1) u (id)
        where not exists (select from pgmq.%I q where q.msg_id = u.id)
        order by u.id',
        treadle._lane_table(queue, lane))
        using ids;
end $$;

-- The newest dead letters of a queue, newest first, before `before`: those of one tenant (null: of all) whose messages
-- the principal sees.
create or replace function treadle._dead_letters(
    queue text,
    quantity integer,
    before bigint default null,
    tenant text default null,
    reach jsonb default null)
returns table (dlq_id bigint, dead_at timestamptz, body jsonb)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    return query execute format(
        $sql$
        select q.msg_id, q.enqueued_at, q.message
        from pgmq.%I q
        where ($2 is null or q.msg_id < $2)
            and ($3 is null or coalesce(q.message ->> 'tenant', 'default') = $3)
            and ($4 is null or exists (
                select
                from treadle.messages m
                left join treadle.threads t on t.id = m.thread
                where m.message_id = treadle._uuid(q.message ->> 'message_id')
                    and treadle._sees(
                        reach => $4, owner => m.owner, agent => m.agent, thread_id => t.thread_id,
                        message_id => m.message_id)))
        order by q.msg_id desc
        limit $1
        $sql$,
        treadle._lane_table(queue, 'dlq'))
        using quantity, before, tenant, reach;
end $$;

-- Extend the visibility timeout of running rows.
create or replace function treadle._lane_extend(queue text, lane text, ids bigint[], until timestamptz) returns void
language plpgsql as $$
begin
    execute format('update pgmq.%I set vt = $1 where msg_id = any($2)', treadle._lane_table(queue, lane)) using until,
    ids;
end $$;
