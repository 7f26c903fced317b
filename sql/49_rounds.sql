-- Rounds of deliveries: the router asks which subscriptions are behind, and delivers to them (49_deliver.sql).

-- The subscriptions that are behind or hold records, and may be delivered to: of those of these topics and those with
-- these names (tenant/subscription); both null: of all.
create or replace function treadle._subscriptions_behind(topics bigint[], names text[])
returns table (id bigint, name text) language plpgsql stable as $$
#variable_conflict use_column
begin
    return query
        select s.id, s.tenant || '/' || s.subscription
        from treadle.subscriptions s
        where not s.paused
            and (
                (_subscriptions_behind.topics is null and names is null)
                or s.id = any(array(
                    select j.subscription
                    from treadle.subscription_topics j
                    where j.topic = any(_subscriptions_behind.topics)
                    union all
                    select n.id
                    from unnest(names) u
                    join treadle.subscriptions n on n.tenant = split_part(u, '/', 1)
                        and n.subscription = split_part(u, '/', 2))))
            and s.tenant <> all(treadle._stopped_tenants())
            and exists (select from treadle.agents a where a.agent = s.agent)
            and (s.held > 0 or exists (select from treadle._behind(s.id)))
        order by s.id;
end $$;

-- Whether a subscription is behind or holds records.
create or replace function treadle._has_more(subscription bigint) returns boolean
language sql stable as $$
    select exists (select from treadle._behind(_has_more.subscription))
        or exists (select from treadle.subscriptions s where s.id = _has_more.subscription and s.held > 0)
$$;

-- Deliver the next records of subscriptions that are behind: of those of these topics and those with these names
-- (tenant/subscription); both null: of all. It ends after about `quantity` records or a second. One that is far behind
-- delays the others by its part of a round: each gets the same part, in an order that differs from round to round.
--   delivered  how many records it passed
--   queues     that got messages
--   again      the subscriptions that are still behind, or hold records, and have room
--   waiting    those that are behind and have as many open messages as they may
create or replace function treadle.deliver_records(
    topics bigint[] default null, names text[] default null, quantity integer default 1000, out delivered integer,
    out queues text[], out again text[], out waiting text[])
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_mergejoin = off set enable_hashjoin = off
set enable_memoize = off as $$
#variable_conflict use_column
declare
    c_now constant timestamptz := treadle.clock();
    c_least constant integer := least(quantity, 100);  -- of a subscription: a part costs some milliseconds by itself
    c_end constant timestamptz := clock_timestamp() + interval '1 second';
    v_behind record;
    v treadle.subscriptions;
    v_room bigint;
    v_passed integer;
begin
    delivered := 0;
    for v_behind in
        select b.*, greatest(quantity / count(*) over (), c_least) as part
        from treadle._subscriptions_behind(topics, names) b
        order by random()
    loop
        if delivered < quantity and clock_timestamp() < c_end then
            select s.* into v
                from treadle.subscriptions s
                where s.id = v_behind.id and not s.paused
                for update skip locked;
        else
            v := null;
        end if;
        if v.id is null then
            again := again || v_behind.name;
            continue;
        end if;
        v_room := v.max_in_flight - treadle._open_of(v.id);
        if v_room <= 0 then
            waiting := waiting || v_behind.name;
            continue;
        end if;
        v_passed := treadle._deliver_to(s => v, quantity => least(v_room, v_behind.part), at => c_now);
        delivered := delivered + v_passed;
        if v_passed > 0 then
            queues := queues || (select a.queue from treadle.agents a where a.agent = v.agent);
        end if;
        if treadle._has_more(v.id) then
            again := again || v_behind.name;
        end if;
    end loop;
end $$;
comment on function treadle.deliver_records(bigint[], text[], integer)
    is 'Turn the next records of subscriptions into messages of their agents';
