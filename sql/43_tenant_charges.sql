-- Charges: what a tenant wrote counts for its limits (42_limits.sql), at once or with the commit.

-- How many bytes count for a submitted message: of its input, its metadata, and those of its thread, also where the
-- thread has begun and keeps its own: which message is its first is not known yet.
create or replace function treadle._submitted_bytes(message jsonb) returns bigint
language sql immutable parallel safe as $$
    select coalesce(octet_length((message -> 'message')::text), 0)
        + coalesce(octet_length((message -> 'metadata')::text), 0)::bigint
        + coalesce(octet_length((message -> 'thread_metadata')::text), 0)
$$;

-- Charge a tenant for what this transaction wrote, and raise TR430 if it is beyond a limit, TR422 if it always will be.
-- The row stays locked until the transaction ends. `lock_timeout`: how long to wait for another transaction that has it
-- (null: as long as the session does). The detail of the 55P03 then is `tenant/`: callers of the tenant wait in one
-- line.
create or replace function treadle._charge_tenant(
    tenant text, messages bigint, records bigint, bytes bigint, at timestamptz, lock_timeout text default null)
returns void language plpgsql as $$
#variable_conflict use_column
declare
    c_limits constant jsonb := (
        select case when messages = 0 then t.in_force - 'queued' else t.in_force end
        from treadle.tenants t
        where t.tenant = _charge_tenant.tenant);
    c_step constant interval := treadle._seconds_apart(c_limits) * (messages + records) * interval '1 second';
    c_day constant date := (at at time zone 'UTC')::date;
    v record;
    v_problem text := treadle._size_problem(
        tenant => tenant, limits => c_limits, messages => messages + records, bytes => bytes);
    v_former_timeout text;
begin
    if v_problem is not null then
        raise exception using errcode = 'TR422', message = v_problem;
    end if;
    v_former_timeout := treadle._set_lock_timeout(lock_timeout);
    begin
        insert into treadle.tenant_use as u (tenant, arrival, day, bytes)
            values (_charge_tenant.tenant, at + c_step, c_day, _charge_tenant.bytes)
            on conflict (tenant) do update
                set arrival = treadle._arrival_at(u.arrival, at) + c_step,
                    day = c_day,
                    bytes = case when u.day = c_day then u.bytes else 0 end + excluded.bytes;
    exception
        when lock_not_available then
            raise exception using
                errcode = 'lock_not_available', detail = _charge_tenant.tenant || '/',
                message = 'Another transaction of this tenant is being counted for its limits: try again.';
    end;
    perform treadle._set_lock_timeout(v_former_timeout);
    v := treadle._use_of(tenant => _charge_tenant.tenant, at => at);
    v_problem := treadle._limit_problem(
        tenant => _charge_tenant.tenant, limits => c_limits, queued => v.queued, bytes => v.bytes, at => at,
        ahead => case when messages + records > 0 then v.ahead else 0 end);
    if v_problem is not null then
        raise exception using errcode = 'TR430', message = v_problem;
    end if;
end $$;

-- Charge a submit: now, if its transaction ends with the call, or else when it commits. A tenant's own login cannot say
-- that its transaction ends. Not `patient`: a charge now waits only a moment for another one of the tenant, because a
-- login of the tenant can make its own and stay open.
create or replace function treadle._charge_submit(
    submissions treadle.submission[], messages jsonb, tenant text, autocommit boolean, patient boolean, at timestamptz)
returns void language plpgsql as $$
declare
    c_of_login constant boolean := treadle._session_tenant() is not null;
    v_messages bigint;
    v_bytes bigint;
begin
    select count(*), coalesce(sum(treadle._submitted_bytes(messages -> (s.n - 1))), 0)
        into v_messages, v_bytes
        from unnest(submissions) s
        where treadle._is_charged(s, c_of_login);
    if v_messages = 0 then
        return;
    elsif autocommit and not c_of_login then
        perform treadle._charge_tenant(
            tenant => tenant, messages => v_messages, records => 0, bytes => v_bytes, at => at,
            lock_timeout => case when not patient then '20ms' end);
    else
        insert into treadle.late_charges (xid, tenant, messages, bytes)
            values (pg_current_xact_id()::text::bigint, tenant, v_messages, v_bytes);
    end if;
end $$;

-- Charge a publish: now or when its transaction commits, as a submit. A publish beyond a limit that is already used up
-- is refused now (TR430), and so is one that a limit never allows (TR422).
create or replace function treadle._charge_publish(
    tenant text, limits jsonb, records bigint, bytes bigint, autocommit boolean, at timestamptz)
returns void language plpgsql as $$
declare
    c_limits constant jsonb := limits - 'queued';
    v record := treadle._use_of(tenant => tenant, at => at);
    v_problem text := treadle._size_problem(
        tenant => tenant, limits => c_limits, messages => records, bytes => bytes);
