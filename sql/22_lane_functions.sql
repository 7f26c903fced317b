-- The generated functions of lanes.
--
-- PGMQ gives each queue a table of its own. Functions of the hot paths are generated with one branch per lane, so that
-- each statement is planned once a session: a plan costs 0.16 ms, ten times what such a statement takes.
-- treadle.create_queue (20_lanes.sql) generates them again.

-- Generate the function `signature`, with one branch per lane whose body is `statement`. In it, {lane} stands for the
-- lane's table and {name} for its name in treadle.low_water.
create or replace function treadle._generate_lane_function(signature text, statement text, settings text default '')
returns void language plpgsql as $$
declare
    v_branches text;
begin
    select string_agg(
            format(
                E'\n    elsif queue = %L and lane = %L then\n        %s', q.queue, l.lane,
                replace(replace(statement, '{lane}', format('pgmq.%I', t.name)), '{name}', quote_literal(t.name))),
            '' order by q.created_at, q.queue, l.rank)
        into v_branches
        from treadle.queues q
        cross join (values ('high', 0), ('normal', 1), ('low', 2), ('dlq', 3)) l (lane, rank)
        cross join treadle._lane_table(q.queue, l.lane) t (name);
    execute format(
        E'create or replace function treadle.%s language plpgsql %s as $generated$\nbegin\n    if false then null;%s\n'
        '    else raise exception ''There is no lane %% of %%.'', lane, queue;\n    end if;\nend $generated$',
        signature, settings, v_branches);
end $$;

-- The settings of a generated function that searches a lane: whatever the planner knows of the table, it reads the
-- key in order.
create or replace function treadle._lane_settings() returns text
language sql immutable parallel safe as $$
    select 'set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off '
        'set enable_sort = off'
$$;

-- Whether a search sees row q. A row that was never hidden is visible also after the clock was set back. The
-- comparison is wrapped in `is true`, which keeps the planner off the index on vt: only the order of the key is left.
create or replace function treadle._lane_visible() returns text
language sql immutable parallel safe as $$
    select '(q.vt <= at or q.vt = q.enqueued_at) is true'
$$;

-- Where the rows of a lane that returned begin: at their low-water mark.
create or replace function treadle._lane_first_returned() returns text
language sql immutable parallel safe as $$
    select 'coalesce((
        select w.low
        from treadle.low_water w
        where w.name = treadle._returned_mark({name})
        order by w.low desc
        limit 1), treadle._first_returned_id())'
$$;

-- Where the new rows of a lane begin: at their low-water mark.
create or replace function treadle._lane_first_new() returns text
language sql immutable parallel safe as $$
    select 'coalesce((
        select w.low
        from treadle.low_water w
        where w.name = {name}
        order by w.low desc
        limit 1), 0)'
$$;

-- The first `quantity` visible rows q of a lane, in the order of their keys, section by section, each from its
-- low-water mark on. `further`: what else must hold.
create or replace function treadle._lane_search(
    columns text, quantity text, further text default 'true', lock text default '')
returns text
language sql immutable parallel safe as $$
    select format(
        '(
                select r.*
                from (values (%6$s, 0::bigint), (%7$s, 9223372036854775807)) s (first, past)
                cross join lateral (
                    select %1$s
                    from {lane} q
                    where q.msg_id >= s.first
                        and q.msg_id < s.past
                        and %2$s
                        and %3$s
                    order by q.msg_id
                    limit %4$s
                    %5$s
                ) r
                limit %4$s
            )',
        columns, treadle._lane_visible(), further, quantity, lock, treadle._lane_first_returned(),
        treadle._lane_first_new())
$$;

-- Put into `variable` how many visible rows a lane has: exact up to 1,000; beyond that those that returned and `span`,
-- in which n.first is the first of the others. `further`: what else must hold. (The thousand rows that it counts pass
-- few nodes of the plan.)
create or replace function treadle._lane_count(variable text, span text, further text default 'true') returns text
language sql immutable parallel safe as $$
    select format(
        'select r.rows + case when r.rows + n.rows > 1000 then coalesce(%1$s, 0) else n.rows end
            into %6$s
            from (
                select count(*) as rows
                from (
                    select
                    from {lane} q
                    where q.msg_id >= %4$s
                        and q.msg_id < 0
                        and %2$s
                        and %3$s
                    order by q.msg_id
                    limit 1001
                ) c
            ) r
            cross join lateral (
                select count(*) as rows, min(c.msg_id) as first
                from (
                    select q.msg_id
                    from {lane} q
                    where q.msg_id >= %5$s
                        and %2$s
                        and %3$s
                    order by q.msg_id
                    limit 1001 - r.rows
                ) c
            ) n;',
        span, treadle._lane_visible(), further, treadle._lane_first_returned(), treadle._lane_first_new(), variable)
$$;

-- Generate the functions of the hot paths for all lanes, and give each lane its low-water mark.
create or replace function treadle._generate_lane_functions() returns void
language plpgsql as $$
begin
    perform treadle._lock_generation();  -- so that no queue is left out
    insert into treadle.low_water (name, low)
        select n.name, n.low
        from (
            values ('counters', 0::bigint), ('leases', 0), ('lane_shares', 0), ('due', 0)
            union all
            select t.name, 0
            from treadle._lane_tables() t
            union all
            select treadle._returned_mark(t.name), treadle._first_returned_id()
            from treadle._lane_tables() t
        ) n (name, low)
        where not exists (select from treadle.low_water w where w.name = n.name);
    insert into treadle.mutexes (name)
        select treadle._claim_mutex(q.queue)
        from treadle.queues q
        on conflict do nothing;
    perform treadle._generate_lane_writers();
    perform treadle._generate_lane_counts();
    perform treadle._generate_lane_readers();
