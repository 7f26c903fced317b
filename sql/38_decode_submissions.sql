-- The decoding of a submit: from JSON to rows, each with the reason for which it is refused, if there is one.

-- Whether a text can be an address of http. The worker that connects decides whether it may.
create or replace function treadle._is_url(url text) returns boolean
language sql immutable parallel safe as $$
    select url ~ '^https?://[^[:space:][:cntrl:]/?#][^[:space:][:cntrl:]]*$' and length(url) <= 2000
$$;

-- Whether a worker delivers, or has done so.
create or replace function treadle._has_deliveries() returns boolean
language sql stable parallel safe as $$
    select exists (select from treadle.queues q where q.queue = treadle._webhook_queue())
$$;

-- Why these values of a submission are refused; null: they are not. (Stable and with plain arguments, so that the
-- planner inlines it.)
create or replace function treadle._submission_problem(
    message jsonb,
    priority text,
    thread_id text,
    metadata jsonb,
    delay_seconds double precision,
    max_attempts integer,
    max_losses integer,
    timeout_seconds double precision,
    callback_url text)
returns text language sql stable parallel safe as $$
    select case
        when jsonb_typeof(message) is distinct from 'string' and jsonb_typeof(message) is distinct from 'object'
            then 'message must be a text or an object.'
        when message = '""' then 'message must not be empty.'
        when treadle._json_problem(message) is not null then 'message ' || treadle._json_problem(message)
        when priority not in ('high', 'normal', 'low')
            then format('priority must be high, normal or low, not %L.', priority)
        when length(thread_id) not between 1 and 255 or thread_id ~ '[[:cntrl:]/]' or thread_id in ('.', '..')
            then 'thread_id must have 1 to 255 characters, none of them a control character or a slash, and be neither'
                ' "." nor "..".'
        when jsonb_typeof(metadata) <> 'object' then 'metadata must be an object.'
        when metadata <> '{}' and treadle._json_problem(metadata) is not null
            then 'metadata ' || treadle._json_problem(metadata)
        when delay_seconds not between 0 and 31622400
            then 'delay_seconds must be between 0 and 31622400 (366 days).'
        when max_attempts not between 1 and 1000 then 'max_attempts must be between 1 and 1000.'
        when max_losses not between 1 and 1000 then 'max_losses must be between 1 and 1000.'
        when not (timeout_seconds > 0 and timeout_seconds <= 604800)
            then 'timeout_seconds must be above 0 and at most 604800 (7 days).'
        when not treadle._is_url(callback_url)
            then 'callback_url must be an http or https address of at most 2000 characters.'
        when callback_url is not null and not treadle._has_deliveries()
            then 'No worker delivers callbacks: start one with WEBHOOK_CONCURRENCY above 0.'
    end
$$;

-- How many messages lie above one that this parent sends: 0 without a parent, null if the tenant has no such message.
-- (Stable and one expression, so that the planner inlines it.)
create or replace function treadle._depth_below(parent uuid, tenant text) returns integer
language sql stable parallel safe as $$
    select case
        when parent is null then 0
        else (
            select m.depth + 1
            from treadle.messages m
            where m.message_id = _depth_below.parent and m.tenant = _depth_below.tenant)
    end
$$;

-- Why no message may lie so deep; null: it may. (Stable and one expression, so that the planner inlines it.)
create or replace function treadle._depth_problem(depth integer) returns text
language sql stable parallel safe as $$
    select case
        when depth > 32 then 'A chain of messages that send messages or publish records ends after 32.'
    end
$$;

-- The agent of the last message of a thread that the principal sees, asides left out; null: the thread has no message,
-- or the new message is an aside.
create or replace function treadle._agent_of_thread(tenant text, thread_id text, aside boolean, reach jsonb)
returns text
language sql stable parallel safe as $$
    select m.agent
    from treadle.threads t
    cross join lateral (
        select l.agent
        from treadle.messages l
        where l.thread = t.id and not l.aside
        order by l.ord desc
        limit 1
    ) m
    where _agent_of_thread.aside is not true
        and t.tenant = _agent_of_thread.tenant
        and t.thread_id = _agent_of_thread.thread_id
        and treadle._sees_thread(reach => reach, owner => t.owner, agents => t.agents, thread_id => t.thread_id)
$$;

-- Decode the messages, each with its agent's queue and limits, and refuse those whose values are not acceptable. They
-- are not sorted: a sort of all that they carry takes longer than to decode them, and each has its number `n`.
create or replace function treadle._decode_submissions(messages jsonb, tenant text, reach jsonb, at timestamptz)
returns treadle.submission[] language plpgsql as $$
declare
    v_default_agent constant text := (select a.agent from treadle.agents a where a.is_default);
    -- A row of another kind of id, or of a time far ahead, would lie in no partition and never be purged.
    v_latest_id constant uuid := treadle.uuid_at(greatest(at, clock_timestamp()) + interval '1 day');
