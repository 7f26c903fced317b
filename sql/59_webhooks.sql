-- Webhooks: the end of a message is told to the addresses that want to know it.
--
-- An address is that of an endpoint (treadle.webhooks, see 76_webhooks.sql), the callback_url of the message itself, or
-- one for push notifications of A2A (76_push_configs.sql).
-- The transaction that ends the message writes one delivery for each address: a message to the built-in agent
-- `webhook` in the queue `webhooks`. From there on it is a message like any other, with attempts, dead letters and
-- redrives; the agent has no row in treadle.agents, so that no client can address it. Only messages with a `delivery`
-- are delivered, and only these functions write it. They are not told of, and no limit of their tenant counts them.
--
-- A delivery has at most 20 kB. What would make it larger is left out, and named in `omitted`; `address` says where the
-- whole message is.

-- Write deliveries, and tell workers.
create or replace function treadle._send_posts(posts treadle.post[], at timestamptz) returns void
language plpgsql as $$
declare
    c_queue constant text := treadle._webhook_queue();
    v_sharing constant boolean := treadle._sharing();  -- then each is admitted to the share of its tenant
    v_lane_rows treadle.lane_row[];
begin
    with placed as materialized (
        select p.*, case when not v_sharing then treadle._lane_next(c_queue, 'normal') end as lane_id
        from unnest(posts) p
    ), written as (
        insert into treadle.messages (message_id, tenant, queue, lane, lane_id, agent, priority, rank, state, hold,
            max_attempts, max_losses, timeout_seconds, created_at, run_at, body, metadata, delivery, traceparent)
        select p.message_id, p.tenant, c_queue, case when not v_sharing then 'normal' end, p.lane_id, 'webhook',
            'normal', 1, 'queued', case when v_sharing then 'delay' end, 10, 10, 60, at, at, p.body,
            jsonb_strip_nulls(jsonb_build_object('event', p.event, 'message_id', p.source, 'webhook', p.webhook)),
            jsonb_strip_nulls(jsonb_build_object(
                'webhook', p.webhook, 'url', p.url, 'headers', p.headers, 'config', p.config,
                'task', case when p.config is not null then p.source end)),
            p.traceparent
        from placed p
    ), logged as (
        insert into treadle.events (message_id, seq, tenant, type, created_at)
        select p.message_id, 1, p.tenant, 'queued', at
        from placed p
    ), counted as (
        insert into treadle.counters (tenant, queue, agent, slot, queued, submitted)
        select p.tenant, c_queue, 'webhook', treadle._slot(at), count(*), count(*)
        from placed p
        group by p.tenant
    )
    select array_agg(row(c_queue, 'normal', p.lane_id, treadle._lane_message(
            message_id => p.message_id, thread_id => null, agent => 'webhook', tenant => p.tenant))::treadle.lane_row)
        into v_lane_rows
        from placed p;
    if v_sharing then
        perform treadle._admit(array(select p.message_id from unnest(posts) p), at);
    else
        perform treadle._lane_insert(lane_rows => v_lane_rows, at => at);
    end if;
    perform treadle._hint('treadle_work', c_queue);
end $$;

-- A JSON value for a delivery, or null if its text has more than `most` bytes.
create or replace function treadle._if_small(value jsonb, most integer) returns jsonb
language sql immutable parallel safe as $$
    select case when octet_length(value::text) <= most then value end
$$;

