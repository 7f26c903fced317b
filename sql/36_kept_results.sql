-- What earlier attempts left in a message's log.

-- The events of a message's log with the results that its life keeps: of steps, questions and answers; and those of
-- type `queued`. A life that began with a retry from a step (the data of its `queued` has `from_seq`) keeps nothing
-- from there to its begin. Reads the log once.
create or replace function treadle._kept_entries(message_id uuid)
returns table (seq integer, type text, data jsonb, created_at timestamptz)
language plpgsql stable as $$
begin
    return query
        with entries as materialized (
            select e.seq, e.type, e.data, e.created_at
            from treadle.events e
            where e.message_id = _kept_entries.message_id
                and e.type in ('step', 'input', 'parked', 'queued')
        ), retried as materialized (
            select q.seq, (q.data ->> 'from_seq')::integer as from_seq
            from entries q
            where q.type = 'queued'
                and q.data ? 'from_seq'
        )
        select e.seq, e.type, e.data, e.created_at
        from entries e
        where e.type = 'queued' or not exists (select from retried r where e.seq between r.from_seq and r.seq)
        order by e.seq;
end $$;

-- The results of steps, the questions and their answers that a message's life keeps, by name, in the order of the
-- log. `data` is JSON text. `sent`: the ids of the messages that were sent with a step, or with the end of a parked
-- attempt; in a row of type `cancelled`, of those that were cancelled before the message was redriven. A row of type
-- `retried` for each retry from a step: messages that are sent from then on have other ids than those that were sent
-- before and are forgotten.
create or replace function treadle.earlier_results(message_id uuid)
returns table (type text, name text, sent jsonb, data text)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
begin
    return query
        with kept as materialized (
            select k.seq, k.type, k.data, k.created_at
            from treadle._kept_entries(message_id) k
        ), cancelled as (
            select jsonb_agg(c.message_id) as sent
            from treadle.messages c
            where c.parent = earlier_results.message_id
                and c.state = 'cancelled'
                and c.completed_at <= (select max(q.created_at) from kept q where q.type = 'queued' and q.seq > 1)
        )
        select f.type, f.name, f.sent, f.data
        from (
            select k.seq, k.type, k.data ->> 'name' as name, k.data -> 'sent' as sent,
                (k.data -> case k.type when 'step' then 'result' when 'input' then 'input' else 'question' end)::text
                    as data
            from kept k
            where k.type <> 'queued'
            union all
            select q.seq, 'retried', null, null, null
            from kept q
            where q.type = 'queued'
                and q.data ? 'from_seq'
            union all
            select null, 'cancelled', null, c.sent, null
            from cancelled c
            where c.sent is not null
        ) f
        order by f.seq;
end $$;
comment on function treadle.earlier_results
    is 'What earlier attempts left in a message''s log: step results, answers, sent ids';