begin
    return (
        with decoded as (
            select d.n, d.priority, d.thread_id, d.delay_seconds, d.max_attempts, d.max_losses, d.timeout_seconds,
                d.callback_url, coalesce(d.agent, treadle._agent_of_thread(tenant => tenant, thread_id => d.thread_id,
                    aside => d.aside, reach => reach), v_default_agent) as agent, d.parent, d.aside,
                coalesce(d.message_id, treadle.uuid7()) as id, jsonb_typeof(d.message) as message_type,
                case when d.parent is not null then treadle._depth_below(d.parent, tenant) end as depth,
                treadle._submission_problem(message => d.message, priority => d.priority, thread_id => d.thread_id,
                    metadata => d.metadata, delay_seconds => d.delay_seconds, max_attempts => d.max_attempts,
                    max_losses => d.max_losses, timeout_seconds => d.timeout_seconds,
                    callback_url => d.callback_url) as value_problem
            from
                rows from (jsonb_to_recordset(messages) as (
                    message_id uuid, message jsonb, priority text, thread_id text, agent text, metadata jsonb,
                    delay_seconds double precision, max_attempts integer, timeout_seconds double precision,
                    aside boolean, parent uuid, max_losses integer, callback_url text))
                with ordinality d (message_id, message, priority, thread_id, agent, metadata, delay_seconds,
                    max_attempts, timeout_seconds, aside, parent, max_losses, callback_url, n)
        ), checked as materialized (
            select d.*, a.queue, a.max_attempts as agent_max_attempts, a.timeout_seconds as agent_timeout_seconds,
                (a.settings ->> 'max_losses')::integer as agent_max_losses, coalesce(
                    d.value_problem,
                    case
                        when a.agent is null and d.agent is null
                            then 'No default agent is registered: start a worker that has it, or name an agent.'
                        when a.agent is null then format('There is no agent %L.', d.agent)
                        when a.input is null and d.message_type = 'object'
                            then format('The agent %L takes text, not an object.', a.agent)
                        when get_byte(uuid_send(d.id), 6) not between 112 and 127 or d.id >= v_latest_id
                            then format('A message_id must be a UUIDv7 of a time at most a day ahead; %s is not.', d.id)
                    end, treadle._depth_problem(d.depth)) as problem
            from decoded d
            left join treadle.agents a on a.agent = d.agent and treadle._may_address(reach, a.agent)
        )
        select array_agg(row(c.n, c.id, coalesce(c.priority, 'normal'),
                case c.priority when 'high' then 0 when 'low' then 2 else 1 end, c.agent, c.queue, c.thread_id,
                coalesce(c.aside, false), coalesce(c.max_attempts, c.agent_max_attempts),
                coalesce(c.timeout_seconds, c.agent_timeout_seconds), c.run_at,
                case when c.depth is not null then c.parent end, case when c.problem is not null then 'refused' end,
                case when c.problem is not null then 'TR422' end, c.problem, case when c.run_at > at then 'delay' end,
                null, null, null, coalesce(c.depth, 0), reach ->> 'owner', null,
                coalesce(c.max_losses, c.agent_max_losses), null)::treadle.submission)
        from (
            select c.*, at + interval '1 second'
                * case when c.delay_seconds > 0 and c.problem is null then c.delay_seconds else 0 end as run_at
            from checked c
        ) c);
exception
    when data_exception then  -- an element is not an object, or a field has another type
        return treadle._decode_one_by_one(messages => messages, tenant => tenant, reach => reach, at => at);
end $$;

-- Why an element cannot be decoded; null: it can.
create or replace function treadle._decoding_problem(element jsonb) returns text
language plpgsql as $$
begin
    if jsonb_typeof(element) <> 'object' then
        return 'the element must be an object with the field message.';
    end if;
    perform
    from jsonb_to_record(element) as (
        message_id uuid, message jsonb, priority text, thread_id text, agent text, metadata jsonb,
        delay_seconds double precision, max_attempts integer, timeout_seconds double precision, aside boolean,
        parent uuid, max_losses integer, callback_url text);
    return null;
exception
    when data_exception then
        return upper(left(sqlerrm, 1)) || substr(sqlerrm, 2) || '.';
end $$;

-- Decode the messages where some of them cannot be decoded: each of those is refused by itself.
create or replace function treadle._decode_one_by_one(messages jsonb, tenant text, reach jsonb, at timestamptz)
returns treadle.submission[] language plpgsql as $$
declare
    v_problems constant text[] := array(
        select treadle._decoding_problem(u.element)
        from jsonb_array_elements(messages) with ordinality u (element, n)
        order by u.n);
    v_submissions treadle.submission[] := '{}';
    v_submission treadle.submission;
begin
    if array_remove(v_problems, null) = '{}' then
        raise exception using errcode = 'TR422', message = 'messages cannot be decoded.';
    end if;
    foreach v_submission in array treadle._decode_submissions(
        messages => (
            select jsonb_agg(case when v_problems[u.n] is null then u.element else '{}' end order by u.n)
            from jsonb_array_elements(messages) with ordinality u (element, n)),
        tenant => tenant, reach => reach, at => at)
    loop
        v_submission.refusal := coalesce(v_problems[v_submission.n], v_submission.refusal);
        v_submissions := v_submissions || v_submission;
    end loop;
    return v_submissions;
end $$;
