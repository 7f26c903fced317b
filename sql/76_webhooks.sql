-- Webhooks: the endpoints of a tenant, their secrets, and what the agent `webhook` asks for a delivery.
--
-- A secret signs and cannot be hashed, so no role reads the tables that hold one. It is shown when it is made. After a
-- rotation the former one signs as well for a while, so that a receiver can change to the new one at any time in it.

-- `whsec_` and 32 random bytes in base64.
create or replace function treadle._new_webhook_secret() returns text
language sql volatile as $$
    select 'whsec_' || encode(
        sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'base64')
$$;

-- These secrets with a new one before them. Those so far end after `grace_seconds`, unless they end sooner; a few of
-- them are kept.
create or replace function treadle._rotated_secrets(secrets jsonb, grace_seconds double precision, at timestamptz)
returns jsonb
language sql volatile as $$
    select jsonb_build_array(jsonb_build_object('secret', treadle._new_webhook_secret())) || coalesce(
        jsonb_agg(jsonb_build_object('secret', f.secret, 'until', f.until) order by f.n), '[]')
    from (
        select u.n, u.x ->> 'secret' as secret,
            least((u.x ->> 'until')::timestamptz, at + grace_seconds * interval '1 second') as until
        from jsonb_array_elements(secrets) with ordinality u (x, n)
        where u.n <= 4
    ) f
    where f.until > at
$$;

-- Those of the secrets that are valid, the newest first.
create or replace function treadle._valid_secrets(secrets jsonb) returns text[]
language sql stable as $$
    select array_agg(u.x ->> 'secret' order by u.n)
    from jsonb_array_elements(secrets) with ordinality u (x, n)
    where coalesce((u.x ->> 'until')::timestamptz > treadle.clock(), true)
$$;

-- Until when former secrets are valid; null: there are none.
create or replace function treadle._former_until(secrets jsonb) returns timestamptz
language sql stable as $$
    select max((u.x ->> 'until')::timestamptz)
    from jsonb_array_elements(secrets) u (x)
    where (u.x ->> 'until')::timestamptz > treadle.clock()
$$;

-- Raises TR422 for values of a webhook that are not acceptable.
create or replace function treadle._check_webhook(w treadle.webhooks) returns void
language plpgsql as $$
declare
    c_events constant text[] := array[
        'message.completed', 'message.failed', 'message.cancelled', 'message.input_required',
        'subscription.dead_lettered'];
    c_problem constant text := case
        when w.url is null or not treadle._is_url(w.url)
            then 'url must be an http or https address of at most 2000 characters.'
        when coalesce(cardinality(w.events), 0) = 0 or not w.events <@ c_events
            then format('events must be a list of %s.', array_to_string(c_events, ', '))
        when coalesce(w.format not in ('standard', 'openai'), true) then 'format must be standard or openai.'
        when w.format = 'openai' and not w.events <@ c_events[:3]
            then 'The format openai has only message.completed, message.failed and message.cancelled.'
        when cardinality(w.agents) not between 1 and 100 then 'agents must be a list of 1 to 100 names.'
        when cardinality(w.queues) not between 1 and 100 then 'queues must be a list of 1 to 100 names.'
        when coalesce(length(w.description) > 500, true) then 'description must have at most 500 characters.'
    end;
begin
    if c_problem is not null then
        raise exception using errcode = 'TR422', message = c_problem;
    end if;
end $$;

-- Lock a webhook of the tenant; raises TR404.
create or replace function treadle._lock_webhook(webhook_id uuid, tenant text) returns treadle.webhooks
language plpgsql as $$
#variable_conflict use_column
declare
    v treadle.webhooks;
begin
    select w.*
    into v
    from treadle.webhooks w
    where w.webhook_id = _lock_webhook.webhook_id and w.tenant = _lock_webhook.tenant
    for no key update;
    if not found then
        raise exception using errcode = 'TR404', message = format('There is no webhook %s.', webhook_id);
    end if;
    return v;
end $$;

