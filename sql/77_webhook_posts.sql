-- What the agent `webhook` asks for a delivery, and how the delivery went.

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
    select m.tenant, (m.delivery ->> 'webhook')::uuid, coalesce(w.url, c.url, m.delivery ->> 'url'),
            coalesce(m.delivery -> 'headers', '{}') || jsonb_strip_nulls(jsonb_build_object(
                'X-A2A-Notification-Token', c.token, 'Authorization', c.scheme || ' ' || c.credentials)),
            m.body::text, m.traceparent, m.failures,
            m.failures + 1 >= m.max_attempts, w.secrets,
            case
                when m.delivery is null then 'Only Treadle itself sends to the agent webhook.'
                when m.delivery ? 'webhook' and w.webhook_id is null then 'The webhook was deleted.'
                when m.delivery ? 'config' and c.config_id is null
                    then 'The configuration of these push notifications was deleted.'
                when not w.enabled and m.metadata ->> 'event' <> 'webhook.test' then 'The webhook is disabled'
                    || coalesce(': ' || w.disabled_reason, '.')
            end
        into tenant, webhook, url, headers, body, traceparent, failures, last_attempt, v_secrets, refusal
        from treadle.messages m
        left join treadle.webhooks w on w.webhook_id = (m.delivery ->> 'webhook')::uuid and w.tenant = m.tenant
        left join treadle.push_configs c on c.message_id = (m.delivery ->> 'task')::uuid
            and c.config_id = m.delivery ->> 'config' and c.tenant = m.tenant
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
                    when excluded.error is not null then least(o.failing_since, excluded.failing_since)
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

-- An address answered that it wants no more (410): an address of push notifications of A2A is deleted, and its other
-- deliveries fail. `message_id`: of the delivery, which went to this url; an address that was replaced since stays. A
-- repeat does nothing.
create or replace function treadle.drop_push_address(message_id uuid, url text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
begin
    delete from treadle.push_configs c
        using treadle.messages m
        where m.message_id = drop_push_address.message_id
            and c.message_id = (m.delivery ->> 'task')::uuid
            and c.config_id = m.delivery ->> 'config'
            and c.url = drop_push_address.url
            and c.tenant = m.tenant;
end $$;
comment on function treadle.drop_push_address is 'Delete the address of push notifications that a delivery was for';