begin
    if v_problem is not null then
        raise exception using errcode = 'TR422', message = v_problem;
    end if;
    v_problem := treadle._limit_problem(
        tenant => tenant, limits => c_limits, queued => 0,
        ahead => v.ahead + treadle._seconds_apart(c_limits) * records, bytes => v.bytes + bytes, at => at);
    if v_problem is not null then
        raise exception using errcode = 'TR430', message = v_problem;
    elsif autocommit and treadle._session_tenant() is null then
        perform treadle._charge_tenant(
            tenant => tenant, messages => 0, records => records, bytes => bytes, at => at);
        return;
    end if;
    insert into treadle.late_charges (xid, tenant, messages, records, bytes)
        values (pg_current_xact_id()::text::bigint, _charge_publish.tenant, 0, _charge_publish.records,
            _charge_publish.bytes);
end $$;

-- Charge a tenant for bytes that a call stores, which is no submit and no publish: metadata, a memory, an answer, a
-- schema. Not `patient`: now, because the transaction ends with the call; else when it commits. Raises TR422, TR430.
create or replace function treadle._charge_bytes(tenant text, bytes bigint, patient boolean) returns void
language plpgsql as $$
declare
    c_now constant timestamptz := treadle.clock();
    c_limits constant jsonb := (
        select jsonb_build_object('bytes_per_day', t.in_force -> 'bytes_per_day')
        from treadle.tenants t
        where t.tenant = _charge_bytes.tenant and t.in_force ? 'bytes_per_day');
    v_problem text;
begin
    if c_limits is null or coalesce(bytes, 0) = 0 then
        return;
    end if;
    v_problem := treadle._size_problem(tenant => tenant, limits => c_limits, messages => 0, bytes => bytes);
    if v_problem is not null then
        raise exception using errcode = 'TR422', message = v_problem;
    elsif not patient and treadle._session_tenant() is null then
        perform treadle._charge_tenant(
            tenant => tenant, messages => 0, records => 0, bytes => bytes, at => c_now, lock_timeout => '20ms');
        return;
    end if;
    v_problem := treadle._limit_problem(
        tenant => tenant, limits => c_limits, queued => 0, ahead => 0, at => c_now,
        bytes => (treadle._use_of(tenant => tenant, at => c_now)).bytes + _charge_bytes.bytes);
    if v_problem is not null then
        raise exception using errcode = 'TR430', message = v_problem;
    end if;
    insert into treadle.late_charges (xid, tenant, messages, records, bytes)
        values (pg_current_xact_id()::text::bigint, _charge_bytes.tenant, 0, 0, _charge_bytes.bytes);
end $$;

-- Charge all that this transaction wrote, tenant by tenant. `first` is charged before the others, and waits for another
-- transaction as `lock_timeout` says; the others wait a moment. Null: all are charged. Else the tenant whose charge
-- another transaction holds: none is charged, and none of the rows stays locked.
create or replace function treadle._try_late_charges(xid bigint, first text, lock_timeout text) returns text
language plpgsql as $$
declare
    v_held text;
begin
    perform treadle._charge_tenant(
            tenant => c.tenant, messages => c.messages, records => c.records, bytes => c.bytes, at => treadle.clock(),
            lock_timeout => case c.tenant when first then _try_late_charges.lock_timeout else '50ms' end)
        from (
            select l.tenant, sum(l.messages)::bigint as messages, sum(l.records)::bigint as records,
                sum(l.bytes)::bigint as bytes
            from treadle.late_charges l
            where l.xid = _try_late_charges.xid
            group by l.tenant
            order by l.tenant <> first, l.tenant
        ) c;
    return null;
exception
    when lock_not_available then
        get stacked diagnostics v_held = pg_exception_detail;
        return rtrim(v_held, '/');
end $$;

-- The trigger of treadle.late_charges. The first call of a transaction charges all of them; the next calls find none
-- left.
--
-- A tenant's login waits for the charge of its own tenant as long as it takes. A transaction of an operator may have
-- written for several tenants. What a login of one of them holds must not stop the submits of the others: so it waits
-- for a charge while it holds no other, for five seconds, and its commit fails after that (55P03).
create or replace function treadle._give_late_charges() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set lock_timeout = 0 as $$
declare
    c_of_login constant boolean := treadle._session_tenant() is not null;
    c_until constant timestamptz := clock_timestamp() + interval '5 seconds';
    v_first text := (select min(l.tenant) from treadle.late_charges l where l.xid = new.xid);
    v_held text;
begin
    while v_first is not null loop
        v_held := treadle._try_late_charges(
            xid => new.xid, first => v_first, lock_timeout => case when c_of_login then '0' else '5s' end);
        if v_held is not null and clock_timestamp() > c_until then
            raise exception using errcode = 'lock_not_available', detail = v_held || '/', message = format(
                'Another transaction of the tenant %L is being counted for its limits: try again.', v_held);
        end if;
        v_first := v_held;
    end loop;
    delete from treadle.late_charges l where l.xid = new.xid;
    return null;
end $$;
