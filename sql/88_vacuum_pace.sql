-- The pace of autovacuum beside an old snapshot.
--
-- Autovacuum comes back to a table while it has more dead rows than its threshold. While an old snapshot is open it
-- reads all of them each time and removes none, and each time it takes longer. So a janitor raises the threshold of a
-- table whose dead rows stayed: autovacuum passes over it for a minute, unless the number doubles. The time ends that,
-- and not the end of the snapshot, which a role without privileges cannot see.

-- The tables with a threshold of their own that have many dead rows or a raised threshold. `former`: the state after
-- the former look. futile: vacuum came since then, and more rows are dead than have died since, three times as many.
create or replace function treadle._vacuum_looks(former jsonb, least_rows bigint)
returns table (name text, threshold bigint, vacuums bigint, changes bigint, dead bigint, entry jsonb, futile boolean)
language sql stable as $$
    select n.name, o.threshold, s.vacuums, s.changes, t.n_dead_tup, e.entry,
        coalesce(
            s.vacuums > (e.entry ->> 'vacuums')::bigint
                and t.n_dead_tup > greatest(least_rows, 3 * (s.changes - (e.entry ->> 'changes')::bigint)), false)
    from pg_stat_all_tables t
    join pg_class c on c.oid = t.relid
    cross join lateral (select format('%I.%I', t.schemaname, t.relname) as name) n
    cross join lateral (
        select split_part(u, '=', 2)::bigint as threshold
        from unnest(c.reloptions) u
        where u like 'autovacuum\_vacuum\_threshold=%'
    ) o
    cross join lateral (
        select t.vacuum_count + t.autovacuum_count as vacuums, t.n_tup_upd + t.n_tup_del as changes
    ) s
    cross join lateral (select former -> n.name as entry) e
    where t.schemaname in ('treadle', 'pgmq')
        and (t.n_dead_tup > least_rows or e.entry ? 'raised')
$$;

-- Set the threshold of a table, unless vacuum works on it at this moment.
create or replace function treadle._set_vacuum_threshold(name text, threshold bigint) returns boolean
language plpgsql as $$
begin
    perform treadle._set_lock_timeout('20ms');
    execute format('alter table %s set (autovacuum_vacuum_threshold = %s)', name, threshold);
    return true;
exception
    when lock_not_available then return false;
end $$;

-- Called every few seconds: raise the thresholds of tables that were vacuumed since the last call for nothing, and set
-- those back that were raised `pause_seconds` ago. `least_rows`: a table with fewer dead rows is left as it is. Returns
-- how many thresholds it has changed. treadle.meta has, by table, what the last call saw, and for a raised threshold
-- what it was before.
create or replace function treadle.pace_vacuum(
    least_rows bigint default 50000, pause_seconds double precision default 60)
returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    c_name constant text := 'vacuum_pace';
    c_most constant bigint := 2000000000;  -- PostgreSQL takes no more
    c_now constant double precision := extract(epoch from treadle.clock());
    v_former jsonb;
    v_state jsonb := '{}';
    v_changed integer := 0;
    v_seen jsonb;
    v_entry jsonb;
    v_threshold bigint;
    v record;
begin
    if not treadle._try_mutex(c_name) then
        return 0;
    end if;
    v_former := coalesce((select m.value::jsonb from treadle.meta m where m.name = c_name), '{}');
    for v in
        select l.*
        from treadle._vacuum_looks(former => v_former, least_rows => least_rows) l
    loop
        v_seen := jsonb_build_object('vacuums', v.vacuums, 'changes', v.changes);
        if (v.entry ->> 'raised')::bigint = v.threshold then
            v_threshold := case
                when abs(c_now - (v.entry ->> 'at')::double precision) >= pause_seconds then (v.entry ->> 'was')::bigint
            end;
            v_entry := v.entry;
        else
            v_threshold := case when v.futile then least(2 * v.dead, c_most) end;
            v_entry := v_seen;
        end if;
        if v_threshold is not null and treadle._set_vacuum_threshold(v.name, v_threshold) then
            v_changed := v_changed + 1;
            v_entry := case
                when v_threshold < v.threshold then v_seen
                else v_seen || jsonb_build_object('raised', v_threshold, 'was', v.threshold, 'at', c_now)
            end;
        end if;
        v_state := v_state || jsonb_build_object(v.name, v_entry);
    end loop;
    if v_state <> v_former then
        insert into treadle.meta as m (name, value)
            values (c_name, v_state::text)
            on conflict (name) do update set value = excluded.value;
    end if;
    return v_changed;
end $$;
comment on function treadle.pace_vacuum(bigint, double precision)
    is 'Let autovacuum pass for a minute over tables whose dead rows it cannot remove';