-- Create a webhook, and the queue of deliveries where it is missing. Raises TR403, TR404, TR409, TR422.
create or replace function treadle.create_webhook(
    url text, events text[], agents text[] default null, queues text[] default null, format text default 'standard',
    description text default '', enabled boolean default true, tenant text default 'default',
    actor text default null, out webhook_id uuid, out secret text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
#variable_conflict use_column
declare
    v treadle.webhooks;
begin
    perform treadle._limits_of_active(create_webhook.tenant);
    v.webhook_id := treadle.uuid7();
    v.tenant := create_webhook.tenant;
    v.url := create_webhook.url;
    v.events := create_webhook.events;
    v.agents := create_webhook.agents;
    v.queues := create_webhook.queues;
    v.format := create_webhook.format;
    v.description := create_webhook.description;
    v.enabled := create_webhook.enabled;
    v.secrets := treadle._rotated_secrets(secrets => '[]', grace_seconds => 0, at => treadle.clock());
    v.created_at := treadle.clock();
    perform treadle._check_webhook(v);
    perform treadle.create_queue(treadle._webhook_queue());
    perform
    from treadle.tenants t
    where t.tenant = create_webhook.tenant
    for no key update;
    if (select count(*) from treadle.webhooks w where w.tenant = create_webhook.tenant) >= 50 then
        raise exception using errcode = 'TR409', message = 'A tenant has at most 50 webhooks: delete one.';
    end if;
    insert into treadle.webhooks select v.*;
    webhook_id := v.webhook_id;
    secret := v.secrets -> 0 ->> 'secret';
    perform treadle._audit(
        actor => actor, action => 'webhook.create', target => v.webhook_id::text, tenant => v.tenant,
        details => jsonb_build_object('url', v.url, 'events', v.events));
end $$;
comment on function treadle.create_webhook is 'Create a webhook; returns its secret. Raises TR403, TR404, TR409, TR422';

-- The webhooks of a tenant without their secrets, the newest first, with the outcome of their last delivery.
-- `named`: only that one.
create or replace function treadle.list_webhooks(tenant text default 'default', named uuid default null)
returns table (
    webhook_id uuid, url text, events text[], agents text[], queues text[], format text, description text,
    enabled boolean, disabled_reason text, created_at timestamptz, former_until timestamptz, last_at timestamptz,
    last_message_id uuid, last_status integer, last_error text, succeeded_at timestamptz, failing_since timestamptz)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
#variable_conflict use_column
begin
    return query
        select w.webhook_id, w.url, w.events, w.agents, w.queues, w.format, w.description, w.enabled,
            w.disabled_reason, w.created_at, treadle._former_until(w.secrets), o.at, o.message_id, o.status, o.error,
            o.succeeded_at, o.failing_since
        from treadle.webhooks w
        left join treadle.webhook_outcomes o on o.webhook_id = w.webhook_id
        where w.tenant = list_webhooks.tenant and (named is null or w.webhook_id = named)
        order by w.created_at desc, w.webhook_id desc;
end $$;
comment on function treadle.list_webhooks is 'The webhooks of a tenant without their secrets, the newest first';

-- changes: {"url", "events", "agents", "queues", "description", "enabled"}; a field that is missing stays as it is.
-- Raises TR404, TR422.
create or replace function treadle.change_webhook(
    webhook_id uuid, changes jsonb, tenant text default 'default', actor text default null)
returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
#variable_conflict use_column
declare
    c_known constant text[] := array['url', 'events', 'agents', 'queues', 'description', 'enabled'];
    v treadle.webhooks := treadle._lock_webhook(webhook_id, tenant);
begin
    v := jsonb_populate_record(v, changes - array(
        select k
        from jsonb_object_keys(changes) k
        where k <> all(c_known)));
    if v.enabled then
        v.disabled_reason := null;
    end if;
    perform treadle._check_webhook(v);
    update treadle.webhooks w
        set url = v.url, events = v.events, agents = v.agents, queues = v.queues, description = v.description,
            enabled = v.enabled, disabled_reason = v.disabled_reason
        where w.webhook_id = v.webhook_id;
    perform treadle._audit(
        actor => actor, action => 'webhook.change', target => v.webhook_id::text, tenant => v.tenant,
        details => changes);
end $$;
comment on function treadle.change_webhook is 'Change a webhook; raises TR404, TR422';

-- Delete a webhook. Its deliveries that are open fail. Raises TR404.
create or replace function treadle.delete_webhook(
    webhook_id uuid, tenant text default 'default', actor text default null)
returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
#variable_conflict use_column
declare
    v constant treadle.webhooks := treadle._lock_webhook(webhook_id, tenant);
begin
    delete from treadle.webhook_outcomes o where o.webhook_id = v.webhook_id;
    delete from treadle.webhooks w where w.webhook_id = v.webhook_id;
    perform treadle._audit(
        actor => actor, action => 'webhook.delete', target => v.webhook_id::text, tenant => v.tenant,
        details => jsonb_build_object('url', v.url));
end $$;
comment on function treadle.delete_webhook is 'Delete a webhook; raises TR404';

-- Give a webhook another secret. Those so far sign as well for `grace_seconds`. Raises TR404.
create or replace function treadle.rotate_webhook(
    webhook_id uuid, grace_seconds double precision, tenant text default 'default', actor text default null,
    out secret text, out former_until timestamptz)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
#variable_conflict use_column
declare
    v treadle.webhooks := treadle._lock_webhook(webhook_id, tenant);
begin
    v.secrets := treadle._rotated_secrets(
        secrets => v.secrets, grace_seconds => grace_seconds, at => treadle.clock());
    update treadle.webhooks w
        set secrets = v.secrets
        where w.webhook_id = v.webhook_id;
    secret := v.secrets -> 0 ->> 'secret';
    former_until := treadle._former_until(v.secrets);
    perform treadle._audit(
        actor => actor, action => 'webhook.rotate', target => v.webhook_id::text, tenant => v.tenant,
        details => jsonb_build_object('former_until', former_until));
end $$;
comment on function treadle.rotate_webhook is 'Give a webhook another secret; raises TR404';

-- Send a webhook an event of the type webhook.test. Returns the id of the delivery. Raises TR404.
create or replace function treadle.test_webhook(
    webhook_id uuid, tenant text default 'default', actor text default null, out message_id uuid)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
#variable_conflict use_column
declare
    c_now constant timestamptz := treadle.clock();
    v constant treadle.webhooks := treadle._lock_webhook(webhook_id, tenant);
begin
    message_id := treadle.uuid7();
    perform treadle._send_posts(at => c_now, posts => array[row(
        message_id, v.tenant, v.webhook_id, null, null, case v.format
            when 'openai' then jsonb_build_object(
                'id', 'evt_' || replace(message_id::text, '-', ''), 'object', 'event', 'type', 'webhook.test',
                'created_at', extract(epoch from c_now)::bigint, 'data', jsonb_build_object('id', v.webhook_id))
            else jsonb_build_object(
                'type', 'webhook.test', 'timestamp', c_now, 'data', jsonb_build_object('webhook_id', v.webhook_id))
        end,
        'webhook.test', null, null)::treadle.post]);
    perform treadle._audit(
        actor => actor, action => 'webhook.test', target => v.webhook_id::text, tenant => v.tenant);
end $$;
comment on function treadle.test_webhook is 'Send a test event to a webhook; returns the id of its delivery';

-- The secrets of a tenant's callbacks, which are made when they are first asked for. `grace_seconds`: make a new one,
-- and let those so far sign as well for so long.
create or replace function treadle._callback_secrets(tenant text, grace_seconds double precision default null)
returns jsonb
language plpgsql as $$
#variable_conflict use_column
declare
    c_now constant timestamptz := treadle.clock();
    v_secrets jsonb;
begin
    if grace_seconds is null then
        select c.secrets into v_secrets
            from treadle.callback_secrets c
            where c.tenant = _callback_secrets.tenant;
        if found then
            return v_secrets;
        end if;
    end if;
    insert into treadle.callback_secrets as c (tenant, secrets)
        values (tenant, treadle._rotated_secrets(secrets => '[]', grace_seconds => 0, at => c_now))
        on conflict (tenant) do update
            set secrets = case
                when grace_seconds is null then c.secrets
                else treadle._rotated_secrets(
                    secrets => c.secrets, grace_seconds => _callback_secrets.grace_seconds, at => c_now)
            end
        returning c.secrets into v_secrets;
    return v_secrets;
end $$;

-- The secret that signs the callbacks of a tenant. `grace_seconds`: make a new one, and let those so far sign as well
-- for so long; null: show it. Raises TR403, TR404.
create or replace function treadle.callback_secret(
    tenant text default 'default', grace_seconds double precision default null, actor text default null,
    out secret text, out former_until timestamptz)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
declare
    v_secrets jsonb;
begin
    perform treadle._limits_of_active(tenant);
    v_secrets := treadle._callback_secrets(tenant, grace_seconds);
    secret := v_secrets -> 0 ->> 'secret';
    former_until := treadle._former_until(v_secrets);
    perform treadle._audit(
        actor => actor, target => tenant, tenant => tenant, action => case
            when grace_seconds is null then 'callback_secret.show' else 'callback_secret.rotate' end,
        details => jsonb_strip_nulls(jsonb_build_object('former_until', former_until)));
end $$;
comment on function treadle.callback_secret
    is 'Show or rotate the secret that signs a tenant''s callbacks; raises TR403, TR404';

-- Create the queue of deliveries where it is missing: a worker that delivers calls it.
create or replace function treadle.offer_webhooks() returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    if not treadle._has_deliveries() then
        perform treadle._wait_for_mutex('register_agents');
        perform treadle.create_queue(treadle._webhook_queue());
    end if;
end $$;
comment on function treadle.offer_webhooks is 'Create the queue of deliveries; a worker that delivers calls it';

-- What a worker needs to make a delivery: the address, what signs, and the exact body. `refusal`: why it must not be
-- made.
create or replace function treadle.post_of(
    message_id uuid, out tenant text, out webhook uuid, out url text, out headers jsonb, out secrets text[],
    out body text, out traceparent text, out failures integer, out last_attempt boolean, out refusal text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
#variable_conflict use_column
declare
    v_secrets jsonb;
begin
    select m.tenant, (m.delivery ->> 'webhook')::uuid, coalesce(w.url, m.delivery ->> 'url'),
            coalesce(m.delivery -> 'headers', '{}'), m.body::text, m.traceparent, m.failures,
            m.failures + 1 >= m.max_attempts, w.secrets,
            case
                when m.delivery is null then 'Only Treadle itself sends to the agent webhook.'
                when m.delivery ? 'webhook' and w.webhook_id is null then 'The webhook was deleted.'
                when not w.enabled and m.metadata ->> 'event' <> 'webhook.test' then 'The webhook is disabled'
                    || coalesce(': ' || w.disabled_reason, '.')
            end
        into tenant, webhook, url, headers, body, traceparent, failures, last_attempt, v_secrets, refusal
        from treadle.messages m
        left join treadle.webhooks w on w.webhook_id = (m.delivery ->> 'webhook')::uuid and w.tenant = m.tenant
        where m.message_id = post_of.message_id;
    if refusal is null and tenant is not null then
        secrets := treadle._valid_secrets(coalesce(v_secrets, treadle._callback_secrets(tenant)));
    end if;
end $$;
comment on function treadle.post_of is 'What a worker needs to make a delivery of a webhook';

-- Note how a delivery to a webhook went. `error` null: it was delivered. `gone`: the endpoint wants no more. It is
-- disabled then, and when every attempt of a delivery has failed (`last_attempt`) and no other has succeeded for days.
create or replace function treadle.note_post(
    webhook uuid, message_id uuid, status integer, error text, gone boolean, last_attempt boolean)
returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
#variable_conflict use_column
declare
    c_now constant timestamptz := treadle.clock();
    c_patience constant interval := '60 hours';  -- the attempts of a delivery take longer
    v_tenant text;
    v_since timestamptz;
    v_reason text;
begin
    select w.tenant into v_tenant
        from treadle.webhooks w
        where w.webhook_id = note_post.webhook
        for key share;
    if not found then
        return;
    end if;
    insert into treadle.webhook_outcomes as o (
            webhook_id, tenant, at, message_id, status, error, succeeded_at, failing_since)
        values (
            webhook, v_tenant, c_now, note_post.message_id, note_post.status, note_post.error,
            case when note_post.error is null then c_now end, case when note_post.error is not null then c_now end)
        on conflict (webhook_id) do update
            set at = excluded.at, message_id = excluded.message_id, status = excluded.status, error = excluded.error,
                succeeded_at = coalesce(excluded.succeeded_at, o.succeeded_at),
                failing_since = case
                    when excluded.error is not null then coalesce(o.failing_since, excluded.failing_since)
                end
        returning o.failing_since into v_since;
    v_reason := case
        when gone then 'The endpoint answered 410 Gone.'
        when last_attempt and v_since < c_now - c_patience then format(
            'All attempts of a delivery failed, and no delivery has succeeded since %s.',
            to_char(v_since, 'YYYY-MM-DD HH24:MI'))
    end;
    if v_reason is not null then
        update treadle.webhooks w
            set enabled = false, disabled_reason = v_reason
            where w.webhook_id = webhook and w.enabled;
        if found then
            perform treadle._audit(
                actor => 'agent webhook', action => 'webhook.disable', target => webhook::text, tenant => v_tenant,
                details => jsonb_build_object('reason', v_reason));
        end if;
    end if;
end $$;
comment on function treadle.note_post is 'Note how a delivery went; it may disable the webhook';
