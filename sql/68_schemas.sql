-- The schema registry: subjects, their versions, and the schemas themselves by id.
--
-- The service parses and compares schemas (service/schemas/); here they are stored, numbered and deleted. All changes
-- of a tenant's schemas are made one after another, under the lock of its row in treadle.schema_ends.

-- Lock the schemas of a tenant. Raises TR404 and TR403 for a tenant that is unknown or suspended.
create or replace function treadle._lock_schemas(tenant text) returns void
language plpgsql as $$
#variable_conflict use_column
begin
    perform treadle._limits_of_active(_lock_schemas.tenant);
    insert into treadle.schema_ends (tenant, next_id)
    values (_lock_schemas.tenant, 1)
    on conflict (tenant) do nothing;
    perform from treadle.schema_ends e
        where e.tenant = _lock_schemas.tenant
        for update;
end $$;

-- The value of a rule for a subject: its own, else that of all subjects; null: neither has one.
create or replace function treadle.schema_rule(
    subject text, rule text, tenant text default 'default', inherited boolean default true)
returns text
language sql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select r.value
    from treadle.schema_rules r
    where r.tenant = schema_rule.tenant
        and r.rule = schema_rule.rule
        and (r.subject = schema_rule.subject or (schema_rule.inherited and r.subject = ''))
    order by r.subject desc
    limit 1
$$;
comment on function treadle.schema_rule(text, text, text, boolean)
    is 'The compatibility or the mode of a subject; null: no rule, so the default';

-- Set the rule of a subject ('': of all subjects without their own); null removes it. Returns the former value. Raises
-- TR409 for a subject more than the tenant may have.
create or replace function treadle.set_schema_rule(
    subject text, rule text, value text, tenant text default 'default', actor text default null)
returns text
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
#variable_conflict use_column
declare
    v_former text;
begin
    perform treadle._lock_schemas(set_schema_rule.tenant);
    v_former := treadle.schema_rule(
        set_schema_rule.subject, set_schema_rule.rule, tenant => set_schema_rule.tenant, inherited => false);
    if set_schema_rule.value is not distinct from v_former then
        return v_former;
    end if;
    if set_schema_rule.subject <> '' and set_schema_rule.value is not null then
        perform treadle._refuse_more_subjects(set_schema_rule.subject, tenant => set_schema_rule.tenant);
    end if;
    delete from treadle.schema_rules r
    where r.tenant = set_schema_rule.tenant
        and r.subject = set_schema_rule.subject
        and r.rule = set_schema_rule.rule;
    if set_schema_rule.value is not null then
        insert into treadle.schema_rules (tenant, subject, rule, value)
        values (set_schema_rule.tenant, set_schema_rule.subject, set_schema_rule.rule, set_schema_rule.value);
    end if;
    perform treadle._audit(
        actor => actor, action => 'schema.rule', target => set_schema_rule.subject, tenant => set_schema_rule.tenant,
        details => jsonb_build_object(set_schema_rule.rule, set_schema_rule.value));
    return v_former;
end $$;
comment on function treadle.set_schema_rule(text, text, text, text, text)
    is 'Set the compatibility or the mode of a subject, or of all';

-- The id of a schema; a new one for a schema that the tenant does not have, which is charged for its bytes.
create or replace function treadle._schema_id(
    tenant text, kind text, body text, refs jsonb, extras jsonb, descriptor bytea, digest uuid)
returns integer
language plpgsql as $$
#variable_conflict use_column
declare
    v_id integer;
begin
    select s.schema_id
    into v_id
    from treadle.schemas s
    where s.tenant = _schema_id.tenant
        and s.digest = _schema_id.digest;
    if v_id is null then
        update treadle.schema_ends e
        set next_id = e.next_id + 1
        where e.tenant = _schema_id.tenant
        returning e.next_id - 1 into v_id;
        insert into treadle.schemas (tenant, schema_id, kind, schema, refs, extras, descriptor, digest, created_at)
        values (
            _schema_id.tenant, v_id, _schema_id.kind, _schema_id.body, _schema_id.refs, _schema_id.extras,
            _schema_id.descriptor, _schema_id.digest, treadle.clock());
        perform treadle._charge_bytes(
            tenant => _schema_id.tenant, patient => false,
            bytes => octet_length(body) + octet_length(refs::text) + coalesce(octet_length(extras::text), 0)
                + coalesce(octet_length(descriptor), 0));
    end if;
    return v_id;
end $$;

