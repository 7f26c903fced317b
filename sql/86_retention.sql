-- Retention: expired messages, threads and keys are deleted in chunks, in the order of time.
--
-- A thread is deleted whole, by its last activity; a message without a thread, by its completion; one that failed,
-- after a time of its own; an idempotency key, after 24 hours.

-- Each call looks at about `quantity` messages and as many threads after `after`. `last` is how far it came, and null
-- if there was nothing more to look at; what it kept is looked at again only by a caller that starts without `after`.
-- One janitor purges at a time; for the others there is nothing to do.
create or replace function treadle.purge(
    retention_hours double precision, dead_letter_hours double precision, after uuid default null,
    quantity integer default 2000, out purged integer, out last uuid)
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    c_thousand_years_hours constant double precision := 8766000;  -- timestamps do not reach much further
    v_now constant timestamptz := treadle.clock();
    v_until constant timestamptz := v_now - least(retention_hours, c_thousand_years_hours) * interval '1 hour';
    v_failed_until constant timestamptz := v_now - least(dead_letter_hours, c_thousand_years_hours) * interval '1 hour';
    v_threads_until timestamptz;
    v_stopped_at timestamptz;
    v_messages uuid[];
begin
    purged := 0;
    if not treadle._try_mutex('purge') then
        return;
    end if;
    purged := treadle._purge_idempotency(v_now - interval '24 hours', quantity)
        + treadle._empty_trash(quantity * 25);
    last := treadle._purge_bound(after, until => greatest(v_until, v_failed_until), quantity => quantity);
    v_threads_until := treadle._purge_thread_bound(after, until => v_until, quantity => quantity);
    if v_threads_until is not null then
        last := least(last, treadle.uuid_at(v_threads_until));
    end if;
    select p.message_ids, p.stopped_at
    into v_messages, v_stopped_at
    from treadle._purge_threads(
        since => coalesce(treadle._time_of(after), '-infinity'), until => least(v_threads_until, v_until),
        failed_until => v_failed_until, quantity => quantity) p;
    if v_stopped_at is not null then
        last := least(last, treadle.uuid_at(v_stopped_at));
    end if;
    purged := purged + treadle._forget(
        v_messages || treadle._lock_expired(
            after => after, last => last, until => v_until, failed_until => v_failed_until),
        quantity * 25);
end $$;
comment on function treadle.purge(double precision, double precision, uuid, integer)
    is 'Delete a chunk of expired messages, threads and keys; call again with the `last` it returned';

-- Delete old idempotency keys; returns how many.
create or replace function treadle._purge_idempotency(until timestamptz, quantity integer) returns integer
language plpgsql as $$
declare
    v_deleted integer;
begin
    delete from treadle.idempotency i
    where (i.tenant, i.restriction, i.key) in (
        select k.tenant, k.restriction, k.key
        from treadle.idempotency k
        where k.created_at < until
        limit quantity
        for update skip locked);
    get diagnostics v_deleted = row_count;
    return v_deleted;
end $$;

-- The last of the next `quantity` messages. Ids sort by creation, so only the old end of the table is read.
create or replace function treadle._purge_bound(after uuid, until timestamptz, quantity integer) returns uuid
language plpgsql stable as $$
declare
    v_last uuid;
begin
    select o.message_id
    into v_last
    from (
        select m.message_id
        from treadle.messages m
        where m.message_id < treadle.uuid_at(until)
            and (after is null or m.message_id > after)
        order by m.message_id
        limit quantity
    ) o
    order by o.message_id desc
    limit 1;
    return v_last;
end $$;

-- The end of the millisecond in which the last of the next `quantity` threads was last active; null if there are fewer.
create or replace function treadle._purge_thread_bound(after uuid, until timestamptz, quantity integer)
returns timestamptz
language plpgsql stable as $$
declare
    v_since constant timestamptz := coalesce(treadle._time_of(after), '-infinity');
    v_last timestamptz;
begin
    select date_trunc('milliseconds', t.last_activity) + interval '1 millisecond'
    into v_last
    from treadle._thread_tenants() n (tenant)
    cross join lateral (
        select s.last_activity
        from treadle.thread_turns s
        where s.tenant = n.tenant
            and s.last_activity >= v_since
            and s.last_activity < until
        order by s.last_activity
        limit quantity
    ) t
    order by t.last_activity
    offset quantity - 1
    limit 1;
    return v_last;
end $$;

-- Delete the finished threads that were last active in this time, and return the ids of their messages, for the caller
-- to delete. `stopped_at`: set if there were too many messages for one call; later threads are left for the next call.
create or replace function treadle._purge_threads(
    since timestamptz, until timestamptz, failed_until timestamptz, quantity integer,
    out message_ids uuid[], out stopped_at timestamptz)
language plpgsql as $$
declare
    v_threads bigint[] := '{}';
    v record;
begin
    message_ids := '{}';
    for v in
        select t.id, s.last_activity, s.version
        from treadle.thread_turns s
        join treadle.threads t on t.id = s.thread
        where s.tenant in (select treadle._thread_tenants())
            and s.last_activity >= since
            and s.last_activity < until
            and s.last_ord = s.completed + s.failed + s.cancelled
            and (s.failed = 0 or s.last_activity < failed_until)
            -- Kept while a parent is open, which may still ask for the result.
            and not exists (
                select
                from treadle.messages m
                join treadle.messages p on p.message_id = m.parent
                where m.thread = t.id
                    and p.state in ('queued', 'processing'))
        order by s.last_activity
        for update of t skip locked
    loop
        -- Before the lock, a message may have come.
        continue when v.version <> (select s.version from treadle._turns_of(v.id) s);
        v_threads := v_threads || v.id;
        message_ids := message_ids || array(select m.message_id from treadle.messages m where m.thread = v.id);
        if cardinality(message_ids) >= quantity then
            stopped_at := date_trunc('milliseconds', v.last_activity);
            exit;
        end if;
    end loop;
    delete from treadle.thread_log l
    where l.thread = any(v_threads);
    delete from treadle.thread_turns s
    where s.thread = any(v_threads);
    delete from treadle.threads t
    where t.id = any(v_threads);
end $$;

-- The messages without a thread that are past their time, locked. A child is kept while its parent is open, because the
-- parent may still ask for the result.
create or replace function treadle._lock_expired(after uuid, last uuid, until timestamptz, failed_until timestamptz)
returns uuid[]
language plpgsql as $$
begin
    return array(
        select m.message_id
        from treadle.messages m
        where (after is null or m.message_id > after)
            and m.message_id <= last
            and m.thread is null
            and not exists (
                select
                from treadle.messages p
                where p.message_id = m.parent
                    and p.state in ('queued', 'processing'))
            and m.completed_at < case when m.state = 'failed' then failed_until else until end
        order by m.message_id
        for update skip locked);
end $$;

-- The tenants that have threads, read by skipping from one to the next in the index.
create or replace function treadle._thread_tenants() returns setof text
language sql stable as $$
    with recursive tenants (tenant) as (
        (
            select t.tenant
            from treadle.threads t
            order by t.tenant
            limit 1
        )
        union all
        select (
            select t.tenant
            from treadle.threads t
            where t.tenant > n.tenant
            order by t.tenant
            limit 1)
        from tenants n
        where n.tenant is not null
    )
    select n.tenant
    from tenants n
    where n.tenant is not null
$$;
