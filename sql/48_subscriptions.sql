-- Subscriptions: durable positions in the topics that match their patterns. Each record becomes one message for the
-- agent of the subscription (49_deliver.sql).
--
-- A topic that is created later joins the subscriptions whose patterns match its name, from its start. One that no
-- longer matches keeps its position, and nothing of it is delivered.

-- Raises TR422 for values of a subscription that are not acceptable. The size of the filter is checked only where it
-- changes: one that an earlier release took is kept.
create or replace function treadle._check_subscription(s treadle.subscriptions) returns void
language plpgsql as $$
declare
    c_problem constant text := case
        when coalesce(s.subscription !~ '^[A-Za-z0-9._-]{1,100}$' or s.subscription in ('.', '..'), true) then format(
            'A subscription''s name is 1 to 100 of letters, digits, ".", "_" and "-", and neither "." nor ".."; '
            '%L is not.', left(s.subscription, 200))
        when coalesce(cardinality(s.topics), 0) not between 1 and 100
            then 'topics must be 1 to 100 names or patterns.'
        when exists (
            select
            from unnest(s.topics) u
            where u is null or u !~ '^[A-Za-z0-9._*#-]{1,249}$'
                or exists (select from string_to_table(u, '.') w where w ~ '[*#]' and w not in ('*', '#')))
            then 'A pattern of topics is words separated by dots; * stands for one word and # for any number of them.'
        when coalesce(length(s.agent) not between 1 and 100, true) then 'agent must be the name of an agent.'
        when coalesce(s.delivery not in ('at_least_once', 'at_most_once', 'exactly_once'), true)
            then 'delivery must be at_least_once, at_most_once or exactly_once.'
        when coalesce(s.max_in_flight not between 1 and 10000, true)
            then 'max_in_flight must be between 1 and 10000.'
        when jsonb_typeof(s.filter) <> 'object' or s.filter - 'value' - 'headers' <> '{}'
            then 'filter must be an object with value, headers or both.'
    end;
begin
    if c_problem is not null then
        raise exception using errcode = 'TR422', message = c_problem;
    end if;
end $$;

-- Refuse to let a consumer take over the subscription of an agent, or an agent that of a consumer: they have one name
-- by accident. (A consumer of the group g is the agent `consumer:g`.) Raises TR409.
create or replace function treadle._refuse_other_kind(s treadle.subscriptions, agent text) returns void
language plpgsql as $$
begin
    if starts_with(s.agent, 'consumer:') is distinct from starts_with(_refuse_other_kind.agent, 'consumer:') then
        raise exception using errcode = 'TR409', message = format(
            'The subscription %L is that of the agent %L: choose another name, or delete the subscription first.',
            s.subscription, s.agent);
    end if;
end $$;

-- Let a new topic join the subscriptions whose patterns match it.
create or replace function treadle._join_subscriptions(topic treadle.topics) returns void
language plpgsql as $$
begin
    perform treadle._join(topics => array[topic.id], start => 'earliest', subscriptions => array(
        select s.id
        from treadle.subscriptions s
        where s.tenant = topic.tenant
            and exists (select from unnest(s.topics) u where treadle._topic_matches(u, topic.topic))));
end $$;

-- Let each of these subscriptions read each of these topics from a start on; nothing happens where it has a position
-- there already, or the topic is being deleted. Where it starts at the end, the statement reads that itself: a call of
-- _start_offset for each topic takes seven times as long. Raises TR409 for more topics than the tenant's subscriptions
-- may read.
create or replace function treadle._join(subscriptions bigint[], topics bigint[], start text) returns void
language plpgsql as $$
begin
    insert into treadle.subscription_topics (subscription, topic, tenant)
        select s.id, t.id, t.tenant
        from unnest(subscriptions) s (id)
        cross join treadle.topics t
        where t.id = any(topics) and t.deleted_at is null
        on conflict do nothing;
    if found then
        perform treadle._refuse_more_topics((select t.tenant from treadle.topics t where t.id = topics[1]));
    end if;
    insert into treadle.subscription_positions (subscription, topic, tenant, next_offset, fresh_offset)
        select s.id, t.id, t.tenant, o.place, o.place
        from unnest(subscriptions) s (id)
        cross join treadle.topics t
        left join lateral treadle._topic_end(t.id) e on start = 'latest'
        cross join lateral (select coalesce(e.next_offset, treadle._start_offset(t, start)) as place) o
        where t.id = any(topics)
            and t.deleted_at is null
            and not exists (
                select
                from treadle.subscription_positions p
                where p.subscription = s.id and p.topic = t.id);
end $$;

-- The position of a subscription in a topic: the newest version of its row. See treadle._log_era.
create or replace function treadle._position_of(subscription bigint, topic bigint)
returns table (place tid, version bigint, next_offset bigint, fresh_offset bigint)
language sql stable rows 1 as $$
    select p.ctid, p.version, p.next_offset, p.fresh_offset
    from treadle.subscription_positions p
    where p.subscription = _position_of.subscription
        and p.topic = _position_of.topic
    order by p.version desc
    limit 1
