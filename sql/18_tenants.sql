-- Tenants, and what a principal sees of one.
--
-- A function that clients call takes the tenant, and `reach`: what the principal is restricted to within the tenant,
-- null for nothing. A name that is missing restricts nothing, and a name that is not known is refused:
--   {"owner": text,        what belongs to this subject: its messages, and its threads with all that they have; null:
--                          what belongs to no subject
--    "agents": [text],     messages of these agents, and threads that have no message of another agent
--    "thread_id": text,    this thread, and its messages
--    "message_id": text}   this message
-- A row that is not seen is treated as one that does not exist, in the same statement: the answer, the error and the
-- time it takes are the same. So that it stays so, a thread keeps its owner and the agents of all its messages, and a
-- message in a thread has the owner of the thread.

-- The reach, where it has that shape. Raises TR422 for any other, which would restrict less than its caller means.
create or replace function treadle._checked_reach(reach jsonb) returns jsonb
language plpgsql immutable strict parallel safe as $$
declare
    c_names constant text[] := array['owner', 'agents', 'thread_id', 'message_id'];
begin
    if (case when jsonb_typeof(reach) = 'object' then
        reach - c_names = '{}'
        and coalesce(jsonb_typeof(reach -> 'owner') in ('string', 'null'), true)
        and coalesce(length(reach ->> 'owner') between 1 and 255, true)
        and coalesce(jsonb_typeof(reach -> 'agents') = 'array', true)
        and coalesce(not reach @? 'strict $.agents[*] ? (@.type() != "string")', true)
        and coalesce(jsonb_typeof(reach -> 'thread_id') = 'string', true)
        and (not reach ? 'message_id' or treadle._uuid(lower(reach ->> 'message_id')) is not null)
    end) then
        return reach;
    end if;
    raise exception using
        errcode = 'TR422',
        message = 'reach must be null, or an object with some of owner (a text of 1 to 255 characters, or null), '
            'agents (a list of texts), thread_id (a text) and message_id (a UUID).';
end $$;

-- Whether the principal sees a message. (Stable and one expression, so that the planner inlines it.)
create or replace function treadle._sees(reach jsonb, owner text, agent text, thread_id text, message_id uuid)
returns boolean language sql immutable parallel safe as $$
    select reach is null or (
        (not reach ? 'owner' or owner is not distinct from reach ->> 'owner')
        and coalesce((reach -> 'agents') ? agent, true)
        and coalesce(thread_id = reach ->> 'thread_id', reach ->> 'thread_id' is null)
        and coalesce(message_id = (reach ->> 'message_id')::uuid, true))
$$;

-- Whether the principal sees a thread, of which `agents` are those of its messages.
create or replace function treadle._sees_thread(reach jsonb, owner text, agents text[], thread_id text)
returns boolean language sql immutable parallel safe as $$
    select reach is null or (
        (not reach ? 'owner' or owner is not distinct from reach ->> 'owner')
        and coalesce(reach -> 'agents' @> to_jsonb(agents), true)
        and coalesce(thread_id = reach ->> 'thread_id', true)
        and reach ->> 'message_id' is null)
$$;

-- Whether the principal may address an agent.
create or replace function treadle._may_address(reach jsonb, agent text) returns boolean
language sql immutable parallel safe as $$
    select reach is null or coalesce((reach -> 'agents') ? agent, true)
$$;

-- What tells the reach of two principals apart: SHA-256, empty for none.
create or replace function treadle._restriction(reach jsonb) returns bytea
language sql stable parallel safe as $$
    select case when reach is null then '' else sha256(convert_to(reach::text, 'UTF8')) end
$$;

-- The tenants of which nothing is claimed: those that are suspended, and those that are being deleted.
create or replace function treadle._stopped_tenants() returns text[]
language sql stable as $$
    select array(
        select t.tenant
        from treadle.tenants t
        where t.suspended_at is not null or t.deleted_at is not null)
$$;

-- Whether there is such a tenant, suspended or not.
create or replace function treadle._has_tenant(tenant text) returns boolean
language sql stable as $$
    select exists (
        select
        from treadle.tenants t
        where t.tenant = _has_tenant.tenant
            and t.deleted_at is null)
$$;

-- Refuse a submit for a tenant that does not exist (TR404), or is suspended (TR403). Returns the limits of what the
-- tenant submits; null: none.
create or replace function treadle._limits_of_active(tenant text) returns jsonb
language plpgsql as $$
declare
    v_limits jsonb;
    v_suspended boolean;
begin
    select t.in_force, t.suspended_at is not null
        into v_limits, v_suspended
        from treadle.tenants t
        where t.tenant = _limits_of_active.tenant and t.deleted_at is null;
    if not found then
        raise exception using errcode = 'TR404', message = format('There is no tenant %L.', tenant);
    elsif v_suspended then
        raise exception using errcode = 'TR403', message = format(
            'The tenant %L is suspended: it may submit nothing until an operator resumes it.', tenant);
    end if;
    return v_limits;
end $$;

-- The body of a lane row. It names the tenant, so that a worker of some tenants passes over the rows of the others; a
-- row without a name is of the tenant `default`. (Stable and one expression, so that the planner inlines it.)
create or replace function treadle._lane_message(message_id uuid, thread_id text, agent text, tenant text) returns jsonb
language sql stable parallel safe as $$
    select jsonb_build_object('message_id', message_id, 'thread_id', thread_id, 'agent', agent)
        || case when tenant = 'default' then '{}' else jsonb_build_object('tenant', tenant) end
$$;

-- Raise TR409 if the tenant has reached a limit of number. `advice`: what to do.
create or replace function treadle._refuse_more(has bigint, most bigint, what text, advice text default 'delete one')
returns void language plpgsql immutable as $$
begin
    if has >= most then
        raise exception using
            errcode = 'TR409', message = format('A tenant has at most %s %s: %s.', most, what, advice);
    end if;
end $$;
