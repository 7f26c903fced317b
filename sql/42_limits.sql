-- Limits of a tenant: how many of its messages may be queued and how many may run, how many it may submit in a minute,
-- and how many bytes in a UTC day. treadle.tenants.in_force has those that hold; null, for none, costs a submit
-- nothing. How many may run concerns claims: see 47_running.sql.
--
-- A submit looks at the limits first, without a lock, and refuses the messages beyond them (TR430), with TR422 what a
-- limit never allows. Then it charges what it wrote, under the lock of the tenant's row in treadle.tenant_use, and
-- looks again: so the limits are exact. The charge is the last thing before the commit. A transaction that may stay
-- open is charged when it commits: its commit fails where a limit is reached by then. Messages that messages send are
-- not charged. A tenant's login sends none: what it submits is charged, whichever parent it names.
--
-- A record that a client publishes counts as a message of the minute, and its bytes as those of the day. Publishes are
-- charged when they commit, so that publishers do not wait for each other while they write.
--
-- The bytes of a day also have what clients store by other calls: metadata and memory of threads, metadata of messages,
-- answers to questions, and schemas. The store has a limit of its own (77_store_calls.sql).
--
-- The rate is a theoretical arrival time (GCRA): each message moves `arrival` on by its part of the minute. A message
-- may come while that is at most a minute ahead, so a tenant that was quiet can submit a minute's worth at once. An
-- arrival further ahead was written before the clock was set back, and counts for nothing.

-- The limits that hold for a tenant with these of its own; null: none. `store_bytes` concerns no submits and no claims:
-- see 77_store_calls.sql.
create or replace function treadle._limits_in_force(limits jsonb) returns jsonb
language sql stable as $$
    select nullif(
        jsonb_strip_nulls(coalesce((
            select m.value::jsonb
            from treadle.meta m
            where m.name = 'tenant_limits'), '{}') || limits) - 'store_bytes',
        '{}')
$$;

-- The trigger of treadle.tenants.
create or replace function treadle._put_limits_in_force() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    new.in_force := treadle._limits_in_force(new.limits);
    return new;
end $$;

create or replace trigger tenants_limits before insert or update of limits
    on treadle.tenants for each row execute function treadle._put_limits_in_force();

-- Raises TR422 for limits that are not acceptable.
create or replace function treadle._check_limits(limits jsonb) returns void
language plpgsql immutable as $$
begin
    if exists (
        select
        from jsonb_each(case jsonb_typeof(limits) when 'object' then limits else '{"": 0}' end) l
        where l.key not in ('queued', 'running', 'per_minute', 'bytes_per_day', 'store_bytes')
            or case jsonb_typeof(l.value)
                when 'number' then l.value::text !~ '^[1-9][0-9]{0,14}$'  -- claims and submits cast it to bigint
                else l.value <> 'null'
            end)
    then
        raise exception using
            errcode = 'TR422',
            message = 'Limits must be an object with queued, running, per_minute, bytes_per_day and store_bytes: '
                'whole numbers from 1 to 999999999999999, or null.';
    end if;
end $$;

-- limits: {"queued", "running", "per_minute", "bytes_per_day", "store_bytes"}; a missing one does not limit.
create or replace function treadle.declare_tenant_limits(limits jsonb) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    perform treadle._check_limits(limits);
    insert into treadle.meta as m (name, value)
        values ('tenant_limits', jsonb_strip_nulls(declare_tenant_limits.limits)::text)
        on conflict (name) do update set value = excluded.value;
    update treadle.tenants t
        set limits = t.limits
        where t.in_force is distinct from treadle._limits_in_force(t.limits);
    perform treadle._hint('treadle_work', '*');  -- more may run
end $$;
comment on function treadle.declare_tenant_limits
    is 'Declare the limits of tenants that have none of their own; raises TR422';

-- limits: as above; they are added to those that the tenant has. Null: it has none of its own any more.
create or replace function treadle.limit_tenant(tenant text, limits jsonb, actor text default null) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
begin
    if limits is not null then
        perform treadle._check_limits(limits);
    end if;
    update treadle.tenants t
        set limits = case when limit_tenant.limits is null then '{}' else t.limits || limit_tenant.limits end
        where t.tenant = limit_tenant.tenant and t.deleted_at is null;
    if not found then
        perform treadle._raise_unknown_tenant(tenant);
    end if;
    perform treadle._audit(
        actor => actor, action => 'tenant.limit', target => tenant, tenant => tenant,
        details => coalesce(limit_tenant.limits, '{}'));
    perform treadle._hint('treadle_work', '*');  -- more may run
