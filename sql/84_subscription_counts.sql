-- Counts of subscriptions: deltas of what became of their records, and their folding. They are folded as the counters
-- of queues are (84_counters.sql).

-- Whether a failed message of this subscription leaves a dead letter. A deleted subscription's does, and a message that
-- no subscription delivered (null).
create or replace function treadle._keeps_dead_letters(subscription bigint) returns boolean
language sql stable as $$
    select subscription is null or coalesce((
        select s.dead_letter
        from treadle.subscriptions s
        where s.id = _keeps_dead_letters.subscription), true)
$$;

-- Count the settled messages that subscriptions delivered.
create or replace function treadle._count_settled(settled treadle.settlement[]) returns void
language plpgsql as $$
begin
    insert into treadle.subscription_counts (tenant, subscription, open, completed, failed, cancelled, dropped)
        select s.tenant, s.subscription, -count(*),
            count(*) filter (where s.state = 'completed'),
            count(*) filter (where s.state = 'failed' and not s.dropped),
            count(*) filter (where s.state = 'cancelled'),
            count(*) filter (where s.dropped)
        from unnest(settled) s
        where s.subscription is not null
            and s.state <> 'queued'
        group by s.tenant, s.subscription;
end $$;

-- Count a message that is over and begins a new life.
create or replace function treadle._count_redriven(m treadle.messages) returns void
language plpgsql as $$
begin
    insert into treadle.subscription_counts (tenant, subscription, open, completed, failed, cancelled, dropped)
        select m.tenant, m.subscription, 1, -(m.state = 'completed')::integer,
            -(m.state = 'failed' and m.lane is not null)::integer, -(m.state = 'cancelled')::integer,
            -(m.state = 'failed' and m.lane is null)::integer
        where m.subscription is not null;
end $$;

-- Fold the first `quantity` deltas from id `first` to below `past`; those of deleted subscriptions go. Returns how
-- many.
create or replace function treadle._fold_subscriptions(first bigint, past bigint, quantity integer) returns integer
language plpgsql as $$
declare
    v_folded integer;
begin
    with deltas as (
        delete from treadle.subscription_counts c
        where c.id in (
            select d.id
            from treadle.subscription_counts d
            where d.id >= first
                and d.id < past
            order by d.id
            limit quantity)
        returning c.*
    ), folded as (
        insert into treadle.subscription_counts
            (tenant, subscription, open, completed, failed, cancelled, dropped, filtered, expired)
        select d.tenant, d.subscription, sum(d.open), sum(d.completed), sum(d.failed), sum(d.cancelled),
            sum(d.dropped), sum(d.filtered), sum(d.expired)
        from deltas d
        where d.subscription = any(array(select s.id from treadle.subscriptions s))
        group by d.tenant, d.subscription
    )
    select count(*)
        into v_folded
        from deltas;
    return v_folded;
end $$;

-- Let the mark follow the first delta, and fold the late ones of passed transactions that have ended.
create or replace function treadle._sweep_subscription_counts() returns void
language plpgsql as $$
declare
    c_mark constant text := 'subscription_counts';
    c_patience constant integer := 10000;  -- ids
    c_all constant integer := 1000000000;
    c_sequence constant text := 'treadle.subscription_counts_id_seq';
    v_open constant text[] := treadle._draws_of(c_sequence, treadle._open_draws());
    v_mark constant treadle.low_water := treadle._mark(c_mark);
    v_late_from constant bigint := treadle._late_from(mark => v_mark, open => v_open);
    v_first bigint;
begin
    if v_late_from is not null then
        perform treadle._fold_subscriptions(first => v_late_from, past => v_mark.low, quantity => c_all);
        perform treadle._forget_passed(c_mark, v_open);
    end if;
    v_first := (select min(c.id) from treadle.subscription_counts c where c.id >= v_mark.low);
    if v_first is not null then
        perform treadle._raise_low_water(
            mark => c_mark, candidate => v_first, open => v_open,
            drawn => treadle._draws_of(c_sequence, treadle._open_draws()), patience => c_patience);
    end if;
end $$;

-- Many deltas become one row for each subscription.
create or replace function treadle.fold_subscriptions(quantity integer default 20000) returns integer
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
    v_low bigint;
    v_worth boolean;
begin
    if not treadle._try_mutex('fold_subscriptions') then
        return 0;
    end if;
    if treadle._sees_commits() then
        perform treadle._sweep_subscription_counts();
    end if;
    v_low := treadle._low_water_mark('subscription_counts');
    v_worth := (
        select count(*) > count(distinct d.subscription)
        from (
            select c.subscription
            from treadle.subscription_counts c
            where c.id >= v_low
            order by c.id
            limit quantity
        ) d);
    if v_worth is not true then
        return 0;
    end if;
    return treadle._fold_subscriptions(first => v_low, past => 9223372036854775807, quantity => quantity);
end $$;
comment on function treadle.fold_subscriptions(integer)
    is 'Fold the counts of subscriptions together; sums stay the same';
