-- What a tenant has in a lane: counts, and its first and last rows.

-- How many visible rows a tenant has in a lane (exact to 1,000), and since when the oldest of them waits.
create or replace function treadle._lane_of_tenant(
    queue text,
    lane text,
    tenant text,
    at timestamptz,
    out depth bigint,
    out oldest timestamptz)
language plpgsql stable as $$
begin
    execute format(
        $sql$
        select count(*), min(r.enqueued_at)
        from (
            select q.enqueued_at
            from pgmq.%I q
            where (q.vt <= $1 or q.vt = q.enqueued_at)
                and coalesce(q.message ->> 'tenant', 'default') = $2
            order by q.msg_id
            limit 1001
        ) r
        $sql$,
        treadle._lane_table(queue, lane))
        into depth, oldest
        using at, tenant;
end $$;

-- In a section of a lane, from its mark on: the first visible row, the first one of another tenant than these, and the
-- id that will come next, to which the second is set if there is no such row.
create or replace function treadle._lane_head_of_tenants(
    queue text, lane text, low bigint, tenants text[], at timestamptz, out first bigint, out other bigint,
    out next bigint)
language plpgsql set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
declare
    c_first constant text := '(
            select q.msg_id
            from pgmq.%1$I q
            where q.msg_id >= $1
                and q.msg_id < %2$s
                and ((q.vt <= $2 or q.vt = q.enqueued_at) is true)
                and %3$s
            order by q.msg_id
            limit 1
        )';
    c_past constant text := case when low < 0 then '0' else '9223372036854775807' end;
    c_table constant text := treadle._lane_table(queue, lane);
begin
    execute 'select ' || format(c_first, c_table, c_past, 'true') into first using low, at;
    if first is null then
        return;
    end if;
    execute format(
        'select s.last_value + s.is_called::integer + case when $1 < 0 then treadle._first_returned_id() else 0 end
        from pgmq.%I s',
        c_table || '_msg_id_seq')
        into next
        using low;
    execute 'select ' || format(
        c_first, c_table, c_past, 'coalesce(q.message ->> ''tenant'', ''default'') <> all($3)')
        into other
        using first, at, tenants;
    other := coalesce(other, next);
end $$;

-- Lock the last visible new rows of a tenant in a lane, skipping those that other transactions lock.
create or replace function treadle._lane_last_of_tenant(
    queue text,
    lane text,
    tenant text,
    quantity integer,
    at timestamptz,
    out lane_ids bigint[],
    out message_ids uuid[])
language plpgsql set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
begin
    execute format(
        $sql$
        select array_agg(h.msg_id), array_agg(treadle._uuid(h.message ->> 'message_id'))
        from (
            select q.msg_id, q.message
            from pgmq.%I q
            where q.msg_id > 0
                and ((q.vt <= $1 or q.vt = q.enqueued_at) is true)
                and coalesce(q.message ->> 'tenant', 'default') = $2
            order by q.msg_id desc
            limit $3
            for update skip locked
        ) h
        $sql$,
        treadle._lane_table(queue, lane))
        into lane_ids, message_ids
        using at, tenant, quantity;
end $$;

-- The statement that counts the visible rows of a section of a lane by tenant, from its mark on; $1 is the time.
create or replace function treadle._lane_count_by_tenant(queue text, lane text, low bigint) returns text
language sql immutable as $$
    select format(
        'select coalesce(q.message ->> ''tenant'', ''default''), %L, %L, count(*), count(*) filter (where q.msg_id > 0)
        from pgmq.%I q
        where q.msg_id >= %s and q.msg_id < %s and ((q.vt <= $1 or q.vt = q.enqueued_at) is true)
        group by 1',
        queue, lane, treadle._lane_table(queue, lane), low,
        case when low < 0 then '0' else '9223372036854775807' end)
$$;
