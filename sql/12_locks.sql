-- Locks: the lock timeout, and mutexes.

-- Let waits for locks end after `timeout` (lock_not_available, 55P03) until the end of the transaction; null: leave it
-- as it is. Returns the former setting, so that the caller can set it again when it is done.
create or replace function treadle._set_lock_timeout(timeout text) returns text
language plpgsql as $$
declare
    v_former constant text := current_setting('lock_timeout');
begin
    if timeout <> v_former then
        perform set_config('lock_timeout', timeout, true);
    end if;
    return v_former;
end $$;

-- Take the mutex `name` until the end of the transaction; false if another transaction has it. (An advisory lock would
-- not do: every login role of the server can take any of them.)
create or replace function treadle._try_mutex(name text) returns boolean
language plpgsql as $$
begin
    perform from treadle.mutexes m
        where m.name = _try_mutex.name
        for update skip locked;
    return found;
end $$;

-- The same, but wait for it.
create or replace function treadle._wait_for_mutex(name text) returns void
language plpgsql as $$
begin
    perform from treadle.mutexes m
        where m.name = _wait_for_mutex.name
        for update;
end $$;

-- The mutex of the claims from a queue that has a limit of concurrency.
create or replace function treadle._claim_mutex(queue text) returns text
language sql immutable parallel safe as $$
    select 'claim from ' || queue
$$;

-- The mutex of the claims of messages of a tenant that has a limit `running`.
create or replace function treadle._running_mutex(tenant text) returns text
language sql immutable parallel safe as $$
    select 'run for ' || tenant
$$;

insert into treadle.mutexes (name)
values ('end_tenant_sessions'), ('fold_counters'), ('fold_stores'), ('fold_subscriptions'), ('partitions'), ('purge'),
    ('purge_records'), ('register_agents'), ('sequence'), ('shares'), ('sweep'), ('tend_parents'),
    ('vacuum_pace')
on conflict do nothing;
