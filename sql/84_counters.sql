-- Counters: folding the deltas.

-- The slot of a delta once it is folded: older than five minutes, it no longer counts for the rates.
create or replace function treadle._folded_slot(slot timestamptz, at timestamptz) returns timestamptz
language sql immutable parallel safe as $$
    select case when slot < at - interval '5 minutes' then '-infinity' else slot end
$$;

-- Whether folding the first `quantity` deltas would change anything.
create or replace function treadle._worth_folding(low bigint, quantity integer, at timestamptz) returns boolean
language sql stable as $$
    select count(*) > count(distinct (d.tenant, d.queue, d.folded)) or bool_or(d.slot <> d.folded)
    from (
        select c.tenant, c.queue, c.slot, treadle._folded_slot(c.slot, at) as folded
        from treadle.counters c
        where c.id >= low
        order by c.id
        limit quantity
    ) d
$$;

-- Many deltas become one row for each queue and ten seconds, and one for everything older than five minutes.
create or replace function treadle.fold_counters(quantity integer default 20000) returns integer
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
    v_now constant timestamptz := treadle.clock();
    v_oldest_open_xid constant bigint := treadle._oldest_open_xid();
    v_low constant bigint := treadle._low_water_mark('counters');
    v_folded integer;
begin
    if not pg_try_advisory_xact_lock(hashtext('treadle.fold_counters')) then
        return 0;
    end if;
    if pg_current_xact_id_if_assigned() is null then
        perform treadle._raise_low_water(
            'counters', (select min(c.id) from treadle.counters c where c.id >= v_low), v_oldest_open_xid);
    end if;
    if treadle._worth_folding(v_low, quantity => quantity, at => v_now) is not true then
        return 0;
    end if;
    with deltas as (
        delete from treadle.counters c
        where c.id in (
            select d.id
            from treadle.counters d
            where d.id >= v_low
            order by d.id
            limit quantity)
        returning c.*
    ), folded as (
        insert into treadle.counters
            (tenant, queue, slot, queued, processing, completed, failed, cancelled, run_seconds)
        select
            d.tenant, d.queue, treadle._folded_slot(d.slot, v_now), sum(d.queued), sum(d.processing),
            sum(d.completed), sum(d.failed), sum(d.cancelled), sum(d.run_seconds)
        from deltas d
        group by 1, 2, 3
    )
    select count(*)
    into v_folded
    from deltas;
    return v_folded;
end $$;
comment on function treadle.fold_counters is 'Fold counter deltas together; sums stay the same. Returns how many';
