-- Late writes: what a call writes when its transaction commits, because a transaction of a user may stay open.
--
-- Events. thread_pos is given under the lock of the thread's row in thread_log. With that lock an open transaction that
-- submitted, cancelled, redrove or answered would stop the appends of the message that runs in the thread. So these
-- calls write their events without a position and list them in treadle.late_events.
-- Cancellations of running messages. A request to cancel is noted in the lease, which each append locks. So the request
-- is listed in treadle.late_cancels. Until the commit a lock `for key share` keeps the lease from being deleted, and so
-- the attempt from ending; appends and heartbeats do not conflict with it.
-- Deferred triggers write both when the transaction commits, first the leases, and delete the lists: no other
-- transaction ever sees a row of them.

-- Request the cancellation of running messages when the transaction commits, and tell their workers. The caller holds
-- their leases `for key share`.
create or replace function treadle._cancel_late(ids uuid[]) returns void
language plpgsql as $$
begin
    insert into treadle.late_cancels (xid, message_id, tenant)
        select pg_current_xact_id()::text::bigint, l.message_id, l.tenant
        from treadle.leases l
        where l.message_id = any(ids);
    perform treadle._hint_each('treadle_cancel', ids::text[]);
end $$;

-- Write the requests of this transaction into the leases. The next calls of the transaction find no request left.
create or replace function treadle._write_late_cancels(xid bigint) returns void
language plpgsql as $$
declare
    v_ids uuid[];
begin
    with listed as (
        delete from treadle.late_cancels l
        where l.xid = _write_late_cancels.xid
        returning l.message_id
    )
    select array_agg(l.message_id)
        into v_ids
        from listed l;
    if v_ids is null then
        return;
    end if;
    perform
    from treadle.leases l
    where l.message_id = any(v_ids)
    order by l.message_id
    for no key update;
    update treadle.leases l
        set cancel_requested = true
        where l.message_id = any(v_ids);
end $$;

-- The trigger of treadle.late_cancels.
create or replace function treadle._give_late_cancels() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set lock_timeout = 0 as $$
begin
    perform treadle._write_late_cancels(new.xid);
    return null;
end $$;

-- Write events whose positions in their threads are given when the transaction commits. The caller has numbered them.
create or replace function treadle._log_late(entries treadle.entry[], at timestamptz) returns void
language plpgsql as $$
begin
    insert into treadle.events (message_id, seq, tenant, thread, type, data, created_at)
        select e.message_id, e.seq, e.tenant, e.thread, e.type, e.data, at
        from unnest(entries) e;
    insert into treadle.late_events (xid, message_id, seq, tenant, thread)
        select pg_current_xact_id()::text::bigint, e.message_id, e.seq, e.tenant, e.thread
        from unnest(entries) with ordinality e (message_id, seq, thread, type, data, tenant, n)
        where e.thread is not null
        order by e.n;
end $$;

-- The trigger of treadle.late_events. The first call of a transaction gives all its late events their positions, in
-- the order in which they were written; the calls for its other rows find none left.
create or replace function treadle._give_late_positions() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_mergejoin = off set enable_hashjoin = off
set enable_memoize = off set lock_timeout = 0 as $$
declare
    v_positions bigint[];  -- last_pos of each thread before these events, in the order of the threads
begin
    if not exists (select from treadle.late_events l where l.xid = new.xid and l.n = new.n) then
        return null;
    end if;
    perform treadle._write_late_cancels(new.xid);  -- leases are locked before the logs of threads
    -- A message that the same transaction deleted has no events.
    delete from treadle.late_events l
        where l.xid = new.xid
            and (select true from treadle.events e where e.message_id = l.message_id and e.seq = l.seq) is null;
    v_positions := treadle._count_in_logs(array(select l.thread from treadle.late_events l where l.xid = new.xid));
    update treadle.events e
        set thread_pos = l.thread_pos
        from (
            select l.message_id, l.seq,
                v_positions[dense_rank() over (order by l.thread)]
                    + row_number() over (partition by l.thread order by l.n) as thread_pos
            from treadle.late_events l
            where l.xid = new.xid
        ) l
        where e.message_id = any(array[l.message_id]) and e.seq = l.seq;
    delete from treadle.late_events l where l.xid = new.xid;
    return null;
end $$;