$$;

-- The topics of a subscription's tenant that match its patterns, also those that are being deleted. A session keeps few
-- compiled regular expressions, so it looks at all topics for one pattern after the other.
create or replace function treadle._matching_topics(s treadle.subscriptions) returns bigint[]
language plpgsql stable as $$
declare
    v_matching bigint[] := array(
        select t.id
        from treadle.topics t
        where t.tenant = s.tenant and t.topic = any(s.topics));
    v_regex text;
begin
    for v_regex in
        select treadle._topic_regex(u)
        from unnest(s.topics) u
        where u ~ '[*#]'
    loop
        v_matching := v_matching || array(
            select t.id
            from treadle.topics t
            where t.tenant = s.tenant
                and '.' || t.topic ~ v_regex
                and not exists (select from unnest(v_matching) m where m = t.id));
    end loop;
    return v_matching;
end $$;

-- Join the topics that match the patterns of a subscription, and leave the others.
create or replace function treadle._match_topics(s treadle.subscriptions, start text) returns void
language plpgsql as $$
declare
    c_matching constant bigint[] := treadle._matching_topics(s);
begin
    delete from treadle.subscription_topics j
        where j.subscription = s.id and not exists (select from unnest(c_matching) m where m = j.topic);
    perform treadle._join(subscriptions => array[s.id], topics => c_matching, start => start);
end $$;

-- Declare a subscription: a repeat changes nothing. `start` is where it begins in topics that it does not read yet
-- (`earliest`, `latest`, an offset, or a time); a topic that is created later is read from its start.
-- filter: {"value": JSON, "headers": JSON}, what the value and the headers of a record must contain (as jsonb @>).
-- Returns what it did: created, changed or unchanged.
create or replace function treadle.create_subscription(
    subscription text, topics text[], agent text, start text default 'latest', delivery text default 'at_least_once',
    max_in_flight integer default 1000, filter jsonb default null, dead_letter boolean default true,
    tenant text default 'default', actor text default null)
returns text language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
#variable_conflict use_column
declare
    v treadle.subscriptions;
    v_old treadle.subscriptions;
    v_done text := 'changed';
begin
    perform treadle._limits_of_active(create_subscription.tenant);
    perform treadle._wait_for_topics(create_subscription.tenant);
    select s.* into v_old
        from treadle.subscriptions s
        where s.tenant = create_subscription.tenant and s.subscription = create_subscription.subscription
        for update;
    if found then
        perform treadle._refuse_other_kind(v_old, agent);
    end if;
    v := v_old;
    v.tenant := create_subscription.tenant;
    v.subscription := create_subscription.subscription;
    v.topics := create_subscription.topics;
    v.agent := create_subscription.agent;
    v.delivery := create_subscription.delivery;
    v.max_in_flight := create_subscription.max_in_flight;
    v.filter := create_subscription.filter;
    v.dead_letter := create_subscription.dead_letter;
    perform treadle._check_subscription(v);
    if v.filter is distinct from v_old.filter and treadle._filter_problem(v.filter) is not null then
        raise exception using errcode = 'TR422', message = 'filter ' || treadle._filter_problem(v.filter);
    end if;
    perform treadle._start_time(start);  -- also where no topic matches yet
    if v is not distinct from v_old then
        return 'unchanged';
    elsif v.id is null then
        v_done := 'created';
        perform treadle._refuse_more(
            has => (select count(*) from treadle.subscriptions s where s.tenant = v.tenant), most => 1000,
            what => 'subscriptions');
        insert into treadle.subscriptions (
            tenant, subscription, topics, agent, delivery, max_in_flight, filter, dead_letter, created_at)
            values (
                v.tenant, v.subscription, v.topics, v.agent, v.delivery, v.max_in_flight, v.filter, v.dead_letter,
                treadle.clock())
            returning * into v;
    else
        update treadle.subscriptions s
            set topics = v.topics, agent = v.agent, delivery = v.delivery, max_in_flight = v.max_in_flight,
                filter = v.filter, dead_letter = v.dead_letter
            where s.id = v.id;
    end if;
    perform treadle._match_topics(v, start);
    perform treadle._audit_subscription(s => v, actor => actor, action => case v_done
        when 'created' then 'subscription.create' else 'subscription.change' end);
    return v_done;
end $$;
comment on function treadle.create_subscription(text, text[], text, text, text, integer, jsonb, boolean, text, text)
    is 'Declare a subscription; returns created, changed or unchanged. Raises TR403, TR404, TR409, TR422';

-- Let the subscription of an agent's name read these topics of the tenant `default`: a worker declares it with the
-- agent. What a declaration of topics does not say stays as it is. Where nothing changes, no lock is taken.
create or replace function treadle.follow_topics(agent text, topics text[]) returns text
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
#variable_conflict use_column
declare
    v treadle.subscriptions;
