-- Counters: folding the deltas.
--
-- Sums are exact, with one exception: the deltas of a transaction that stayed open for long (a user's own, that
-- submitted) and was passed by the low-water mark are added at the first fold after its commit.

-- The slot of a delta once it is folded: older than five minutes, or of the future (the clock was set back), it no
-- longer counts for the rates.
create or replace function treadle._folded_slot(slot timestamptz, at timestamptz) returns timestamptz
language sql immutable parallel safe as $$
    select case when slot between at - interval '5 minutes' and at + interval '5 minutes' then slot else '-infinity' end
$$;

-- Whether folding the first `quantity` deltas would change anything.
create or replace function treadle._worth_folding(low bigint, quantity integer, at timestamptz) returns boolean
language sql stable as $$
    select count(*) > count(distinct (d.tenant, d.queue, d.folded))
        or bool_or(d.slot <> d.folded or d.agent is not null)
    from (
        select c.tenant, c.queue, c.slot, c.agent, treadle._folded_slot(c.slot, at) as folded
        from treadle.counters c
        where c.id >= low
        order by c.id
        limit quantity
    ) d
$$;

-- Fold the first `quantity` deltas from id `first` to below `past`, and add what they carry to the statistics. Returns
-- how many.
create or replace function treadle._fold(first bigint, past bigint, quantity integer, at timestamptz) returns integer
language plpgsql as $$
declare
    v_folded integer;
    v_noted treadle.counters[];  -- those that the statistics do not have yet
begin
    with deltas as (
        delete from treadle.counters c
        where c.id in (
            select d.id
            from treadle.counters d
            where d.id >= first
                and d.id < past
            order by d.id
            limit quantity)
        returning c as delta
    ), folded as (
        insert into treadle.counters
            (tenant, queue, slot, queued, processing, completed, failed, cancelled, run_seconds)
        select (d.delta).tenant, (d.delta).queue, treadle._folded_slot((d.delta).slot, at), sum((d.delta).queued),
            sum((d.delta).processing), sum((d.delta).completed), sum((d.delta).failed), sum((d.delta).cancelled),
            sum((d.delta).run_seconds)
        from deltas d
        group by 1, 2, 3
    )
    select count(*), array_agg(d.delta) filter (where (d.delta).agent is not null)
    into v_folded, v_noted
    from deltas d;
    if v_noted is not null then
        perform treadle._add_stats(v_noted);
    end if;
    return v_folded;
end $$;

-- Let the mark follow the first delta, and fold the late ones of passed transactions that have ended.
create or replace function treadle._sweep_counters(at timestamptz) returns void
language plpgsql as $$
declare
    c_patience constant integer := 10000;  -- ids
    c_all constant integer := 1000000000;
    v_open constant text[] := treadle._draws_of('treadle.counters_id_seq', treadle._open_draws());
    v_mark constant treadle.low_water := treadle._mark('counters');
    v_late_from constant bigint := treadle._late_from(mark => v_mark, open => v_open);
    v_first bigint;
begin
    if v_late_from is not null then
        perform treadle._fold(first => v_late_from, past => v_mark.low, quantity => c_all, at => at);
        perform treadle._forget_passed('counters', v_open);
    end if;
    v_first := (select min(c.id) from treadle.counters c where c.id >= v_mark.low);
    if v_first is not null then
        perform treadle._raise_low_water(
            mark => 'counters', candidate => v_first, open => v_open,
            drawn => treadle._draws_of('treadle.counters_id_seq', treadle._open_draws()), patience => c_patience);
    end if;
end $$;

-- Many deltas become one row for each queue and ten seconds, and one for everything older than five minutes.
create or replace function treadle.fold_counters(quantity integer default 20000) returns integer
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
    v_now constant timestamptz := treadle.clock();
    v_low bigint;
begin
    if not treadle._try_mutex('fold_counters') then
        return 0;
    end if;
    if treadle._sees_commits() then
        perform treadle._sweep_counters(at => v_now);
    end if;
    v_low := treadle._low_water_mark('counters');
    if treadle._worth_folding(v_low, quantity => quantity, at => v_now) is not true then
        return 0;
    end if;
    return treadle._fold(first => v_low, past => 9223372036854775807, quantity => quantity, at => v_now);
end $$;
comment on function treadle.fold_counters(integer)
    is 'Fold counter deltas together; sums stay the same. Returns how many';
