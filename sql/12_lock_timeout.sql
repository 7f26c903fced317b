-- The lock timeout.

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
