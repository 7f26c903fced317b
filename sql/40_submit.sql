-- Submit: messages come in.
--
-- One transaction writes the messages, their place in their threads, their `queued` events, and the lane rows of those that
-- may run at once. A message may run at once when it is due and has its thread's turn. The others wait in `messages`:
--   hold = delay    not due; the janitor admits it (treadle.admit_due)
--   hold = thread   another message of its thread has the turn; whoever ends that one admits the next (treadle._settle)
-- The upsert of the threads is the lock that gives messages their order: ord is last_ord counted up under it, and the first
-- message of an idle thread takes the turn in the same write.
--
-- messages: [{"message": text or object, "message_id"?, "priority"?, "thread_id"?, "agent"?, "metadata"?, "delay_seconds"?,
-- "max_attempts"?, "timeout_seconds"?, "aside"?, "parent"?}, ...]. An id that is already there is not written again: the answer is its
-- present state, however full the queue is by now. With `patient` false, messages of threads that others hold locked (or are just
-- making) come back as 'busy', unwritten; with a `lock_timeout`, a wait longer than that raises lock_not_available (55P03). Where one
-- of several threads is deleted at the same moment, a patient call raises serialization_failure (40001): nothing is written, try again.

-- Stable, for only then its text is planned into the query that calls it.
create or replace function treadle._submission_problem(x jsonb) returns text
language sql stable parallel safe as $$
    select case
        when jsonb_typeof(x -> 'message') is distinct from 'string' and jsonb_typeof(x -> 'message') is distinct from 'object'
            then 'message must be a text or an object.'
        when x ->> 'message' = '' then 'message must not be empty.'
        when x ->> 'priority' not in ('high', 'normal', 'low')
            then format('priority must be high, normal or low, not %L.', x ->> 'priority')
        when length(x ->> 'thread_id') not between 1 and 255 or x ->> 'thread_id' ~ '[[:cntrl:]/]'
            then 'thread_id must have 1 to 255 characters, none of them a control character or a slash.'
        when x ? 'metadata' and jsonb_typeof(x -> 'metadata') not in ('object', 'null') then 'metadata must be an object.'
        when (x ->> 'delay_seconds')::double precision not between 0 and 31622400
            then 'delay_seconds must be between 0 and 31622400 (366 days).'
        when (x ->> 'max_attempts')::integer not between 1 and 1000 then 'max_attempts must be between 1 and 1000.'
        when not ((x ->> 'timeout_seconds')::double precision > 0 and (x ->> 'timeout_seconds')::double precision <= 604800)
            then 'timeout_seconds must be above 0 and at most 604800 (7 days).'
    end
$$;

create or replace function treadle.submit_many(
    messages jsonb, tenant text default 'default', notify boolean default false,
    max_queue_size integer default null, patient boolean default true, lock_timeout text default null)
