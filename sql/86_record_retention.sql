-- Retention of records: those past the retention of their topic, and all of a deleted topic, are deleted in chunks, in
-- the order of their offsets.
--
-- A record is kept for the retention of its topic after it was published, and as long after the time in its id: so a
-- producer that repeats a publish finds it, as long as the id is accepted.

-- Delete the records of a topic from its first offset on, up to `quantity` and to before `past`, but none whose id is
-- `until` or later. The topic's row is locked. Returns how many.
create or replace function treadle._purge_topic(topic treadle.topics, past bigint, until uuid, quantity integer)
returns integer language plpgsql as $$
declare
    v_ids uuid[];
    v_bytes bigint;
begin
    select array_agg(g.record_id order by g."offset")
        into v_ids
        from (
            select l."offset", l.record_id, bool_and(l.record_id < until) over (order by l."offset") as over
            from treadle.topic_log l
            where l.topic = topic.id
                and l."offset" >= topic.first_offset
                and l."offset" < past
            order by l."offset"
            limit quantity
        ) g
        where g.over;
    if v_ids is null then
        return 0;
    end if;
    delete from treadle.topic_log l
        where l.topic = topic.id
            and l."offset" >= topic.first_offset
            and l."offset" < topic.first_offset + cardinality(v_ids);
    with deleted as (
        delete from treadle.records r
        where r.record_id = any(v_ids)
        returning r.bytes
    )
    select sum(d.bytes)
        into v_bytes
        from deleted d;
    update treadle.topics t
        set first_offset = t.first_offset + cardinality(v_ids), purged_bytes = t.purged_bytes + coalesce(v_bytes, 0)
        where t.id = topic.id;
    return cardinality(v_ids);
end $$;

-- Delete a topic that is marked as deleted and has no records left. The lock of its end keeps a router out, which may
-- just be giving offsets in it.
create or replace function treadle._forget_topic(topic treadle.topics) returns void
language plpgsql as $$
begin
    perform
    from treadle.topic_ends e
    where e.topic = topic.id
    for update;
    if exists (select from treadle.topic_log l where l.topic = topic.id) then
        return;  -- a router was first
    end if;
    delete from treadle.topic_ends e where e.topic = topic.id;
    delete from treadle.subscription_topics j where j.topic = topic.id;
    delete from treadle.subscription_positions p where p.topic = topic.id;
    delete from treadle.topics t where t.id = topic.id;
end $$;

-- Delete up to `quantity` records of deleted topics, of one tenant or (null) of all. Returns how many records and
-- topics.
create or replace function treadle._purge_deleted_topics(tenant text, quantity integer) returns integer
language plpgsql as $$
declare
    v treadle.topics;
    v_purged integer := 0;
    v_of_topic integer;
begin
    for v in
        select t.*
        from treadle.topics t
        where t.deleted_at is not null
            and coalesce(t.tenant = _purge_deleted_topics.tenant, true)
        order by t.id
        for update skip locked
    loop
        v_of_topic := treadle._purge_topic(
            topic => v, past => 9223372036854775807, until => 'ffffffff-ffff-ffff-ffff-ffffffffffff',
            quantity => quantity - v_purged);
        if v_of_topic = 0 then
            perform treadle._forget_topic(v);
            v_of_topic := 1;
        end if;
        v_purged := v_purged + v_of_topic;
        exit when v_purged >= quantity;
    end loop;
    return v_purged;
end $$;

-- Delete up to about `quantity` records past their retention, or of deleted topics. Returns how many.
create or replace function treadle.purge_records(quantity integer default 5000) returns integer
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
declare
    c_now constant timestamptz := treadle.clock();
    v treadle.topics;
    v_until timestamptz;
    v_purged integer;
begin
    if not treadle._try_mutex('purge_records') then
        return 0;
    end if;
    v_purged := treadle._purge_deleted_topics(null, quantity);
    for v in
        select t.*
        from treadle.topics t
        where t.deleted_at is null
            and t.retention_hours is not null
        order by t.id
        for update skip locked
    loop
        exit when v_purged >= quantity;
        v_until := c_now - v.retention_hours * interval '1 hour';
        v_purged := v_purged + treadle._purge_topic(
            topic => v, past => treadle._first_offset_since(v.id, v_until), until => treadle.uuid_at(v_until),
            quantity => quantity - v_purged);
    end loop;
    return v_purged;
end $$;
comment on function treadle.purge_records(integer)
    is 'Delete a chunk of the records past their retention, or of deleted topics; call again until it returns 0';

-- Delete a chunk of what a tenant has in topics and subscriptions; returns whether nothing is left.
create or replace function treadle._delete_topics_of_tenant(tenant text, quantity integer) returns boolean
language plpgsql as $$
begin
    update treadle.topics t
        set deleted_at = treadle.clock()
        where t.tenant = _delete_topics_of_tenant.tenant and t.deleted_at is null;
    if not treadle._try_mutex('sequence') then
        return false;
    end if;
    with waiting as (
        delete from pgmq.q_treadle_inbox q
        where q.message ->> 'tenant' = _delete_topics_of_tenant.tenant
        returning q.message
    )
    delete from treadle.records r
        where r.record_id = any(array(
            select i.id::uuid
            from waiting w
            cross join lateral jsonb_array_elements_text(w.message -> 'record_ids') i (id)));
    perform treadle._purge_deleted_topics(tenant, quantity);
    delete from treadle.subscription_topics j where j.tenant = _delete_topics_of_tenant.tenant;
    delete from treadle.subscription_positions p where p.tenant = _delete_topics_of_tenant.tenant;
    delete from treadle.held_records h where h.tenant = _delete_topics_of_tenant.tenant;
    delete from treadle.subscriptions s where s.tenant = _delete_topics_of_tenant.tenant;
    delete from treadle.mutexes m where m.name = 'topics of ' || _delete_topics_of_tenant.tenant;
    return not exists (select from treadle.topics t where t.tenant = _delete_topics_of_tenant.tenant);
end $$;
