-- Finish: the holder of a lease ends its attempt.

-- The threads of these leases.
create or replace function treadle._threads_of(ids uuid[], leases uuid[]) returns bigint[]
language plpgsql stable as $$
begin
    -- Nulls are removed here: for `thread is not null` the planner would read the whole index leases_thread.
    return array_remove(array(
        select distinct l.thread
        from unnest(ids, leases) n (message_id, lease)
        join treadle.leases l on l.message_id = any(array[n.message_id]) and l.lease = n.lease), null);
end $$;

-- Lock threads, and return them. Not `patient`: without those that other transactions hold.
create or replace function treadle._hold_threads(threads bigint[], patient boolean) returns bigint[]
language plpgsql as $$
begin
    if threads = '{}' then
        return threads;
    end if;
    if patient then
        perform from treadle.threads t
            where t.id = any(threads)
            order by t.id
            for no key update;
        return threads;
    end if;
    return array(
        select t.id
        from treadle.threads t
        where t.id = any(threads)
        order by t.id
        for no key update skip locked);
end $$;

-- The last seq of each item of the call after its events are written. By item and not by message: one message can stand
-- twice in a call, with a lease that it lost and with its present one.
create or replace function treadle._last_seqs(leases treadle.named_lease[], event_items integer[]) returns integer[]
language plpgsql immutable as $$
begin
    return array(
        select greatest(max(s.last_seq), max(s.first_seq) + count(s.event)::integer - 1)
        from (
            select l.item, l.last_seq, l.first_seq, null::integer as event
            from unnest(leases) l
            union all
            select e, null, null, e
            from unnest(event_items) e
        ) s
        group by s.item
        order by s.item);
end $$;

-- End attempts, each with the events that were not sent yet: event i belongs to ids[event_items[i]], and the first of
-- each message has seq first_seqs[item].
-- status: the message's new state; or `lost` (also for the repeat of a finish that went through), `gap`, `busy` as in
-- treadle.named_lease. The caller repeats what comes back as busy: alone and patiently, or with its next call.
-- A patient call waits 100 ms for each lock, then raises lock_not_available (55P03): nothing is written, try again.
-- `threads`: the keys of the messages' threads, as the claims named them; null: they are looked up.
create or replace function treadle.finish(
    ids uuid[], leases uuid[], outcomes text[], results text[], errors text[], tracebacks text[],
    delays double precision[],
    usages text[], first_seqs integer[], event_items integer[], event_types text[], event_datas text[],
    patient boolean, max_losses integer default 3, threads bigint[] default null)
returns table (message_id uuid, status text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_mergejoin = off set enable_hashjoin = off
set enable_memoize = off as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := treadle.clock();
    v_former_timeout constant text := case when patient then treadle._set_lock_timeout('100ms') end;
    v_threads constant bigint[] := treadle._hold_threads(
        threads => coalesce(threads, treadle._threads_of(ids => ids, leases => leases)), patient => patient);
    v_leases constant treadle.named_lease[] := treadle._lock_leases(
        ids => ids, leases => leases, first_seqs => first_seqs, patient => patient, threads => v_threads,
        ending => true);
    v_entries treadle.entry[];
    v_last_seqs integer[];
    v_endings treadle.ending[];
    v_states text[];
begin
    if cardinality(event_items) > 0 then
        v_entries := treadle._number_events(
            leases => v_leases, event_items => event_items, event_types => event_types, event_datas => event_datas);
        v_last_seqs := treadle._last_seqs(leases => v_leases, event_items => event_items);
    end if;
    select array_agg(row(
            (v_leases[a.item]).message_id, a.outcome, a.result::jsonb, a.error, a.traceback, a.delay_seconds,
            a.usage::jsonb,
            coalesce(v_last_seqs[a.item], (v_leases[a.item]).last_seq))::treadle.ending order by a.item)
        into v_endings
        from unnest(outcomes, results, errors, tracebacks, delays, usages) with ordinality
            a (outcome, result, error, traceback, delay_seconds, usage, item)
        where (v_leases[a.item]).status = 'ok';
    v_states := treadle._settle(endings => v_endings, max_losses => max_losses, at => v_now, entries => v_entries);
    if patient then
        perform treadle._set_lock_timeout(v_former_timeout);
    end if;
    return query
        select l.message_id,
            case
                when l.status = 'ok' then v_states[count(*) filter (where l.status = 'ok') over (order by l.item)]
                else l.status
            end
        from unnest(v_leases) l
        order by l.item;
end $$;
comment on function treadle.finish(
    uuid[], uuid[], text[], text[], text[], text[], double precision[], text[], integer[], integer[], text[],
    text[], boolean, integer, bigint[])
    is 'End attempts: results, last events, lane rows, dead letters, and the threads'' next messages, at once';