-- Make a schema the next version of a subject. If a version of the subject has it already, that is the answer.
--   latest  the newest version (0: none) when the caller checked the compatibility. Another one has come since: the
--           answer is null, and the caller checks again
-- Raises TR422 where a reference does not exist, TR409 where the subject is read-only, or the tenant or the subject has
-- as many subjects or versions as it may have.
create or replace function treadle.register_schema(
    subject text, kind text, body text, digest uuid, latest integer, refs jsonb default '[]',
    extras jsonb default null, descriptor bytea default null, tenant text default 'default', out schema_id integer,
    out version integer)
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
#variable_conflict use_column
declare
    v_missing jsonb;
begin
    perform treadle._lock_schemas(register_schema.tenant);
    select v.schema_id, v.version
    into schema_id, version
    from treadle.schema_versions v
    join treadle.schemas s on s.tenant = v.tenant and s.schema_id = v.schema_id
    where v.tenant = register_schema.tenant
        and v.subject = register_schema.subject
        and s.digest = register_schema.digest
        and v.deleted_at is null
    order by v.version desc
    limit 1;
    if found then
        return;
    end if;
    if latest <> treadle._latest_schema(register_schema.tenant, register_schema.subject) then
        return;
    end if;
    if treadle.schema_rule(register_schema.subject, 'mode', tenant => register_schema.tenant) = 'READONLY' then
        raise exception using errcode = 'TR409', message = format(
            'The subject %L is read-only: set its mode to READWRITE first.', register_schema.subject);
    end if;
    v_missing := treadle._missing_references(register_schema.tenant, register_schema.refs);
    if v_missing is not null then
        raise exception using errcode = 'TR422', message = format(
            'There is no schema %s to refer to: register it first.', v_missing);
    end if;
    perform treadle._refuse_more_subjects(register_schema.subject, tenant => register_schema.tenant),
        treadle._refuse_more_versions(register_schema.subject, tenant => register_schema.tenant);
    schema_id := treadle._schema_id(
        tenant => register_schema.tenant, kind => register_schema.kind, body => register_schema.body,
        refs => register_schema.refs, extras => register_schema.extras, descriptor => register_schema.descriptor,
        digest => register_schema.digest);
    insert into treadle.schema_versions (tenant, subject, version, schema_id, created_at)
    select register_schema.tenant, register_schema.subject, coalesce(max(v.version), 0) + 1, register_schema.schema_id,
        treadle.clock()
    from treadle.schema_versions v
    where v.tenant = register_schema.tenant
        and v.subject = register_schema.subject
    returning schema_versions.version into version;
end $$;
comment on function treadle.register_schema(text, text, text, uuid, integer, jsonb, jsonb, bytea, text)
    is 'Make a schema, which the service has checked, the next version of a subject';

-- The newest version of a subject; 0: none.
create or replace function treadle._latest_schema(tenant text, subject text) returns integer
language sql stable as $$
    select coalesce(max(v.version), 0)
    from treadle.schema_versions v
    where v.tenant = _latest_schema.tenant
        and v.subject = _latest_schema.subject
        and v.deleted_at is null
$$;

-- The first of these references to which there is no version; null: all exist.
create or replace function treadle._missing_references(tenant text, refs jsonb) returns jsonb
language sql stable as $$
    select r.value
    from jsonb_array_elements(refs) r
    where not exists (
        select
        from treadle.schema_versions v
        where v.tenant = _missing_references.tenant
            and v.subject = r.value ->> 'subject'
            and v.version = (r.value ->> 'version')::integer)
    limit 1
$$;

-- The schemas that refer to a version of a subject (null: to any); with `deleted`, also those of deleted versions only.
create or replace function treadle.schema_references(
    subject text, version integer, tenant text default 'default', deleted boolean default false)
returns integer[]
language sql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select array(
        select s.schema_id
        from treadle.schemas s
        where s.tenant = schema_references.tenant
            and s.refs @> jsonb_build_array(jsonb_strip_nulls(
                jsonb_build_object('subject', schema_references.subject, 'version', schema_references.version)))
            and exists (
                select
                from treadle.schema_versions v
                where v.tenant = s.tenant
                    and v.schema_id = s.schema_id
                    and (schema_references.deleted or v.deleted_at is null))
        order by s.schema_id)
$$;
comment on function treadle.schema_references(text, integer, text, boolean)
    is 'The ids of the schemas that refer to a version of a subject';

-- The subject whose newest version the records of a topic must fit; null: none, or no such topic that the principal may
-- publish to.
create or replace function treadle.topic_subject(topic text, tenant text default 'default', reach jsonb default null)
returns text
language sql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select t.schema_subject
    from treadle.topics t
    where t.tenant = topic_subject.tenant
        and t.topic = topic_subject.topic
        and t.deleted_at is null
        and not coalesce(treadle._checked_reach(reach) ?| array['thread_id', 'message_id'], false)
