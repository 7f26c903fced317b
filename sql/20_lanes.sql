-- Lanes: the one file that touches PGMQ's tables.
--
-- A queue is four PGMQ queues. Three lanes (high, normal, low) hold what may run now or is running, nothing else; the
-- fourth (dlq) holds dead letters. A plain PGMQ client sees all of them as ordinary queues. A lane row's body is
-- {"message_id", "thread_id", "agent"}: everything else is in treadle.messages, which knows the row by (lane, lane_id). We
-- draw lane ids from the lane's own sequence, so that message and row are written with each other's key in one pass.
--
-- PGMQ gives each queue a table of its own. What everybody does all the time is written out for every lane by
-- treadle._weave, so that it is planned once a session (a plan costs 0.16 ms, ten times what such a statement takes); what
-- is rare is put together when it is called.
--
-- Rows leave a lane at its head, and while somebody keeps an old snapshot (a report, a dump) their dead versions stay there and
-- would be read by everybody who looks for the first row. Hence treadle.low_water: below it nothing is visible, so all begin there.

create or replace function treadle._lane_table(queue text, lane text) returns text
language sql immutable parallel safe as $$
    select 'q_' || queue || '_' || lane
$$;

create or replace function treadle._lane_next(queue text, lane text) returns bigint
language sql volatile as $$
    select nextval(('pgmq.q_' || queue || '_' || lane || '_msg_id_seq')::regclass)
$$;

-- One creates queues and weaves at a time, and none by an old snapshot, in which the queues of others are missing: by writing a row that
-- all of them write, a transaction that began before another's end is refused (40001, try again).
create or replace function treadle._weave_alone() returns void
language plpgsql as $$
begin
    perform pg_advisory_xact_lock(hashtext('treadle.create_queue'));
    insert into treadle.meta (name, value) values ('woven', 'yes')
        on conflict (name) do update set value = excluded.value;
end $$;

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
    perform treadle._weave_alone();
    if exists (select from treadle.queues q where q.queue = name) then  -- by now
        return;
    end if;
    foreach v_lane in array array['high', 'normal', 'low', 'dlq'] loop
        perform pgmq.create(name || '_' || v_lane);
        -- Queue tables live by their dead rows being gone soon: vacuum by count, never by share of the table.
        execute format('alter table pgmq.%I set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, '
            'autovacuum_vacuum_cost_delay = 0, autovacuum_vacuum_insert_threshold = -1)', treadle._lane_table(name, v_lane));
    end loop;
    insert into treadle.queues (queue, created_at) values (name, treadle.clock()) on conflict do nothing;
    perform treadle._weave_lanes();
end $$;
comment on function treadle.create_queue is 'Create the queue and its PGMQ lanes; does nothing where it exists';

-- Write the function `signature`, whose body is `statement` for each lane: {lane} stands for its table, {name} for its name in
-- treadle.low_water.
create or replace function treadle._weave(signature text, statement text, settings text default '') returns void
language plpgsql as $$
declare
    v_branches text;
begin
    select string_agg(format(E'\n    elsif queue = %L and lane = %L then\n        %s', q.queue, l.lane,
            replace(replace(statement, '{lane}', format('pgmq.%I', t)), '{name}', quote_literal(t))), '' order by q.created_at, q.queue, l.rank)
        into v_branches
        from treadle.queues q, (values ('high', 0), ('normal', 1), ('low', 2), ('dlq', 3)) l (lane, rank), treadle._lane_table(q.queue, l.lane) t;
    execute format(E'create or replace function treadle.%s language plpgsql %s as $woven$\nbegin\n    if false then null;%s\n'
        '    else raise exception ''There is no lane %% of %%.'', lane, queue;\n    end if;\nend $woven$', signature, settings, v_branches);
end $$;

create or replace function treadle._weave_lanes() returns void
language plpgsql as $$
declare
    -- Everybody begins at the low-water mark and goes by the key, whatever is known of the table when that is planned: vt is compared
    -- so that its index cannot be meant, and nothing but the key's order is left.
    c_visible constant text := '(q.vt <= at) is true and q.msg_id >= coalesce((select w.low from treadle.low_water w where w.name = {name}), 0)';
    c_by_key constant text := 'set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off';
