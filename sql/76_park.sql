-- Messages that send messages, and wait: for those, or for a person.
--
-- What a message sends is committed with a step of it (append_and_send) or with its end (conclude), and only under its lease. The ids
-- of what it sends are its own choice, the same in every attempt: what is there already is not sent again (treadle.submit_many).
-- A message that waits has ended its attempt: it is queued without a lane row, hold = children or input, keeps its thread's turn, and
-- its next attempt does again what no step remembers.

-- Take the locks of a message that sends, in their order: the threads, its own and its targets', then its lease. Raises TR001 where
-- the lease is lost, or a cancellation requested: then nothing is to be sent.
create or replace function treadle._lock_to_send(p_id uuid, p_lease uuid, p_messages jsonb) returns void
language plpgsql as $$
declare
    v_targets constant text[] := array(select distinct x ->> 'thread_id' from jsonb_array_elements(p_messages) x
        where x ->> 'thread_id' is not null);
    v_now constant timestamptz := treadle.clock();
    v_threads bigint[];
    v_cancelled boolean;
begin
    insert into treadle.threads (thread_id, created_at, last_activity)
        select u, v_now, v_now from unnest(v_targets) u order by u collate "C" on conflict do nothing;
    v_threads := array(select t.id from treadle.threads t where t.tenant = 'default' and t.thread_id = any(v_targets))
        || array(select l.thread from treadle.leases l where l.message_id = p_id and l.thread is not null);
    perform from treadle.threads t where t.id = any(v_threads) order by t.id for no key update;
    select l.cancel_requested into v_cancelled from treadle.leases l where l.message_id = p_id and l.lease = p_lease for no key update;
    if v_cancelled is distinct from false then
        raise exception using errcode = 'TR001';
    end if;
end $$;

-- Append the events of one message, and submit what it sends. Answers as treadle.append does; where the lease is lost or a
-- cancellation requested nothing is sent.
create or replace function treadle.append_and_send(id uuid, lease uuid, first_seq integer, event_types text[], event_datas text[], messages text)
returns table (message_id uuid, status text, cancel_requested boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set enable_seqscan = off
    set lock_timeout = '1s' as $$
#variable_conflict use_column
begin
    begin
        perform treadle._lock_to_send(append_and_send.id, append_and_send.lease, messages::jsonb);
        return query select * from treadle.append(array[append_and_send.id], array[append_and_send.lease], array[first_seq],
            array_fill(1, array[cardinality(event_types)]), event_types, event_datas, true) a where a.status = 'ok';
        if not found then
            raise exception using errcode = 'TR001';
        end if;
        perform from treadle.submit_many(messages::jsonb, notify => true);
    exception when sqlstate 'TR001' then
        return query select * from treadle.append(array[append_and_send.id], array[append_and_send.lease], array[first_seq],
            array_fill(1, array[cardinality(event_types)]), event_types, event_datas, true) a;
    end;
end $$;
comment on function treadle.append_and_send is 'Append events to a message under lease, and submit what it sends, in one transaction';

create or replace function treadle._finish_one(id uuid, lease uuid, outcome text, result text, error text, traceback text,
    delay double precision, usage text, first_seq integer, event_types text[], event_datas text[], max_losses integer)
returns text language sql volatile as $$
    select f.status from treadle.finish(array[id], array[lease], array[outcome], array[result], array[error], array[traceback],
        array[delay], array[usage], array[first_seq], array_fill(1, array[cardinality(event_types)]), event_types, event_datas, true, max_losses) f
$$;

-- Finish one attempt with more than a result: submit what it sends, save its thread's memory, or park the message (outcome children
-- or input; `result` is then what the event `parked` says). Returns a status as treadle.finish does.
create or replace function treadle.conclude(id uuid, lease uuid, outcome text, result text, error text, traceback text, delay double precision,
    usage text, first_seq integer, event_types text[], event_datas text[], max_losses integer, messages text, memory text, children uuid[])
returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set enable_seqscan = off
    set lock_timeout = '1s' as $$
declare
    v_status text;
begin
    begin
        if messages is not null then
            perform treadle._lock_to_send(conclude.id, conclude.lease, messages::jsonb);
        end if;
        select f.status into v_status from treadle._finish_one(conclude.id, conclude.lease, outcome, result, error, traceback, delay, usage,
            first_seq, event_types, event_datas, max_losses) f (status);
        if v_status = 'queued' and outcome = 'children' then
            insert into treadle.parked as p (message_id, children) values (conclude.id, conclude.children)
                on conflict (message_id) do update set children = excluded.children;
        elsif v_status = 'completed' and conclude.memory is not null then
            update treadle.threads t set memory = conclude.memory::jsonb from treadle.messages m
                where m.message_id = conclude.id and not m.aside and t.id = m.thread;
        elsif v_status not in ('completed', 'queued') then
            raise exception using errcode = 'TR001';
        end if;
        if messages is not null then
            perform from treadle.submit_many(messages::jsonb, notify => true);
        end if;
    exception when sqlstate 'TR001' then
        v_status := treadle._finish_one(conclude.id, conclude.lease, outcome, result, error, traceback, delay, usage, first_seq, event_types,
            event_datas, max_losses);
    end;
    return v_status;
