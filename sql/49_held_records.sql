-- Held records: those of a key whose thread another transaction holds.
--
-- A transaction that stays open, such as one in which a user cancels a message, holds the message's thread. The router
-- never waits for its end: the position passes the records of that key, and they wait in treadle.held_records. Each
-- further delivery to the subscription tries them first, in the order of their offsets. Until a key has none left, its
-- next records are held as well, so its order stays.
--
-- subscriptions.held counts the rows, so a subscription that holds nothing pays nothing. With treadle._most_held()
-- rows its positions stop: the log keeps the rest.

-- How many records a subscription holds until its positions stop. (One delivery can add its own to them.)
create or replace function treadle._most_held() returns integer
language sql immutable parallel safe as $$
    select 5000
$$;

-- Of the keys of held records, those whose threads another transaction holds. The other threads are locked then.
create or replace function treadle._keys_held_elsewhere(s treadle.subscriptions) returns text[]
language plpgsql as $$
declare
    c_prefix constant text := 'records/' || s.subscription || '/';
    v_threads constant text[] := array(
        select distinct c_prefix || h.key
        from treadle.held_records h
        where h.subscription = s.id);
    v_locked constant treadle.locked_thread[] := treadle._lock_existing(
        thread_ids => v_threads, tenant => s.tenant, patient => false);
begin
    return array(
        select substr(t.thread_id, length(c_prefix) + 1)
        from treadle.threads t
        where t.tenant = s.tenant
            and t.thread_id = any(v_threads)
        except
        select substr(l.thread_id, length(c_prefix) + 1)
        from unnest(v_locked) l);
end $$;

-- Take back held records that are free, in their order: up to `quantity`, of about `max_bytes`.
--   taken    how many; retention deleted those of them that are not among `records`
--   names    of their topics
--   keys     that have held records left
create or replace function treadle._take_back(
    s treadle.subscriptions, quantity bigint, max_bytes bigint, out taken integer, out records treadle.delivery[],
    out names jsonb, out keys text[])
language plpgsql as $$
declare
    v_elsewhere text[];
begin
    taken := 0;
    records := '{}';
    names := '{}';
    keys := '{}';
    if s.held = 0 then
        return;
    end if;
    v_elsewhere := treadle._keys_held_elsewhere(s);
    with free as materialized (
        select h.topic, h."offset", t.topic as name, r.*,
            sum(r.bytes) over (order by h.topic, h."offset") - r.bytes as bytes_before
        from (
            select w.topic, w."offset"
            from treadle.held_records w
            where w.subscription = s.id
                and w.key <> all(v_elsewhere)
            order by w.topic, w."offset"
            limit quantity
        ) h
        left join treadle.topics t on t.id = any(array[h.topic]) and t.deleted_at is null
        left join lateral (
            select o.record_id, o.key, o.headers, o.value, o.schema_id, o.bytes, o.traceparent, o.depth
            from treadle.topic_log g
            join treadle.records o on o.record_id = g.record_id
            where g.topic = t.id
                and g."offset" = h."offset"
            limit 1
        ) r on true
    ), taken_back as (
        delete from treadle.held_records w
        using free f
        where w.subscription = s.id
            and w.topic = f.topic
            and w."offset" = f."offset"
            and coalesce(f.bytes_before < max_bytes, true)
        returning f.*
    )
    select count(*), coalesce(jsonb_object_agg(b.topic, b.name) filter (where b.name is not null), '{}'),
            coalesce(array_agg(row(
                null, b.topic, b."offset", b.record_id, b.key, b.headers, b.value, b.schema_id, true, false,
                b.traceparent, b.depth)::treadle.delivery order by b.topic, b."offset")
                filter (where b.record_id is not null), '{}')
        into taken, names, records
        from taken_back b;
    keys := array(select distinct w.key from treadle.held_records w where w.subscription = s.id);
end $$;

-- Hold these records. `taken`: how many of the subscription were taken back before.
create or replace function treadle._hold(s treadle.subscriptions, records treadle.delivery[], taken integer)
returns void language plpgsql as $$
begin
    if records <> '{}' then
        insert into treadle.held_records (subscription, topic, "offset", tenant, key)
            select s.id, (r.r).topic, (r.r)."offset", s.tenant, (r.r).key
            from (select unnest(records) as r) r;
    end if;
    if cardinality(records) <> taken then
        update treadle.subscriptions u
            set held = u.held + cardinality(records) - taken
            where u.id = s.id;
    end if;
end $$;
