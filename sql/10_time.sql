-- Time and ids.
--
-- Every function reads the time from treadle.clock(): it belongs to the database, and a test (or a person who wants to
-- see next week) can move it:  alter database ... set treadle.clock_shift = '8 days'
-- Message ids are UUIDv7 (RFC 9562): their first 48 bits are the milliseconds since 1970. So ids sort by time, and the
-- events table is partitioned by them.

-- By how much the clock is moved. A session may move its own clock only if its login role has the rights of Treadle's
-- owner; for the others the setting of the database holds.
create or replace function treadle._clock_shift() returns interval
language sql stable as $$
    select coalesce(
        nullif(
            case
                when pg_has_role(session_user, n.nspowner, 'member') then current_setting('treadle.clock_shift', true)
                else (
                    select split_part(c, '=', 2)
                    from pg_db_role_setting s
                    cross join unnest(s.setconfig) c
                    where s.setdatabase = (select d.oid from pg_database d where d.datname = current_database())
                        and s.setrole = 0
                        and c like 'treadle.clock\_shift=%'
                )
            end,
            ''),
        '0')::interval
    from pg_namespace n
    where n.nspname = 'treadle'
$$;

create or replace function treadle.clock() returns timestamptz
language sql volatile parallel safe as $$
    -- In seconds, because a day of an interval is 23 or 25 hours long where the session's time zone has summer time.
    select case
        when coalesce(current_setting('treadle.clock_shift', true), '') = '' then clock_timestamp()
        else clock_timestamp() + make_interval(
            secs => extract(epoch from treadle._clock_shift())::double precision)
    end
$$;
comment on function treadle.clock is 'Now, by the database''s clock, moved by the setting treadle.clock_shift';

create or replace function treadle.uuid_at(at timestamptz) returns uuid
language sql immutable parallel safe as $$
    -- 48 bits reach from 1970 to 10889; earlier and later times are clamped to that.
    select (
        lpad(to_hex(least(greatest(extract(epoch from at) * 1000, 0), 281474976710655)::bigint), 12, '0')
        || '00000000000000000000'
    )::uuid
$$;
comment on function treadle.uuid_at is 'The smallest id that a message of that time can have';

create or replace function treadle.uuid7() returns uuid
language sql volatile parallel safe as $$
    select encode(
        overlay(
            set_bit(set_bit(uuid_send(gen_random_uuid()), 52, 1), 53, 1)  -- version 4 becomes 7
            placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
            from 1 for 6),
        'hex')::uuid
$$;
comment on function treadle.uuid7 is 'A new UUIDv7';

-- The text as a UUID; null if it is not one (any client of PGMQ can send any body to a queue). A claim calls it for
-- each lane row: one pattern that counts the digits takes three times as long as these conditions.
create or replace function treadle._uuid(id text) returns uuid
language sql immutable parallel safe as $$
    select case
        when id like '________-____-____-____-____________'
            and length(replace(id, '-', '')) = 32
            and id ~ '^[0-9a-f-]*$'
            then id::uuid
    end
$$;

-- The time in a UUIDv7.
create or replace function treadle._time_of(id uuid) returns timestamptz
language sql immutable parallel safe as $$
    select timestamptz 'epoch'
        + ('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint * interval '1 millisecond'
$$;