begin
    perform treadle._weave_alone();  -- so that no queue is left out
    insert into treadle.low_water (name)
        select 'counters' union all select 'leases'
        union all select treadle._lane_table(q.queue, l) from treadle.queues q, unnest(array['high', 'normal', 'low']) l
        on conflict do nothing;
    -- Lock up to `quantity` visible rows after row `after`, oldest first, passing over those that others hold. PGMQ's read() would hide
    -- them at once; we hide only those whose message can be taken (treadle.claim).
    perform treadle._weave('_lane_peek(queue text, lane text, after bigint, quantity integer, at timestamptz, out lane_ids bigint[], out message_ids uuid[])',
        'select array_agg(h.msg_id order by h.msg_id), array_agg(treadle._uuid(h.message ->> ''message_id'') order by h.msg_id) into lane_ids, message_ids '
        'from (select q.msg_id, q.message from {lane} q where ' || c_visible || ' and q.msg_id > after '
        'order by q.msg_id limit quantity for update skip locked) h;', c_by_key);
    -- PGMQ's read, as far as the row goes: hidden until `until`, counted, stamped.
    perform treadle._weave('_lane_hide(queue text, lane text, ids bigint[], at timestamptz, until timestamptz) returns void',
        'update {lane} q set vt = until, read_ct = q.read_ct + 1, last_read_at = at where q.msg_id = any(ids);', c_by_key);
    perform treadle._weave('_lane_put(queue text, lane text, ids bigint[], bodies jsonb[], at timestamptz) returns void',
        'insert into {lane} (msg_id, vt, enqueued_at, message) overriding system value select u.id, at, at, u.body from unnest(ids, bodies) u (id, body);');
    perform treadle._weave('_lane_drop(queue text, lane text, ids bigint[]) returns void',
        'delete from {lane} q where q.msg_id = any(ids);', c_by_key);
    -- How many rows a lane can give now. Exact to 1,000; beyond that the span of ids, which have few holes.
    perform treadle._weave('_lane_depth(queue text, lane text, at timestamptz, out depth bigint)',
        'select case when count(*) > 1000 then (select max(q.msg_id) from {lane} q) - min(c.msg_id) + 1 else count(*) end into depth '
        'from (select q.msg_id from {lane} q where ' || c_visible || ' order by q.msg_id limit 1001) c;', c_by_key);
    -- How many visible rows lie before this one. Exact to 1,000, then the span of ids.
    perform treadle._weave('_lane_ahead(queue text, lane text, lane_id bigint, at timestamptz, out ahead bigint)',
        'select case when count(*) > 1000 then lane_id - min(c.msg_id) else count(*) end into ahead '
        'from (select q.msg_id from {lane} q where ' || c_visible || ' and q.msg_id < lane_id order by q.msg_id limit 1001) c;', c_by_key);
    -- The first visible rows, for lists that people look at.
    perform treadle._weave('_lane_list(queue text, lane text, quantity integer, at timestamptz) '
        'returns table (lane_id bigint, message_id uuid, enqueued_at timestamptz) rows 100',
        'return query select q.msg_id, treadle._uuid(q.message ->> ''message_id''), q.enqueued_at from {lane} q where ' || c_visible
        || ' order by q.msg_id limit quantity;', c_by_key);
    -- The first visible row from `start` on; the id to come where there is none.
    perform treadle._weave('_lane_first(queue text, lane text, at timestamptz, start bigint, out first bigint)',
        'select q.msg_id into first from {lane} q where (q.vt <= at) is true and q.msg_id >= start order by q.msg_id limit 1; '
        'if first is null then select s.last_value + s.is_called::integer into first from {lane}_msg_id_seq s; end if;', c_by_key);
end $$;

-- Hand the messages their lane rows. The arrays are parallel; rows of several queues and lanes may be mixed.
create or replace function treadle._lane_insert(queues text[], lanes text[], lane_ids bigint[], bodies jsonb[], at timestamptz)
returns void language plpgsql as $$
declare
    v record;
begin
    if queues[1] = all (queues) and lanes[1] = all (lanes) then
        perform treadle._lane_put(queues[1], lanes[1], lane_ids, bodies, at);
        return;
    end if;
    for v in
        select u.queue, u.lane, array_agg(u.lane_id order by u.lane_id) as ids, array_agg(u.body order by u.lane_id) as bodies
        from unnest(queues, lanes, lane_ids, bodies) u (queue, lane, lane_id, body)
        where u.lane is not null
        group by u.queue, u.lane
    loop
        perform treadle._lane_put(v.queue, v.lane, v.ids, v.bodies, at);
    end loop;
