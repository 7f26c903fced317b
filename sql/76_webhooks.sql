-- Webhooks: the endpoints of a tenant.
--
-- Lock order: the tenant, the generation of functions; and the webhook, its outcome. No call locks two webhooks.

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

-- Lock a webhook of the tenant. `for update`, because treadle.note_post holds the row `for key share` and may change it
-- afterwards: a delete that raised a weaker lock would wait for it, and it for the delete. Raises TR404.
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
    for update;
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
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
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
    perform
    from treadle.tenants t
    where t.tenant = create_webhook.tenant
    for no key update;
    perform treadle.create_queue(treadle._webhook_queue());  -- last: see the order of locks
    perform treadle._refuse_more(
        has => (select count(*) from treadle.webhooks w where w.tenant = create_webhook.tenant), most => 50,
        what => 'webhooks');
    insert into treadle.webhooks select v.*;
    webhook_id := v.webhook_id;
    secret := v.secrets -> 0 ->> 'secret';
    perform treadle._audit(
        actor => actor, action => 'webhook.create', target => v.webhook_id::text, tenant => v.tenant,
        details => jsonb_build_object('url', v.url, 'events', v.events));
end $$;
comment on function treadle.create_webhook(text, text[], text[], text[], text, text, boolean, text, text)
    is 'Create a webhook; returns its secret. Raises TR403, TR404, TR409, TR422';

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
comment on function treadle.list_webhooks(text, uuid)
    is 'The webhooks of a tenant without their secrets, the newest first';

-- changes: {"url", "events", "agents", "queues", "description", "enabled"}; a field that is missing stays as it is.
-- Raises TR404, TR422.
create or replace function treadle.change_webhook(
    webhook_id uuid, changes jsonb, tenant text default 'default', actor text default null)
returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
#variable_conflict use_column
declare
    c_known constant text[] := array['url', 'events', 'agents', 'queues', 'description', 'enabled'];
    v_former constant treadle.webhooks := treadle._lock_webhook(webhook_id, tenant);
    v treadle.webhooks := v_former;
begin
    v := jsonb_populate_record(v, changes - array(
        select k
        from jsonb_object_keys(changes) k
        where k <> all(c_known)));
    if v.enabled then
        v.disabled_reason := null;
    end if;
    perform treadle._check_webhook(v);
    if v is not distinct from v_former then
        return;
    end if;
    update treadle.webhooks w
        set url = v.url, events = v.events, agents = v.agents, queues = v.queues, description = v.description,
            enabled = v.enabled, disabled_reason = v.disabled_reason
        where w.webhook_id = v.webhook_id;
    perform treadle._audit(
        actor => actor, action => 'webhook.change', target => v.webhook_id::text, tenant => v.tenant,
        details => changes);
end $$;
comment on function treadle.change_webhook(uuid, jsonb, text, text)
    is 'Change a webhook; raises TR404, TR422';

-- Delete a webhook. Its deliveries that are open fail. Raises TR404.
create or replace function treadle.delete_webhook(
    webhook_id uuid, tenant text default 'default', actor text default null)
returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
#variable_conflict use_column
declare
    v constant treadle.webhooks := treadle._lock_webhook(webhook_id, tenant);
begin
    delete from treadle.webhooks w where w.webhook_id = v.webhook_id;
    delete from treadle.webhook_outcomes o where o.webhook_id = v.webhook_id;
    perform treadle._audit(
        actor => actor, action => 'webhook.delete', target => v.webhook_id::text, tenant => v.tenant,
        details => jsonb_build_object('url', v.url));
end $$;
comment on function treadle.delete_webhook(uuid, text, text)
    is 'Delete a webhook; raises TR404';

-- Give a webhook another secret. The old ones sign as well for `grace_seconds`. Raises TR404.
create or replace function treadle.rotate_webhook(
    webhook_id uuid, grace_seconds double precision, tenant text default 'default', actor text default null,
    out secret text, out former_until timestamptz)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
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
comment on function treadle.rotate_webhook(uuid, double precision, text, text)
    is 'Give a webhook another secret; raises TR404';

-- Send a webhook an event of the type webhook.test. Returns the id of the delivery. Raises TR404.
create or replace function treadle.test_webhook(
    webhook_id uuid, tenant text default 'default', actor text default null, out message_id uuid)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
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
        'webhook.test', null, null, null)::treadle.post]);
    perform treadle._audit(
        actor => actor, action => 'webhook.test', target => v.webhook_id::text, tenant => v.tenant);
end $$;
comment on function treadle.test_webhook(uuid, text, text)
    is 'Send a test event to a webhook; returns the id of its delivery';
