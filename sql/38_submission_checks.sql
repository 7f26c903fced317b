-- The checks of a submit. It refuses values that are not acceptable and unknown agents (TR422), ids of messages that
-- were deleted or stand earlier in the call (TR409), and messages for a full queue (TR429).
--
-- A message whose id is already there is marked `known`: it is not written again, and not refused, however full its
-- queue is by now.

-- Mark the submissions with these ids as known, and refuse those whose ids are used up: by a message that was deleted
-- while its log is still being removed, or that the principal does not see.
create or replace function treadle._mark_known(submissions treadle.submission[], known uuid[], used uuid[])
returns treadle.submission[] language plpgsql as $$
declare
    v_submissions treadle.submission[] := '{}';
    v_submission treadle.submission;
begin
    foreach v_submission in array submissions loop
        if v_submission.state is not null then  -- refused for its values
            null;
        elsif v_submission.message_id = any(used) then
            v_submission.state := 'refused';
            v_submission.refusal_code := 'TR409';
            v_submission.refusal := format(
                'The message_id %s was used before: choose another one.', v_submission.message_id);
        elsif v_submission.message_id = any(known) then
            v_submission.state := 'known';
        end if;
        v_submissions := v_submissions || v_submission;
    end loop;
    return v_submissions;
end $$;

-- Refuse each submission whose id an earlier one of the call has.
create or replace function treadle._refuse_repeated_ids(submissions treadle.submission[])
returns treadle.submission[] language plpgsql as $$
declare
    v_submissions treadle.submission[] := '{}';
    v_submission treadle.submission;
    v record;
begin
    for v in
        select s as submission, row_number() over (partition by s.message_id, s.state order by s.n) as place
        from unnest(submissions) s
        order by s.n
    loop
        v_submission := v.submission;
        if v_submission.state is null and v.place > 1 then
            v_submission.state := 'refused';
            v_submission.refusal_code := 'TR409';
            v_submission.refusal := format(
                'The message_id %s belongs to an earlier message of this call: choose another one.',
                v_submission.message_id);
        end if;
        v_submissions := v_submissions || v_submission;
    end loop;
    return v_submissions;
end $$;

-- Refuse the submissions for which there is no room in their queues; `queued` says how many messages of the tenant each
-- queue holds.
create or replace function treadle._refuse_beyond(submissions treadle.submission[], max_queue_size integer,
    queued jsonb)
returns treadle.submission[] language plpgsql as $$
declare
    v_submissions treadle.submission[] := '{}';
    v_submission treadle.submission;
    v_number bigint;
begin
    foreach v_submission in array submissions loop
        if v_submission.state is null then
            v_number := coalesce((queued ->> v_submission.queue)::bigint, 0) + 1;
            if v_number > max_queue_size then
                v_submission.state := 'refused';
                v_submission.refusal_code := 'TR429';
                v_submission.refusal := format('The queue %L is full: it holds at most %s.', v_submission.queue,
                    treadle._counted(max_queue_size, 'message'));
            else
                queued := queued || jsonb_build_object(v_submission.queue, v_number);
            end if;
        end if;
        v_submissions := v_submissions || v_submission;
    end loop;
    return v_submissions;
end $$;

-- How many messages of a tenant each queue holds; null if all queues together have room for `further` ones in
-- `max_queue_size`. The table is read, not its view: a migration that replaces the view keeps it locked for a while.
create or replace function treadle._queue_sizes(tenant text, max_queue_size integer, further integer) returns jsonb
language plpgsql as $$
declare
    v_sizes jsonb;
begin
    if further + (
        select coalesce(sum(c.queued), 0)
        from treadle.counters c
        where c.id >= coalesce((
            select w.low
            from treadle.low_water w
            where w.name = 'counters'
            order by w.low desc
            limit 1), 0)) > max_queue_size
    then
        select coalesce(jsonb_object_agg(q.queue, q.queued), '{}')
            into v_sizes
            from (
                select c.queue, sum(c.queued) as queued
                from treadle.counters c
                where c.tenant = _queue_sizes.tenant
                    and c.id >= treadle._low_water_mark('counters')
                group by c.queue
            ) q;
    end if;
    return v_sizes;
end $$;

-- Raise the first refusal.
create or replace function treadle._raise_refusal(submissions treadle.submission[]) returns void
language plpgsql as $$
declare
    v_refused treadle.submission;
begin
    select s.*
        into v_refused
        from unnest(submissions) s
        where s.state = 'refused'
        order by s.n
        limit 1;
    if found then
        raise exception using errcode = v_refused.refusal_code, message = case
            when cardinality(submissions) > 1 then format('messages[%s]: ', v_refused.n - 1) else '' end
            || v_refused.refusal;
    end if;