end $$;

create or replace function treadle._lane_delete(queues text[], lanes text[], lane_ids bigint[])
returns void language plpgsql as $$
declare
    v record;
begin
    if queues[1] = all (queues) and lanes[1] = all (lanes) then
        perform treadle._lane_drop(queues[1], lanes[1], lane_ids);
        return;
    end if;
    for v in
        select u.queue, u.lane, array_agg(u.lane_id order by u.lane_id) as ids
        from unnest(queues, lanes, lane_ids) u (queue, lane, lane_id)
        where u.lane is not null
        group by u.queue, u.lane
    loop
        perform treadle._lane_drop(v.queue, v.lane, v.ids);
    end loop;
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

-- The low-water marks

create or replace function treadle._mark(mark text) returns bigint
language sql stable as $$
    select coalesce((select w.low from treadle.low_water w where w.name = mark), 0)
$$;

-- Every transaction with an id below this has ended. An old snapshot that only reads has no such id, so it holds nothing back.
create or replace function treadle._ended() returns bigint
language sql volatile as $$
    select pg_snapshot_xmin(pg_current_snapshot())::text::bigint
$$;

-- A mark may rise to `candidate`, an id below which nothing was seen, once every transaction has ended that might still commit a
-- row below it. Those are older than we are: an id is drawn by who has a transaction id already (see submit_many), and ours is given
-- out here, after the look. Until then the candidate is remembered. `ended` says how far transactions had ended before this look.
-- A candidate below the mark came to light late: the mark goes back to it.
-- Callers look before they write anything, each mark has one of them at a time (their advisory locks), and they leave marks alone
-- in a transaction that has an id already.
create or replace function treadle._raise_low_water(mark text, candidate bigint, ended bigint) returns void
language plpgsql as $$
declare
    c_slack constant integer := 1000;  -- ids that are not worth a write
    w treadle.low_water;
begin
    select * into w from treadle.low_water x where x.name = mark;
    if candidate < w.low then
        update treadle.low_water x set low = candidate, next_low = null, next_xid = null where x.name = mark;
    elsif w.next_xid <= ended then  -- risen; and on to the next
        update treadle.low_water x set low = least(w.next_low, candidate), next_low = candidate, next_xid = pg_current_xact_id()::text::bigint
            where x.name = mark and (candidate > w.low + c_slack or w.low < w.next_low);
    elsif candidate > w.low + c_slack
        and coalesce(w.next_xid > pg_snapshot_xmax(pg_current_snapshot())::text::bigint, true) then  -- not set, or by another server
        update treadle.low_water x set next_low = candidate, next_xid = pg_current_xact_id()::text::bigint where x.name = mark;
    end if;
end $$;

-- Let the marks follow: of the lanes, their first visible row; of the leases, the oldest one. `whole`: look at lanes from their very
-- start, and go back to what shows again there (a row hidden by hand, one sent with a delay).
create or replace function treadle.sweep(whole boolean default false) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
    v_ended constant bigint := treadle._ended();
    v_now constant timestamptz := treadle.clock();
    v_names text[];
    v_firsts bigint[];
    v_lease bigint;
begin
    if pg_current_xact_id_if_assigned() is not null or not pg_try_advisory_xact_lock(hashtext('treadle.sweep')) then
        return;
    end if;
    select array_agg(t), array_agg(treadle._lane_first(q.queue, l.lane, v_now, case when whole then 0 else treadle._mark(t) end))
        into v_names, v_firsts
        from treadle.queues q, (values ('high'), ('normal'), ('low')) l (lane), treadle._lane_table(q.queue, l.lane) t;
    select l.id into v_lease from treadle.leases l where l.id >= treadle._mark('leases') order by l.id limit 1;
    if v_lease is null then
        select s.last_value + s.is_called::integer into v_lease from treadle.leases_id_seq s;
    end if;
    perform treadle._raise_low_water(u.name, u.first, v_ended) from unnest(v_names || 'leases'::text, v_firsts || v_lease) u (name, first);
end $$;
comment on function treadle.sweep is 'Let the low-water marks of lanes and leases follow their first rows';

-- Marks and woven functions of queues that were there before this file.
select treadle._weave_lanes();
