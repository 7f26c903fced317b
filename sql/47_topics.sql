-- Topics: named, retained logs of records.
--
-- treadle.publish (47_publish.sql) writes records and one row into the PGMQ queue treadle_inbox. The router gives them
-- their offsets (48_sequence.sql) and delivers them to subscriptions (49_deliver.sql). Whatever is written by topics is
-- found by topics.id, so a deleted topic and a later one of the same name never mix.

-- The topics that exist by this name; none if it is being deleted.
create or replace function treadle._topic_named(topic text, tenant text) returns treadle.topics
language sql stable as $$
    select t
    from treadle.topics t
    where t.tenant = _topic_named.tenant
        and t.topic = _topic_named.topic
        and t.deleted_at is null
    limit 1
$$;

-- The same; raises TR404, also for a caller whose restrictions `reach` are not null: topics have no owner.
create or replace function treadle._existing_topic(topic text, tenant text, reach jsonb default null)
returns treadle.topics language plpgsql stable as $$
declare
    v treadle.topics := treadle._topic_named(topic, tenant);
begin
    if v.id is null or reach is not null then
        raise exception using errcode = 'TR404', message = format('There is no topic %L.', topic);
    end if;
    return v;
end $$;

-- The names of up to `quantity` topics of a tenant behind the name `after`, in their order.
create or replace function treadle.topic_names(after text, quantity integer, tenant text default 'default')
returns setof text
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off as $$
begin
    tenant := treadle._bound_tenant(tenant);
    return query
        select t.topic
        from treadle.topics t
        where t.tenant = topic_names.tenant
            and t.deleted_at is null
            and t.topic > after
        order by t.topic
        limit quantity;
end $$;
comment on function treadle.topic_names(text, integer, text)
    is 'The names of the next topics of a tenant, in their order';

-- A pattern of topics as a regular expression for the name of a topic with a dot before it: `*` stands for one word,
-- `#` for any number of them, none included; dots separate words. A match takes a time that grows with the length of
-- the name, not with the ways in which words could be shared out.
create or replace function treadle._topic_regex(pattern text) returns text
language sql immutable parallel safe as $$
    select '^' || replace(replace(replace(
        '.' || regexp_replace(pattern, '#(\.#)+', '#', 'g'), '.', '\.'), '*', '[^.]*'), '\.#', '(\.[^.]*)*') || '$'
$$;

-- Whether the name of a topic matches a pattern.
create or replace function treadle._topic_matches(pattern text, topic text) returns boolean
language sql immutable parallel safe as $$
    select pattern = topic or (pattern ~ '[*#]' and '.' || topic ~ treadle._topic_regex(pattern))
$$;

-- Take the mutex of a tenant's topics and subscriptions: whether a topic belongs to a subscription is decided by one
-- transaction at a time. Publishers and the router never take it.
create or replace function treadle._wait_for_topics(tenant text) returns void
language plpgsql as $$
declare
    c_mutex constant text := 'topics of ' || tenant;
begin
    insert into treadle.mutexes (name)
        values (c_mutex)
        on conflict do nothing;
    perform treadle._wait_for_mutex(c_mutex);
end $$;

-- Raises TR422 for values of a topic that are not acceptable.
create or replace function treadle._check_topic(
    topic text, retention_hours double precision, max_record_bytes integer, schema_subject text)
returns void language plpgsql as $$
declare
    c_problem constant text := case
        when coalesce(topic !~ '^[A-Za-z0-9._-]{1,249}$' or topic in ('.', '..'), true) then format(
            'A topic''s name is 1 to 249 of letters, digits, ".", "_" and "-", and neither "." nor ".."; %L is not.',
            left(topic, 300))
        when not (retention_hours > 0 and retention_hours <= 8766000)
            then 'retention_hours must be above 0 and at most 8766000 (a thousand years), or null: for ever.'
        when max_record_bytes not between 1 and 10000000 or max_record_bytes is null
            then 'max_record_bytes must be between 1 and 10000000.'
        when length(schema_subject) not between 1 and 255 then 'schema_subject must have 1 to 255 characters.'
    end;
begin
    if c_problem is not null then
        raise exception using errcode = 'TR422', message = c_problem;
    end if;
end $$;

-- Declare a topic: a repeat changes nothing. Returns what it did: created, changed or unchanged.
create or replace function treadle.create_topic(
    topic text, retention_hours double precision default 168, max_record_bytes integer default 1000000,
    schema_subject text default null, tenant text default 'default', actor text default null)
