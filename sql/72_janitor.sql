-- The janitor's chores. Every worker does them; each passes over what another is at.
--
-- reap: what dead workers held · admit_due: what is due · fold_counters · mend_lanes: the net under everything · purge: what is past its
-- time. (sweep is with the lanes, in 20_lanes.sql, vacuum_health in 75_watch.sql.)

-- Reap: take the messages of dead workers back, a loss charged. A worker is dead when
--   its listener's lock was found free, on the very server it was taken on, and is free still 1.25 intervals later without a beat in
--   between, while the janitor has beaten all the time: a connection that is cut is no death yet, and a server that lets nobody in is
--   no death at all; or
--   its heartbeat is older than worker_timeout, and the janitor itself has beaten without a gap for as long, up to now: then the silence
--   is the worker's and not the database's.
-- The same goes for leases of workers nobody knows, and for leases whose visibility timeout no heartbeat pushed on.
create or replace function treadle.reap(janitor text, interval_seconds double precision, worker_timeout double precision, max_losses integer, quantity integer default 1000)
returns table (message_id uuid, worker text)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := treadle.clock();
    v_server constant timestamptz := pg_postmaster_start_time();
    -- Since when the janitor has beaten without a gap, up to now; null: it has not.
    v_since constant timestamptz := (select w.beating_since from treadle.workers w
        where w.worker_id = janitor and w.heartbeat_at >= v_now - interval_seconds * 2 * interval '1 second');
    v_steady constant boolean := coalesce(v_since <= v_now - worker_timeout * interval '1 second', false);
    v_low constant bigint := treadle._mark('leases');
    v_worker text;
    v_chosen treadle.leases[];
begin
    update treadle.workers w set suspected_at = v_now where w.worker_id in (
        select w.worker_id from treadle.workers w
        where w.worker_id <> janitor and (w.suspected_at is null or w.suspected_at < v_since) and w.server_started = v_server
            and v_since is not null
            and pg_try_advisory_xact_lock(treadle.worker_key(w.worker_id))
        order by w.worker_id for update of w skip locked);
    -- Its row is held meanwhile: a worker that beats just now is left alone, and one that comes back waits for the verdict.
    for v_worker in
        select w.worker_id from treadle.workers w
        where w.worker_id <> janitor and (
            (v_steady and w.heartbeat_at < v_now - worker_timeout * interval '1 second')
            or (w.server_started = v_server and w.suspected_at >= v_since and w.suspected_at <= v_now - interval_seconds * 1.25 * interval '1 second'
                and pg_try_advisory_xact_lock(treadle.worker_key(w.worker_id))))
        order by w.worker_id for update of w skip locked
    loop
        v_chosen := array(select l from treadle.leases l where l.id >= v_low and l.worker_id = v_worker limit quantity);
        return query select t, v_worker from treadle._take_back(v_chosen, 'lost', 'The worker was lost.', max_losses, v_now) t;
        delete from treadle.workers w where w.worker_id = v_worker and not exists (select from treadle.leases l where l.id >= v_low and l.worker_id = v_worker);
    end loop;
    if v_steady then
        v_chosen := array(
            select l from treadle.leases l
            where l.id >= v_low and (l.expires_at < v_now
                or (l.claimed_at < v_now - worker_timeout * interval '1 second'
                    and not exists (select from treadle.workers w where w.worker_id = l.worker_id)))
            limit quantity);
        return query select t, null::text from treadle._take_back(v_chosen, 'lost', 'The worker was lost.', max_losses, v_now) t;
    end if;
end $$;
comment on function treadle.reap is 'Take the messages of dead workers back, a loss charged';

-- Admit what is due: delayed messages (of a thread: to their place in it) and those whose backoff is over.
create or replace function treadle.admit_due(quantity integer default 1000) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_now constant timestamptz := treadle.clock();
    v_threads bigint[];
    v_ids uuid[];
    v_placed uuid[];   -- delayed ones that took their place in their thread
    v_moved bigint[];
    v_last record;
