-- Statistics: what happened in each minute and each hour, by tenant, queue and agent.
--
-- Submits and ends of attempts note it in the deltas that they write into treadle.counters anyway.
-- treadle.fold_counters adds those to treadle.stat_rows. Lengths of time become counts of buckets, so that rows can be
-- added up and still tell percentiles. Nothing here reads messages or events, so what it costs does not depend on how
-- many there are.

-- The lower ends of the buckets, in seconds; the first bucket begins at 0.
create or replace function treadle._bucket_starts() returns double precision[]
language sql immutable parallel safe as $$
    select array[
        0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800, 3600, 7200,
        21600, 86400]::double precision[]
$$;

-- The bucket of a length of time, from 0 to 23. (One expression, so that the planner inlines it.)
create or replace function treadle._bucket(seconds double precision) returns smallint
language sql immutable parallel safe as $$
    select width_bucket(
        seconds,
        '{0.001,0.002,0.005,0.01,0.02,0.05,0.1,0.2,0.5,1,2,5,10,20,60,120,300,600,1800,3600,7200,21600,86400}'::
            double precision[])::smallint
$$;

-- The first of these values that is a number.
create or replace function treadle._number(usage jsonb, name text, other_name text) returns double precision
language sql immutable parallel safe as $$
    select case
        when jsonb_typeof(usage -> name) = 'number' then (usage ->> name)::double precision
        when jsonb_typeof(usage -> other_name) = 'number' then (usage ->> other_name)::double precision
    end
$$;

-- How often each bucket occurs; null: none does.
create or replace function treadle._histogram(buckets smallint[]) returns bigint[]
language sql immutable parallel safe as $$
    select case
        when buckets is not null then array(
            select count(u)
            from generate_series(0, 23) g
            left join unnest(buckets) u on u = g
            group by g
            order by g)
    end
$$;

-- Two histograms together.
create or replace function treadle._add_histograms(a bigint[], b bigint[]) returns bigint[]
language sql immutable parallel safe as $$
    select case
        when a is null or b is null then coalesce(a, b)
        else array(
            select coalesce(u.a, 0) + coalesce(u.b, 0)
            from unnest(a, b) with ordinality u (a, b, n)
            order by u.n)
    end
$$;

-- About the length of time below which this share of a histogram lies: in its bucket, the counts lie evenly.
create or replace function treadle._quantile(histogram bigint[], share double precision) returns double precision
language sql immutable parallel safe as $$
    select q.low + (q.high - q.low) * (q.wanted - q.before) / q.n
    from (
        select u.n,
            share * sum(u.n) over () as wanted,
            sum(u.n) over (order by u.bucket) - u.n as before,
            coalesce((treadle._bucket_starts())[u.bucket - 1], 0) as low,
            coalesce((treadle._bucket_starts())[u.bucket], 604800) as high
        from unnest(histogram) with ordinality u (n, bucket)
    ) q
    where q.n > 0
        and q.before + q.n >= q.wanted
    order by q.low
    limit 1
$$;

-- The rows of minutes that these deltas make.
create or replace function treadle._minutes_of(deltas treadle.counters[]) returns treadle.stat_rows[]
language sql stable as $$
    with noted as materialized (
        select d.*, date_bin(interval '1 minute', d.slot, timestamptz '2020-01-01 00:00:00+00') as at
        from unnest(deltas) d
    ), counted as (
        select n.tenant, n.at, n.queue, n.agent, coalesce(sum(n.submitted), 0) as submitted,
            sum(n.completed) as completed, sum(n.failed) as failed, coalesce(sum(n.retried), 0) as retried,
            sum(n.cancelled) as cancelled, coalesce(sum(n.lost), 0) as lost,
            coalesce(sum(n.input_tokens), 0) as input_tokens, coalesce(sum(n.output_tokens), 0) as output_tokens,
            coalesce(sum(n.cost), 0) as cost
        from noted n
        group by n.tenant, n.at, n.queue, n.agent
    ), measured as (
        select n.tenant, n.at, n.queue, n.agent,
            array_agg(u.wait) filter (where u.wait is not null) as waits,
            array_agg(u.run) filter (where u.run is not null) as runs,
            array_agg(u.first_chunk) filter (where u.first_chunk is not null) as first_chunks
        from noted n
        cross join lateral unnest(n.waits, n.runs, n.first_chunks) u (wait, run, first_chunk)
        group by n.tenant, n.at, n.queue, n.agent
    )
    select array_agg(row(
        c.tenant, 60, c.at, c.queue, c.agent, c.submitted, c.completed, c.failed, c.retried, c.cancelled, c.lost,
        treadle._histogram(m.waits), treadle._histogram(m.runs), treadle._histogram(m.first_chunks),
        c.input_tokens, c.output_tokens, c.cost)::treadle.stat_rows)
    from counted c
    left join measured m using (tenant, at, queue, agent)
