-- Lanes: the one file that touches PGMQ's tables.
--
-- A queue is four PGMQ queues. Three lanes (high, normal, low) hold what may run now or is running, nothing else; the
-- fourth (dlq) holds dead letters. A plain PGMQ client sees all of them as ordinary queues. PGMQ gives each queue a
-- table of its own, hence dynamic SQL; and it plans anew at every call, hence arrays wherever it can be.
--
-- A lane row's body is {"message_id", "thread_id", "agent"}: everything else is in treadle.messages, which knows the row
-- by (lane, lane_id). We draw lane ids from the lane's own sequence, so that message and row are written with
-- each other's key in one pass.

create or replace function treadle._lane_table(queue text, lane text) returns text
language sql immutable parallel safe as $$
    select 'q_' || queue || '_' || lane
$$;

create or replace function treadle._lane_next(queue text, lane text) returns bigint
language sql volatile as $$
    select nextval(('pgmq.q_' || queue || '_' || lane || '_msg_id_seq')::regclass)
$$;

create or replace function treadle.create_queue(name text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
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
    perform pg_advisory_xact_lock(hashtext('treadle.create_queue'));
    foreach v_lane in array array['high', 'normal', 'low', 'dlq'] loop
        perform pgmq.create(name || '_' || v_lane);
        -- Queue tables live by their dead rows being gone soon: vacuum by count, never by share of the table.
        execute format('alter table pgmq.%I set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, '
            'autovacuum_vacuum_cost_delay = 0, autovacuum_vacuum_insert_threshold = -1)', treadle._lane_table(name, v_lane));
    end loop;
    insert into treadle.queues (queue, created_at) values (name, treadle.clock()) on conflict do nothing;
end $$;
comment on function treadle.create_queue is 'Create the queue and its PGMQ lanes; does nothing where it exists';

-- Hand the messages their lane rows. The arrays are parallel; rows of several queues and lanes may be mixed.
create or replace function treadle._lane_insert(queues text[], lanes text[], lane_ids bigint[], bodies jsonb[], at timestamptz)
returns void language plpgsql as $$
declare
    v record;
begin
    for v in
        select u.queue, u.lane, array_agg(u.lane_id order by u.lane_id) as ids, array_agg(u.body order by u.lane_id) as bodies
        from unnest(queues, lanes, lane_ids, bodies) u (queue, lane, lane_id, body)
        where u.lane is not null
        group by u.queue, u.lane
    loop
        execute format('insert into pgmq.%I (msg_id, vt, enqueued_at, message) overriding system value '
            'select u.id, $1, $1, u.body from unnest($2, $3) u (id, body)', treadle._lane_table(v.queue, v.lane))
            using at, v.ids, v.bodies;
    end loop;
end $$;

create or replace function treadle._lane_delete(queues text[], lanes text[], lane_ids bigint[])
returns void language plpgsql as $$
declare
    v record;
begin
    for v in
        select u.queue, u.lane, array_agg(u.lane_id order by u.lane_id) as ids
        from unnest(queues, lanes, lane_ids) u (queue, lane, lane_id)
        where u.lane is not null
        group by u.queue, u.lane
    loop
        execute format('delete from pgmq.%I where msg_id = any($1)', treadle._lane_table(v.queue, v.lane)) using v.ids;
    end loop;
end $$;

-- Lock up to `quantity` visible rows of a lane after row `after`, oldest first, passing over those that others hold. PGMQ's read() would
-- hide them at once; we hide only those whose message can be taken (treadle.claim).
create or replace function treadle._lane_peek(queue text, lane text, after bigint, quantity integer, at timestamptz,
    out lane_ids bigint[], out message_ids uuid[])
language plpgsql as $$
begin
    execute format($sql$
        select array_agg(h.msg_id order by h.msg_id), array_agg(treadle._uuid(h.message ->> 'message_id') order by h.msg_id)
        from (
            select q.msg_id, q.message from pgmq.%I q
            where q.vt <= $1 and q.msg_id > $3 order by q.msg_id limit $2
            for update skip locked
        ) h $sql$, treadle._lane_table(queue, lane))
        into lane_ids, message_ids using at, quantity, after;
end $$;

-- PGMQ's read, as far as the row goes: hidden until `until`, counted, stamped.
create or replace function treadle._lane_hide(queue text, lane text, ids bigint[], at timestamptz, until timestamptz)
returns void language plpgsql as $$
begin
    execute format('update pgmq.%I set vt = $1, read_ct = read_ct + 1, last_read_at = $2 where msg_id = any($3)',
        treadle._lane_table(queue, lane)) using until, at, ids;
end $$;

-- Rows that name no message of ours (somebody sent them with plain PGMQ) go to the dead letters and fail nobody.
create or replace function treadle._lane_expel(queue text, lane text, ids bigint[], at timestamptz)
returns void language plpgsql as $$
begin
    execute format($sql$
        with gone as (delete from pgmq.%I where msg_id = any($1) returning msg_id, message)
        insert into pgmq.%I (vt, enqueued_at, message)
        select $2, $2, jsonb_build_object('reason', 'foreign', 'lane', $3::text, 'msg_id', gone.msg_id, 'body', gone.message)
        from gone $sql$, treadle._lane_table(queue, lane), treadle._lane_table(queue, 'dlq'))
        using ids, at, lane;
end $$;

-- How many rows a lane can give now. Exact to 1,000; beyond that the span of ids, which have few holes.
create or replace function treadle._lane_depth(queue text, lane text, at timestamptz) returns bigint
language plpgsql stable as $$
declare
    v_count bigint;
begin
    execute format('select count(*) from (select from pgmq.%I where vt <= $1 order by msg_id limit 1001) q',
        treadle._lane_table(queue, lane)) into v_count using at;
    if v_count > 1000 then
        execute format('select (select max(msg_id) from pgmq.%1$I) - (select msg_id from pgmq.%1$I where vt <= $1 order by msg_id limit 1) + 1',
            treadle._lane_table(queue, lane)) into v_count using at;
    end if;
    return v_count;
end $$;

-- How many visible rows lie before this one in its lane. Exact to 1,000, then the span of ids.
create or replace function treadle._lane_ahead(queue text, lane text, lane_id bigint, at timestamptz) returns bigint
language plpgsql stable as $$
declare
    v_count bigint;
begin
    execute format('select count(*) from (select from pgmq.%I where vt <= $1 and msg_id < $2 order by msg_id limit 1001) q',
        treadle._lane_table(queue, lane)) into v_count using at, lane_id;
    if v_count > 1000 then
        execute format('select $2 - (select msg_id from pgmq.%I where vt <= $1 order by msg_id limit 1)',
            treadle._lane_table(queue, lane)) into v_count using at, lane_id;
    end if;
    return v_count;
end $$;

-- The first visible rows of a lane, for lists that people look at.
create or replace function treadle._lane_list(queue text, lane text, quantity integer, at timestamptz)
returns table (lane_id bigint, message_id uuid, enqueued_at timestamptz)
language plpgsql stable rows 100 as $$
begin
    return query execute format($sql$
        select q.msg_id, treadle._uuid(q.message ->> 'message_id'), q.enqueued_at
        from pgmq.%I q where q.vt <= $1 order by q.msg_id limit $2 $sql$, treadle._lane_table(queue, lane))
        using at, quantity;
end $$;

-- Of these (lane, id) pairs of one queue: those whose row is not there. Somebody purged the lane.
create or replace function treadle._lane_missing(queue text, lane text, ids bigint[]) returns setof bigint
language plpgsql stable as $$
begin
    return query execute format('select u.id from unnest($1) u (id) where not exists (select from pgmq.%I q where q.msg_id = u.id)',
        treadle._lane_table(queue, lane)) using ids;
end $$;

-- The newest dead letters of a queue, newest first, before `before`.
create or replace function treadle._dead_letters(queue text, quantity integer, before bigint default null)
returns table (dlq_id bigint, dead_at timestamptz, body jsonb)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return query execute format('select q.msg_id, q.enqueued_at, q.message from pgmq.%I q '
        'where $2 is null or q.msg_id < $2 order by q.msg_id desc limit $1', treadle._lane_table(queue, 'dlq'))
        using quantity, before;
end $$;

-- Push the visibility timeout of running rows on.
create or replace function treadle._lane_extend(queue text, lane text, ids bigint[], until timestamptz)
returns void language plpgsql as $$
begin
    execute format('update pgmq.%I set vt = $1 where msg_id = any($2)', treadle._lane_table(queue, lane)) using until, ids;
end $$;
