-- Explain: the pieces of sentences that the reasons (89_reasons.sql) share.

-- A length of time for people, such as 40 s or 3 h; at least 0 s.
create or replace function treadle._span(value interval) returns text
language sql immutable as $$
    select case
        when s.seconds < 120 then format('%s s', s.seconds)
        when s.seconds < 7200 then format('%s min', s.seconds / 60)
        when s.seconds < 172800 then format('%s h', s.seconds / 3600)
        else format('%s days', s.seconds / 86400)
    end
    from (select greatest(extract(epoch from value), 0)::bigint as seconds) s
$$;

-- A moment for people.
create or replace function treadle._time_text(value timestamptz) returns text
language sql stable as $$
    select to_char(value at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC'
$$;

-- Where a message stands, after "which is".
create or replace function treadle._standing(m treadle.messages) returns text
language sql stable as $$
    select case
        when m.state = 'processing' then format('run by the worker %s', m.worker_id)
        when m.state <> 'queued' then m.state
        when m.hold is null then 'in its lane'
        when m.hold in ('delay', 'backoff') then format('due at %s', treadle._time_text(m.run_at))
        when m.hold = 'children' then 'waiting for messages that it sent'
        when m.hold = 'input' then 'waiting for a person'
        else 'waiting for its tenant''s share'
    end
$$;

-- Who did this to that last, and when, such as " by key 4f2a (ci) at ..."; empty if the recent audit does not say.
create or replace function treadle._done_by(action text, target text) returns text
language sql stable as $$
    select coalesce((
        select format(' by %s at %s', a.principal, treadle._time_text(a.at))
        from (select x.* from treadle.audit x order by x.at desc limit 10000) a
        where a.action = _done_by.action and a.target = _done_by.target
        order by a.at desc
        limit 1), '')
$$;

-- Since when a message is in its state: the time of its last event.
create or replace function treadle._stands_since(m treadle.messages) returns timestamptz
language sql stable as $$
    select coalesce(
        (select e.created_at from treadle.events e where e.message_id = m.message_id and e.seq = m.last_seq),
        m.created_at)
$$;
