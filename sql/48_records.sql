-- Records: reading a topic without a subscription.
--
-- Records have no owner: a principal with a restriction (18_tenants.sql) sees none of them.

-- The first offset that is kept, and the one that comes next. Raises TR404.
create or replace function treadle.topic_bounds(
    topic text, tenant text default 'default', reach jsonb default null, out topic_key bigint, out first_offset bigint,
    out next_offset bigint)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    v treadle.topics;
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    v := treadle._existing_topic(topic => topic, tenant => tenant, reach => reach);
    topic_key := v.id;
    first_offset := v.first_offset;
    next_offset := (select e.next_offset from treadle._topic_end(v.id) e);
end $$;
comment on function treadle.topic_bounds(text, text, jsonb)
    is 'Which offsets a topic has, from the first to before the next; raises TR404';

-- Records of a topic from an offset on, in order: up to `quantity` and about `max_bytes`, but at least one. If the
-- first of them has a later offset than the one asked for, retention has deleted those between.
create or replace function treadle.read_records(
    topic text, start bigint, quantity integer default 100, max_bytes bigint default 1000000,
    tenant text default 'default', reach jsonb default null)
returns table ("offset" bigint, record_id uuid, key text, headers jsonb, value jsonb, schema_id integer,
    created_at timestamptz)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
declare
    v_bounds constant record := treadle.topic_bounds(
        topic => topic, tenant => treadle._bound_tenant(tenant), reach => reach);
begin
    return query
        select p."offset", p.record_id, p.key, p.headers, p.value, p.schema_id, p.created_at
        from (
            select l."offset", r.*, sum(r.bytes) over (order by l."offset") - r.bytes as bytes_before
            from (
                select g."offset", g.record_id
                from treadle.topic_log g
                where g.topic = v_bounds.topic_key
                    and g."offset" >= greatest(start, v_bounds.first_offset)
                    and g."offset" < v_bounds.next_offset
                order by g."offset"
                limit least(quantity, 10000)
            ) l
            cross join lateral (
                select o.*
                from treadle.records o
                where o.record_id = l.record_id
                limit 1
            ) r
        ) p
        where p.bytes_before < max_bytes
        order by p."offset";
end $$;
comment on function treadle.read_records(text, bigint, integer, bigint, text, jsonb)
    is 'Records of a topic from an offset on; raises TR404';

-- The place of a record, null for the offset until it has one. No row: there is no such record.
create or replace function treadle.record_place(record_id uuid, tenant text default 'default', reach jsonb default null)
returns table (topic text, "offset" bigint, created_at timestamptz)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
#variable_conflict use_column
begin
    reach := treadle._checked_reach(reach);
    return query
        select t.topic, treadle._offset_of(r.record_id, r.topic, r.created_at), r.created_at
        from treadle.records r
        join treadle.topics t on t.id = r.topic and t.deleted_at is null
        where r.record_id = record_place.record_id
            and r.tenant = treadle._bound_tenant(record_place.tenant)
            and record_place.reach is null;
end $$;
comment on function treadle.record_place(uuid, text, jsonb)
    is 'Topic and offset of a record';

-- The first offset whose record was published at that time or later, by bisection: offsets follow the times of
-- publishing, except where transactions stayed open. Without such a record, the end of the topic.
create or replace function treadle._first_offset_since(topic bigint, at timestamptz) returns bigint
language plpgsql stable as $$
declare
    v_low bigint := (select t.first_offset from treadle.topics t where t.id = _first_offset_since.topic);
    v_high bigint := (select e.next_offset from treadle._topic_end(topic) e);
    v_middle bigint;
begin
    while v_low < v_high loop
        v_middle := (v_low + v_high) / 2;
        if (
            select r.created_at
            from treadle.topic_log g
            join treadle.records r on r.record_id = g.record_id
            where g.topic = _first_offset_since.topic and g."offset" = v_middle
        ) < at then
            v_low := v_middle + 1;
        else
            v_high := v_middle;
        end if;
    end loop;
    return v_low;
end $$;

-- The offset of a record of the topic; null: it has none yet. Offsets follow the times of publishing, so it lies near
-- the place of its time; records of long transactions may lie far behind that.
create or replace function treadle._offset_of(record_id uuid, topic bigint, at timestamptz) returns bigint
language sql stable as $$
    select g."offset"
    from treadle.topic_log g
    where g.topic = _offset_of.topic
        and g."offset" >= treadle._first_offset_since(_offset_of.topic, at - interval '10 seconds')
        and g.record_id = _offset_of.record_id
    limit 1
$$;

-- The time of a start (text in ISO 8601, or in the session's DateStyle); null for `earliest`, `latest` and offsets.
-- Raises TR422 for any other text.
create or replace function treadle._start_time(start text) returns timestamptz
language plpgsql stable as $$
begin
    if start in ('earliest', 'latest') or start ~ '^[0-9]{1,18}$' then
        return null;
    elsif start !~ '^[0-9]' then  -- PostgreSQL would also take words, such as tomorrow
        raise data_exception;
    end if;
    return start::timestamptz;
exception
    when data_exception then
        raise exception using
            errcode = 'TR422',
            message = format('A start is "earliest", "latest", an offset or a time in ISO 8601; %L is not.', start);
end $$;

-- The offset at which to begin: `earliest`, `latest`, an offset, or a time (as text in ISO 8601). Raises TR404, TR422.
create or replace function treadle._start_offset(topic treadle.topics, start text) returns bigint
language sql stable as $$
    select case
        when start = 'earliest' then topic.first_offset
        when start = 'latest' then (select e.next_offset from treadle._topic_end(topic.id) e)
        when start ~ '^[0-9]{1,18}$' then start::bigint
        else treadle._first_offset_since(topic.id, treadle._start_time(start))
    end
$$;

create or replace function treadle.topic_offset(
    topic text, start text, tenant text default 'default', reach jsonb default null)
returns bigint language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    return treadle._start_offset(
        treadle._existing_topic(
            topic => topic, tenant => treadle._bound_tenant(tenant), reach => treadle._checked_reach(reach)), start);
end $$;
comment on function treadle.topic_offset(text, text, text, jsonb)
    is 'The offset of earliest, latest, an offset or a time in a topic; raises TR404, TR422';
