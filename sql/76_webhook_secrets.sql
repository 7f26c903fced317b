-- Secrets of webhooks and callbacks.
--
-- A secret signs and cannot be hashed, so no role reads the tables that hold one. It is shown when it is made. After a
-- rotation the former one signs as well for a while, so that a receiver can change to the new one at any time in it.

-- `whsec_` and 32 random bytes in base64.
create or replace function treadle._new_webhook_secret() returns text
language sql volatile as $$
    select 'whsec_' || encode(
        sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'base64')
$$;

-- These secrets with a new one before them. The old ones end after `grace_seconds`, unless they end sooner; a few of
-- them are kept.
create or replace function treadle._rotated_secrets(secrets jsonb, grace_seconds double precision, at timestamptz)
returns jsonb
language sql volatile as $$
    select jsonb_build_array(jsonb_build_object('secret', treadle._new_webhook_secret())) || coalesce(
        jsonb_agg(jsonb_build_object('secret', f.secret, 'until', f.until) order by f.n), '[]')
    from (
        select u.n, u.x ->> 'secret' as secret,
            least((u.x ->> 'until')::timestamptz, at + grace_seconds * interval '1 second') as until
        from jsonb_array_elements(secrets) with ordinality u (x, n)
        where u.n <= 4
    ) f
    where f.until > at
$$;

-- Those of the secrets that are valid, the newest first.
create or replace function treadle._valid_secrets(secrets jsonb) returns text[]
language sql stable as $$
    select array_agg(u.x ->> 'secret' order by u.n)
    from jsonb_array_elements(secrets) with ordinality u (x, n)
    where coalesce((u.x ->> 'until')::timestamptz > treadle.clock(), true)
$$;

-- Until when former secrets are valid; null: there are none.
create or replace function treadle._former_until(secrets jsonb) returns timestamptz
language sql stable as $$
    select max((u.x ->> 'until')::timestamptz)
    from jsonb_array_elements(secrets) u (x)
    where (u.x ->> 'until')::timestamptz > treadle.clock()
$$;

-- The secrets of a tenant's callbacks, which are made when they are first asked for. `grace_seconds`: make a new one,
-- and let the old ones sign as well for so long.
create or replace function treadle._callback_secrets(tenant text, grace_seconds double precision default null)
returns jsonb
language plpgsql as $$
#variable_conflict use_column
declare
    c_now constant timestamptz := treadle.clock();
    v_secrets jsonb;
begin
    if grace_seconds is null then
        select c.secrets into v_secrets
            from treadle.callback_secrets c
            where c.tenant = _callback_secrets.tenant;
        if found then
            return v_secrets;
        end if;
    end if;
    insert into treadle.callback_secrets as c (tenant, secrets)
        values (tenant, treadle._rotated_secrets(secrets => '[]', grace_seconds => 0, at => c_now))
        on conflict (tenant) do update
            set secrets = case
                when grace_seconds is null then c.secrets
                else treadle._rotated_secrets(
                    secrets => c.secrets, grace_seconds => _callback_secrets.grace_seconds, at => c_now)
            end
        returning c.secrets into v_secrets;
    return v_secrets;
end $$;

-- The secret that signs the callbacks of a tenant. `grace_seconds`: make a new one, and let the old ones sign as
-- well for so long; null: show it. Raises TR403, TR404.
create or replace function treadle.callback_secret(
    tenant text default 'default', grace_seconds double precision default null, actor text default null,
    out secret text, out former_until timestamptz)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
declare
    v_secrets jsonb;
begin
    perform treadle._limits_of_active(tenant);
    v_secrets := treadle._callback_secrets(tenant, grace_seconds);
    secret := v_secrets -> 0 ->> 'secret';
    former_until := treadle._former_until(v_secrets);
    perform treadle._audit(
        actor => actor, target => tenant, tenant => tenant, action => case
            when grace_seconds is null then 'callback_secret.show' else 'callback_secret.rotate' end,
        details => jsonb_strip_nulls(jsonb_build_object('former_until', former_until)));
end $$;
comment on function treadle.callback_secret(text, double precision, text)
    is 'Show or rotate the secret that signs a tenant''s callbacks; raises TR403, TR404';
