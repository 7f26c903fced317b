-- Recovery and due messages: chores that every worker's janitor repeats. Each skips rows that another one has locked.
--
--   reap        takes back the messages of dead workers
--   admit_due   the ordinary end of a delay and of a backoff: admits the messages that are due

-- Whether a worker is dead is decided in two ways.
--   1. Its listener's advisory lock is free, on the server where the listener took it. That makes it a suspect. It is
--      dead if the lock is still free 1.25 intervals later, it sent no heartbeat in between, and the janitor did send
--      its own all that time. So a cut connection alone is not a death, nor is a server that lets no client in.
--   2. Its heartbeat is older than worker_timeout, and the janitor has sent heartbeats without a gap for at least as
--      long. So the silence is the worker's and not the database's.
-- Leases of unknown workers, and leases past their expires_at, are taken back by the second rule.

-- Since when the janitor has sent heartbeats without a gap; null if it has not.
create or replace function treadle._steady_since(janitor text, interval_seconds double precision, at timestamptz)
returns timestamptz
language sql stable as $$
    select w.beating_since
    from treadle.workers w
    where w.worker_id = janitor
        and w.heartbeat_at >= at - interval_seconds * 2 * interval '1 second'
$$;

-- Let the heartbeats and suspicions of the future, from before the clock was set back, begin now.
create or replace function treadle._follow_clock_back(at timestamptz) returns void
language plpgsql as $$
begin
    update treadle.workers w
    set heartbeat_at = least(w.heartbeat_at, _follow_clock_back.at), suspected_at = null
    where w.worker_id in (
        select s.worker_id
        from treadle.workers s
        where greatest(s.heartbeat_at, s.suspected_at) > _follow_clock_back.at + interval '1 second'
        order by s.worker_id
        for update skip locked);
end $$;

-- Whether a worker's advisory lock is free. Any login role can take an advisory lock: one that a tenant's session holds
-- counts as free.
create or replace function treadle._worker_lock_is_free(worker text) returns boolean
language sql volatile as $$
    select pg_try_advisory_xact_lock(treadle.worker_key(worker))
        or (
            exists (select from treadle.sql_roles)
            and not exists (
                select
                from pg_locks l
                join pg_stat_activity a on a.pid = l.pid
                where l.locktype = 'advisory'
                    and l.granted
                    and l.objsubid = 1
                    and l.database = (select d.oid from pg_database d where d.datname = current_database())
                    and (l.classid::bigint << 32 | l.objid::bigint) = treadle.worker_key(worker)
                    and not exists (select from treadle.sql_roles r where r.role = a.usename))
        )
$$;

-- Mark workers as suspects whose advisory lock is free.
create or replace function treadle._suspect_workers(janitor text, steady_since timestamptz, at timestamptz) returns void
language plpgsql as $$
begin
    update treadle.workers w
    set suspected_at = at
    where w.worker_id in (
        select s.worker_id
        from treadle.workers s
        where s.worker_id <> janitor
            and (s.suspected_at is null or s.suspected_at < steady_since)
            and s.server_started = pg_postmaster_start_time()
            and steady_since is not null
            and treadle._worker_lock_is_free(s.worker_id)
        order by s.worker_id
        for update of s skip locked);
end $$;

-- The dead workers, with their rows locked: a worker that sends a heartbeat just now is skipped, and one that returns
-- waits until its leases are taken back. `silent_before`: a heartbeat before this time is too old; null if the
-- janitor itself was not steady for that long. `suspected_before`: a suspect since before this time is dead.
create or replace function treadle._dead_workers(
    janitor text, steady_since timestamptz, silent_before timestamptz, suspected_before timestamptz)
returns setof text
language sql volatile as $$
    select w.worker_id
    from treadle.workers w
    where w.worker_id <> janitor
        and (
            w.heartbeat_at < silent_before
            or (
                w.server_started = pg_postmaster_start_time()
                and w.suspected_at >= steady_since
                and w.suspected_at <= suspected_before
                and treadle._worker_lock_is_free(w.worker_id)
            )
        )
    order by w.worker_id
    for update of w skip locked
$$;

create or replace function treadle.reap(
    janitor text, interval_seconds double precision, worker_timeout double precision, max_losses integer,
    quantity integer default 1000)
