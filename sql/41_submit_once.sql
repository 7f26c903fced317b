-- Submit once: under an Idempotency-Key, a call that is repeated receives the first answer.

-- Raises TR422 for a key or a hash that cannot be kept. (A login of a tenant chooses both.)
create or replace function treadle._check_once(key text, request_hash bytea) returns void
language plpgsql immutable as $$
declare
    c_problem constant text := case
        when coalesce(length(key) not between 1 and 255, true)
            then 'Idempotency-Key must be a text of 1 to 255 characters.'
        when coalesce(octet_length(request_hash) > 1024, true)
            then 'request_hash must be a hash of the request, such as its SHA-256: at most 1024 bytes.'
    end;
begin
    if c_problem is not null then
        raise exception using errcode = 'TR422', message = c_problem;
    end if;
end $$;

-- Submit under an Idempotency-Key of the principal: the first call's answer is kept for 24 hours, and a caller that
-- repeats the call receives it again. A call that finds the first one still running, or a thread held, waits two
-- seconds for it, then fails with lock_not_available (55P03). Not `patient`: it waits a moment for the first one, and
-- for no thread.
create or replace function treadle.submit_once(
    key text,
    request_hash bytea,
    messages jsonb,
    tenant text default 'default',
    max_queue_size integer default null,
    autocommit boolean default false,
    patient boolean default true,
    reach jsonb default null,
    out answer jsonb,
    out repeated boolean)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := treadle.clock();
    v_restriction constant bytea := treadle._restriction(reach);
    v_first_hash bytea;
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    perform treadle._check_once(key => key, request_hash => request_hash);
    if not patient then
        perform treadle._set_lock_timeout('50ms');
    end if;
    insert into treadle.idempotency as i (tenant, restriction, key, request_hash, created_at)
        values (submit_once.tenant, v_restriction, submit_once.key, submit_once.request_hash, v_now)
        on conflict (tenant, restriction, key) do update
            set request_hash = excluded.request_hash, answer = null, created_at = v_now
            where i.created_at < v_now - interval '24 hours';
    repeated := not found;
    if repeated then
        select i.request_hash, i.answer
            into v_first_hash, answer
            from treadle.idempotency i
            where i.tenant = submit_once.tenant and i.restriction = v_restriction and i.key = submit_once.key;
        if v_first_hash <> submit_once.request_hash then
            raise exception using errcode = 'TR422', message = 'This Idempotency-Key was used with another body.';
        end if;
        return;
    end if;
    select coalesce(jsonb_agg(to_jsonb(s) order by s.n), '[]')
        into answer
        from treadle.submit_many(messages => messages, tenant => submit_once.tenant,
            max_queue_size => max_queue_size, patient => patient, autocommit => autocommit, reach => reach) s;
    update treadle.idempotency i
        set answer = submit_once.answer
        where i.tenant = submit_once.tenant and i.restriction = v_restriction and i.key = submit_once.key;
end $$;
comment on function treadle.submit_once(text, bytea, jsonb, text, integer, boolean, boolean, jsonb)
    is 'Submit under an Idempotency-Key: a repeat gets the first answer';

-- The answer to the first call of a principal under an Idempotency-Key; null: no call was answered yet, or it had
-- another body. For a repeat that would be refused by now, because its agent or its topic has another schema.
create or replace function treadle.first_answer(
    key text, request_hash bytea, tenant text default 'default', reach jsonb default null)
returns jsonb language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    return (
        select i.answer
        from treadle.idempotency i
        where i.tenant = first_answer.tenant
            and i.restriction = treadle._restriction(reach)
            and i.key = first_answer.key
            and i.request_hash = first_answer.request_hash
            and i.created_at >= treadle.clock() - interval '24 hours');
end $$;
comment on function treadle.first_answer(text, bytea, text, jsonb)
    is 'The answer to the first call under an Idempotency-Key';

-- The first message that a principal has submitted under an Idempotency-Key; null: none, or it is just being submitted.
create or replace function treadle.submitted_once(key text, tenant text default 'default', reach jsonb default null)
returns uuid language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    return (
        select (i.answer -> 0 ->> 'message_id')::uuid
        from treadle.idempotency i
        where i.tenant = submitted_once.tenant
            and i.restriction = treadle._restriction(reach)
            and i.key = submitted_once.key);
end $$;
comment on function treadle.submitted_once(text, text, jsonb)
    is 'The first message that was submitted under an Idempotency-Key';
