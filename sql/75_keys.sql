-- API keys, and the secret that signs access tokens.
--
-- The service makes the secret of a key and shows it once; here only its SHA-256 arrives. Each API process keeps the
-- keys that it meets in memory: the channel treadle_keys names those that changed.

-- Lock a key of this tenant (null: of any). Raises TR404.
create or replace function treadle._lock_key(key_id text, of_tenant text) returns treadle.keys
language plpgsql as $$
#variable_conflict use_column
declare
    v_key treadle.keys;
begin
    select *
    into v_key
    from treadle.keys k
    where k.key_id = _lock_key.key_id
        and (_lock_key.of_tenant is null or k.tenant = _lock_key.of_tenant)
    for no key update;
    if not found then
        raise exception using errcode = 'TR404', message = format('There is no key %L.', _lock_key.key_id);
    end if;
    return v_key;
end $$;

-- A tenant has at most 1,000 keys. Ended keys count too. At the limit a new key replaces the oldest ended one. Raises
-- TR409 where none has ended.
create or replace function treadle._make_room_for_key(tenant text) returns void
language plpgsql as $$
#variable_conflict use_column
declare
    c_most constant bigint := 1000;
    c_has constant bigint := (select count(*) from treadle.keys k where k.tenant = _make_room_for_key.tenant);
begin
    delete from treadle.keys k
    where k.key_id = (
        select o.key_id
        from treadle.keys o
        where c_has >= c_most
            and o.tenant = _make_room_for_key.tenant
            and (o.revoked_at is not null or o.expires_at < treadle.clock())
        order by o.created_at
        limit 1);
    if not found then
        perform treadle._refuse_more(has => c_has, most => c_most, what => 'keys', advice => 'revoke one');
    end if;
end $$;

-- Raises TR404 for an unknown tenant, TR409 where it has too many keys, or there is one of this id.
create or replace function treadle.create_key(
    key_id text, secret_hash bytea, tenant text, name text, scopes text[], agents text[] default null,
    expires_seconds double precision default null, actor text default null,
    out created_at timestamptz, out expires_at timestamptz)
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
#variable_conflict use_column
begin
    if not treadle._has_tenant(create_key.tenant) then
        perform treadle._raise_unknown_tenant(create_key.tenant);
    end if;
    perform
    from treadle.tenants t
    where t.tenant = create_key.tenant
    for no key update;
    perform treadle._make_room_for_key(create_key.tenant);
    created_at := treadle.clock();
    expires_at := created_at + create_key.expires_seconds * interval '1 second';
    insert into treadle.keys (
        key_id, tenant, name, secret_hash, scopes, agents, created_at, created_by, expires_at)
    values (
        create_key.key_id, create_key.tenant, create_key.name, create_key.secret_hash, create_key.scopes,
        create_key.agents, create_key.created_at, coalesce(create_key.actor, 'role ' || session_user),
        create_key.expires_at)
    on conflict do nothing;
    if not found then
        raise exception using errcode = 'TR409', message = format('There is a key %L already.', create_key.key_id);
    end if;
    perform treadle._audit(
        actor => create_key.actor, action => 'key.create', target => create_key.key_id, tenant => create_key.tenant,
        details => jsonb_build_object(
            'name', create_key.name, 'scopes', create_key.scopes, 'agents', create_key.agents,
            'expires_at', create_key.expires_at));
end $$;
comment on function treadle.create_key(text, bytea, text, text, text[], text[], double precision, text)
    is 'Store a new API key';

-- The keys of a tenant (null: of all), the newest first. `before_at` and `before_key`: those of the last key of the
-- page before.
create or replace function treadle.list_keys(
    of_tenant text default null, quantity integer default 1000, before_at timestamptz default null,
    before_key text default null)
returns table (
    key_id text, tenant text, name text, scopes text[], agents text[], created_at timestamptz, created_by text,
    expires_at timestamptz, revoked_at timestamptz, former_until timestamptz, last_used_at timestamptz)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_custom_plan as $$
#variable_conflict use_column
begin
    return query
        select k.key_id, k.tenant, k.name, k.scopes, k.agents, k.created_at, k.created_by, k.expires_at, k.revoked_at,
            case when k.former_until > treadle.clock() then k.former_until end, k.last_used_at
        from treadle.keys k
        where (list_keys.of_tenant is null or k.tenant = list_keys.of_tenant)
            and (before_at is null or (k.created_at, k.key_id) < (before_at, before_key))
        order by k.created_at desc, k.key_id desc
        limit quantity;
end $$;
comment on function treadle.list_keys(text, integer, timestamptz, text)
    is 'The API keys without their secrets, the newest first';

-- From now on neither the key nor a token that it made is valid; again it changes nothing. Raises TR404.
create or replace function treadle.revoke_key(key_id text, of_tenant text default null, actor text default null)
returns timestamptz
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
#variable_conflict use_column
declare
    v_key treadle.keys;
begin
    v_key := treadle._lock_key(revoke_key.key_id, revoke_key.of_tenant);
    if v_key.revoked_at is not null then
        return v_key.revoked_at;
    end if;
    v_key.revoked_at := treadle.clock();
    update treadle.keys k
    set revoked_at = v_key.revoked_at
    where k.key_id = v_key.key_id;
    perform treadle._audit(
        actor => revoke_key.actor, action => 'key.revoke', target => v_key.key_id, tenant => v_key.tenant,
        details => jsonb_build_object('name', v_key.name));
    perform treadle._hint('treadle_keys', v_key.key_id);
    return v_key.revoked_at;