returns table (n integer, message_id uuid, state text, queue text, queue_position bigint, created_at timestamptz, thread_id text, thread bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
    set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off as $$
#variable_conflict use_column
declare
    p_tenant constant text := submit_many.tenant;
    v_now constant timestamptz := treadle.clock();
    v_latest constant uuid := treadle.uuid_at(greatest(v_now, clock_timestamp()) + interval '1 day');
    v_patience constant text := current_setting('lock_timeout');  -- the caller's own
    v_default text;
    v_problem text;
    v_queued jsonb;          -- how many by queue
    v_full text;
    v_lock_timeout text;     -- ours
    v_given uuid[];
    v_odd uuid;
    v_known uuid[];          -- already there: a repeated submit
    v_wanted text[];         -- threads
    v_new text[];            -- those that are not there yet
    v_first bigint;          -- the first of those that are
    v_names text[];          -- those that we could lock
    v_busy text[] := '{}';   -- those that others hold
    v_ks integer[];          -- for each message its thread's place in the next four, null for those without and the busy ones
    v_nths integer[];        -- for each message its own place among those of its thread
    v_threads bigint[];      -- surrogate keys in the order of the threads' names
    v_bases bigint[];        -- last_ord before us
    v_open bigint[];         -- open messages before us
    v_turns uuid[];
    v_ids uuid[];
    v_queues text[];
    v_lanes text[];
    v_lane_ids bigint[];
    v_bodies jsonb[];
    v_ranks smallint[];
    v_positions bigint[];
    v_places bigint[];
begin
    patient := coalesce(patient, true);
    if lock_timeout is not null then
        perform set_config('lock_timeout', submit_many.lock_timeout, true);
    end if;
    if jsonb_typeof(messages) is distinct from 'array' then
        raise exception using errcode = 'TR422', message = 'messages must be an array.';
    end if;
    if exists (select from jsonb_array_elements(messages) x where x ->> 'message_id' is null) then
        messages := (select jsonb_agg(x || jsonb_build_object('message_id', coalesce(x ->> 'message_id', treadle.uuid7()::text)) order by o)
            from jsonb_array_elements(messages) with ordinality e (x, o));
    end if;
    select a.agent into v_default from treadle.agents a where a.is_default;
    select coalesce(treadle._submission_problem(x), case
            when a.agent is null and x ->> 'agent' is null then 'No agent is registered yet: start a worker, or name one.'
            when a.agent is null then format('There is no agent %L.', x ->> 'agent')
            when a.input is null and jsonb_typeof(x -> 'message') = 'object'
                then format('The agent %L takes text, not an object.', a.agent) end)
        into v_problem
        from jsonb_array_elements(messages) with ordinality e (x, o)
        left join treadle.agents a on a.agent = coalesce(x ->> 'agent', v_default)
        where treadle._submission_problem(x) is not null or a.agent is null
            or (a.input is null and jsonb_typeof(x -> 'message') = 'object')
        order by o limit 1;
    if v_problem is not null then
        raise exception using errcode = 'TR422', message = v_problem;
    end if;
    -- What is of another kind, or of a time far ahead, would lie in no partition and never be purged.
    v_given := array(select (x ->> 'message_id')::uuid from jsonb_array_elements(messages) x);
    select u into v_odd from unnest(v_given) u where get_byte(uuid_send(u), 6) not between 112 and 127 or u >= v_latest limit 1;
    if v_odd is not null then
        raise exception using errcode = 'TR422', message = format('A message_id must be a UUIDv7 of a time at most a day ahead; %s is not.', v_odd);
    end if;
    select t.message_id into v_odd from treadle.trash t where t.message_id = any(v_given) limit 1;
    if v_odd is not null then  -- a log has one owner
        raise exception using errcode = 'TR409', message = format('There was a message %s, and it was deleted.', v_odd);
    end if;
    if max_queue_size is not null then
        -- Counted before we look at what is known, so that nothing is counted that we then take for new. And in the table: whoever
        -- replaces the view of it keeps it locked for a while.
        select coalesce(jsonb_object_agg(c.queue, c.queued), '{}') into v_queued
            from (select c.queue, sum(c.queued) as queued from treadle.counters c where c.id >= treadle._mark('counters') group by c.queue) c;
    end if;
    select array_agg(m.message_id) into v_known from treadle.messages m where m.message_id = any(v_given);
    if max_queue_size is not null then
        select a.queue into v_full from jsonb_array_elements(messages) x
            join treadle.agents a on a.agent = coalesce(x ->> 'agent', v_default)
            where v_known is null or not (x ->> 'message_id')::uuid = any(v_known)
            group by a.queue having count(*) + coalesce((v_queued ->> a.queue)::bigint, 0) > max_queue_size limit 1;
        if v_full is not null then
            raise exception using errcode = 'TR429', message = format('The queue %L is full: it holds at most %s messages.', v_full, max_queue_size);
        end if;
    end if;

    perform pg_current_xact_id();  -- before any id is drawn: see treadle._raise_low_water
    if exists (select from jsonb_array_elements(messages) x where x ->> 'thread_id' is not null) then
        select array_agg(distinct x ->> 'thread_id') into v_wanted from jsonb_array_elements(messages) x
            where v_known is null or not (x ->> 'message_id')::uuid = any(v_known);
        loop
            -- First make those that are not there, while we hold nothing; then lock all by id, as everybody does.
            select array_agg(w order by w collate "C") filter (where t.id is null), min(t.id) into v_new, v_first
                from unnest(v_wanted) w left join treadle.threads t on t.tenant = p_tenant and t.thread_id = w
                where w is not null;
            if v_new is not null and patient then
                insert into treadle.threads (tenant, thread_id, created_at, last_activity)
                    select p_tenant, w, v_now, v_now from unnest(v_new) w on conflict do nothing;
                select min(t.id) into v_first  -- again, for who made one of them meanwhile may have made it long ago
                    from unnest(v_wanted) w join treadle.threads t on t.tenant = p_tenant and t.thread_id = w;
            elsif v_new is not null then
                begin  -- somebody may be making one of them in a transaction that goes on: after a moment, all new ones are busy
                    v_lock_timeout := current_setting('lock_timeout');
                    perform set_config('lock_timeout', '100ms', true);
                    insert into treadle.threads (tenant, thread_id, created_at, last_activity)
                        select p_tenant, w, v_now, v_now from unnest(v_new) w on conflict do nothing;
                    perform set_config('lock_timeout', v_lock_timeout, true);
                exception when lock_not_available then null;
                end;
            end if;
            if patient then
                -- Whoever holds many of them holds the first: wait there, and see the others as they are afterwards.
                perform from treadle.threads t where t.id = v_first for no key update;
                with locked as (
                    select t.id, t.thread_id from treadle.threads t where t.tenant = p_tenant and t.thread_id = any(v_wanted)
                    order by t.id for no key update
                )
                select array_agg(l.id order by l.thread_id collate "C"), array_agg(l.thread_id) into v_threads, v_names from locked l;
            else
                with locked as (
                    select t.id, t.thread_id from treadle.threads t where t.tenant = p_tenant and t.thread_id = any(v_wanted)
                    order by t.id for no key update skip locked
                )
                select array_agg(l.id order by l.thread_id collate "C"), array_agg(l.thread_id) into v_threads, v_names from locked l;
            end if;
            select coalesce(array_agg(b.w), '{}') into v_busy
                from (select unnest(v_wanted) as w except select unnest(v_names)) b where b.w is not null;
            exit when v_busy = '{}' or not patient;
            if v_names is not null then  -- we hold others: going back for it could make a circle
                raise exception using errcode = 'serialization_failure',
                    message = format('The thread %L was deleted just now; submit again.', v_busy[1]);
            end if;
        end loop;
        select array_agg(i.k order by i.o), array_agg(i.nth order by i.o) into v_ks, v_nths from (
            select w.o, case when w.wanted then dense_rank() over (partition by w.wanted order by w.thread_id) end as k,
                row_number() over (partition by w.wanted, w.thread_id order by w.o) as nth
            from (
                select o, x ->> 'thread_id' collate "C" as thread_id,
                    x ->> 'thread_id' is not null and not x ->> 'thread_id' = any(v_busy)
                        and (v_known is null or not (x ->> 'message_id')::uuid = any(v_known)) as wanted
                from jsonb_array_elements(messages) with ordinality e (x, o)
            ) w
        ) i;
        with arriving as (
            select v_ks[o] as k, count(*) as many,
                (array_agg((x ->> 'message_id')::uuid
                    order by array_position(array['high', 'normal', 'low'], coalesce(x ->> 'priority', 'normal')), o)
                    filter (where coalesce((x ->> 'delay_seconds')::double precision, 0) = 0
                        and not coalesce((x ->> 'aside')::boolean, false)))[1] as first
            from jsonb_array_elements(messages) with ordinality e (x, o)
            where v_ks[o] is not null
            group by 1
        ), th as (
            update treadle.threads t set last_ord = t.last_ord + a.many, turn = coalesce(t.turn, a.first),
                last_activity = greatest(t.last_activity, v_now)
            from arriving a where t.id = v_threads[a.k]
            returning a.k, t.turn, t.last_ord - a.many as base, t.last_ord - a.many - t.completed - t.failed - t.cancelled as open
        )
        select array_agg(th.base order by th.k), array_agg(th.open order by th.k), array_agg(th.turn order by th.k)
            into v_bases, v_open, v_turns from th;
        insert into treadle.thread_log (thread, last_pos)
            select t, 0 from unnest(v_threads, v_bases) u (t, base) where base = 0 order by t on conflict (thread) do nothing;
    end if;

    with input as (
        select o, (x ->> 'message_id')::uuid as message_id, x -> 'message' as body, coalesce(x ->> 'priority', 'normal') as priority,
            array_position(array['high', 'normal', 'low'], coalesce(x ->> 'priority', 'normal')) - 1 as rank,
            x ->> 'thread_id' as thread_id, v_ks[o] as k, coalesce((x ->> 'aside')::boolean, false) as aside,
            case when jsonb_typeof(x -> 'metadata') = 'object' then x -> 'metadata' else '{}' end as metadata,
            v_now + coalesce((x ->> 'delay_seconds')::double precision, 0) * interval '1 second' as run_at,
            a.agent, a.queue, coalesce((x ->> 'max_attempts')::integer, a.max_attempts) as max_attempts,
            coalesce((x ->> 'timeout_seconds')::double precision, a.timeout_seconds) as timeout_seconds, (x ->> 'parent')::uuid as parent
        from jsonb_array_elements(messages) with ordinality e (x, o)
        join treadle.agents a on a.agent = coalesce(x ->> 'agent', v_default)
        where (v_known is null or not (x ->> 'message_id')::uuid = any(v_known))
            and (v_busy = '{}' or x ->> 'thread_id' is null or not x ->> 'thread_id' = any(v_busy))
    ), held as (
        select i.*, v_threads[i.k] as thread, v_bases[i.k] + v_nths[o] as ord, v_open[i.k] - 2 + v_nths[o] as behind,
            case when i.run_at > v_now then 'delay'
                when i.k is not null and not i.aside and v_turns[i.k] is distinct from i.message_id then 'thread' end as hold
        from input i
    ), placed as materialized (
        select h.*, case when h.hold is null then h.priority end as lane,
            case when h.hold is null then treadle._lane_next(h.queue, h.priority) end as lane_id,
            count(*) filter (where h.hold is null) over (partition by h.queue order by h.rank, o) as ahead,
            count(*) filter (where h.hold is null) over (partition by h.queue order by h.rank) as peers
        from held h
    ), written as (
        insert into treadle.messages (message_id, tenant, thread, ord, aside, queue, lane, lane_id, agent, priority, rank, state, hold,
            max_attempts, timeout_seconds, created_at, run_at, body, metadata, parent)
        select p.message_id, p_tenant, p.thread, case when p.thread is not null then p.ord end, p.aside, p.queue, p.lane, p.lane_id, p.agent,
            p.priority, p.rank, 'queued', p.hold, p.max_attempts, p.timeout_seconds, v_now, p.run_at, p.body, p.metadata, p.parent
        from placed p
    )
    select array_agg(p.message_id order by o), array_agg(p.queue order by o), array_agg(p.lane order by o), array_agg(p.lane_id order by o),
            array_agg(case when p.lane is not null then
                jsonb_build_object('message_id', p.message_id, 'thread_id', p.thread_id, 'agent', p.agent) end order by o),
            array_agg(case when p.lane is not null then p.ahead - 1 when p.hold = 'thread' then p.peers + p.behind end order by o),
            array_agg(p.thread order by o), array_agg(p.rank order by o)
        into v_ids, v_queues, v_lanes, v_lane_ids, v_bodies, v_positions, v_places, v_ranks
        from placed p;

    if v_ids is not null then
        perform treadle._log(v_ids, array_fill(1, array[cardinality(v_ids)]), v_places, array_fill('queued'::text, array[cardinality(v_ids)]),
            array_fill(null::jsonb, array[cardinality(v_ids)]), v_now);
        perform treadle._lane_insert(v_queues, v_lanes, v_lane_ids, v_bodies, v_now);
        insert into treadle.counters (tenant, queue, slot, queued)
            select p_tenant, q, treadle._slot(v_now), count(*) from unnest(v_queues) q group by q;
        if v_threads is not null then
            perform treadle._promote(v_threads, v_now);
        end if;
        if notify then
            perform pg_notify('treadle_work', (select string_agg(distinct q, ',') from unnest(v_queues) q));
            perform pg_notify('treadle_events', case when cardinality(v_ids) <= 100
                then (select string_agg(u.id || coalesce(':' || u.thread, ''), ',') from unnest(v_ids, v_places) u (id, thread)) else '*' end);
        end if;
    end if;

    return query
        with depth as materialized (  -- rows that were ready before ours, in this lane and those before it
            select q.queue, l.rank, sum(treadle._lane_depth(q.queue, l.lane, v_now)
                - (select count(*) from unnest(v_queues, v_lanes) u (queue, lane) where u.queue = q.queue and u.lane = l.lane))
                over (partition by q.queue order by l.rank) as ready
            from (select distinct u as queue from unnest(v_queues) u) q, (values ('high', 0), ('normal', 1), ('low', 2)) l (lane, rank)
            where l.rank <= (select max(r) from unnest(v_ranks) r)
        )
        select e.o::integer, coalesce(m.message_id, v_ids[e.k]), coalesce(m.state, case when e.k is null then 'busy' else 'queued' end),
            coalesce(m.queue, v_queues[e.k]),
            case when m.message_id is null or (m.state = 'queued' and v_positions[e.k] is not null and v_lanes[e.k] is not distinct from m.lane)
                    then case when v_positions[e.k] is not null then greatest(v_positions[e.k] + d.ready, 0)::bigint end
                when m.state = 'queued' then treadle._position(m, v_now) end,
            coalesce(m.created_at, case when e.k is not null then v_now end), e.x ->> 'thread_id', coalesce(m.thread, v_places[e.k])
        from (  -- k: its place in our arrays, which hold neither what was known nor what is busy
            select i.x, i.o, case when i.written then count(*) filter (where i.written) over (order by i.o) end as k
            from (
                select x, o, (v_known is null or not (x ->> 'message_id')::uuid = any(v_known))
                    and (v_busy = '{}' or x ->> 'thread_id' is null or not x ->> 'thread_id' = any(v_busy)) as written
                from jsonb_array_elements(messages) with ordinality e (x, o)
            ) i
        ) e
        -- What was just written is as it was written, but for heads of threads that gave way.
        left join treadle.messages m on m.message_id = case when e.k is null or v_threads is not null then (e.x ->> 'message_id')::uuid end
        left join depth d on d.queue = coalesce(m.queue, v_queues[e.k]) and d.rank = coalesce(m.rank, v_ranks[e.k])
        order by e.o;
    if lock_timeout is not null then
        perform set_config('lock_timeout', v_patience, true);
    end if;
end $$;
comment on function treadle.submit_many is 'Submit an array of messages, all or nothing, in the order given';

create or replace function treadle.submit(
    message jsonb, thread_id text default null, priority text default 'normal', agent text default null,
    metadata jsonb default '{}', delay_seconds double precision default 0, max_attempts integer default null,
    timeout_seconds double precision default null, aside boolean default false, notify boolean default false)
returns uuid language sql security definer set search_path = pg_catalog, pg_temp as $$
    select s.message_id from treadle.submit_many(
        jsonb_build_array(jsonb_strip_nulls(jsonb_build_object('thread_id', thread_id, 'priority', priority, 'agent', agent,
            'delay_seconds', delay_seconds, 'max_attempts', max_attempts, 'timeout_seconds', timeout_seconds, 'aside', aside))
            || jsonb_build_object('message', message, 'metadata', metadata)),
        notify => notify) s
$$;
comment on function treadle.submit(jsonb, text, text, text, jsonb, double precision, integer, double precision, boolean, boolean)
    is 'Submit one message whose agent takes an object; it is sent when your transaction commits. Returns its id';

create or replace function treadle.submit(
    message text, thread_id text default null, priority text default 'normal', agent text default null,
    metadata jsonb default '{}', delay_seconds double precision default 0, max_attempts integer default null,
    timeout_seconds double precision default null, aside boolean default false, notify boolean default false)
returns uuid language sql security definer set search_path = pg_catalog, pg_temp as $$
    select treadle.submit(to_jsonb(message), thread_id, priority, agent, metadata, delay_seconds, max_attempts, timeout_seconds, aside, notify)
$$;
comment on function treadle.submit(text, text, text, text, jsonb, double precision, integer, double precision, boolean, boolean)
    is 'Submit one message; it is sent when your transaction commits. Returns its id';

-- Submit under an Idempotency-Key: the first call's answer is kept 24 hours and given again to whoever repeats it.
-- A call that finds the first one still under way waits two seconds for it, then fails with lock_not_available (55P03).
create or replace function treadle.submit_once(key text, request_hash bytea, messages jsonb, tenant text default 'default',
    max_queue_size integer default null, out answer jsonb, out repeated boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
#variable_conflict use_column
declare
    p_key constant text := submit_once.key;
    p_hash constant bytea := submit_once.request_hash;
    p_tenant constant text := submit_once.tenant;
    v_now constant timestamptz := treadle.clock();
    v_hash bytea;
begin
    insert into treadle.idempotency as i (tenant, key, request_hash, created_at) values (p_tenant, p_key, p_hash, v_now)
        on conflict (tenant, key) do update set request_hash = excluded.request_hash, answer = null, created_at = v_now
            where i.created_at < v_now - interval '24 hours';
    repeated := not found;
    if repeated then
        select i.request_hash, i.answer into v_hash, answer from treadle.idempotency i where i.tenant = p_tenant and i.key = p_key;
        if v_hash <> p_hash then
            raise exception using errcode = 'TR422', message = 'This Idempotency-Key was used with another body.';
        end if;
        return;
    end if;
    select coalesce(jsonb_agg(to_jsonb(s) order by s.n), '[]') into answer
        from treadle.submit_many(messages, p_tenant, max_queue_size => max_queue_size) s;
    update treadle.idempotency i set answer = submit_once.answer where i.tenant = p_tenant and i.key = p_key;
end $$;
comment on function treadle.submit_once is 'Submit under an Idempotency-Key: a repeat gets the first answer';