$$;
comment on function treadle.topic_subject(text, text, jsonb)
    is 'The subject whose schema the records of a topic must fit; null: none';

-- The same for several topics: those that have a subject.
create or replace function treadle.topic_subjects(
    topics text[], tenant text default 'default', reach jsonb default null)
returns table (topic text, subject text)
language sql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select u.topic, s.subject
    from (select distinct unnest(topics) as topic) u
    cross join lateral treadle.topic_subject(
        topic => u.topic, tenant => topic_subjects.tenant, reach => topic_subjects.reach) s (subject)
    where s.subject is not null
$$;
comment on function treadle.topic_subjects(text[], text, jsonb)
    is 'The subjects whose schemas the records of several topics must fit';

-- Delete a version of a subject, or (null) all of them; returns their numbers. A deleted version is no longer found by
-- its subject, but by its schema_id; with `permanent`, which follows an ordinary deletion, it is gone, and so is a
-- schema that was in no other version. Raises TR404 without a version to delete, TR409 where another schema refers
-- to one.
create or replace function treadle.delete_schemas(
    subject text, version integer default null, permanent boolean default false, tenant text default 'default',
    actor text default null)
returns integer[]
language plpgsql security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
#variable_conflict use_column
declare
    v_versions integer[];
begin
    perform treadle._lock_schemas(delete_schemas.tenant);
    v_versions := array(
        select v.version
        from treadle.schema_versions v
        where v.tenant = delete_schemas.tenant
            and v.subject = delete_schemas.subject
            and (delete_schemas.version is null or v.version = delete_schemas.version)
            and (v.deleted_at is not null) = delete_schemas.permanent
        order by v.version);
    if v_versions = '{}' or (
        delete_schemas.permanent
        and delete_schemas.version is null
        and treadle._latest_schema(delete_schemas.tenant, delete_schemas.subject) > 0)
    then
        raise exception using errcode = 'TR404', message = format(
            'The subject %L has no such version to delete.', delete_schemas.subject);
    end if;
    if treadle.schema_references(
        delete_schemas.subject, delete_schemas.version, tenant => delete_schemas.tenant,
        deleted => delete_schemas.permanent) <> '{}'
    then
        raise exception using errcode = 'TR409', message = format(
            'Another schema refers to the subject %L: delete that one first.', delete_schemas.subject);
    end if;
    perform treadle._delete_versions(
        tenant => delete_schemas.tenant, subject => delete_schemas.subject, versions => v_versions,
        permanent => delete_schemas.permanent);
    perform treadle._audit(
        actor => actor, action => 'schema.delete', target => delete_schemas.subject, tenant => delete_schemas.tenant,
        details => jsonb_build_object('versions', v_versions, 'permanent', delete_schemas.permanent));
    return v_versions;
end $$;
comment on function treadle.delete_schemas(text, integer, boolean, text, text)
    is 'Delete a version of a subject, or all; raises TR404, TR409';

-- Mark versions as deleted or, where they are, delete them with the schemas that no version has any more.
create or replace function treadle._delete_versions(
    tenant text, subject text, versions integer[], permanent boolean)
returns void
language plpgsql as $$
#variable_conflict use_column
declare
    v_schemas integer[];
begin
    if not permanent then
        update treadle.schema_versions v
        set deleted_at = treadle.clock()
        where v.tenant = _delete_versions.tenant
            and v.subject = _delete_versions.subject
            and v.version = any(versions);
        return;
    end if;
    with deleted as (
        delete from treadle.schema_versions v
        where v.tenant = _delete_versions.tenant
            and v.subject = _delete_versions.subject
            and v.version = any(versions)
        returning v.schema_id
    )
    select array_agg(d.schema_id)
    into v_schemas
    from deleted d;
    delete from treadle.schemas s
    where s.tenant = _delete_versions.tenant
        and s.schema_id = any(v_schemas)
        and not exists (
            select
            from treadle.schema_versions v
            where v.tenant = s.tenant
                and v.schema_id = s.schema_id);
end $$;

-- Delete all schemas of a tenant.
create or replace function treadle._delete_schemas_of_tenant(tenant text) returns void
language plpgsql as $$
begin
    delete from treadle.schema_versions v
    where v.tenant = _delete_schemas_of_tenant.tenant;
    delete from treadle.schemas s
    where s.tenant = _delete_schemas_of_tenant.tenant;
    delete from treadle.schema_rules r
    where r.tenant = _delete_schemas_of_tenant.tenant;
    delete from treadle.schema_ends e
    where e.tenant = _delete_schemas_of_tenant.tenant;
end $$;
