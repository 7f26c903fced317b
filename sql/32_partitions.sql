-- The partitions of the event log: one for each UTC day, by the time in the message id.
--
-- An event whose day has no partition goes to events_default. Creating a partition locks the default partition,
-- dropping one locks all of them, and every later reader waits behind a waiting lock. So both functions give up after
-- half a second (55P03) while a long transaction reads the log, and the janitor tries again later.

-- The name of a day's partition.
create or replace function treadle._partition_name(day timestamptz) returns text
language sql stable as $$
    select 'events_' || to_char(day at time zone 'UTC', 'YYYYMMDD')
$$;

create or replace function treadle.ensure_partitions(days integer default 3) returns integer
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '500ms' as $$
declare
    v_today constant timestamptz := date_trunc('day', treadle.clock(), 'UTC');
    v_name text;
    v_first uuid;  -- the smallest id of the day
    v_next uuid;   -- the smallest id of the following day
    v_created integer := 0;
begin
    perform pg_advisory_xact_lock(hashtext('treadle.partitions'));
    for v_day in -1 .. days loop
        v_name := treadle._partition_name(v_today + v_day * interval '24 hours');
        v_first := treadle.uuid_at(v_today + v_day * interval '24 hours');
        v_next := treadle.uuid_at(v_today + (v_day + 1) * interval '24 hours');
        continue when to_regclass('treadle.' || v_name) is not null;
        -- A day whose first events are in the default partition already stays there.
        continue when exists (
            select
            from treadle.events_default e
            where e.message_id >= v_first
                and e.message_id < v_next);
        execute format('create table treadle.%I (like treadle.events including all)', v_name);
        execute format(
            'alter table treadle.events attach partition treadle.%I for values from (%L) to (%L)',
            v_name, v_first, v_next);
        v_created := v_created + 1;
    end loop;
    return v_created;
end $$;
comment on function treadle.ensure_partitions
    is 'Create the daily partitions of the event log, from yesterday to some days ahead; returns how many';

create or replace function treadle.drop_partitions(until timestamptz) returns integer
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '500ms' as $$
declare
    v_name text;
    v_empty boolean;
    v_dropped integer := 0;
begin
    perform pg_advisory_xact_lock(hashtext('treadle.partitions'));
    for v_name in
        select c.relname
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'treadle.events'::regclass
            and c.relname ~ '^events_[0-9]{8}$'
            and c.relname < treadle._partition_name(until)
    loop
        execute format('select not exists (select from treadle.%I)', v_name) into v_empty;
        continue when not v_empty;
        lock table treadle.events in access exclusive mode;  -- then look again: no transaction can write now
        execute format('select not exists (select from treadle.%I)', v_name) into v_empty;
        if v_empty then
            execute format('drop table treadle.%I', v_name);
            v_dropped := v_dropped + 1;
        end if;
    end loop;
    return v_dropped;
end $$;
comment on function treadle.drop_partitions
    is 'Drop the daily partitions of days before `until` that are empty; returns how many';
