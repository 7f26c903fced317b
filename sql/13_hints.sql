-- Hints: NOTIFY that never fails a write.
--
-- PostgreSQL keeps notifications in one queue for the whole cluster. A session that listens and does not read (it stays
-- in a transaction, or its process is frozen) keeps them all there. Once the queue is full, every transaction that
-- notifies fails at its commit (54000). So a hint is left out while the queue is half full: whatever a hint tells is
-- also found by polling. treadle.notify_health (88_health.sql) says that hints are left out.
--
-- What is left: a transaction of a user that notified below the limit, and commits when other programs have filled the
-- queue to its end. No lower limit avoids that, because the queue is looked at before the commit.

-- How full the queue of notifications may be.
create or replace function treadle._hint_limit() returns double precision
language sql immutable parallel safe as $$
    select 0.5::double precision
$$;

-- Notify with the commit, while there is room. A payload that is too long for NOTIFY becomes `*` (look at everything).
-- (One expression, so that the planner inlines it.)
create or replace function treadle._hint(channel text, payload text) returns void
language sql as $$
    select case
        when pg_notification_queue_usage() < treadle._hint_limit()
            then pg_notify(channel, case when octet_length(payload) < 8000 then payload else '*' end)
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
