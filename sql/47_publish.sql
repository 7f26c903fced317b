-- Publish: records come in.
--
-- A call writes its records and one row into the PGMQ queue treadle_inbox. Publishers wait for each other only where
-- they write the same record_id, or count for the limits of one tenant. A record gets its offset once its transaction
-- is committed (48_sequence.sql): an open transaction delays its own records, and calls that write the same ones.
--
-- records: [{"value": any JSON, "key"?, "headers"?: {name: text}, "record_id"?, "schema_id"?, "traceparent"?}, ...], at
-- most 1,000. The messages that subscriptions make of a record continue its trace.
-- All of them are written, or none: the first that is not acceptable raises TR422.
-- A record_id is a UUIDv7 of a time within a day of now. A record of the topic that is there already is not written
-- again (`known`), so a producer that repeats a call with the same ids after a lost answer doubles nothing.

do $$
begin
    if to_regclass('pgmq.q_treadle_inbox') is null then
        perform pgmq.create('treadle_inbox');
        -- The ids of a batch compress badly, and its dead rows must go soon.
        alter table pgmq.q_treadle_inbox alter column message set storage external;
        alter table pgmq.q_treadle_inbox set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
            autovacuum_vacuum_cost_delay = 0);
    end if;
    insert into treadle.low_water (name)
        select u.name
        from unnest(array['inbox', 'subscription_counts']) u (name)
        where not exists (select from treadle.low_water w where w.name = u.name);
end $$;

-- How long the id of a record may lie in the past: while a record is kept, a repeat of its publish finds it.
create or replace function treadle._oldest_record_id(retention_hours double precision, at timestamptz) returns uuid
language sql stable as $$
    select treadle.uuid_at(
        least(at, clock_timestamp()) - least(coalesce(retention_hours, 24), 24) * interval '1 hour')
$$;

-- Why these values of a record are refused; null: they are not.
create or replace function treadle._record_problem(
    key text, headers jsonb, value jsonb, bytes integer, max_bytes integer)
returns text language sql stable parallel safe as $$
    select case
        when value is null then 'value is missing.'
        when length(key) not between 1 and 255 then 'key must have 1 to 255 characters.'
        when headers <> '{}' and (jsonb_typeof(headers) <> 'object' or jsonb_path_exists(
            headers, 'strict $.* ? (@.type() != "string")'))
            then 'headers must be an object of texts.'
        when bytes > max_bytes then format('A record of this topic has at most %s bytes; this one has %s.', max_bytes,
            bytes)
        when treadle._json_problem(value) is not null then 'value ' || treadle._json_problem(value)
    end
$$;

-- Decode records of at most `max_bytes` each. `oldest`: those with an older id are refused.
create or replace function treadle._decode_records(
    records jsonb, max_bytes integer, oldest uuid, at timestamptz)
returns treadle.new_record[] language plpgsql as $$
#variable_conflict use_column
declare
    c_latest constant uuid := treadle.uuid_at(greatest(at, clock_timestamp()) + interval '1 day');
begin
    return (
        select array_agg(row(
                d.n, d.id, d.key, d.headers, d.value, d.bytes, d.schema_id,
                coalesce(
                    treadle._record_problem(
                        key => d.key, headers => d.headers, value => d.value, bytes => d.bytes,
                        max_bytes => max_bytes),
                    case
                        when get_byte(uuid_send(d.id), 6) not between 112 and 127 or d.id < oldest
                            or d.id >= c_latest
                            then format('A record_id must be a UUIDv7 of a time at most a day ahead, and not older '
                                'than a day or the retention of the topic; %s is not.', d.id)
                    end),
                d.traceparent)::treadle.new_record order by d.n)
        from (
            select r.n, coalesce(r.record_id, treadle.uuid7()) as id, r.key, coalesce(r.headers, '{}') as headers,
                r.schema_id,
                substring(r.traceparent from '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$') as traceparent,
                coalesce(r.value, case when records -> (r.n::integer - 1) ? 'value' then 'null'::jsonb end) as value,
                coalesce(octet_length(r.key), 0) + coalesce(pg_column_size(r.headers), 0)
                    + coalesce(pg_column_size(r.value), 0) as bytes
            from
                rows from (jsonb_to_recordset(records) as (
                    record_id uuid, key text, headers jsonb, value jsonb, schema_id integer, traceparent text)
                ) with ordinality r (record_id, key, headers, value, schema_id, traceparent, n)
        ) d);
exception
    when data_exception then  -- an element is not an object, or a field has another type
        raise exception using
            errcode = 'TR422', message = 'records cannot be decoded: ' || sqlerrm || '.';
end $$;

-- Raise the first problem of the records, and TR422 where there are none or too many.
create or replace function treadle._refuse_records(records treadle.new_record[]) returns void
language plpgsql as $$
declare
    v record;