returns text language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
declare
    v treadle.topics;
    v_done text := 'changed';
begin
    perform treadle._limits_of_active(tenant);
    perform treadle._check_topic(
        topic => topic, retention_hours => retention_hours, max_record_bytes => max_record_bytes,
        schema_subject => schema_subject);
    perform treadle._wait_for_topics(tenant);
    v := treadle._topic_named(topic, tenant);
    if (v.retention_hours, v.max_record_bytes, v.schema_subject) is not distinct from
        (create_topic.retention_hours, create_topic.max_record_bytes, create_topic.schema_subject)
    then
        return 'unchanged';
    elsif v.id is null then
        v_done := 'created';
        perform treadle._refuse_more(most => 10000, what => 'topics', has => (
            select count(*)
            from treadle.topics t
            where t.tenant = create_topic.tenant and t.deleted_at is null));
        insert into treadle.topics (tenant, topic, retention_hours, max_record_bytes, schema_subject, created_at)
            values (
                create_topic.tenant, create_topic.topic, create_topic.retention_hours, create_topic.max_record_bytes,
                create_topic.schema_subject, treadle.clock())
            returning * into v;
        insert into treadle.topic_ends (topic, tenant) values (v.id, v.tenant);
        perform treadle._join_subscriptions(v);
    else
        update treadle.topics t
            set retention_hours = create_topic.retention_hours, max_record_bytes = create_topic.max_record_bytes,
                schema_subject = create_topic.schema_subject
            where t.id = v.id;
    end if;
    perform treadle._audit(
        actor => actor, action => case v_done when 'created' then 'topic.create' else 'topic.change' end,
        target => topic, tenant => tenant, details => jsonb_strip_nulls(jsonb_build_object(
            'retention_hours', retention_hours, 'max_record_bytes', max_record_bytes,
            'schema_subject', schema_subject)));
    return v_done;
end $$;
comment on function treadle.create_topic(text, double precision, integer, text, text, text)
    is 'Declare a topic; returns created, changed or unchanged. Raises TR403, TR404, TR409, TR422';

-- Delete a topic: it is unknown at once, and treadle.purge_records deletes its records in chunks.
create or replace function treadle.delete_topic(topic text, tenant text default 'default', actor text default null)
returns void language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
declare
    v treadle.topics;
begin
    perform treadle._wait_for_topics(tenant);
    v := treadle._existing_topic(topic, tenant);
    update treadle.topics t
        set deleted_at = treadle.clock()
        where t.id = v.id;
    perform treadle._audit(actor => actor, action => 'topic.delete', target => topic, tenant => tenant);
end $$;
comment on function treadle.delete_topic(text, text, text)
    is 'Make a topic unknown at once, and its records the janitors'' to delete; raises TR404';

-- The end of a topic: the newest version of its row. See treadle._log_era.
create or replace function treadle._topic_end(topic bigint)
returns table (place tid, next_offset bigint, bytes bigint)
language sql stable rows 1 as $$
    select e.ctid, e.next_offset, e.bytes
    from treadle.topic_ends e
    where e.topic = _topic_end.topic
    order by e.next_offset desc
    limit 1
$$;

-- Refuse more than 100,000 topics that the subscriptions of a tenant read, each counted for each of them (TR409):
-- routers, lists and figures look at every one. The caller has the mutex of the tenant's topics, and has added some.
-- They are not counted where all subscriptions could read all topics.
create or replace function treadle._refuse_more_topics(tenant text) returns void
language plpgsql as $$
declare
    c_most constant bigint := 100000;
    v_subscriptions constant bigint[] := array(
        select s.id
        from treadle.subscriptions s
        where s.tenant = _refuse_more_topics.tenant);
    v_topics constant bigint := (select count(*) from treadle.topics t where t.tenant = _refuse_more_topics.tenant);
    v_read bigint;
begin
    if cardinality(v_subscriptions) * v_topics <= c_most then
        return;
    end if;
    v_read := (
        select count(*)
        from (
            select
            from unnest(v_subscriptions) s (id)
            join treadle.subscription_topics j on j.subscription = s.id
            join treadle.topics t on t.id = j.topic and t.deleted_at is null
            limit c_most + 1
        ) l);
    perform treadle._refuse_more(
        has => v_read - 1, most => c_most, what => 'topics that its subscriptions read, each counted for each of them',
        advice => 'name fewer topics, or delete a subscription');
end $$;
