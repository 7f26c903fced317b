-- Hints: NOTIFY that never fails a write.
--
-- PostgreSQL keeps notifications in one queue for the whole cluster. A session that listens and does not read (it stays
-- in a transaction, or its process is frozen) keeps them all there. Once the queue is full, every transaction that
-- notifies fails at its commit (54000). So a hint is left out while the queue is half full: whatever a hint tells is
-- also found by polling. treadle.notify_health (88_health.sql) says that hints are left out.
--
-- One case remains: a transaction of a user that notified below the limit, and commits when other programs have filled
-- the queue to its end. No lower limit avoids that, because the queue is looked at before the commit.
--
-- One transaction of the whole cluster at a time commits a NOTIFY, and it waits for the disk meanwhile. So a process
-- that sends hints itself, after its commit, lets a call keep them (treadle._keep_hints), and receives them with its
-- answer (treadle._kept_hints). The hints of all other callers, such as psql, go with the commit: these callers could
-- tell no listener.

-- How full the queue of notifications may be.
create or replace function treadle._hint_limit() returns double precision
language sql immutable parallel safe as $$
    select 0.5::double precision
$$;

-- Notify with the commit, while there is room. A payload that is too long for NOTIFY becomes `*` (look at everything).
-- (One expression, so that the planner inlines it.)
create or replace function treadle._notify(channel text, payload text) returns void
language sql as $$
    select case
        when pg_notification_queue_usage() < treadle._hint_limit()
            then pg_notify(channel, case when octet_length(payload) < 8000 then payload else '*' end)
    end
$$;

-- Let the hints of this transaction be kept from now on. Returns its argument: as an argument of the call whose hints
-- are to be kept, it runs before it.
create or replace function treadle._keep_hints(argument anyelement) returns anyelement
language sql as $$
    select case when set_config('treadle.hints', E'\n', true) is not null then argument end
$$;

-- The hints that this transaction has kept, a channel and a payload in each line.
create or replace function treadle._kept_hints() returns text
language sql as $$
    select ltrim(current_setting('treadle.hints', true), E'\n')
$$;

-- Keep a hint for the caller.
create or replace function treadle._keep_hint(channel text, payload text) returns void
language plpgsql as $$
begin
    perform set_config(
        'treadle.hints', current_setting('treadle.hints') || channel || ' ' || payload || E'\n', true);
end $$;

-- Tell listeners: with the commit, or by the caller if it keeps hints. (One expression, so that the planner inlines
-- it.)
create or replace function treadle._hint(channel text, payload text) returns void
language sql as $$
    select case
        when current_setting('treadle.hints', true) <> '' then treadle._keep_hint(channel, payload)
        else treadle._notify(channel, payload)
    end
$$;

-- Notify of several items, as few payloads as they fit into. Very many become `*`.
create or replace function treadle._hint_each(channel text, items text[]) returns void
language plpgsql as $$
declare
    c_items constant integer := 100;  -- of a payload: a message's id and its thread have at most 57 bytes
    c_payloads constant integer := 10;
begin
    if cardinality(items) > c_items * c_payloads then
        perform treadle._hint(channel, '*');
        return;
    end if;
    for v_start in 1 .. coalesce(cardinality(items), 0) by c_items loop
        perform treadle._hint(channel, array_to_string(items[v_start:v_start + c_items - 1], ','));
    end loop;
end $$;