begin
    select r.n, r.problem
        into v
        from (select (unnest(records)).n, (unnest(records)).problem) r
        where r.problem is not null
        order by r.n
        limit 1;
    if found then
        raise exception using errcode = 'TR422', message = case
            when cardinality(records) > 1 then format('records[%s]: ', v.n - 1) else '' end || v.problem;
    end if;
end $$;

-- Raise TR409 if one of these ids belongs to a record of another topic.
create or replace function treadle._refuse_used_ids(ids uuid[], topic bigint) returns void
language plpgsql as $$
declare
    v_used uuid;
begin
    select r.record_id
        into v_used
        from unnest(ids) u (id)
        cross join lateral (
            select o.record_id
            from treadle.records o
            where o.record_id = u.id
                and o.topic <> _refuse_used_ids.topic
            limit 1
        ) r
        limit 1;
    if found then
        raise exception using
            errcode = 'TR409', message = format('The record_id %s was used before: choose another one.', v_used);
    end if;
end $$;

-- Publish to a topic. `oldest`: records with an older id are refused. `limits`: to which the records count; null: none.
-- `depth`: how many messages lie above the one that publishes; null: a client publishes. `autocommit` is
-- for their charge (43_tenant_charges.sql).
create or replace function treadle._publish_records(
    topic treadle.topics, records jsonb, oldest uuid, limits jsonb, notify boolean, at timestamptz,
    depth integer default null, autocommit boolean default false)
returns table (n integer, record_id uuid, created_at timestamptz, known boolean)
language plpgsql as $$
#variable_conflict use_column
declare
    c_records constant integer := 1000;  -- in one call
    v_records treadle.new_record[];
    v_written uuid[];
    v_bytes bigint;
    v_all_new boolean;
begin
    if jsonb_typeof(records) is distinct from 'array' or jsonb_array_length(records) not between 1 and c_records then
        raise exception using
            errcode = 'TR422', message = format('records must be an array of 1 to %s records.', c_records);
    end if;
    v_records := treadle._decode_records(
        records => records, max_bytes => _publish_records.topic.max_record_bytes, oldest => oldest, at => at);
    perform treadle._refuse_records(v_records);
    with written as (
        insert into treadle.records (record_id, tenant, topic, key, headers, value, bytes, schema_id, created_at,
            traceparent, depth)
        select (r.r).record_id, _publish_records.topic.tenant, _publish_records.topic.id, (r.r).key, (r.r).headers,
            (r.r).value, (r.r).bytes, (r.r).schema_id, at, (r.r).traceparent, _publish_records.depth
        from (select unnest(v_records) as r) r
        on conflict do nothing
        returning record_id, bytes
    )
    select array_agg(w.record_id), sum(w.bytes)
        into v_written, v_bytes
        from written w;
    v_all_new := cardinality(v_written) is not distinct from cardinality(v_records);
    if not v_all_new then
        perform treadle._refuse_used_ids(
            array(select (unnest(v_records)).record_id), _publish_records.topic.id);
    end if;
    if v_written is not null then
        insert into pgmq.q_treadle_inbox (vt, enqueued_at, message)
            values (at, at, jsonb_build_object(
                'tenant', _publish_records.topic.tenant, 'topic', _publish_records.topic.id, 'bytes', v_bytes,
                'record_ids', v_written));
        if limits ?| array['per_minute', 'bytes_per_day'] then
            perform treadle._charge_publish(
                tenant => _publish_records.topic.tenant, limits => limits, records => cardinality(v_written),
                bytes => v_bytes, autocommit => autocommit, at => at);
        end if;
        if notify then
            perform treadle._hint('treadle_records', '*');
        end if;
    end if;
    return query
        select r.n, r.record_id, at, not v_all_new and (
            not r.record_id = any(coalesce(v_written, '{}'))
            or row_number() over (partition by r.record_id order by r.n) > 1)  -- twice in this call
        from (select (unnest(v_records)).n, (unnest(v_records)).record_id) r
        order by r.n;
end $$;

-- `autocommit` says that the transaction ends with the call: then it is charged now. The call waits `lock_timeout` at
-- most for each lock (then 55P03; null: as long as the session does): another transaction can hold the charge of the
-- tenant, or have written one of the record_ids.
create or replace function treadle.publish_many(
    topic text, records jsonb, tenant text default 'default', notify boolean default false, reach jsonb default null,
    autocommit boolean default false, lock_timeout text default null)
returns table (n integer, record_id uuid, created_at timestamptz, known boolean)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_mergejoin = off set enable_hashjoin = off
set enable_memoize = off as $$
#variable_conflict use_column
declare
    c_now constant timestamptz := treadle.clock();
    v_topic treadle.topics;
    v_limits jsonb;
    v_former_timeout text;