begin
    -- Those whose thread somebody holds locked are passed over, however many they are.
    select '-infinity'::timestamptz as run_at, treadle.uuid_at('epoch') as message_id into v_last;
    loop
        select array_agg(d.message_id order by d.run_at, d.message_id) into v_ids from (
            select m.message_id, m.run_at from treadle.messages m
            where m.hold in ('delay', 'backoff') and m.run_at <= v_now and (m.run_at, m.message_id) > (v_last.run_at, v_last.message_id)
            order by m.run_at, m.message_id limit quantity) d;
        if v_ids is null then
            return 0;
        end if;
        select m.run_at, m.message_id into v_last from treadle.messages m where m.message_id = v_ids[cardinality(v_ids)];
        select array_agg(t.id) into v_threads from (
            select t.id from treadle.threads t where t.id in (select m.thread from treadle.messages m where m.message_id = any(v_ids))
            order by t.id for no key update skip locked) t;
        select array_agg(d.message_id) into v_ids from (
            select m.message_id from treadle.messages m
            where m.message_id = any(v_ids) and m.hold in ('delay', 'backoff') and m.run_at <= v_now
                and (m.thread is null or m.thread = any(v_threads))
            order by m.message_id for update skip locked) d;
        exit when v_ids is not null;
    end loop;
    with moved as (
        update treadle.messages m set hold = 'thread'
        where m.message_id = any(v_ids) and m.hold = 'delay' and m.thread is not null and not m.aside
        returning m.message_id, m.thread
    )
    select array_agg(distinct m.thread), array_agg(m.message_id) into v_moved, v_placed from moved m;
    perform treadle._admit((select array_agg(u) from unnest(v_ids) u where v_placed is null or not u = any(v_placed)), v_now);
    if v_moved is not null then
        perform treadle._promote(v_moved, v_now);
    end if;
    return coalesce(cardinality(v_ids), 0);
end $$;
comment on function treadle.admit_due is 'Give delayed and backed-off messages whose time has come their lane row; returns how many';

create or replace function treadle._folded_slot(slot timestamptz, at timestamptz) returns timestamptz
language sql immutable parallel safe as $$
    select case when slot < at - interval '5 minutes' then '-infinity' else slot end
$$;

-- Fold the counters: many deltas become one row for each queue and ten seconds, and one for all that is over five minutes old.
-- Does nothing where that would change nothing.
create or replace function treadle.fold_counters(quantity integer default 20000) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
    v_now constant timestamptz := treadle.clock();
    v_ended constant bigint := treadle._ended();
    v_low constant bigint := treadle._mark('counters');
    v_rows integer;
    v_worth boolean;
begin
    if not pg_try_advisory_xact_lock(hashtext('treadle.fold_counters')) then
        return 0;
    end if;
    if pg_current_xact_id_if_assigned() is null then
        perform treadle._raise_low_water('counters', (select min(c.id) from treadle.counters c where c.id >= v_low), v_ended);
    end if;
    select count(*) > count(distinct (c.tenant, c.queue, c.folded)) or bool_or(c.slot <> c.folded) into v_worth
        from (select *, treadle._folded_slot(c.slot, v_now) as folded from treadle.counters c where c.id >= v_low order by c.id limit quantity) c;
    v_rows := 0;
    if v_worth then
        with gone as (
            delete from treadle.counters c where c.id in (select c.id from treadle.counters c where c.id >= v_low order by c.id limit quantity)
            returning c.tenant, c.queue, treadle._folded_slot(c.slot, v_now) as slot, c.queued, c.processing, c.completed, c.failed, c.cancelled, c.run_seconds
        ), kept as (
            insert into treadle.counters (tenant, queue, slot, queued, processing, completed, failed, cancelled, run_seconds)
            select g.tenant, g.queue, g.slot, sum(g.queued), sum(g.processing), sum(g.completed), sum(g.failed), sum(g.cancelled), sum(g.run_seconds)
            from gone g group by g.tenant, g.queue, g.slot
        )
        select count(*) into v_rows from gone;
    end if;
    return v_rows;
end $$;
comment on function treadle.fold_counters is 'Fold counter deltas together; sums stay what they were';

-- The net under everything: of the `quantity` messages after `after`, those that should be in a lane and are not get a new row.
-- Returns the last message looked at, null at the end of the table.
create or replace function treadle.mend_lanes(after uuid, quantity integer default 5000, out last uuid, out mended integer)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_now constant timestamptz := treadle.clock();
    v record;
    v_lost bigint[];
    v_ids uuid[];