$$;

-- Add rows of different minutes, or of one minute, to those of the statistics that have this length.
create or replace function treadle._add_minutes(minutes treadle.stat_rows[], row_seconds integer) returns void
language plpgsql as $$
begin
    insert into treadle.stat_rows as s (
        tenant, seconds, at, queue, agent, submitted, completed, failed, retried, cancelled, lost, waits, runs,
        first_chunks, input_tokens, output_tokens, cost)
    select r.tenant, row_seconds,
        date_bin(make_interval(secs => row_seconds), r.at, timestamptz '2020-01-01 00:00:00+00'), r.queue, r.agent,
        r.submitted, r.completed, r.failed, r.retried, r.cancelled, r.lost, r.waits, r.runs, r.first_chunks,
        r.input_tokens, r.output_tokens, r.cost
    from unnest(minutes) r
    on conflict (tenant, seconds, at, queue, agent) do update
    set submitted = s.submitted + excluded.submitted, completed = s.completed + excluded.completed,
        failed = s.failed + excluded.failed, retried = s.retried + excluded.retried,
        cancelled = s.cancelled + excluded.cancelled, lost = s.lost + excluded.lost,
        waits = treadle._add_histograms(s.waits, excluded.waits),
        runs = treadle._add_histograms(s.runs, excluded.runs),
        first_chunks = treadle._add_histograms(s.first_chunks, excluded.first_chunks),
        input_tokens = s.input_tokens + excluded.input_tokens,
        output_tokens = s.output_tokens + excluded.output_tokens, cost = s.cost + excluded.cost;
end $$;

-- Add what these deltas carry to the rows of their minutes and hours. An hour takes one minute after the other, because
-- an insert cannot change a row twice.
create or replace function treadle._add_stats(deltas treadle.counters[]) returns void
language plpgsql as $$
declare
    v_minutes constant treadle.stat_rows[] := treadle._minutes_of(deltas);
    v_at timestamptz;
begin
    perform treadle._add_minutes(minutes => v_minutes, row_seconds => 60);
    for v_at in
        select distinct m.at
        from unnest(v_minutes) m
    loop
        perform treadle._add_minutes(
            minutes => array(
                select m
                from unnest(v_minutes) m
                where m.at = v_at),
            row_seconds => 3600);
    end loop;
end $$;

-- Delete up to `quantity` rows that are older than they are kept; returns how many.
create or replace function treadle.purge_stats(quantity integer default 10000) returns integer
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    v_deleted integer;
begin
    delete from treadle.stat_rows s
    where s.ctid = any(array(
        select o.ctid
        from treadle.stat_rows o
        where (o.seconds = 60 and o.at < treadle.clock() - interval '8 days')
            or (o.seconds = 3600 and o.at < treadle.clock() - interval '400 days')
        limit quantity
        for update skip locked));
    get diagnostics v_deleted = row_count;
    return v_deleted;
end $$;
comment on function treadle.purge_stats(integer)
    is 'Delete a chunk of old rows of the statistics';

-- The rows of the statistics from `first` to before `past`, in steps of `step` seconds: those of one tenant or (null)
-- of all, of one queue, of one agent, and apart for each queue or agent where `by` says so. `step` null: one step.
-- Deliveries of webhooks count where a queue or an agent is named, but not among all messages.
create or replace function treadle._stat_steps(
    of_tenant text, queue text, agent text, first timestamptz, past timestamptz, step integer, row_seconds integer,
    by text)
returns table (at timestamptz, name text, r treadle.stat_rows)
language sql stable as $$
    select coalesce(date_bin(make_interval(secs => step), s.at, timestamptz '2020-01-01 00:00:00+00'), first),
        case by when 'queue' then s.queue when 'agent' then s.agent end, s
    from treadle.stat_rows s
    where s.seconds = row_seconds
        and s.at >= first
        and s.at < past
        and (of_tenant is null or s.tenant = of_tenant)
        and (_stat_steps.queue is null or s.queue = _stat_steps.queue)
        and (s.queue <> treadle._webhook_queue() or num_nonnulls(_stat_steps.queue, _stat_steps.agent, by) > 0)
        and (_stat_steps.agent is null or s.agent = _stat_steps.agent)
