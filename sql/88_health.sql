-- What can hold Treadle up: dead rows that vacuum cannot remove, a full queue of notifications, and a router that is
-- behind.
--
-- Rows that are claimed, finished and purged leave dead versions behind. While an old snapshot is open, vacuum can
-- remove none of them: calls stay fast (see treadle.low_water), but the tables grow. The janitor looks here and warns.

create or replace function treadle.vacuum_health(
    out dead_rows bigint, out table_name text, out snapshot_seconds double precision, out holder text)
language sql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select d.n_dead_tup, d.relid::regclass::text, s.seconds, s.holder
    from (select) always
    left join lateral (
        select t.n_dead_tup, t.relid
        from pg_stat_all_tables t
        where t.schemaname in ('treadle', 'pgmq')
            and t.n_dead_tup > t.n_live_tup / 10
        order by t.n_dead_tup desc
        limit 1
    ) d on true
    left join lateral (
        select extract(epoch from clock_timestamp() - h.since)::double precision as seconds, h.holder
        from (
            select a.xact_start as since,
                format('the transaction of process %s (%s)',
                    a.pid, coalesce(nullif(a.application_name, ''), a.usename)) as holder
            from pg_stat_activity a
            where a.backend_xmin is not null
                and a.backend_type = 'client backend'
                and a.datid = (select oid from pg_database where datname = current_database())
                and not exists (select from pg_stat_progress_vacuum v where v.pid = a.pid)
            union all
            select p.prepared, format('the prepared transaction %L', p.gid)
            from pg_prepared_xacts p
            where p.database = current_database()
        ) h
        order by h.since
        limit 1
    ) s on true
$$;
comment on function treadle.vacuum_health
    is 'The table with the most dead rows, and the age of the oldest snapshot that keeps such rows';

create or replace function treadle.notify_health(
    out usage double precision, out hints_sent boolean, out holder text)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    usage := pg_notification_queue_usage();
    hints_sent := usage < treadle._hint_limit();
    if hints_sent then
        return;
    end if;
    -- PostgreSQL does not show which session has read how far. A frozen one waits for its client to read; another one
    -- is in a transaction.
    select format('process %s (%s)', a.pid, coalesce(nullif(a.application_name, ''), a.usename))
    into holder
    from pg_stat_activity a
    where a.backend_type = 'client backend'
        and a.pid <> pg_backend_pid()
        and (a.wait_event = 'ClientWrite' or a.xact_start is not null)
    order by coalesce(a.xact_start, a.state_change)
    limit 1;
end $$;
comment on function treadle.notify_health
    is 'How full the queue of NOTIFY is, whether hints are sent, and which session probably keeps it full';

-- How long the oldest published record waits for its offset; null: none waits. The health check asks it: it reads one
-- row, however many subscriptions there are.
create or replace function treadle.records_waiting_seconds() returns double precision
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
begin
    return (
        select greatest(extract(epoch from treadle.clock() - q.enqueued_at), 0)
        from pgmq.q_treadle_inbox q
        where q.msg_id >= treadle._low_water_mark('inbox')
        order by q.msg_id
        limit 1);
end $$;
comment on function treadle.records_waiting_seconds
    is 'How long the oldest record waits for its offset; null: none waits';

-- The same, and how many records subscriptions that are not paused have not received: in the first 10,000 pairs of a
-- subscription and a topic that it reads.
create or replace function treadle.router_health(out waiting_seconds double precision, out undelivered bigint)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
begin
    waiting_seconds := treadle.records_waiting_seconds();
    undelivered := (
        select coalesce(sum(s.held), 0)
        from treadle.subscriptions s
        where not s.paused
    ) + (
        select coalesce(sum(greatest(e.next_offset - greatest(p.next_offset, t.first_offset), 0)), 0)
        from (
            select n.subscription, n.topic
            from treadle.subscriptions s
            join treadle.subscription_topics n on n.subscription = s.id
            where not s.paused
            order by n.subscription
            limit 10000
        ) j
        join treadle.topics t on t.id = j.topic and t.deleted_at is null
        cross join lateral treadle._position_of(j.subscription, j.topic) p
        cross join lateral treadle._topic_end(j.topic) e);
end $$;
comment on function treadle.router_health
    is 'How long the oldest record waits for its offset, and how many records subscriptions have not received';