begin
    mended := 0;
    select m.message_id into last from (
        select m.message_id from treadle.messages m where after is null or m.message_id > after order by m.message_id limit quantity) m
        order by m.message_id desc limit 1;
    for v in
        select m.queue, m.lane, array_agg(m.lane_id) as lane_ids from treadle.messages m
        where (after is null or m.message_id > after) and m.message_id <= last and m.state = 'queued' and m.hold is null
        group by m.queue, m.lane
    loop
        select array_agg(l) into v_lost from treadle._lane_missing(v.queue, v.lane, v.lane_ids) l;
        continue when v_lost is null;
        with again as (
            update treadle.messages m set lane_id = treadle._lane_next(m.queue, m.lane)
            where m.message_id in (
                select m.message_id from treadle.messages m
                where (after is null or m.message_id > after) and m.message_id <= last and m.state = 'queued' and m.hold is null
                    and m.queue = v.queue and m.lane = v.lane and m.lane_id = any(v_lost)
                order by m.message_id for update skip locked)
            returning m.*
        ), sent as (
            select treadle._lane_insert(
                    lane_rows => array_agg(row(a.queue, a.lane, a.lane_id, treadle._lane_body(a))::treadle.lane_row), at => v_now),
                count(*) as n
            from again a having count(*) > 0
        )
        select mended + coalesce(sum(s.n), 0) into mended from sent s;
    end loop;
end $$;
comment on function treadle.mend_lanes is 'Give runnable messages whose lane row is gone (a purged PGMQ queue) a new one';

-- Purge what is past its time, a little at a time, in the order of time: threads whole, by their last activity; standalone messages by
-- completion; dead letters by a time of their own; idempotency keys after 24 hours; and what lies in the trash. One janitor purges at a
-- time, the others are told that there is nothing. A call looks at `quantity` messages and as many threads, or a few more of one
-- millisecond, from `after` on; `last` is how far it came, null where there was nothing more to look at. What was kept is not looked at
-- again until somebody begins anew, without `after`. Returns how many messages, keys and events from the trash went.
create or replace function treadle.purge(retention_hours double precision, dead_letter_hours double precision, after uuid default null,
    quantity integer default 2000, out purged integer, out last uuid)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_now constant timestamptz := treadle.clock();
    c_ever constant double precision := 8766000;  -- a thousand years; timestamps end
    v_until constant timestamptz := v_now - least(retention_hours, c_ever) * interval '1 hour';
    v_dead_until constant timestamptz := v_now - least(dead_letter_hours, c_ever) * interval '1 hour';
    v_from constant timestamptz := coalesce(treadle._time_of(after), '-infinity');
    v_to timestamptz;     -- threads that were last active before it are looked at
    v_threads bigint[] := '{}';
    v_ids uuid[] := '{}';
    v record;
begin
    purged := 0;
    if not pg_try_advisory_xact_lock(hashtext('treadle.purge')) then
        return;
    end if;
    delete from treadle.idempotency i where (i.tenant, i.key) in (
        select k.tenant, k.key from treadle.idempotency k where k.created_at < v_now - interval '24 hours' limit quantity for update skip locked);
    get diagnostics purged = row_count;
    purged := purged + treadle._empty_trash(quantity * 25);
    -- Ids sort by time of creation: only the old end of the table is looked at.
    select o.message_id into last from (
        select m.message_id from treadle.messages m
        where m.message_id < treadle.uuid_at(greatest(v_until, v_dead_until)) and (after is null or m.message_id > after)
        order by m.message_id limit quantity) o order by o.message_id desc limit 1;
    select date_trunc('milliseconds', t.last_activity) + interval '1 millisecond' into v_to
        from treadle._thread_tenants() a (tenant)
        cross join lateral (
            select t.last_activity from treadle.threads t where t.tenant = a.tenant and t.last_activity >= v_from and t.last_activity < v_until
            order by t.last_activity limit quantity) t
        order by t.last_activity offset quantity - 1 limit 1;
    if v_to is not null then
        last := least(last, treadle.uuid_at(v_to));
    end if;
    for v in
        select t.id, t.last_activity from treadle.threads t
        where t.tenant in (select treadle._thread_tenants()) and t.last_activity >= v_from and t.last_activity < least(v_to, v_until)
            and t.last_ord = t.completed + t.failed + t.cancelled
            and (t.failed = 0 or t.last_activity < v_dead_until)
        order by t.last_activity
        for update skip locked
    loop
        v_threads := v_threads || v.id;
        v_ids := v_ids || array(select m.message_id from treadle.messages m where m.thread = v.id);
        if cardinality(v_ids) >= quantity then
            last := least(last, treadle.uuid_at(date_trunc('milliseconds', v.last_activity)));  -- the rest is for the next call
            exit;
        end if;
    end loop;
    delete from treadle.thread_log l where l.thread = any(v_threads);
    delete from treadle.threads t where t.id = any(v_threads);
    purged := purged + treadle._forget(v_ids || array(
        select m.message_id from treadle.messages m
        where (after is null or m.message_id > after) and m.message_id <= last and m.thread is null
            -- Who waits for it may still ask.
            and not exists (select from treadle.messages p where p.message_id = m.parent and p.state in ('queued', 'processing'))
            and m.completed_at < case when m.state = 'failed' then v_dead_until else v_until end
        order by m.message_id for update skip locked), quantity * 25);