-- What a webhook is told of a message. `asks`: the question that it waits with.
create or replace function treadle._webhook_data(m treadle.messages, thread_id text, asks jsonb) returns jsonb
language sql stable as $$
    select jsonb_build_object(
            'message_id', m.message_id, 'thread_id', thread_id, 'agent', m.agent, 'queue', m.queue,
            'state', m.state, 'attempt', m.attempt, 'created_at', m.created_at, 'completed_at', m.completed_at,
            'result', s.result, 'error', m.error, 'metadata', s.metadata, 'address', '/messages/' || m.message_id)
        || case when asks is not null then jsonb_build_object('asks', s.asks) else '{}' end
        || case
            when o.omitted is not null then jsonb_build_object('omitted', o.omitted)
            else '{}'
        end
    from (
        select treadle._if_small(m.result, 11000) as result, treadle._if_small(m.metadata, 3000) as metadata,
            treadle._if_small(asks - 'hold' - 'attempt', 11000) as asks
    ) s
    cross join lateral (
        select array_remove(array[
            case when m.result is not null and s.result is null then 'result' end,
            case when s.metadata is null then 'metadata' end,
            case when asks is not null and s.asks is null then 'asks' end], null) as names
    ) n
    cross join lateral (select case when n.names <> '{}' then to_jsonb(n.names) end as omitted) o
$$;

