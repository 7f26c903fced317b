-- Changes: whose messages have changed their state, and whose topics have grown.
--
-- Every such change of a message writes a delta into treadle.counters, so the deltas since the last look tell it. A
-- look misses the delta of a transaction that had drawn its id before the look and commits after it, and it takes
-- folded deltas for new ones: it is a hint, as NOTIFY is.

-- Since the look that answered `after` (null: the first one, which only tells where the next one begins). `topics`:
-- those of which a hint says that they have grown; null: any.
create or replace function treadle.changed_tenants(
    after bigint, topics bigint[], out of_messages text[], out of_topics text[], out next_after bigint)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
declare
    v_low constant bigint := treadle._low_water_mark('counters');
begin
    next_after := greatest(coalesce(after, 0), (
        select c.id
        from treadle.counters c
        where c.id >= v_low
        order by c.id desc
        limit 1));
    of_messages := array(
        select distinct c.tenant
        from treadle.counters c
        where c.id > after
            and c.id >= v_low
            and c.id <= next_after
            and c.slot > '-infinity');
    of_topics := array(
        select distinct t.tenant
        from treadle.topics t
        where topics is null or t.id = any(topics));
end $$;
comment on function treadle.changed_tenants
    is 'Whose messages have changed their state since a look, and whose topics have grown';