end $$;
comment on function treadle.purge is 'Delete a chunk of what is past its time; call again with the `last` it returned';

-- The tenants that have threads, read by skipping from one to the next in the index.
create or replace function treadle._thread_tenants() returns setof text
language sql stable as $$
    with recursive tenants (tenant) as (
        (select t.tenant from treadle.threads t order by t.tenant limit 1)
        union all
        select (select t.tenant from treadle.threads t where t.tenant > n.tenant order by t.tenant limit 1)
        from tenants n
        where n.tenant is not null
    )
    select n.tenant from tenants n where n.tenant is not null
$$;

-- The time that is in an id.
create or replace function treadle._time_of(id uuid) returns timestamptz
language sql immutable parallel safe as $$
    select timestamptz 'epoch' + ('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint * interval '1 millisecond'
$$;

-- Delete messages with their leases and lane rows, and up to `quantity` of their events, the shorter logs first. The rest is for the
-- trash: however long a log is, its message is gone at once. The caller holds their threads.
create or replace function treadle._forget(ids uuid[], quantity integer) returns integer
language plpgsql as $$
declare
    v_ids uuid[]; v_seqs integer[];
    v_lane_rows treadle.lane_row[];
    v_short uuid[];
begin
    perform from treadle.leases l where l.message_id = any(ids) order by l.message_id for update;
    with gone as (
        delete from treadle.messages m where m.message_id = any(ids) returning m.message_id, m.last_seq, m.queue, m.lane, m.lane_id, m.state
    ), counted as (
        insert into treadle.counters (queue, slot, queued, processing, completed, failed, cancelled)
        select g.queue, '-infinity', -count(*) filter (where g.state = 'queued'), -count(*) filter (where g.state = 'processing'),
            -count(*) filter (where g.state = 'completed'), -count(*) filter (where g.state = 'failed'), -count(*) filter (where g.state = 'cancelled')
        from gone g group by g.queue
    )
    select array_agg(g.message_id), array_agg(g.last_seq), array_agg(row(g.queue, g.lane, g.lane_id, null)::treadle.lane_row)
        into v_ids, v_seqs, v_lane_rows from gone g;
    if v_ids is null then
        return 0;
    end if;
    -- Without its lease nobody appends to a log any more: now its end is known.
    with freed as (
        delete from treadle.leases l where l.message_id = any(v_ids) returning l.message_id, l.last_seq
    ), logs as (
        select g.id, g.last_seq, sum(g.last_seq) over (order by g.last_seq, g.id) as total
        from (select u.id, coalesce(f.last_seq, u.last_seq) as last_seq
            from unnest(v_ids, v_seqs) u (id, last_seq) left join freed f on f.message_id = u.id) g
    ), long as (
        insert into treadle.trash (message_id, last_seq) select l.id, l.last_seq from logs l where l.total > quantity
    )
    select array_agg(l.id) into v_short from logs l where l.total <= quantity;
    delete from treadle.events e where e.message_id = any(v_short);
    perform treadle._lane_delete(lane_rows => v_lane_rows);
    return cardinality(v_ids);
end $$;

-- Delete up to `quantity` events of what lies in the trash: of many short logs, else of one long one from where the last call stopped,
-- so that nobody walks over what is deleted already. Returns how many.
create or replace function treadle._empty_trash(quantity integer) returns integer
language plpgsql as $$
declare
    v_short uuid[];
    v treadle.trash;
    v_count integer;
begin
    select array_agg(t.message_id) into v_short from (
        select t.message_id, sum(t.last_seq) over (order by t.message_id) as total from (
            select * from treadle.trash t where t.last_seq <= quantity order by t.message_id limit quantity for update skip locked) t) t
        where t.total <= quantity;
    if v_short is not null then
        delete from treadle.events e where e.message_id = any(v_short);
        get diagnostics v_count = row_count;
        delete from treadle.trash t where t.message_id = any(v_short);
        return v_count;
    end if;
    select * into v from treadle.trash t order by t.message_id limit 1 for update skip locked;
    if not found then
        return 0;
    end if;
    delete from treadle.events e where e.message_id = v.message_id and e.seq > v.deleted_seq and e.seq <= v.deleted_seq + quantity;
    get diagnostics v_count = row_count;
    if v.deleted_seq + quantity < v.last_seq then
        update treadle.trash t set deleted_seq = v.deleted_seq + quantity where t.message_id = v.message_id;
    else
        delete from treadle.trash t where t.message_id = v.message_id;
    end if;
    return v_count;
end $$;
