-- Low-water marks: every search of a table that loses its rows at the head begins at its mark, past the dead rows.
--
-- Lanes, leases and counters lose their rows at the head. While an old snapshot is open, the dead versions of those
-- rows stay, and each search for the first row would read them. The marks (treadle.low_water) follow the first living
-- row: one for each section of a lane (20_lanes.sql), for the leases, for the counters and for the shares of tenants.
--
-- A row is committed after its id was drawn, so a row below the candidate for a mark may still come. A transaction
-- that draws an id holds a lock on the sequence until it ends, and pg_locks shows it. So a mark rises once every
-- transaction has ended that had drawn from the sequence when the candidate was found. Other transactions, however
-- old, hold no mark back. A transaction that stays open after it submitted (a user's own) is passed after a while:
-- the mark rises above its rows. When it ends, its late rows get new ids above the mark: see 83_lane_rows.sql and
-- treadle.fold_counters.

-- A mark's row. It is the one with the highest `low`: the dead versions of a mark lie below it in the index, so that
-- an old snapshot does not slow down the search for the mark itself.
create or replace function treadle._mark(name text) returns treadle.low_water
language sql stable as $$
    select w
    from treadle.low_water w
    where w.name = _mark.name
    order by w.low desc
    limit 1
$$;

-- The low-water mark of a section of a lane, or of a table with such a mark, for example `leases` or `due`.
create or replace function treadle._low_water_mark(mark text) returns bigint
language sql stable as $$
    select coalesce((
        select w.low
        from treadle.low_water w
        where w.name = mark
        order by w.low desc
        limit 1), 0)
$$;

-- The open transactions that have drawn from each of our sequences: {oid of the sequence: [virtual transaction id]}.
create or replace function treadle._open_draws() returns jsonb
language sql volatile as $$
    select coalesce(jsonb_object_agg(d.sequence, d.transactions), '{}')
    from (
        select l.relation::bigint as sequence, jsonb_agg(distinct l.virtualtransaction) as transactions
        from pg_locks l
        join pg_class c on c.oid = l.relation and c.relkind = 'S'
        where l.locktype = 'relation'
            and l.database = (select d.oid from pg_database d where d.datname = current_database())
            and l.mode = 'RowExclusiveLock'
        group by l.relation
    ) d
$$;

-- The transactions, among `draws`, that have drawn from one sequence and are still open.
create or replace function treadle._draws_of(sequence text, draws jsonb) returns text[]
language sql stable as $$
    select array(select jsonb_array_elements_text(draws -> sequence::regclass::oid::bigint::text))
$$;

-- Raise a mark to `candidate`, the first living row, in two steps.
--   1. The candidate is stored as next_low, with the transactions that had drawn ids when it had been found (`drawn`).
--   2. A later call finds that they have ended: they are not among those that are `open`, which the caller read before
--      it searched for its candidate. So that search has seen all their rows, and the mark rises to the lower of both.
-- Once the candidate is more than `patience` ids above the mark, step 2 passes the transactions that are still open.
-- Returns how many ids the candidate is above the mark.
create or replace function treadle._raise_low_water(
    mark text,
    candidate bigint,
    open text[],
    drawn text[],
    patience bigint)
returns bigint language plpgsql as $$
declare
    c_worth_a_write constant integer := 250;  -- ids
    v_mark constant treadle.low_water := treadle._mark(mark);
    v_is_step_2 constant boolean := coalesce(v_mark.next_low > v_mark.low, false);
    v_above constant bigint := candidate - v_mark.low;
    v_left text[] := '{}';  -- transactions that step 2 passes
begin
    if v_is_step_2 then
        v_left := array(select a from unnest(v_mark.awaited) a where a = any(open));
        if v_left <> '{}' and v_above <= patience then
            return v_above;
        end if;
    elsif v_above <= c_worth_a_write then
        return v_above;
    end if;
    update treadle.low_water w
        set low = case when v_is_step_2 then least(v_mark.next_low, candidate) else v_mark.low end,
            next_low = candidate,
            awaited = array(select d from unnest(drawn) d where not d = any(v_mark.passed || v_left)),
            passed = v_mark.passed || v_left,
            passed_lows = v_mark.passed_lows || array_fill(v_mark.low, array[cardinality(v_left)])
        where w.name = mark and w.low = v_mark.low;
    return v_above;
end $$;

-- From where late rows are to be searched below the mark: the mark at the time when the first of the passed
-- transactions that have ended was passed. Null: none of them has ended.
create or replace function treadle._late_from(mark treadle.low_water, open text[]) returns bigint
language sql immutable as $$
    select min(p.low)
    from unnest(mark.passed, mark.passed_lows) p (transaction, low)
    where not p.transaction = any(open)
$$;

-- Forget the passed transactions that have ended. The caller has taken care of their late rows.
create or replace function treadle._forget_passed(mark text, open text[]) returns void
language plpgsql as $$
begin
    update treadle.low_water w
        set passed = p.transactions, passed_lows = p.lows
        from (
            select coalesce(array_agg(u.transaction order by u.n), '{}') as transactions,
                coalesce(array_agg(u.low order by u.n), '{}') as lows
            from treadle._mark(mark) m
            cross join unnest(m.passed, m.passed_lows) with ordinality u (transaction, low, n)
            where u.transaction = any(open)
        ) p
        where w.name = mark;
end $$;

-- Whether this transaction sees what others commit between its statements: only then it may move a mark.
create or replace function treadle._sees_commits() returns boolean
language sql stable as $$
    select current_setting('transaction_isolation') = 'read committed'
$$;