end $$;

-- Generate the functions that lock and write lane rows.
create or replace function treadle._generate_lane_writers() returns void
language plpgsql as $$
begin
    -- Lock up to `quantity` visible rows of these tenants (null: of all) and for these agents (null: for all) after row
    -- `after`, oldest first, skipping rows of tenants that are passed over (null: none) and rows that other
    -- transactions lock.
    -- PGMQ's read() would hide them at once; a claim hides only the rows whose message it can take.
    perform treadle._generate_lane_function(
        '_lane_peek(queue text, lane text, after bigint, quantity integer, at timestamptz, tenants text[],
            agents text[], passed_over text[], out lane_ids bigint[], out message_ids uuid[])',
        'select array_agg(h.msg_id order by h.msg_id),
                array_agg(treadle._uuid(h.message ->> ''message_id'') order by h.msg_id)
            into lane_ids, message_ids
            from ' || treadle._lane_search(
                columns => 'q.msg_id, q.message', quantity => 'quantity', further => 'q.msg_id > after
                        and (tenants is null or coalesce(q.message ->> ''tenant'', ''default'') = any(tenants))
                        and (agents is null or q.message ->> ''agent'' = any(agents))
                        and (passed_over is null
                            or coalesce(q.message ->> ''tenant'', ''default'') <> all(passed_over))',
                lock => 'for update skip locked') || ' h;',
        treadle._lane_settings());
    -- What PGMQ's read() does to a row: hidden until `until`, counted, stamped.
    perform treadle._generate_lane_function(
        '_lane_hide(queue text, lane text, ids bigint[], at timestamptz, until timestamptz) returns void',
        'update {lane} q set vt = until, read_ct = q.read_ct + 1, last_read_at = at where q.msg_id = any(ids);',
        treadle._lane_settings());
    perform treadle._generate_lane_function(
        '_lane_put(queue text, lane text, lane_rows treadle.lane_row[], at timestamptz) returns void',
        'insert into {lane} (msg_id, vt, enqueued_at, message) overriding system value
            select r.lane_id, at, at, r.body
            from unnest(lane_rows) r;');
    perform treadle._generate_lane_function(
        '_lane_drop(queue text, lane text, ids bigint[]) returns void',
        'delete from {lane} q where q.msg_id = any(ids);',
        treadle._lane_settings());
end $$;

-- Generate the functions that count lane rows.
create or replace function treadle._generate_lane_counts() returns void
language plpgsql as $$
begin
    -- How many rows a lane can give now. Exact up to 1,000; beyond that the span of ids, which have few holes.
    perform treadle._generate_lane_function(
        '_lane_depth(queue text, lane text, at timestamptz, out depth bigint)',
        treadle._lane_count(variable => 'depth', span => '(select max(q.msg_id) from {lane} q) - n.first + 1'),
        treadle._lane_settings());
    -- How many visible rows lie before this one. Exact up to 1,000, then the span of ids.
    perform treadle._generate_lane_function(
        '_lane_ahead(queue text, lane text, lane_id bigint, at timestamptz, out ahead bigint)',
        treadle._lane_count(variable => 'ahead', span => 'lane_id - n.first', further => 'q.msg_id < lane_id'),
        treadle._lane_settings());
    -- The ids of the first 1,001 visible rows, in order; if there are as many, also the last id of the lane.
    perform treadle._generate_lane_function(
        '_lane_head(queue text, lane text, at timestamptz, out ids bigint[], out last_id bigint)',
        'select coalesce(array_agg(c.msg_id order by c.msg_id), ''{}''),
                case when count(*) > 1000 then (select max(q.msg_id) from {lane} q) end
            into ids, last_id
            from ' || treadle._lane_search(columns => 'q.msg_id', quantity => '1001') || ' c;',
        treadle._lane_settings());
end $$;

-- Generate the functions that list and find lane rows.
create or replace function treadle._generate_lane_readers() returns void
language plpgsql as $$
begin
    -- The first visible rows, for lists that people look at.
    perform treadle._generate_lane_function(
        '_lane_list(queue text, lane text, quantity integer, at timestamptz)
            returns table (lane_id bigint, message_id uuid, enqueued_at timestamptz) rows 100',
        'return query
            select q.msg_id, treadle._uuid(q.message ->> ''message_id''), q.enqueued_at
            from ' || treadle._lane_search(
                columns => 'q.msg_id, q.message, q.enqueued_at', quantity => 'quantity') || ' q;',
        treadle._lane_settings());
    -- The first visible row of a section from `start` on; without one, the id that will come next there.
    perform treadle._generate_lane_function(
        '_lane_first(queue text, lane text, at timestamptz, start bigint, out first bigint)',
        'select q.msg_id into first
            from {lane} q
            where q.msg_id >= start
                and q.msg_id < case when start < 0 then 0 else 9223372036854775807 end
                and ' || treadle._lane_visible() || '
            order by q.msg_id
            limit 1;
        if first is null then
            select s.last_value + s.is_called::integer
                    + case when start < 0 then treadle._first_returned_id() else 0 end
                into first
                from {lane}_msg_id_seq s;
        end if;',
        treadle._lane_settings());
end $$;

-- Generate the functions for the queues that were there before this file.
select treadle._generate_lane_functions();
