-- Webhooks: the end of a message is told to the addresses that want to know it.
--
-- An address is that of an endpoint (treadle.webhooks, see 76_webhooks.sql) or the callback_url of the message itself.
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
            jsonb_strip_nulls(jsonb_build_object('webhook', p.webhook, 'url', p.url, 'headers', p.headers)),
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

-- The id under which the dialect of OpenAI knows a message as of the event `seq`: after a question that was answered,
-- the response is another one.
create or replace function treadle._response_id(id uuid, seq integer) returns text
language sql stable as $$
    select 'resp_' || replace(id::text, '-', '') || coalesce('_' || max(e.seq), '')
    from treadle.events e
    where e.message_id = id
        and e.seq < _response_id.seq
        and e.type = 'parked'
        and e.data ->> 'hold' = 'input'
$$;

-- The trace that a delivery continues: that of the message, or the one that its attempts make of its id.
create or replace function treadle._trace_of(m treadle.messages) returns text
language sql stable as $$
    select coalesce(
        m.traceparent,
        '00-' || encode(substr(sha256(uuid_send(m.message_id)), 1, 16), 'hex') || '-'
        || encode(substr(sha256(uuid_send(m.message_id) || convert_to(m.attempt::text, 'UTF8')), 1, 8), 'hex') || '-01')
$$;

-- Write the deliveries that tell what became of these messages, which are stored already.
create or replace function treadle._tell_webhooks(settled treadle.settlement[], at timestamptz) returns void
language plpgsql as $$
declare
    v_posts treadle.post[];
begin
    with happened as (
        select s.message_id, s.tenant, s.agent, s.queue, s.seq, s.callback_url, s.becomes,
            case s.becomes when 'input' then s.result end as asks,
            'message.' || case s.becomes when 'input' then 'input_required' else s.state end as event
        from unnest(settled) s
        where not s.is_post and (s.state <> 'queued' or s.becomes = 'input')
        union all
        select s.message_id, s.tenant, s.agent, s.queue, s.seq, null, s.becomes, null, 'subscription.dead_lettered'
        from unnest(settled) s
        where s.subscription is not null and s.state = 'failed' and not s.dropped
    ), wanted as (
        select h.*, w.webhook_id, w.format, null as url
        from happened h
        join treadle.webhooks w on w.tenant = any(array[h.tenant]) and w.enabled
        where case
                when w.format = 'openai' and h.becomes = 'input' then 'message.completed'  -- with a call of a function
                else h.event
            end = any(w.events)
            and coalesce(h.agent = any(w.agents), true)
            and coalesce(h.queue = any(w.queues), true)
        union all
        select h.*, null, 'standard', h.callback_url
        from happened h
        where h.callback_url is not null and h.becomes <> 'input'
    )
    select array_agg(row(
            t.id, t.tenant, t.webhook_id, t.url, null, case t.format
                when 'openai' then jsonb_build_object(
                    'id', 'evt_' || replace(t.id::text, '-', ''), 'object', 'event',
                    'type', 'response.' || case t.becomes when 'input' then 'completed' else t.becomes end,
                    'created_at', extract(epoch from at)::bigint,
                    'data', jsonb_build_object('id', treadle._response_id(t.message_id, t.seq)))
                else jsonb_build_object(
                    'type', t.event, 'timestamp', at, 'data', treadle._webhook_data(
                        t.m, (select n.thread_id from treadle.threads n where n.id = any(array[(t.m).thread])),
                        t.asks))
            end,
            t.event, t.message_id, treadle._trace_of(t.m))::treadle.post)
        into v_posts
        from (
            select w.*, treadle.uuid7() as id, m
            from wanted w
            join treadle.messages m on m.message_id = any(array[w.message_id])
            offset 0
        ) t;
    if v_posts is not null then
        perform treadle._send_posts(posts => v_posts, at => at);
    end if;
end $$;