returns table (message_id uuid, worker text, thread bigint, queue text)
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off as $$
#variable_conflict use_column
declare
    c_reason constant text := 'The worker was lost.';
    v_now constant timestamptz := treadle.clock();
    v_silent_before constant timestamptz := v_now - worker_timeout * interval '1 second';
    v_suspected_before constant timestamptz := v_now - interval_seconds * 1.25 * interval '1 second';
    v_steady_since constant timestamptz := treadle._steady_since(janitor, interval_seconds, v_now);
    v_is_steady constant boolean := coalesce(v_steady_since <= v_silent_before, false);
    v_low constant bigint := treadle._low_water_mark('leases');
    v_worker text;
    v_leases treadle.leases[];
begin
    perform treadle._follow_clock_back(at => v_now);
    perform treadle._suspect_workers(janitor, steady_since => v_steady_since, at => v_now);
    for v_worker in
        select w
        from treadle._dead_workers(
            janitor => janitor,
            steady_since => v_steady_since,
            silent_before => case when v_is_steady then v_silent_before end,
            suspected_before => v_suspected_before) w
    loop
        v_leases := array(
            select l
            from treadle.leases l
            where l.id >= v_low
                and l.worker_id = v_worker
            order by l.id
            limit quantity);
        return query
            select m.message_id, v_worker, m.thread, m.queue
            from treadle._settle_leases(
                chosen => v_leases, outcome => 'lost', reason => c_reason, max_losses => max_losses, at => v_now) t
            join treadle.messages m on m.message_id = t;
        delete from treadle.workers w
        where w.worker_id = v_worker
            and not exists (select from treadle.leases l where l.id >= v_low and l.worker_id = v_worker);
    end loop;
    if v_is_steady then
        v_leases := treadle._stale_leases(
            silent_before => v_silent_before, low => v_low, quantity => quantity, at => v_now);
        return query
            select m.message_id, null::text, m.thread, m.queue
            from treadle._settle_leases(
                chosen => v_leases, outcome => 'lost', reason => c_reason, max_losses => max_losses, at => v_now) t
            join treadle.messages m on m.message_id = t;
    end if;
end $$;
comment on function treadle.reap(text, double precision, double precision, integer, integer)
    is 'Take the messages of dead workers back and charge each a loss; returns them';

-- Leases that no heartbeat extends: expired ones, and those of workers that do not exist.
create or replace function treadle._stale_leases(
    silent_before timestamptz, low bigint, quantity integer, at timestamptz)
returns treadle.leases[]
language sql stable as $$
    select array(
        select l
        from treadle.leases l
        where l.id >= low
            and (
                l.expires_at < at
                or (
                    l.claimed_at not between silent_before and at + (at - silent_before)
                    and not exists (select from treadle.workers w where w.worker_id = l.worker_id)
                )
            )
        order by l.id
        limit quantity)
$$;

-- The queues of these messages.
create or replace function treadle._queues_of(ids uuid[]) returns text[]
language plpgsql stable as $$
begin
    return array(
        select distinct m.queue
        from treadle.messages m
        where m.message_id = any(ids));
end $$;

-- Where the search for due messages begins: below it no message waits for its time. An old snapshot keeps the index
-- entries of all messages that ever waited. The mark follows the first one that still does, at least ten seconds
-- behind, because a transaction reads the clock a while before it commits. treadle._lower_due_mark finds the messages
-- of transactions that took longer.
create or replace function treadle._due_mark(at timestamptz) returns timestamptz
language sql stable as $$
    select case
        when w.low < extract(epoch from at - interval '10 seconds') * 1000000
            then timestamptz 'epoch' + w.low * interval '1 microsecond'
        else '-infinity'  -- also after the clock was set back
    end
    from (select treadle._low_water_mark('due') as low) w
$$;

-- Let the mark follow `first`, the first message that waits for its time and is due; null: no message is due.
create or replace function treadle._raise_due_mark(first timestamptz, at timestamptz) returns void
language plpgsql as $$
declare
    c_behind constant interval := '10 seconds';
    c_worth_a_write constant bigint := case when first is null then 60000000 else 1000000 end;  -- microseconds
    v_mark constant bigint := treadle._low_water_mark('due');
    v_next constant bigint := extract(epoch from least(first, at - c_behind)) * 1000000;