end $$;
comment on function treadle.limit_tenant(text, jsonb, text)
    is 'Give a tenant limits of its own; raises TR404, TR422';

-- max_queue_size: how many messages a queue may hold for submits of tenants' logins; null: any number.
create or replace function treadle.declare_queue_size(max_queue_size integer) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    delete from treadle.meta m where m.name = 'max_queue_size' and max_queue_size is null;
    insert into treadle.meta as m (name, value)
        select 'max_queue_size', declare_queue_size.max_queue_size::text
        where declare_queue_size.max_queue_size is not null
        on conflict (name) do update set value = excluded.value;
end $$;
comment on function treadle.declare_queue_size
    is 'Declare how many messages a queue may hold for submits of tenants'' own logins';

-- How many messages a queue may hold for a submit of this session, which names `asked`: for a tenant's login at most
-- the declared number.
create or replace function treadle._queue_size_of_session(asked integer) returns integer
language plpgsql stable as $$
begin
    if not treadle._is_bound_session() then
        return asked;
    end if;
    return least(asked, (select m.value::integer from treadle.meta m where m.name = 'max_queue_size'));
end $$;

-- The theoretical arrival time that holds at a time, for a stored one. A charge that waited for others may lie some
-- seconds before theirs.
create or replace function treadle._arrival_at(arrival timestamptz, at timestamptz) returns timestamptz
language sql immutable parallel safe as $$
    select case when arrival <= at + interval '2 minutes' then greatest(arrival, at) else at end
$$;

-- What a tenant used of its limits: `ahead` is how many seconds its theoretical arrival time lies in the future.
create or replace function treadle._use_of(
    tenant text, at timestamptz, out queued bigint, out ahead double precision, out bytes bigint)
language plpgsql stable as $$
begin
    queued := (
        select coalesce(sum(c.queued), 0)
        from treadle.counters c
        where c.tenant = _use_of.tenant and c.queue <> treadle._webhook_queue()
            and c.id >= treadle._low_water_mark('counters'));
    select extract(epoch from treadle._arrival_at(u.arrival, at) - at),
            case when u.day = (at at time zone 'UTC')::date then u.bytes end
        into ahead, bytes
        from treadle.tenant_use u
        where u.tenant = _use_of.tenant;
    ahead := coalesce(ahead, 0);
    bytes := coalesce(bytes, 0);
end $$;

-- Why the tenant may not have this use; null: it may.
create or replace function treadle._limit_problem(
    tenant text, limits jsonb, queued bigint, ahead double precision, bytes bigint, at timestamptz)
returns text language sql stable as $$
    select case
        when ahead > 60.000001 then format(
            'The tenant %L may submit %s in 60 seconds: try again in %s.', tenant,
            treadle._counted((limits ->> 'per_minute')::numeric, 'message'),
            treadle._counted(ceil(ahead - 60)::numeric, 'second'))
        when queued > (limits ->> 'queued')::bigint then format(
            'The tenant %L may have %s queued: try again in 5 seconds.', tenant,
            treadle._counted((limits ->> 'queued')::numeric, 'message'))
        when bytes > (limits ->> 'bytes_per_day')::bigint then format(
            'The tenant %L may store %s in 86400 seconds: try again in %s.', tenant,
            treadle._counted((limits ->> 'bytes_per_day')::numeric, 'byte'),
            treadle._counted(
                ceil(extract(epoch from date_trunc('day', at, 'UTC') + interval '24 hours' - at)), 'second'))
    end
$$;

-- Why the tenant may never submit or store so much at once; null: it may, if it waits.
create or replace function treadle._size_problem(tenant text, limits jsonb, messages bigint, bytes bigint) returns text
language sql stable as $$
    select case
        when messages > (limits ->> 'per_minute')::bigint then format(
            'The tenant %L may submit %s in 60 seconds, and never %s at once.', tenant,
            treadle._counted((limits ->> 'per_minute')::numeric, 'message'), messages)
        when messages > (limits ->> 'queued')::bigint then format(
            'The tenant %L may have %s queued, and never submits %s at once.', tenant,
            treadle._counted((limits ->> 'queued')::numeric, 'message'), messages)
        when bytes > (limits ->> 'bytes_per_day')::bigint then format(
            'The tenant %L may store %s in 86400 seconds, and never %s at once.', tenant,
            treadle._counted((limits ->> 'bytes_per_day')::numeric, 'byte'), bytes)
    end
