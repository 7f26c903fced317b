-- Push notifications of A2A: the addresses at which the client of a task wants to be told, with a token of the client.
--
-- A task is a message. Its end, and each question that it asks, is one delivery for each of its addresses: the
-- transaction that settles it writes them (59_webhooks.sql). An address is set under the lock of its message. So it
-- is there when the message is settled later, and if the message has been settled, the address is told at once. No role
-- reads the table, because of the tokens.

-- Whether push notifications are delivered: a worker delivers, or has done so.
create or replace function treadle.delivers_webhooks() returns boolean
language sql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
    select treadle._has_deliveries()
$$;
comment on function treadle.delivers_webhooks is 'Whether a worker delivers webhooks, or has done so';

-- Write the delivery to an address of a message that was settled before the address was set. `m` is the message as
-- it is under its lock.
create or replace function treadle._tell_late(m treadle.messages, config_id text, at timestamptz) returns void
language plpgsql as $$
declare
    v_asks constant jsonb := case when m.hold = 'input' then (
        select e.data
        from treadle.events e
        where e.message_id = m.message_id and e.seq = m.last_seq) end;
begin
    perform treadle._send_posts(at => at, posts => array[row(
        treadle.uuid7(), m.tenant, null, null, null,
        treadle._a2a_body(
            m => m, asks => v_asks, seq => m.last_seq,
            thread_id => (select t.thread_id from treadle.threads t where t.id = m.thread)),
        'message.' || case when m.hold = 'input' then 'input_required' else m.state end, m.message_id,
        treadle._trace_of(m), config_id)::treadle.post]);
end $$;

-- Set an address of a message: a new one, or that of this id. A repeat changes nothing. Raises TR404, TR422. (Not)
-- `patient`: as for the calls of 80_control.sql.
create or replace function treadle.set_push_config(
    message_id uuid, config_id text, url text, token text default null, scheme text default null,
    credentials text default null, tenant text default 'default', reach jsonb default null,
    patient boolean default true)
returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '2s' as $$
declare
    c_now constant timestamptz := treadle.clock();
    p_id constant uuid := message_id;
    m treadle.messages;
begin
    perform from treadle._state_under_lock(
        id => p_id, tenant => tenant, reach => treadle._checked_reach(reach), patient => patient) s
    where s.state is not null;
    if not found then
        perform treadle._raise_unknown_message(p_id);
    elsif not treadle._is_url(url) then
        raise exception using
            errcode = 'TR422', message = 'url must be an http or https address of at most 2000 characters.';
    elsif not treadle._has_deliveries() then
        raise exception using
            errcode = 'TR422',
            message = 'No worker delivers push notifications: start one with WEBHOOK_CONCURRENCY above 0.';
    end if;
    update treadle.push_configs c
        set url = set_push_config.url, token = set_push_config.token, scheme = set_push_config.scheme,
            credentials = set_push_config.credentials
        where c.message_id = p_id and c.config_id = set_push_config.config_id;
    if found then
        return;
    elsif (select count(*) from treadle.push_configs c where c.message_id = p_id) >= 10 then
        raise exception using
            errcode = 'TR422', message = 'A task has at most 10 configurations of push notifications: delete one.';
    end if;
    insert into treadle.push_configs (
            message_id, config_id, tenant, url, token, scheme, credentials, created_at)
        values (p_id, config_id, tenant, url, token, scheme, credentials, c_now);
    select x.*
        into m
        from treadle.messages x
        where x.message_id = p_id;
    if m.hold is not distinct from 'input' or m.completed_at is not null then
        perform treadle._tell_late(m => m, config_id => config_id, at => c_now);
    end if;
end $$;
comment on function treadle.set_push_config(uuid, text, text, text, text, text, text, jsonb, boolean)
    is 'Set an address that is told of a message; raises TR404, TR422';

-- The addresses of a message, without their credentials, the oldest first.
create or replace function treadle.list_push_configs(message_id uuid, tenant text default 'default')
returns table (config_id text, url text, token text, scheme text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
#variable_conflict use_column
begin
    return query
        select c.config_id, c.url, c.token, c.scheme
        from treadle.push_configs c
        where c.message_id = list_push_configs.message_id and c.tenant = list_push_configs.tenant
        order by c.created_at, c.config_id;
end $$;
comment on function treadle.list_push_configs(uuid, text)
    is 'The addresses that are told of a message, without their credentials';

-- Delete an address of a message. Its deliveries that are open fail.
create or replace function treadle.delete_push_config(message_id uuid, config_id text, tenant text default 'default')
returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set lock_timeout = '200ms' as $$
begin
    delete from treadle.push_configs c
        where c.message_id = delete_push_config.message_id and c.config_id = delete_push_config.config_id
            and c.tenant = delete_push_config.tenant;
end $$;
comment on function treadle.delete_push_config(uuid, text, text)
    is 'Delete an address that is told of a message';