end $$;

-- Refuse the submissions of a principal that may use one thread only, or see one message only.
create or replace function treadle._refuse_outside(submissions treadle.submission[], reach jsonb)
returns treadle.submission[] language plpgsql as $$
declare
    v_submissions treadle.submission[] := '{}';
    v_submission treadle.submission;
begin
    foreach v_submission in array submissions loop
        if v_submission.state is null
            and (reach ->> 'message_id' is not null or v_submission.thread_id is distinct from reach ->> 'thread_id')
        then
            v_submission.state := 'refused';
            v_submission.refusal_code := 'TR403';
            v_submission.refusal := case
                when reach ->> 'message_id' is not null then 'This token is for one message and may submit no other.'
                else format('This token may submit to the thread %L only.', reach ->> 'thread_id')
            end;
        end if;
        v_submissions := v_submissions || v_submission;
    end loop;
    return v_submissions;
end $$;

-- Of the messages with these ids that are there: those that the principal sees, and the others, with those that were
-- deleted while their log is still being removed.
create or replace function treadle._existing(ids uuid[], tenant text, reach jsonb, out known uuid[], out used uuid[])
language plpgsql stable as $$
begin
    select coalesce(array_agg(f.message_id) filter (where f.seen), '{}'),
            coalesce(array_agg(f.message_id) filter (where not f.seen), '{}')
        into known, used
        from (
            select m.message_id,
                m.tenant = _existing.tenant and treadle._sees(
                    reach => reach, owner => m.owner, agent => m.agent,
                    thread_id => (select t.thread_id from treadle.threads t where t.id = m.thread),
                    message_id => m.message_id) as seen
            from treadle.messages m
            where m.message_id = any(ids)
            union all
            select t.message_id, false
            from treadle.trash t
            where t.message_id = any(ids)
        ) f;
end $$;

-- Decode the messages, and say of each whether it is to be written. `strict`: raise the first refusal.
create or replace function treadle._check_submissions(
    messages jsonb, tenant text, reach jsonb, max_queue_size integer, limits jsonb, strict boolean, at timestamptz,
    out submissions treadle.submission[], out threaded boolean)
language plpgsql as $$
declare
    v_sizes jsonb;
    v_ids uuid[];
    v_ids_differ boolean := true;
    v_existing record;
begin
    reach := treadle._checked_reach(reach);
    if jsonb_typeof(messages) is distinct from 'array' then
        raise exception using errcode = 'TR422', message = 'messages must be an array.';
    elsif treadle._is_bound_session() then
        perform treadle._refuse_large(e, 'A message') from jsonb_array_elements(messages) e;
    end if;
    -- Before the search for known messages, so that no message is counted and then taken for new.
    if max_queue_size is not null then
        v_sizes := treadle._queue_sizes(
            tenant => tenant, max_queue_size => max_queue_size, further => jsonb_array_length(messages));
    end if;
    submissions := treadle._decode_submissions(messages => messages, tenant => tenant, reach => reach, at => at);
    if cardinality(submissions) = 1 then  -- the common case, without a query
        v_ids := array[submissions[1].message_id];
        threaded := submissions[1].thread_id is not null;
    else
        select array_agg(s.message_id), bool_or(s.thread_id is not null), count(distinct s.message_id) = count(*)
            into v_ids, threaded, v_ids_differ
            from unnest(submissions) s;
    end if;
    if exists (select from treadle.messages m where m.message_id = any(v_ids))
        or exists (select from treadle.trash t where t.message_id = any(v_ids))
    then
        v_existing := treadle._existing(ids => v_ids, tenant => tenant, reach => reach);
        submissions := treadle._mark_known(
            submissions => submissions, known => v_existing.known, used => v_existing.used);
    end if;
    if not v_ids_differ then
        submissions := treadle._refuse_repeated_ids(submissions);
    end if;
    if reach ?| array['thread_id', 'message_id'] then
        submissions := treadle._refuse_outside(submissions => submissions, reach => reach);
    end if;
    if v_sizes is not null then
        submissions := treadle._refuse_beyond(
            submissions => submissions, max_queue_size => max_queue_size, queued => v_sizes);
    end if;
    if limits is not null then
        submissions := treadle._refuse_beyond_limits(
            submissions => submissions, messages => messages, tenant => tenant, limits => limits, strict => strict,
            at => at);
    end if;
    if strict then
        perform treadle._raise_refusal(submissions);
    end if;
end $$;