end $$;
comment on function treadle.conclude is 'Finish one attempt, and with it submit what it sends, save the memory of its thread, or park it';

-- Admit messages whose children are over; cancel what those waited for that are cancelled or deleted. `ids`: of these, else of all. Passes
-- over what others hold. Returns how many were admitted.
create or replace function treadle.tend_parents(ids uuid[] default null, quantity integer default 1000) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
    v_now constant timestamptz := treadle.clock();
    v_over uuid[];      -- those that may go on
    v_ended uuid[];     -- those that wait no more
    v_children uuid[];  -- what they waited for
    v_threads bigint[];
begin
    if ids is null then
        if not pg_try_advisory_xact_lock(hashtext('treadle.tend_parents')) then  -- one looks at all of them at a time
            return 0;
        end if;
        ids := array(select p.message_id from treadle.parked p left join treadle.messages m on m.message_id = p.message_id
            where m.state is distinct from 'queued' or not exists (
                select from treadle.messages c where c.message_id = any(p.children) and c.state in ('queued', 'processing'))
            order by p.message_id limit quantity);
    end if;
    v_over := array(select p.message_id from treadle.parked p join treadle.messages m on m.message_id = p.message_id and m.hold = 'children'
        where p.message_id = any(ids) and not exists (
            select from treadle.messages c where c.message_id = any(p.children) and c.state in ('queued', 'processing')));
    v_ended := array(select p.message_id from treadle.parked p left join treadle.messages m on m.message_id = p.message_id
        where p.message_id = any(ids) and m.state is distinct from 'queued');
    if v_over = '{}' and v_ended = '{}' then
        return 0;
    end if;
    v_children := array(select c.message_id from treadle.parked p join treadle.messages c on c.message_id = any(p.children)
        where p.message_id = any(v_ended) and c.state in ('queued', 'processing'));
    v_threads := array(select t.id from treadle.threads t
        where t.id in (select m.thread from treadle.messages m where m.message_id = any(v_over || v_children))
        order by t.id for no key update skip locked);
    perform treadle._cancel_children(v_ended, v_children, v_threads, v_now);
    v_over := array(select m.message_id from treadle.messages m
        where m.message_id = any(v_over) and m.hold = 'children' and (m.thread is null or m.thread = any(v_threads))
        order by m.message_id for update skip locked);
    delete from treadle.parked p where p.message_id = any(v_over);
    perform treadle._admit(v_over, v_now, 'high');
    return cardinality(v_over);
end $$;
comment on function treadle.tend_parents is 'Let messages go on whose children are over, and cancel the children of those that are cancelled or deleted';

-- The children of messages that wait no more: those that run are told, those that wait are cancelled now. What is held is left for later.
create or replace function treadle._cancel_children(p_parents uuid[], p_children uuid[], p_held bigint[], p_at timestamptz) returns void
language plpgsql as $$
declare
    v_ids uuid[];
begin
    with told as (
        update treadle.leases l set cancel_requested = true
        where l.message_id in (select x.message_id from treadle.leases x where x.message_id = any(p_children) order by x.message_id for no key update skip locked)
        returning l.message_id
    )
    select array_agg(t.message_id) into v_ids from told t;
    perform pg_notify('treadle_cancel', u::text) from unnest(v_ids) u;
    v_ids := array(select m.message_id from treadle.messages m
        where m.message_id = any(p_children) and m.state = 'queued' and (m.thread is null or m.thread = any(p_held))
        order by m.message_id for update skip locked);
    perform treadle._settle(v_ids, array_fill('cancelled'::text, array[cardinality(v_ids)]), null, null, null, null, null, null, null, null, null,
        null, null, 1, p_at);
    perform pg_notify('treadle_events', '*') from unnest(v_ids) limit 1;
    delete from treadle.parked p where p.message_id in (
        select x.message_id from treadle.parked x
        where x.message_id = any(p_parents) and not exists (
            select from treadle.messages c left join treadle.leases l on l.message_id = c.message_id
            where c.message_id = any(x.children) and c.state in ('queued', 'processing') and l.cancel_requested is not true)
        order by x.message_id for update skip locked);
end $$;