$$;

-- The seconds that one message moves the theoretical arrival time on; 0 without a limit.
create or replace function treadle._seconds_apart(limits jsonb) returns double precision
language sql immutable parallel safe as $$
    select coalesce(60 / (limits ->> 'per_minute')::double precision, 0)
$$;

-- Whether a submission counts for the limits: whether a client submits it, and no message.
create or replace function treadle._is_charged(submission treadle.submission, of_login boolean) returns boolean
language sql immutable parallel safe as $$
    select submission.state is null and (submission.parent is null or of_login)
$$;

-- Refuse the submissions of clients that are beyond the limits of their tenant. `strict`: all of them are submitted or
-- none, so all of them together may be more than a limit ever allows.
create or replace function treadle._refuse_beyond_limits(
    submissions treadle.submission[], messages jsonb, tenant text, limits jsonb, strict boolean, at timestamptz)
returns treadle.submission[] language plpgsql as $$
declare
    c_apart constant double precision := treadle._seconds_apart(limits);
    c_of_login constant boolean := treadle._session_tenant() is not null;
    v record := treadle._use_of(tenant => tenant, at => at);
    v_submissions treadle.submission[] := '{}';
    v_submission treadle.submission;
    v_bytes bigint;
    v_total record;
    v_problem text;
begin
    select count(*) as messages, coalesce(sum(treadle._submitted_bytes(messages -> (s.n - 1))), 0)::bigint as bytes
        into v_total
        from unnest(submissions) s
        where strict and treadle._is_charged(s, c_of_login);
    v_problem := treadle._size_problem(
        tenant => tenant, limits => limits, messages => v_total.messages, bytes => v_total.bytes);
    if v_problem is not null then
        raise exception using errcode = 'TR422', message = v_problem;
    end if;
    foreach v_submission in array submissions loop
        if treadle._is_charged(v_submission, c_of_login) then
            v_bytes := treadle._submitted_bytes(messages -> (v_submission.n - 1));
            v_problem := treadle._size_problem(tenant => tenant, limits => limits, messages => 1, bytes => v_bytes);
            v_submission.refusal := coalesce(v_problem, treadle._limit_problem(
                tenant => tenant, limits => limits, queued => v.queued + 1, ahead => v.ahead + c_apart,
                bytes => v.bytes + v_bytes, at => at));
            if v_submission.refusal is not null then
                v_submission.state := 'refused';
                v_submission.refusal_code := case when v_problem is null then 'TR430' else 'TR422' end;
            else
                v.queued := v.queued + 1;
                v.ahead := v.ahead + c_apart;
                v.bytes := v.bytes + v_bytes;
            end if;
        end if;
        v_submissions := v_submissions || v_submission;
    end loop;
    return v_submissions;
end $$;

-- What limits a tenant, and what it used: null, where there is no limit.
create or replace function treadle.limits_of(
    tenant text default 'default', out queued bigint, out max_queued bigint, out running bigint,
    out max_running bigint, out submits_left bigint, out per_minute bigint, out bytes_today bigint,
    out bytes_per_day bigint)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
#variable_conflict use_variable
declare
    v_limits jsonb;
    v record;
begin
    tenant := treadle._bound_tenant(tenant);
    v_limits := (select t.in_force from treadle.tenants t where t.tenant = limits_of.tenant);
    v := treadle._use_of(tenant => limits_of.tenant, at => treadle.clock());
    queued := v.queued;
    max_queued := v_limits ->> 'queued';
    per_minute := v_limits ->> 'per_minute';
    submits_left := floor((60.000001 - v.ahead) / nullif(treadle._seconds_apart(v_limits), 0));
    bytes_today := v.bytes;
    bytes_per_day := v_limits ->> 'bytes_per_day';
    running := treadle._running_of(limits_of.tenant);
    max_running := v_limits ->> 'running';
end $$;
comment on function treadle.limits_of(text)
    is 'What limits a tenant, and what it used';