begin
    if abs(v_next - v_mark) > c_worth_a_write then
        update treadle.low_water w
            set low = v_next
            where w.name = 'due' and w.low = v_mark;
    end if;
end $$;

-- Let the mark fall to the first message that waits for its time: it was written by a transaction that stayed open.
create or replace function treadle._lower_due_mark() returns void
language plpgsql as $$
begin
    update treadle.low_water w
        set low = f.first
        from (
            select (extract(epoch from min(m.run_at)) * 1000000)::bigint as first
            from treadle.messages m
            where m.hold in ('delay', 'backoff')
        ) f
        where w.name = 'due' and w.low > f.first;
end $$;

-- Up to `quantity` due messages, with their threads and themselves locked; null if there are none. Messages whose
-- thread another transaction holds are passed over, however many they are.
create or replace function treadle._lock_due(quantity integer, at timestamptz) returns uuid[]
language plpgsql as $$
declare
    v_run_at timestamptz := treadle._due_mark(at);
    v_last uuid := treadle.uuid_at('epoch');
    v_first timestamptz;
    v_due uuid[];
    v_threads bigint[];
    v_locked uuid[];
begin
    loop
        select array_agg(d.message_id order by d.run_at, d.message_id), min(d.run_at)
        into v_due, v_first
        from (
            select m.message_id, m.run_at
            from treadle.messages m
            where m.hold in ('delay', 'backoff')
                and m.run_at <= at
                and (m.run_at, m.message_id) > (v_run_at, v_last)
            order by m.run_at, m.message_id
            limit quantity
        ) d;
        if v_threads is null and treadle._sees_commits() then
            perform treadle._raise_due_mark(first => v_first, at => at);
        end if;
        if v_due is null then
            return null;
        end if;
        select m.run_at, m.message_id
        into v_run_at, v_last
        from treadle.messages m
        where m.message_id = v_due[cardinality(v_due)];
        v_threads := array(
            select t.id
            from treadle.threads t
            where t.id in (select m.thread from treadle.messages m where m.message_id = any(v_due))
            order by t.id
            for no key update skip locked);
        v_locked := array(
            select m.message_id
            from treadle.messages m
            where m.message_id = any(v_due)
                and coalesce(m.hold, '') in ('delay', 'backoff')  -- coalesce keeps the planner off messages_due
                and m.run_at <= at
                and (m.thread is null or m.thread = any(v_threads))
            order by m.message_id
            for update skip locked);
        if v_locked <> '{}' then
            return v_locked;
        end if;
    end loop;
end $$;

-- `admitted`: how many messages were admitted or set aside; if many, call again. `queues`: where there may be messages
-- to claim now.
create or replace function treadle.admit_due(
    quantity integer default 1000, out admitted integer, out queues text[])
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
declare
    v_now constant timestamptz := treadle.clock();
    v_shares constant record := treadle._tend_shares(quantity => quantity, at => v_now);
    v_due constant uuid[] := treadle._lock_due(quantity, at => v_now);
    v_threads bigint[];  -- threads in which delayed messages take their place
    v_placed uuid[];     -- those messages
begin
    admitted := cardinality(v_shares.admitted) + v_shares.aside + coalesce(cardinality(v_due), 0);
    if admitted > 0 then
        queues := treadle._queues_of(v_shares.admitted || v_due);
    end if;
    if v_due is null then
        return;
    end if;
    with placed as (
        update treadle.messages m
        set hold = 'thread'
        where m.message_id = any(v_due)
            and coalesce(m.hold, '') = 'delay'
            and m.thread is not null
            and not m.aside
        returning m.message_id, m.thread
    )
    select array_agg(distinct p.thread), array_agg(p.message_id)
    into v_threads, v_placed
    from placed p;
    perform treadle._admit(
        (select array_agg(d) from unnest(v_due) d where v_placed is null or not d = any(v_placed)), v_now);
    if v_threads is not null then
        perform treadle._wait_at_old_places(v_placed);
        perform treadle._promote(v_threads, v_now);
    end if;
end $$;
comment on function treadle.admit_due(integer)
    is 'The ordinary end of a delay or a backoff: admit due messages to their lane, or to their place in the thread';
