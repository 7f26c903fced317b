-- Append: the holder of a lease writes events. This file has the fence as well, which append and finish share.
--
-- A worker numbers the events of its attempt, and names the lease (message_id, lease) with each call. A write goes
-- through only while the lease row stands and is locked by the writing transaction; so a worker that lost its lease can
-- write nothing, and a call that is repeated after a lost answer writes nothing twice.

-- Lock leases so that they can be written, in the order of the call: without those of other threads than `threads`
-- (null: of all threads), and without those that other transactions lock.
create or replace function treadle._lock_to_write(ids uuid[], leases uuid[], first_seqs integer[], threads bigint[])
returns treadle.named_lease[] language plpgsql as $$
begin
    return array(
        select row(
            n.item, l.message_id, l.thread, l.last_seq, n.first_seq, l.cancel_requested,
            case when n.first_seq > l.last_seq + 1 then 'gap' else 'ok' end, l.tenant)::treadle.named_lease
        from unnest(ids, leases, first_seqs) with ordinality n (message_id, lease, first_seq, item)
        join treadle.leases l on l.message_id = any(array[n.message_id]) and l.lease = n.lease
        where threads is null or l.thread is null or l.thread = any(threads)
        order by n.item
        for no key update of l skip locked);
end $$;

-- The same so that they can be deleted: a transaction that requests a cancellation prevents that until it commits
-- (31_late_writes.sql).
create or replace function treadle._lock_to_end(ids uuid[], leases uuid[], first_seqs integer[], threads bigint[])
returns treadle.named_lease[] language plpgsql as $$
begin
    return array(
        select row(
            n.item, l.message_id, l.thread, l.last_seq, n.first_seq, l.cancel_requested,
            case when n.first_seq > l.last_seq + 1 then 'gap' else 'ok' end, l.tenant)::treadle.named_lease
        from unnest(ids, leases, first_seqs) with ordinality n (message_id, lease, first_seq, item)
        join treadle.leases l on l.message_id = any(array[n.message_id]) and l.lease = n.lease
        where threads is null or l.thread is null or l.thread = any(threads)
        order by n.item
        for update of l skip locked);
end $$;

-- Look up and lock the leases that a worker names in a call, one element for each, in the order of the call. `threads`:
-- only leases of these threads, or of none, can be locked (null: all leases). `patient`: wait for locks of other
-- transactions. `ending`: the call deletes the leases.
create or replace function treadle._lock_leases(
    ids uuid[],
    leases uuid[],
    first_seqs integer[],
    patient boolean,
    threads bigint[] default null,
    ending boolean default false)
returns treadle.named_lease[] language plpgsql as $$
declare
    v_locked treadle.named_lease[];
begin
    if patient and ending then
        perform from treadle.leases l
            where l.message_id = any(ids)
            order by l.message_id
            for update;
    elsif patient then
        perform from treadle.leases l
            where l.message_id = any(ids)
            order by l.message_id
            for no key update;
    end if;
    v_locked := case
        when ending then treadle._lock_to_end(
            ids => ids, leases => leases, first_seqs => first_seqs, threads => threads)
        else treadle._lock_to_write(ids => ids, leases => leases, first_seqs => first_seqs, threads => threads)
    end;
    if cardinality(v_locked) = cardinality(ids) then
        return v_locked;
    end if;
    return array(
        select coalesce(k, row(
            n.item, n.message_id, null, null, n.first_seq, false,
            case when l.message_id is null then 'lost' else 'busy' end, null)::treadle.named_lease)
        from unnest(ids, leases, first_seqs) with ordinality n (message_id, lease, first_seq, item)
        left join unnest(v_locked) k on k.item = n.item
        left join treadle.leases l on l.message_id = any(array[n.message_id]) and l.lease = n.lease
        order by n.item);
end $$;

-- The events that a call brings, numbered: event i belongs to item event_items[i], and the first of each item has its
-- first_seq. Without the events that are in the log already (a repeated call), and those of leases that are not `ok`.
create or replace function treadle._number_events(
    leases treadle.named_lease[],
    event_items integer[],
    event_types text[],
    event_datas text[])