-- A value as the parts of a message of A2A.
create or replace function treadle._a2a_parts(value jsonb) returns jsonb
language sql immutable parallel safe as $$
    select jsonb_build_array(case jsonb_typeof(value)
        when 'string' then jsonb_build_object('text', value #>> '{}', 'mediaType', 'text/plain')
        else jsonb_build_object('data', value)
    end)
$$;

-- The body of a push notification of A2A: the task that a message is. `asks`: the question that it waits with. `seq`:
-- of the event that tells it. What would make it large is left out: the client gets the task.
create or replace function treadle._a2a_body(m treadle.messages, thread_id text, asks jsonb, seq integer) returns jsonb
language sql stable as $$
    select jsonb_build_object('task', t.context || jsonb_build_object(
            'id', m.message_id,
            'status', jsonb_build_object('state', 'TASK_STATE_' || t.state, 'timestamp', to_char(
                coalesce(m.completed_at, treadle.clock()) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
            || case when t.said is null then '{}' else jsonb_build_object('message', t.context || jsonb_build_object(
                'messageId', format('%s-%s', m.message_id, seq), 'taskId', m.message_id, 'role', 'ROLE_AGENT',
                'parts', treadle._a2a_parts(t.said))) end)
        || case
            when t.result is null then '{}'
            else jsonb_build_object('artifacts', jsonb_build_array(jsonb_build_object(
                'artifactId', 'answer', 'parts', treadle._a2a_parts(t.result))))
        end
        || case when t.metadata <> '{}' then jsonb_build_object('metadata', t.metadata) else '{}' end)
    from (
        select case when thread_id is null then '{}' else jsonb_build_object('contextId', thread_id) end as context,
            case
                when asks is not null then 'INPUT_REQUIRED'
                when m.state = 'cancelled' then 'CANCELED'
                else upper(m.state)
            end as state,
            case
                when asks is not null then coalesce(
                    treadle._if_small(nullif(asks -> 'question', 'null'), 11000), '"The agent waits for an answer."')
                when m.state = 'failed' then to_jsonb(coalesce(m.error, 'The agent failed.'))
            end as said,
            case when m.state = 'completed' then treadle._if_small(nullif(m.result, 'null'), 11000) end as result,
            treadle._if_small(m.metadata - 'a2a', 3000) as metadata
    ) t
$$;

-- The trace that a delivery continues: that of the message, or the one that its attempts make of its id.
create or replace function treadle._trace_of(m treadle.messages) returns text
language sql stable as $$
    select coalesce(
        m.traceparent,
        '00-' || encode(substr(sha256(uuid_send(m.message_id)), 1, 16), 'hex') || '-'
        || encode(substr(sha256(uuid_send(m.message_id) || convert_to(m.attempt::text, 'UTF8')), 1, 8), 'hex') || '-01')
$$;

-- The body of a delivery in the format of OpenAI. After a question that was answered (`asked_seq`), the response is
-- another one; a question itself is a call of a function, which completes the response.
create or replace function treadle._openai_body(
    post uuid, message_id uuid, becomes text, asked_seq integer, at timestamptz)
returns jsonb
language sql immutable parallel safe as $$
    select jsonb_build_object(
        'id', 'evt_' || replace(post::text, '-', ''), 'object', 'event',
        'type', 'response.' || case becomes when 'input' then 'completed' else becomes end,
        'created_at', extract(epoch from at)::bigint,
        'data', jsonb_build_object(
            'id', 'resp_' || replace(message_id::text, '-', '') || coalesce('_' || asked_seq, '')))
$$;

-- Whether clients of A2A want to be told of these messages, which are stored already: the addresses are set under the
-- locks of the messages.
create or replace function treadle._have_push_configs(settled treadle.settlement[]) returns boolean
language sql stable as $$
    select exists (
        select
        from treadle.push_configs c
        where c.message_id = any(array(select s.message_id from unnest(settled) s)))
$$;

-- Write the deliveries that tell what became of these messages, which are stored already.
create or replace function treadle._tell_webhooks(settled treadle.settlement[], at timestamptz) returns void
language plpgsql as $$
declare
    v_posts treadle.post[];
begin
    with happened as (
        select s.*, 'message.' || case s.becomes when 'input' then 'input_required' else s.state end as event
        from unnest(settled) s
        where not s.is_post and (s.state <> 'queued' or s.becomes = 'input')
        union all
        select s.*, 'subscription.dead_lettered'
        from unnest(settled) s
        where s.subscription is not null and s.state = 'failed' and not s.dropped
    ), wanted as (
        select h.message_id, h.tenant, h.event, h.becomes, h.asked_seq, w.webhook_id, w.format, null as url,
            null as config_id
        from happened h
        join treadle.webhooks w on w.tenant = any(array[h.tenant]) and w.enabled
        where case
                when w.format = 'openai' and h.becomes = 'input' then 'message.completed'  -- with a call of a function
                else h.event
            end = any(w.events)
            and coalesce(h.agent = any(w.agents), true)
            and coalesce(h.queue = any(w.queues), true)
        union all
        select h.message_id, h.tenant, h.event, h.becomes, h.asked_seq, null, 'standard', h.callback_url, null
        from happened h
        where h.callback_url is not null and h.becomes <> 'input' and h.event <> 'subscription.dead_lettered'
        union all
        select h.message_id, h.tenant, h.event, h.becomes, h.asked_seq, null, 'a2a', null, c.config_id
        from happened h
        join treadle.push_configs c on c.message_id = any(array[h.message_id])
        where h.event <> 'subscription.dead_lettered'
    ), told as materialized (  -- once for each message: a large result becomes text in it
        select s.message_id, treadle._trace_of(m) as traceparent,
            case when 'standard' = any(f.formats) then treadle._webhook_data(
                m => m, thread_id => n.thread_id, asks => s.asks) end as data,
            case when 'a2a' = any(f.formats) then treadle._a2a_body(
                m => m, thread_id => n.thread_id, asks => s.asks, seq => s.seq) end as task
        from (select u.*, case u.becomes when 'input' then u.result end as asks from unnest(settled) u) s
        join (select w.message_id, array_agg(w.format) as formats from wanted w group by 1) f
            on f.message_id = s.message_id
        join treadle.messages m on m.message_id = any(array[s.message_id])
        left join treadle.threads n on n.id = any(array[m.thread])
    )
    select array_agg(row(
            w.id, w.tenant, w.webhook_id, w.url, null, case w.format
                when 'openai' then treadle._openai_body(
                    post => w.id, message_id => w.message_id, becomes => w.becomes, asked_seq => w.asked_seq, at => at)
                when 'a2a' then t.task
                else jsonb_build_object('type', w.event, 'timestamp', at, 'data', t.data)
            end,
            w.event, w.message_id, t.traceparent, w.config_id)::treadle.post)
        into v_posts
        from (select w.*, treadle.uuid7() as id from wanted w offset 0) w
        join told t on t.message_id = w.message_id;
    if v_posts is not null then
        perform treadle._send_posts(posts => v_posts, at => at);
    end if;
end $$;
