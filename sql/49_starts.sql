-- Starts: which of the messages that a claim could take begin an attempt, and what becomes of them then.

-- Start an attempt of each of these messages: `entries` are their `started` events, lane_ids their lane rows, in the
-- same order.
create or replace function treadle._start_attempts(
    entries treadle.entry[],
    lane_ids bigint[],
    worker text,
    queue text,
    lane text,
    at timestamptz,
    until timestamptz)
returns uuid[] language plpgsql as $$
#variable_conflict use_column
declare
    v_ids constant uuid[] := array(select e.message_id from unnest(entries) e);
    v_secret constant bytea := uuid_send(gen_random_uuid());  -- drawn once, because that is slow
begin
    update treadle.messages m
        set state = 'processing', attempt = m.attempt + 1, started_at = at, worker_id = worker
        where m.message_id = any(v_ids);
    insert into treadle.leases (message_id, tenant, lease, worker_id, thread, last_seq, claimed_at, expires_at)
        select e.message_id, e.tenant,
            encode(substr(sha256(v_secret || uuid_send(e.message_id)), 1, 16), 'hex')::uuid,
            worker, e.thread, e.seq, at, until
        from unnest(entries) e;
    perform treadle._log(entries => entries, at => at), treadle._lane_hide(
        queue => _start_attempts.queue, lane => _start_attempts.lane, ids => lane_ids, at => at, until => until);
    insert into treadle.counters (tenant, queue, slot, queued, processing)
        select e.tenant, _start_attempts.queue, treadle._slot(at), -count(*), count(*)
        from unnest(entries) e
        group by e.tenant;
    if treadle._sharing() then
        perform treadle._refill(
            tenants => array(select e.tenant from unnest(entries) e), lane_ids => lane_ids,
            queue => _start_attempts.queue, lane => _start_attempts.lane, at => at);
    end if;
    return v_ids;
end $$;

-- Of these messages, keep the first ones that `room_bytes` suffice for, and the one that exceeds them: so a message of
-- any size is taken. `bytes`: about how many a worker receives with those that are kept (see treadle._bytes).
create or replace function treadle._keep_bytes(
    room_bytes bigint, inout entries treadle.entry[], inout lane_ids bigint[], out bytes bigint)
language plpgsql as $$
begin
    select array_agg(entries[p.n] order by p.n), array_agg(lane_ids[p.n] order by p.n), max(p.past)
        into entries, lane_ids, bytes
        from (
            select n, c.bytes, sum(c.bytes) over (order by n) as past
            from generate_subscripts(entries, 1) n
            join treadle.messages m on m.message_id = any(array[(entries[n]).message_id])
            left join treadle.threads t on t.id = any(array[m.thread])
            cross join lateral (
                select treadle._bytes(m.body) + treadle._bytes(m.metadata) + treadle._bytes(t.memory) as bytes
            ) c
        ) p
        where p.past - p.bytes < room_bytes;
end $$;

-- Of these messages, keep those that the limits of tenants and `room_bytes` (null: any number) allow. `bytes`: about
-- how many a worker receives with the messages, at the most. Adds to `at_limit` the tenants of which no further message
-- may run. Where room_bytes are used up, treadle._claim_is_filled says so, and other workers are told: the claims that
-- they made meanwhile found the rest locked.
create or replace function treadle._keep_allowed(
    queue text, room_bytes bigint, inout entries treadle.entry[], inout lane_ids bigint[], inout bytes bigint,
    inout at_limit text[])
language plpgsql as $$
begin
    if entries is not null and treadle._limiting() then
        select k.entries, k.lane_ids, k.at_limit
            into entries, lane_ids, at_limit
            from treadle._keep_running_limits(
                queue => queue, entries => entries, lane_ids => lane_ids, at_limit => at_limit) k;
    end if;
    if entries is null then  -- none, or none is allowed
        bytes := 0;
    elsif bytes >= room_bytes then
        select k.entries, k.lane_ids, k.bytes
            into entries, lane_ids, bytes
            from treadle._keep_bytes(room_bytes => room_bytes, entries => entries, lane_ids => lane_ids) k;
        if bytes >= room_bytes then
            perform set_config('treadle.filled_bytes', 'yes', true),
                treadle._hint('treadle_work', _keep_allowed.queue);
        end if;
    end if;
end $$;