returns treadle.entry[] language plpgsql stable as $$
begin
    return (
        select array_agg(row(
                (leases[e.item]).message_id, e.seq, (leases[e.item]).thread, e.type, e.data::jsonb,
                (leases[e.item]).tenant
                )::treadle.entry order by e.n)
        from (
            select u.*,
                (leases[u.item]).first_seq + (row_number() over (partition by u.item order by u.n))::integer - 1 as seq
            from unnest(event_items, event_types, event_datas) with ordinality u (item, type, data, n)
        ) e
        where (leases[e.item]).status = 'ok' and e.seq > (leases[e.item]).last_seq);
end $$;

-- Lock the logs of the threads of these leases. A lease whose log another transaction holds becomes busy, where the
-- call is not `patient`.
create or replace function treadle._lock_lease_logs(leases treadle.named_lease[], patient boolean)
returns treadle.named_lease[] language plpgsql as $$
declare
    v_threads bigint[];
    v_locked bigint[];
begin
    if cardinality(leases) = 1 then  -- the common case, without a query
        v_threads := array_remove(array[leases[1].thread], null);
    else
        v_threads := array(select distinct l.thread from unnest(leases) l where l.thread is not null);
    end if;
    if v_threads = '{}' then
        return leases;
    end if;
    v_locked := treadle._lock_logs(threads => v_threads, patient => patient);
    if cardinality(v_locked) = cardinality(v_threads) then
        return leases;
    end if;
    return array(
        select row(
            l.item, l.message_id, l.thread, l.last_seq, l.first_seq, l.cancel_requested,
            case
                -- `null = any('{}')` is false, not null: a lease without a thread needs its own condition.
                when l.status = 'ok' and l.thread is not null and not l.thread = any(v_locked) then 'busy'
                else l.status
            end, l.tenant)::treadle.named_lease
        from unnest(leases) l
        order by l.item);
end $$;

-- Append events to messages under lease. Event i belongs to ids[event_items[i]]; the first of each message has seq
-- first_seqs[item].
-- status: `ok` (also if the events are in the log already: a repeated call), `lost`, `gap`, or `busy` as in
-- treadle.named_lease. The caller repeats what comes back as busy: alone and patiently, or with its next call.
-- A patient call waits 100 ms for each lock, then raises lock_not_available (55P03): nothing is written, try again.
create or replace function treadle.append(
    ids uuid[], leases uuid[], first_seqs integer[], event_items integer[], event_types text[], event_datas text[],
    patient boolean)
returns table (message_id uuid, status text, cancel_requested boolean)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_mergejoin = off set enable_hashjoin = off
set enable_memoize = off as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := treadle.clock();
    v_former_timeout constant text := case when patient then treadle._set_lock_timeout('100ms') end;
    v_leases treadle.named_lease[];
    v_entries treadle.entry[];
begin
    v_leases := treadle._lock_leases(ids => ids, leases => leases, first_seqs => first_seqs, patient => patient);
    v_leases := treadle._lock_lease_logs(leases => v_leases, patient => patient);
    v_entries := treadle._number_events(
        leases => v_leases, event_items => event_items, event_types => event_types, event_datas => event_datas);
    if v_entries is not null then
        update treadle.leases l
            set last_seq = e.last_seq, progressed = l.progressed or e.has_step,
                first_chunk_at = case
                    when l.first_chunk_at is null and e.has_chunk then v_now
                    else l.first_chunk_at
                end
            from (
                select (n.entry).message_id, max((n.entry).seq) as last_seq,
                    bool_or((n.entry).type = 'step') as has_step, bool_or((n.entry).type = 'chunk') as has_chunk
                from (select unnest(v_entries) as entry) n
                group by (n.entry).message_id
            ) e
            where l.message_id = any(array[e.message_id]);
        perform treadle._log(entries => v_entries, at => v_now);
    end if;
    if patient then
        perform treadle._set_lock_timeout(v_former_timeout);
    end if;
    return query select l.message_id, l.status, l.cancel_requested
        from unnest(v_leases) l
        order by l.item;
end $$;
comment on function treadle.append is 'Append events to messages under lease, numbered by the holder; repeatable';
