-- Threads are created and locked: by submits, and by what a message sends.

-- Insert threads, except for those that another transaction has just created. `agents`: of their messages.
create or replace function treadle._insert_threads(
    thread_ids text[],
    tenant text,
    owner text,
    agents text[],
    at timestamptz)
returns void language plpgsql as $$
#variable_conflict use_column
begin
    with created as (
        insert into treadle.threads (tenant, thread_id, owner, agents, created_at)
            select _insert_threads.tenant, w.thread_id, _insert_threads.owner, _insert_threads.agents, at
            from unnest(thread_ids) w (thread_id)
            on conflict do nothing
            returning id, tenant
    ), with_turns as (
        insert into treadle.thread_turns (thread, tenant, last_activity)
            select c.id, c.tenant, at
            from created c
    )
    insert into treadle.thread_log (thread, tenant, last_pos)
        select c.id, c.tenant, 0
        from created c;
end $$;

-- Insert threads, except for those that another transaction is just creating. Together first; if one of them is held,
-- one by one, so that the others do not have to wait for it.
create or replace function treadle._try_insert_threads(
    thread_ids text[],
    tenant text,
    owner text,
    agents text[],
    at timestamptz)
returns void language plpgsql as $$
declare
    v_former_timeout text;
    v_thread_id text;
begin
    begin
        v_former_timeout := treadle._set_lock_timeout('20ms');
        perform treadle._insert_threads(
            thread_ids => thread_ids, tenant => tenant, owner => owner, agents => agents, at => at);
        perform treadle._set_lock_timeout(v_former_timeout);
        return;
    exception
        when lock_not_available then null;
    end;
    foreach v_thread_id in array thread_ids loop
        begin
            v_former_timeout := treadle._set_lock_timeout('1ms');
            perform treadle._insert_threads(
                thread_ids => array[v_thread_id], tenant => tenant, owner => owner, agents => agents, at => at);
            perform treadle._set_lock_timeout(v_former_timeout);
        exception
            when lock_not_available then null;  -- this one is held
        end;
    end loop;
end $$;

-- Create the threads that are not there yet, and return the smallest id of those that are.
create or replace function treadle._create_threads(
    thread_ids text[],
    tenant text,
    owner text,
    agents text[],
    patient boolean,
    at timestamptz)
returns bigint language plpgsql as $$
#variable_conflict use_column
declare
    v_new text[];
    v_first bigint;
begin
    select array_agg(w.thread_id order by w.thread_id collate "C") filter (where t.id is null), min(t.id)
        into v_new, v_first
        from unnest(thread_ids) w (thread_id)
        left join lateral (  -- so that it looks up each thread, also with a plan that was made beside few of them
            select t.id
            from treadle.threads t
            where t.tenant = _create_threads.tenant and t.thread_id = w.thread_id
            limit 1
        ) t on true;
    if v_new is null then
        return v_first;
    end if;
    if patient then
        perform treadle._insert_threads(
            thread_ids => v_new, tenant => tenant, owner => owner, agents => agents, at => at);
        return (  -- another transaction may have created one of them long ago and committed just now
            select min(t.id)
            from unnest(thread_ids) w (thread_id)
            join treadle.threads t on t.tenant = _create_threads.tenant and t.thread_id = w.thread_id);
    end if;
    perform treadle._try_insert_threads(
        thread_ids => v_new, tenant => tenant, owner => owner, agents => agents, at => at);
    return v_first;
end $$;

-- Lock the threads with these names, and create those that are not there. Returns the locked threads in the order of
-- their names: without those that other transactions hold, where the call is not `patient`.
create or replace function treadle._lock_threads(
    thread_ids text[],
    tenant text,
    owner text,
    agents text[],
    patient boolean,
    at timestamptz)
returns treadle.locked_thread[] language plpgsql as $$
#variable_conflict use_column
declare
    v_first bigint;
    v_locked treadle.locked_thread[];
begin
    loop
        -- First create threads, while this transaction holds none; then lock all of them by id, as every transaction
        -- does.
        v_first := treadle._create_threads(
            thread_ids => thread_ids, tenant => tenant, owner => owner, agents => agents, patient => patient, at => at);
        -- A transaction that holds many of them holds the first: wait there, and see the others as they are
        -- afterwards.
        if patient and cardinality(thread_ids) > 1 then
            perform from treadle.threads t
                where t.id = v_first
                for no key update;
        end if;
        v_locked := treadle._lock_existing(thread_ids => thread_ids, tenant => tenant, patient => patient);
        exit when not patient or cardinality(v_locked) = cardinality(thread_ids);
        if v_locked <> '{}' then  -- to wait for one more while holding others could make a circle
            raise exception using errcode = 'serialization_failure', message = format(
                'The thread %L was deleted just now; submit again.',
                (select w from unnest(thread_ids) w except select l.thread_id from unnest(v_locked) l limit 1));
        end if;
    end loop;
    return v_locked;
end $$;

-- Lock those of these threads that exist, by id, and return them in the order of their names. Not `patient`: without
-- those that other transactions hold.
create or replace function treadle._lock_existing(thread_ids text[], tenant text, patient boolean)
returns treadle.locked_thread[] language plpgsql as $$
begin
    if patient then
        return array(
            with locked as (
                select t.id, t.thread_id, t.owner, t.agents
                from treadle.threads t
                where t.tenant = _lock_existing.tenant and t.thread_id = any(thread_ids)
                order by t.id
                for no key update
            )
            select row(l.id, l.thread_id, l.owner, l.agents)::treadle.locked_thread
            from locked l
            order by l.thread_id collate "C");
    end if;
    return array(
        with locked as (
            select t.id, t.thread_id, t.owner, t.agents
            from treadle.threads t
            where t.tenant = _lock_existing.tenant and t.thread_id = any(thread_ids)
            order by t.id
            for no key update skip locked
        )
        select row(l.id, l.thread_id, l.owner, l.agents)::treadle.locked_thread
        from locked l
        order by l.thread_id collate "C");
end $$;

-- Raise 55P03 for a thread that another transaction holds. The detail is its tenant, a slash and its id: the caller
-- knows what to wait for, and no thread of another tenant with the same id.
create or replace function treadle._raise_held(tenant text, thread_id text) returns void
language plpgsql as $$
begin
    raise exception using
        errcode = 'lock_not_available',
        message = format('Another transaction holds the thread %L.', thread_id),
        detail = tenant || '/' || thread_id;
end $$;