begin
    tenant := treadle._bound_tenant(tenant);
    v_former_timeout := treadle._set_lock_timeout(lock_timeout);
    reach := treadle._checked_reach(reach);
    v_limits := treadle._limits_of_active(tenant);
    if reach ?| array['thread_id', 'message_id'] then
        raise exception using
            errcode = 'TR403', message = 'This token is for one thread or message and may publish nothing.';
    end if;
    v_topic := treadle._existing_topic(publish_many.topic, publish_many.tenant);
    return query
        select p.*
        from treadle._publish_records(
            topic => v_topic, records => records, limits => v_limits, notify => notify, at => c_now,
            oldest => treadle._oldest_record_id(v_topic.retention_hours, c_now), autocommit => autocommit) p;
    v_former_timeout := treadle._set_lock_timeout(v_former_timeout);
end $$;
comment on function treadle.publish_many(text, jsonb, text, boolean, jsonb, boolean, text)
    is 'Publish an array of records to a topic: all or nothing';

create or replace function treadle.publish(
    topic text, value jsonb, key text default null, headers jsonb default '{}', record_id uuid default null,
    notify boolean default false, tenant text default 'default', reach jsonb default null)
returns uuid language sql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select p.record_id
    from treadle.publish_many(
        topic => topic,
        records => jsonb_build_array(
            jsonb_strip_nulls(jsonb_build_object('key', key, 'record_id', record_id))
            || jsonb_build_object('value', value, 'headers', headers)),
        tenant => tenant, notify => notify, reach => reach, autocommit => false, lock_timeout => null) p
$$;
comment on function treadle.publish(text, jsonb, text, jsonb, uuid, boolean, text, jsonb)
    is 'Publish one record; it is sent when your transaction commits. Returns its id';

-- The hash that is kept of a publish, so that it differs from that of a submit, or for another topic.
create or replace function treadle._publish_hash(topic text, request_hash bytea) returns bytea
language sql immutable parallel safe as $$
    select sha256(convert_to('publish ' || coalesce(topic, ''), 'UTF8') || request_hash)
$$;

-- The answer to the first publish under an Idempotency-Key: see treadle.first_answer.
create or replace function treadle.first_published(
    key text, request_hash bytea, topic text, tenant text default 'default', reach jsonb default null)
returns jsonb language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    tenant := treadle._bound_tenant(tenant);
    return treadle.first_answer(
        key => key, request_hash => treadle._publish_hash(topic => topic, request_hash => request_hash),
        tenant => tenant, reach => reach);
end $$;
comment on function treadle.first_published(text, bytea, text, text, jsonb)
    is 'The answer to the first publish under an Idempotency-Key';

-- Publish under an Idempotency-Key of the principal, as treadle.submit_once submits: a caller that repeats the call
-- receives the first answer again. Keys of submits and of publishes are the same kind; one that was used for a submit
-- or for another topic is refused as used with another request. A call that finds the first one still running waits two
-- seconds for it, not `patient` a moment, and then fails with lock_not_available (55P03).
create or replace function treadle.publish_once(
    key text, request_hash bytea, topic text, records jsonb, tenant text default 'default', reach jsonb default null,
    autocommit boolean default false, patient boolean default true)
returns jsonb language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
#variable_conflict use_column
declare
    c_now constant timestamptz := treadle.clock();
    c_restriction constant bytea := treadle._restriction(reach);
    c_hash constant bytea := treadle._publish_hash(topic => topic, request_hash => request_hash);
    v_answer jsonb;
    v_hash bytea;
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    perform treadle._check_once(key => key, request_hash => request_hash);
    if not patient then
        perform treadle._set_lock_timeout('50ms');
    end if;
    insert into treadle.idempotency as i (tenant, restriction, key, request_hash, created_at)
        values (publish_once.tenant, c_restriction, publish_once.key, c_hash, c_now)
        on conflict (tenant, restriction, key) do update
            set request_hash = excluded.request_hash, answer = null, created_at = c_now
            where i.created_at < c_now - interval '24 hours';
    if not found then
        select i.request_hash, i.answer
            into v_hash, v_answer
            from treadle.idempotency i
            where i.tenant = publish_once.tenant and i.restriction = c_restriction and i.key = publish_once.key;
        if v_hash <> c_hash then
            raise exception using errcode = 'TR422', message = 'This Idempotency-Key was used with another request.';
        end if;
        return v_answer;
    end if;
    select jsonb_agg(to_jsonb(p) - 'n' order by p.n)
        into v_answer
        from treadle.publish_many(
            topic => publish_once.topic, records => records, tenant => publish_once.tenant, reach => reach,
            autocommit => autocommit) p;
    update treadle.idempotency i
        set answer = v_answer
        where i.tenant = publish_once.tenant and i.restriction = c_restriction and i.key = publish_once.key;
    return v_answer;
end $$;
comment on function treadle.publish_once(text, bytea, text, jsonb, text, jsonb, boolean, boolean)
    is 'Publish under an Idempotency-Key: a repeat gets the first answer';
