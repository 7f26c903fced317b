-- Low-water marks: below the mark of a table no row is left to be found, so every search for its first rows begins
-- there.
--
-- Lanes, leases and counters lose their rows at the head. While an old snapshot is open, the dead versions of those
-- rows stay, and each search for the first row would read them. The marks (treadle.low_water) follow the first living
-- row.

-- The low-water mark of a lane's table, of `leases` or of `counters`.
create or replace function treadle._low_water_mark(mark text) returns bigint
language sql stable as $$
    select coalesce((select w.low from treadle.low_water w where w.name = mark), 0)
$$;

-- Every transaction with an id below this has ended. An old snapshot that only reads has no such id, so it holds
-- nothing back.
create or replace function treadle._oldest_open_xid() returns bigint
language sql volatile as $$
    select pg_snapshot_xmin(pg_current_snapshot())::text::bigint
$$;

-- Raise a mark to `candidate`, once every transaction has ended that might still commit a row below it.
--   1. Candidate: the caller searched the table and saw no row with an id below `candidate`.
--   2. Wait: the candidate is stored as next_low, with the transaction id that this transaction gets here, after the
--      search. A transaction that can still commit a row below the candidate has a lower transaction id, because every
--      writer gets its transaction id before it draws a row's id (see treadle.submit_many).
--   3. Raise: a later call finds that all those transactions have ended, and the mark becomes next_low. `ended` is the
--      caller's treadle._oldest_open_xid() from before its search.
--   4. Fall back: a candidate below the mark means that a row was committed late. The mark returns to it at once.
-- The caller searches before it writes, holds the advisory lock of its marks, and has no transaction id yet.
create or replace function treadle._raise_low_water(mark text, candidate bigint, ended bigint) returns void
language plpgsql as $$
declare
    c_worth_a_write constant integer := 1000;  -- ids
    v_mark treadle.low_water;
begin
    select *
        into v_mark
        from treadle.low_water w
        where w.name = mark;
    if candidate < v_mark.low then
        update treadle.low_water w
            set low = candidate, next_low = null, next_xid = null
            where w.name = mark;
    elsif v_mark.next_xid <= ended then  -- the mark rises, and the candidate is the next to come
        update treadle.low_water w
            set low = least(v_mark.next_low, candidate), next_low = candidate,
                next_xid = pg_current_xact_id()::text::bigint
            where w.name = mark and (candidate > v_mark.low + c_worth_a_write or v_mark.low < v_mark.next_low);
    elsif candidate > v_mark.low + c_worth_a_write
        -- No candidate is stored, or one by another server (a dump was restored).
        and coalesce(v_mark.next_xid > pg_snapshot_xmax(pg_current_snapshot())::text::bigint, true) then
        update treadle.low_water w
            set next_low = candidate, next_xid = pg_current_xact_id()::text::bigint
            where w.name = mark;
    end if;
end $$;

-- Let the marks follow: of the lanes, their first visible row; of the leases, the oldest one. `whole`: look at each
-- lane from its start, and go back to rows that show again there (a row that was hidden by hand, one that was sent with
-- a delay).
create or replace function treadle.sweep(whole boolean default false) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
    v_oldest_open_xid constant bigint := treadle._oldest_open_xid();
    v_now constant timestamptz := treadle.clock();
    v_names text[];
    v_firsts bigint[];
    v_lease bigint;
begin
    if pg_current_xact_id_if_assigned() is not null or not pg_try_advisory_xact_lock(hashtext('treadle.sweep')) then
        return;
    end if;
    select array_agg(t.name),
            array_agg(treadle._lane_first(
                queue => q.queue, lane => l.lane, at => v_now,
                start => case when whole then 0 else treadle._low_water_mark(t.name) end))
        into v_names, v_firsts
        from treadle.queues q
        cross join (values ('high'), ('normal'), ('low')) l (lane)
        cross join treadle._lane_table(q.queue, l.lane) t (name);
    select l.id
        into v_lease
        from treadle.leases l
        where l.id >= treadle._low_water_mark('leases')
        order by l.id
        limit 1;
    if v_lease is null then
        select s.last_value + s.is_called::integer
            into v_lease
            from treadle.leases_id_seq s;
    end if;
    perform treadle._raise_low_water(mark => u.name, candidate => u.first, ended => v_oldest_open_xid)
        from unnest(v_names || 'leases'::text, v_firsts || v_lease) u (name, first);
end $$;
comment on function treadle.sweep is 'Let the low-water marks of lanes and leases follow their first rows';
