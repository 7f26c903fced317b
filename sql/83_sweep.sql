-- Sweep: a chore that every worker's janitor repeats. It lets the low-water marks of lanes and leases follow their
-- first rows (25_low_water.sql), and brings lane rows back that no claim would find (83_lane_rows.sql).

-- The marks of lanes, and where their searches begin now.
create or replace function treadle._lane_marks()
returns table (name text, queue text, lane text, sequence text, start bigint, low bigint)
language sql stable as $$
    select n.name, t.queue, t.lane, format('pgmq.%I', t.name || '_msg_id_seq'), n.start,
        greatest(treadle._low_water_mark(n.name), n.start)
    from treadle._lane_tables() t
    cross join lateral (
        values (t.name, 0::bigint), (treadle._returned_mark(t.name), treadle._first_returned_id())
    ) n (name, start)
$$;

-- The id of the oldest lease; without one, the id that will come next.
create or replace function treadle._first_lease() returns bigint
language plpgsql as $$
declare
    v_first bigint;
begin
    select l.id
        into v_first
        from treadle.leases l
        where l.id >= treadle._low_water_mark('leases')
        order by l.id
        limit 1;
    if v_first is null then
        select s.last_value + s.is_called::integer
            into v_first
            from treadle.leases_id_seq s;
    end if;
    return v_first;
end $$;

-- When the clock was set back, let the delays and backoffs that wait end that much earlier, so that they take as long
-- as they should. treadle.meta has the last time that a sweep saw.
create or replace function treadle._shift_waits(at timestamptz) returns void
language plpgsql as $$
declare
    c_seen constant text := 'clock_seen';
    c_step constant interval := '5 seconds';  -- a smaller one is not worth it
    v_seen constant timestamptz := (
        select to_timestamp(m.value::double precision)
        from treadle.meta m
        where m.name = c_seen);
begin
    if v_seen > at + c_step then
        update treadle.messages m
            set run_at = m.run_at - (v_seen - at), overloaded_since = m.overloaded_since - (v_seen - at)
            where m.message_id in (
                select w.message_id
                from treadle.messages w
                where w.hold in ('delay', 'backoff')
                    and w.run_at > at
                    and not (w.hold = 'delay' and w.created_at between at - c_step and at)  -- sent since then
                order by w.message_id
                for update skip locked);
    end if;
    insert into treadle.meta as m (name, value)
        values (c_seen, extract(epoch from at)::text)
        on conflict (name) do update set value = excluded.value;
end $$;

-- Move the marks of the lanes and the leases. Returns how many ids the first rows are above their marks, at most.
create or replace function treadle._raise_marks(open jsonb, at timestamptz) returns bigint
language plpgsql as $$
declare
    c_patience constant integer := 10000;  -- ids: so many dead rows cost a claim about as much as its messages
    c_leases constant text := 'treadle.leases_id_seq';
    v_firsts constant jsonb := (
        select jsonb_object_agg(
            m.name, treadle._lane_first(queue => m.queue, lane => m.lane, at => _raise_marks.at, start => m.low))
        from treadle._lane_marks() m);
    v_lease constant bigint := treadle._first_lease();
    v_drawn constant jsonb := treadle._open_draws();  -- after the searches: see treadle._raise_low_water
    v_above bigint;
begin
    select max(treadle._raise_low_water(
            mark => m.name, candidate => (v_firsts ->> m.name)::bigint,
            open => treadle._draws_of(m.sequence, open), drawn => treadle._draws_of(m.sequence, v_drawn),
            patience => c_patience))
        into v_above
        from treadle._lane_marks() m;
    -- Only claims draw ids of leases. They are short, so none is passed.
    perform treadle._raise_low_water(
        mark => 'leases', candidate => v_lease, open => treadle._draws_of(c_leases, open),
        drawn => treadle._draws_of(c_leases, v_drawn), patience => 9223372036854775807);
    return coalesce(v_above, 0);
end $$;

-- Let the marks follow, and nothing else: janitors call it often while many rows leave the lanes. Beside an old
-- snapshot each claim and each submit reads the rows between a mark and the first row. Returns `above` as treadle.sweep
-- does.
create or replace function treadle.raise_marks() returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
    v_open constant jsonb := treadle._open_draws();  -- before all searches
begin
    if not treadle._sees_commits() or not treadle._try_mutex('sweep') then
        return 0;
    end if;
    return treadle._raise_marks(open => v_open, at => treadle.clock());
end $$;
comment on function treadle.raise_marks
    is 'Let the low-water marks of lanes and leases follow their first rows';

-- Let the marks follow: of the lanes, their first visible row; of the leases, the oldest one. Bring lane rows back.
--   look_back_seconds  also rows that were hidden, by hand or by a delay, until a time so recent
--   above              how many ids the first rows are above their marks, at most: if many, call again soon
--   queues             where rows came back
create or replace function treadle.sweep(
    look_back_seconds double precision default null, out above bigint, out queues text[])
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
    c_lost_rows constant integer := 5000;  -- in one call
    v_restored text[];
    v_open constant jsonb := treadle._open_draws();  -- before all searches
    v_now constant timestamptz := treadle.clock();
    v_since constant timestamptz := case
        when look_back_seconds < 1e9 then v_now - look_back_seconds * interval '1 second'
        when look_back_seconds is not null then '-infinity'
    end;
    v_mark record;
begin
    above := 0;
    if not treadle._sees_commits() or not treadle._try_mutex('sweep') then
        return;
    end if;
    above := treadle._raise_marks(open => v_open, at => v_now);
    for v_mark in
        select m.*
        from treadle._lane_marks() m
    loop
        if treadle._look_below(
            mark => v_mark.name, queue => v_mark.queue, lane => v_mark.lane, start => v_mark.start,
            open => treadle._draws_of(v_mark.sequence, v_open), since => v_since, at => v_now) > 0
        then
            queues := queues || v_mark.queue;
        end if;
    end loop;
    perform treadle._shift_waits(at => v_now);
    if v_since is not null then
        perform treadle._lower_due_mark();
    end if;
    v_restored := treadle._restore_lost_rows(quantity => c_lost_rows, at => v_now);
    queues := queues || v_restored;
    if v_restored <> '{}' and exists (select from treadle.lost_rows) then
        above := greatest(above, c_lost_rows);
    end if;
end $$;
comment on function treadle.sweep(double precision)
    is 'Let the low-water marks follow their first rows; bring back the lane rows below them';