end $$;
comment on function treadle.revoke_key(text, text, text)
    is 'End an API key, with the tokens that it made';

-- Give a key another secret. The old one stays valid for `grace_seconds`; the one before it ends now. Raises
-- TR404, and TR409 where the key is revoked.
create or replace function treadle.rotate_key(
    key_id text, secret_hash bytea, grace_seconds double precision, of_tenant text default null,
    actor text default null)
returns table (tenant text, name text, scopes text[], agents text[], expires_at timestamptz, former_until timestamptz)
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
#variable_conflict use_column
declare
    v_key treadle.keys;
begin
    v_key := treadle._lock_key(rotate_key.key_id, rotate_key.of_tenant);
    if v_key.revoked_at is not null then
        raise exception using errcode = 'TR409', message = format(
            'The key %L is revoked: create another one.', v_key.key_id);
    end if;
    v_key.former_until := treadle.clock() + rotate_key.grace_seconds * interval '1 second';
    update treadle.keys k
    set former_hash = k.secret_hash, former_until = v_key.former_until, secret_hash = rotate_key.secret_hash
    where k.key_id = v_key.key_id;
    perform treadle._audit(
        actor => rotate_key.actor, action => 'key.rotate', target => v_key.key_id, tenant => v_key.tenant,
        details => jsonb_build_object('name', v_key.name, 'former_until', v_key.former_until));
    perform treadle._hint('treadle_keys', v_key.key_id);
    return query
        select v_key.tenant, v_key.name, v_key.scopes, v_key.agents, v_key.expires_at, v_key.former_until;
end $$;
comment on function treadle.rotate_key(text, bytea, double precision, text, text)
    is 'Give an API key another secret; the old one ends later';

-- What a process needs to check the callers with these keys; no row for an unknown key. A key of a deleted tenant
-- counts as revoked. `seconds_left`: until the key expires, below 0 where it has; `former_seconds_left`: the same of
-- its secret before the last rotation.
create or replace function treadle.find_keys(key_ids text[])
returns table (
    key_id text, tenant text, name text, scopes text[], agents text[], secret_hash bytea, former_hash bytea,
    revoked boolean, seconds_left double precision, former_seconds_left double precision)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := treadle.clock();
begin
    return query
        select k.key_id, k.tenant, k.name, k.scopes, k.agents, k.secret_hash, k.former_hash,
            k.revoked_at is not null or not treadle._has_tenant(k.tenant),
            extract(epoch from k.expires_at - v_now)::double precision,
            extract(epoch from k.former_until - v_now)::double precision
        from treadle.keys k
        where k.key_id = any(find_keys.key_ids);
end $$;
comment on function treadle.find_keys is 'What checks the callers with these keys';

-- When tenants were created, in microseconds since 1970; no row for one that is unknown or being deleted.
create or replace function treadle.find_tenants(names text[]) returns table (tenant text, since bigint)
language sql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select t.tenant, (extract(epoch from t.created_at) * 1000000)::bigint
    from treadle.tenants t
    where t.tenant = any(names)
        and t.deleted_at is null
$$;
comment on function treadle.find_tenants is 'When tenants were created; what checks JWTs';

-- Note that these keys were used. Processes call it now and then, each for all keys that it met.
create or replace function treadle.note_key_uses(key_ids text[]) returns void
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    v_now constant timestamptz := treadle.clock();
begin
    update treadle.keys k
    set last_used_at = v_now
    where k.key_id in (
        select o.key_id
        from treadle.keys o
        where o.key_id = any(note_key_uses.key_ids)
            and (o.last_used_at is null or abs(extract(epoch from v_now - o.last_used_at)) >= 60)
        order by o.key_id
        for no key update skip locked);
end $$;
comment on function treadle.note_key_uses is 'Note when keys were last used, at most once a minute';

-- A secret of the installation; the first call makes it. gen_random_uuid has 122 random bits.
create or replace function treadle._secret(name text) returns bytea
language plpgsql as $$
#variable_conflict use_column
declare
    v_secret constant bytea := (select s.value from treadle.secrets s where s.name = _secret.name);
begin
    if v_secret is null then
        insert into treadle.secrets (name, value, created_at)
        values (
            _secret.name,
            sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())),
            treadle.clock())
        on conflict (name) do nothing;
        return (select s.value from treadle.secrets s where s.name = _secret.name);
    end if;
    return v_secret;
end $$;

create or replace function treadle.signing_secret() returns bytea
language sql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select treadle._secret('access tokens')
$$;
comment on function treadle.signing_secret is 'The secret that signs access tokens';

-- Every SQL user can listen to hints, and can send them: without the secret it can neither read nor forge the names of
-- instances that treadle.drop_instance sends to workers.
create or replace function treadle.instance_secret() returns bytea
language sql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select treadle._secret('instances')
$$;
comment on function treadle.instance_secret is 'The secret in the names of warm instances';

-- Note that the principal `actor` made an access token.
create or replace function treadle.note_token(actor text, tenant text, target text, details jsonb) returns void
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
begin
    perform treadle._audit(
        actor => note_token.actor, action => 'token.create', target => note_token.target,
        tenant => note_token.tenant, details => note_token.details);
end $$;
comment on function treadle.note_token is 'Note in the audit that an access token was made';
