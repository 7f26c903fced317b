-- How many subjects and versions the schema registry of a tenant may have (68_schemas.sql). The caller has locked the
-- schemas of the tenant. Deleted versions count until they are deleted permanently.

-- The name of the first subject of a tenant behind `after`, with a version or a rule; null: it was the last one.
create or replace function treadle._next_subject(tenant text, after text) returns text
language sql stable as $$
    select least(
        (
            select v.subject
            from treadle.schema_versions v
            where v.tenant = _next_subject.tenant and v.subject > after
            order by v.subject
            limit 1
        ), (
            select r.subject
            from treadle.schema_rules r
            where r.tenant = _next_subject.tenant and r.subject > after
            order by r.subject
            limit 1
        ))
$$;

-- Whether a tenant has as many subjects as `most`. If it has no more versions and rules, they are not told apart;
-- otherwise one index entry of each subject is read.
create or replace function treadle._has_subjects(tenant text, most bigint) returns boolean
language plpgsql stable set enable_seqscan = off as $$
declare
    v_rows bigint;
begin
    select count(*)
        into v_rows
        from (
            select
            from treadle.schema_versions v
            where v.tenant = _has_subjects.tenant
            union all
            select
            from treadle.schema_rules r
            where r.tenant = _has_subjects.tenant
            limit most
        ) f;
    return v_rows >= most and most <= (
        with recursive names (subject) as (
            select treadle._next_subject(tenant => _has_subjects.tenant, after => '')
            union all
            select treadle._next_subject(tenant => _has_subjects.tenant, after => n.subject)
            from names n
            where n.subject is not null
        )
        select count(f.subject)
        from (select n.subject from names n limit most) f);
end $$;

-- Refuse a subject that is new where the tenant has 10,000 (TR409).
create or replace function treadle._refuse_more_subjects(subject text, tenant text) returns void
language plpgsql stable as $$
declare
    c_most constant bigint := 10000;
begin
    if exists (
            select
            from treadle.schema_versions v
            where v.tenant = _refuse_more_subjects.tenant and v.subject = _refuse_more_subjects.subject)
        or exists (
            select
            from treadle.schema_rules r
            where r.tenant = _refuse_more_subjects.tenant and r.subject = _refuse_more_subjects.subject)
    then
        return;
    end if;
    perform treadle._refuse_more(
        has => case when treadle._has_subjects(tenant => tenant, most => c_most) then c_most else 0 end,
        most => c_most, what => 'subjects', advice => 'delete one permanently, and its rules');
end $$;

-- Refuse another version of a subject that has 1,000 (TR409).
create or replace function treadle._refuse_more_versions(subject text, tenant text) returns void
language plpgsql stable as $$
begin
    perform treadle._refuse_more(
        has => (
            select count(*)
            from treadle.schema_versions v
            where v.tenant = _refuse_more_versions.tenant and v.subject = _refuse_more_versions.subject),
        most => 1000, what => format('versions of the subject %L', subject), advice => 'delete one permanently');
end $$;