$$;

-- For each step from `first` to before `past` in which something happened: sums and percentiles (in seconds). Rows of
-- minutes are read for up to 26 hours, unless it begins with an hour and its steps are hours. Else those of hours are
-- read, and then a step has at least an hour. `step` null: one step from `first` to `past`.
create or replace function treadle.read_stats(
    of_tenant text, first timestamptz, past timestamptz, step integer default 60, queue text default null,
    agent text default null, by text default null)
returns table (at timestamptz, name text, submitted bigint, completed bigint, failed bigint, retried bigint,
    cancelled bigint, lost bigint, input_tokens double precision, output_tokens double precision,
    cost double precision, waits bigint[], runs bigint[], first_chunks bigint[])
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_custom_plan set enable_seqscan = off as $$
#variable_conflict use_column
declare
    v_row_seconds constant integer := case
        when past - first <= interval '26 hours' and first >= treadle.clock() - interval '8 days'
            and (coalesce(step % 3600 <> 0, false) or first <> date_trunc('hour', first))
            then 60
        else 3600
    end;
begin
    of_tenant := treadle._bound_tenant(of_tenant);
    return query
        with found as materialized (
            select s.*
            from treadle._stat_steps(
                of_tenant => of_tenant, queue => read_stats.queue, agent => read_stats.agent, first => first,
                past => past, step => case when step is not null then greatest(step, v_row_seconds) end,
                row_seconds => v_row_seconds, by => by) s
        ), counted as (
            select f.at, f.name, sum((f.r).submitted)::bigint, sum((f.r).completed)::bigint,
                sum((f.r).failed)::bigint, sum((f.r).retried)::bigint, sum((f.r).cancelled)::bigint,
                sum((f.r).lost)::bigint, sum((f.r).input_tokens), sum((f.r).output_tokens), sum((f.r).cost)
            from found f
            group by f.at, f.name
        ), buckets as (
            select f.at, f.name, u.bucket, sum(u.wait) as waits, sum(u.run) as runs, sum(u.first) as first_chunks
            from found f
            cross join lateral unnest((f.r).waits, (f.r).runs, (f.r).first_chunks) with ordinality
                u (wait, run, first, bucket)
            group by f.at, f.name, u.bucket
        ), measured as (
            select b.at, b.name, array_agg(coalesce(b.waits, 0)::bigint order by b.bucket) as waits,
                array_agg(coalesce(b.runs, 0)::bigint order by b.bucket) as runs,
                array_agg(coalesce(b.first_chunks, 0)::bigint order by b.bucket) as first_chunks
            from buckets b
            group by b.at, b.name
        )
        select c.*, m.waits, m.runs, m.first_chunks
        from counted c
        left join measured m on m.at = c.at and m.name is not distinct from c.name
        order by c.at, c.name;
end $$;
comment on function treadle.read_stats(
    text, timestamp with time zone, timestamp with time zone, integer, text, text, text)
    is 'Statistics in steps of time: sums, and histograms of waits and runs';

create or replace view treadle.stats with (security_invoker) as
    select s.at, s.seconds, s.tenant, s.queue, s.agent, s.submitted, s.completed, s.failed, s.retried, s.cancelled,
        s.lost, treadle._quantile(s.waits, 0.5) as wait_p50, treadle._quantile(s.waits, 0.95) as wait_p95,
        treadle._quantile(s.waits, 0.99) as wait_p99, treadle._quantile(s.runs, 0.5) as run_p50,
        treadle._quantile(s.runs, 0.95) as run_p95, treadle._quantile(s.runs, 0.99) as run_p99,
        treadle._quantile(s.first_chunks, 0.5) as first_chunk_p50,
        treadle._quantile(s.first_chunks, 0.95) as first_chunk_p95,
        treadle._quantile(s.first_chunks, 0.99) as first_chunk_p99, s.input_tokens, s.output_tokens, s.cost
    from treadle.stat_rows s;
comment on view treadle.stats is 'What happened in each minute and each hour, by tenant, queue and agent';