begin
    select s.* into v
        from treadle.subscriptions s
        where s.tenant = 'default' and s.subscription = follow_topics.agent;
    if not found then
        return treadle.create_subscription(
            subscription => follow_topics.agent, topics => follow_topics.topics, agent => follow_topics.agent,
            actor => 'agent ' || follow_topics.agent);
    elsif v.topics = follow_topics.topics and v.agent = follow_topics.agent then
        return 'unchanged';
    end if;
    return treadle.create_subscription(
        subscription => v.subscription, topics => follow_topics.topics, agent => follow_topics.agent,
        delivery => v.delivery, max_in_flight => v.max_in_flight, filter => v.filter, dead_letter => v.dead_letter,
        actor => 'agent ' || follow_topics.agent);
end $$;
comment on function treadle.follow_topics
    is 'Let the subscription of an agent''s name read these topics; a worker calls it';

-- Note an act on a subscription, and wake a router.
create or replace function treadle._audit_subscription(
    s treadle.subscriptions, actor text, action text, details jsonb default '{}')
returns void language plpgsql as $$
begin
    perform treadle._audit(
        actor => actor, action => action, target => s.subscription, tenant => s.tenant, details => details);
    perform treadle._hint('treadle_records', s.tenant || '/' || s.subscription);
end $$;

-- A subscription, locked; raises TR404.
create or replace function treadle._lock_subscription(subscription text, tenant text) returns treadle.subscriptions
language plpgsql as $$
declare
    v treadle.subscriptions;
begin
    select s.* into v
        from treadle.subscriptions s
        where s.tenant = _lock_subscription.tenant and s.subscription = _lock_subscription.subscription
        for update;
    if not found then
        raise exception using errcode = 'TR404', message = format('There is no subscription %L.', subscription);
    end if;
    return v;
end $$;

create or replace function treadle.pause_subscription(
    subscription text, paused boolean default true, tenant text default 'default', actor text default null)
returns void language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
declare
    v constant treadle.subscriptions := treadle._lock_subscription(subscription, tenant);
begin
    if v.paused = pause_subscription.paused then
        return;
    end if;
    update treadle.subscriptions s
        set paused = pause_subscription.paused
        where s.id = v.id;
    perform treadle._audit_subscription(s => v, actor => actor, action => case
        when paused then 'subscription.pause' else 'subscription.resume' end);
end $$;
comment on function treadle.pause_subscription(text, boolean, text, text)
    is 'Deliver nothing to a subscription or, with paused => false, go on; raises TR404';

-- Move a subscription in one topic (null: in all that it reads). What lies behind its place is delivered again, as new
-- messages; a record whose message is still open is not, and records of a key wait for the open ones of that key.
create or replace function treadle.seek_subscription(
    subscription text, start text, topic text default null, tenant text default 'default', actor text default null)
returns void language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
declare
    v constant treadle.subscriptions := treadle._lock_subscription(subscription, tenant);
    v_since constant timestamptz := treadle._start_time(start);  -- raises TR422, also where it reads no topic yet
    v_topic constant bigint := case when topic is not null then (treadle._existing_topic(topic, tenant)).id end;
begin
    update treadle.subscription_positions p
        set version = p.version + 1,
            next_offset = n.next_offset,
            fresh_offset = greatest(p.fresh_offset, n.next_offset)
        from treadle.subscription_topics j
        join treadle.topics t on t.id = j.topic and t.deleted_at is null
        cross join lateral treadle._position_of(j.subscription, j.topic) o
        cross join lateral (
            select least(greatest(treadle._start_offset(t, start), t.first_offset), e.next_offset) as next_offset
            from treadle._topic_end(t.id) e
        ) n
        where p.ctid = o.place
            and j.subscription = v.id
            and coalesce(j.topic = v_topic, true);
    if not found and v_topic is not null then
        raise exception using
            errcode = 'TR404', message = format('The subscription %L does not read the topic %L.', subscription, topic);
    end if;
    perform treadle._audit_subscription(
        s => v, actor => actor, action => 'subscription.seek',
        details => jsonb_strip_nulls(jsonb_build_object('start', start, 'topic', topic)));
end $$;
comment on function treadle.seek_subscription(text, text, text, text, text)
    is 'Move a subscription to earliest, latest, an offset or a time; raises TR404, TR422';

-- Delete a subscription. Its open messages go on as ordinary messages.
create or replace function treadle.delete_subscription(
    subscription text, tenant text default 'default', actor text default null)
returns void language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
declare
    v treadle.subscriptions;
begin
    perform treadle._wait_for_topics(tenant);
    v := treadle._lock_subscription(subscription, tenant);
    delete from treadle.subscription_topics j where j.subscription = v.id;
    delete from treadle.subscription_positions p where p.subscription = v.id;
    delete from treadle.held_records h where h.subscription = v.id;
    delete from treadle.subscriptions s where s.id = v.id;
    perform treadle._audit_subscription(s => v, actor => actor, action => 'subscription.delete');
end $$;
comment on function treadle.delete_subscription(text, text, text)
    is 'Delete a subscription; its open messages go on. Raises TR404';
