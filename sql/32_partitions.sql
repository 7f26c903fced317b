-- The partitions of the event log and of the records of topics: one for each UTC day, by the time in the id.
--
-- A row whose day has no partition goes to the default one, so a missing partition loses nothing. Creating one locks
-- the default partition, dropping one locks all of them, and every later reader waits behind a waiting lock. So both
-- functions give up after half a second (55P03) while a long transaction reads the log, and the janitor tries again
-- later.

-- The partitioned tables, and the key of each.
create or replace function treadle._partitioned_tables() returns table (parent text, key text)
language sql immutable as $$
    values ('events', 'message_id'), ('records', 'record_id')
$$;

-- The name of a day's partition of the table `parent`.
create or replace function treadle._partition_name(parent text, day timestamptz) returns text
language sql stable as $$
    select parent || '_' || to_char(day at time zone 'UTC', 'YYYYMMDD')
$$;

-- The partitions of a table that have ids from `first` to before `next`, without the default one, and the bounds of
-- each. A bound without an end (a partition that was made by hand) is null.
create or replace function treadle._partitions_between(parent text, first uuid, next uuid)
returns table (name text, low uuid, high uuid)
language sql stable as $$
    select p.name, p.low, p.high
    from (
        select c.relname::text as name,
            substring(b.bound from 'FROM \(''([0-9a-f-]+)''\)')::uuid as low,
            substring(b.bound from 'TO \(''([0-9a-f-]+)''\)')::uuid as high
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
        cross join pg_get_expr(c.relpartbound, c.oid) b (bound)
        where i.inhparent = ('treadle.' || parent)::regclass
            and b.bound <> 'DEFAULT'
    ) p
    where coalesce(p.low < _partitions_between.next, true)
        and coalesce(p.high > _partitions_between.first, true)
$$;

-- Drop a partition unless it holds a row; returns whether it is gone.
create or replace function treadle._drop_empty_partition(parent text, name text) returns boolean
language plpgsql as $$
declare
    v_empty boolean;
begin
    execute format('select not exists (select from treadle.%I)', name) into v_empty;
    if v_empty then
        -- Then look again: no transaction can write now.
        execute format('lock table treadle.%I in access exclusive mode', parent);
        execute format('select not exists (select from treadle.%I)', name) into v_empty;
    end if;
    if v_empty then
        execute format('drop table treadle.%I', name);
    end if;
    return v_empty;
end $$;

-- Create the partition of the ids from `first` to before `next`, where nothing is in its way; returns whether it did.
-- Empty partitions with other bounds (of a day in another time zone, or made by hand) give way to it. Where rows are in
-- the way, the day's other rows go to the default partition.
create or replace function treadle._ensure_partition(parent text, key text, name text, first uuid, next uuid)
returns boolean language plpgsql as $$
declare
    v_other record;
    v_in_default boolean;
begin
    for v_other in
        select p.name, p.low = first and p.high = next as same
        from treadle._partitions_between(parent, first, next) p
    loop
        if v_other.same or not treadle._drop_empty_partition(parent, v_other.name) then
            return false;
        end if;
    end loop;
    execute format('select exists (select from treadle.%1$I where %2$I >= $1 and %2$I < $2)', parent || '_default', key)
        into v_in_default
        using first, next;
    if v_in_default or to_regclass(format('treadle.%I', name)) is not null then  -- a table that was detached by hand
        return false;
    end if;
    execute format('create table treadle.%I (like treadle.%I including all)', name, parent);
    execute format('alter table treadle.%I attach partition treadle.%I for values from (%L) to (%L)',
        parent, name, first, next);
    return true;
end $$;

create or replace function treadle.ensure_partitions(days integer default 3) returns integer
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '500ms' as $$
declare
    v_today constant timestamptz := date_trunc('day', treadle.clock(), 'UTC');
    v_table record;
    v_day timestamptz;
    v_created integer := 0;
begin
    perform treadle._wait_for_mutex('partitions');
    for v_table in
        select t.parent, t.key
        from treadle._partitioned_tables() t
    loop
        for v_number in -1 .. days loop
            v_day := v_today + v_number * interval '24 hours';
            v_created := v_created + treadle._ensure_partition(
                parent => v_table.parent, key => v_table.key,
                name => treadle._partition_name(v_table.parent, v_day), first => treadle.uuid_at(v_day),
                next => treadle.uuid_at(v_day + interval '24 hours'))::integer;
        end loop;
    end loop;
    return v_created;
end $$;
comment on function treadle.ensure_partitions(integer)
    is 'Create the daily partitions of events and records, from yesterday to some days ahead; returns how many';

create or replace function treadle.drop_partitions(until timestamptz) returns integer
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '500ms' as $$
declare
    v record;
    v_dropped integer := 0;
begin
    perform treadle._wait_for_mutex('partitions');
    for v in
        select t.parent, c.relname as name
        from treadle._partitioned_tables() t
        join pg_inherits i on i.inhparent = ('treadle.' || t.parent)::regclass
        join pg_class c on c.oid = i.inhrelid
        where c.relname ~ ('^' || t.parent || '_[0-9]{8}$')
            and c.relname < treadle._partition_name(t.parent, case t.parent
                when 'records' then least(until, treadle.clock() - interval '24 hours')  -- new ids may be as old
                else until
            end)
    loop
        v_dropped := v_dropped + treadle._drop_empty_partition(v.parent, v.name)::integer;
    end loop;
    return v_dropped;
end $$;
comment on function treadle.drop_partitions
    is 'Drop the daily partitions of days before `until` that are empty; returns how many';
