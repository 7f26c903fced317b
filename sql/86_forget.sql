-- Deleting messages with all that belongs to them. Long logs go to the trash, and are deleted bit by bit.

-- Delete messages with their leases and lane rows, and up to `quantity` of their events, the shorter logs first. The
-- other logs go to the trash, so a message disappears at once, however long its log is. The caller holds the threads.
create or replace function treadle._forget(ids uuid[], quantity integer) returns integer
language plpgsql as $$
declare
    v_ids uuid[];
    v_tenants text[];
    v_last_seqs integer[];
    v_lane_rows treadle.lane_row[];
begin
    perform
    from treadle.leases l
    where l.message_id = any(ids)
    order by l.message_id
    for update;
    with deleted as (
        delete from treadle.messages m
        where m.message_id = any(ids)
        returning m.message_id, m.tenant, m.last_seq, m.queue, m.lane, m.lane_id, m.state, m.subscription
    ), closed as (
        insert into treadle.subscription_counts (tenant, subscription, open)
        select d.tenant, d.subscription, -count(*)
        from deleted d
        where d.subscription is not null
            and d.state in ('queued', 'processing')
        group by d.tenant, d.subscription
    ), noted as (
        delete from treadle.not_completed n
        using deleted d
        where d.state in ('failed', 'cancelled')
            and n.tenant = any(array[d.tenant])
            and n.state = any(array[d.state])
            and n.message_id = any(array[d.message_id])
    ), counted as (
        insert into treadle.counters (tenant, queue, slot, queued, processing, completed, failed, cancelled)
        select d.tenant, d.queue, '-infinity',
            - count(*) filter (where d.state = 'queued'), - count(*) filter (where d.state = 'processing'),
            - count(*) filter (where d.state = 'completed'), - count(*) filter (where d.state = 'failed'),
            - count(*) filter (where d.state = 'cancelled')
        from deleted d
        group by d.tenant, d.queue
    )
    select array_agg(d.message_id), array_agg(d.tenant), array_agg(d.last_seq),
        array_agg(row(d.queue, d.lane, d.lane_id, null)::treadle.lane_row)
    into v_ids, v_tenants, v_last_seqs, v_lane_rows
    from deleted d;
    if v_ids is null then
        return 0;
    end if;
    delete from treadle.push_configs c
    where c.message_id = any(v_ids);
    perform treadle._forget_logs(
        ids => v_ids, tenants => v_tenants, last_seqs => v_last_seqs, quantity => quantity);
    perform treadle._lane_delete(lane_rows => v_lane_rows);
    return cardinality(v_ids);
end $$;

-- Delete the leases and the logs of deleted messages. Once a lease is deleted, no worker appends to that log, so its
-- end is known.
create or replace function treadle._forget_logs(ids uuid[], tenants text[], last_seqs integer[], quantity integer)
returns void
language plpgsql as $$
declare
    v_short uuid[];  -- messages whose logs fit into `quantity` together
begin
    with freed as (
        delete from treadle.leases l
        where l.message_id = any(ids)
        returning l.message_id, l.last_seq
    ), ends as (
        select u.message_id, u.tenant, coalesce(f.last_seq, u.last_seq) as last_seq
        from unnest(ids, tenants, last_seqs) u (message_id, tenant, last_seq)
        left join freed f on f.message_id = u.message_id
    ), logs as (
        select e.message_id, e.tenant, e.last_seq, sum(e.last_seq) over (order by e.last_seq, e.message_id) as total
        from ends e
    ), long as (
        insert into treadle.trash (message_id, tenant, last_seq)
        select l.message_id, l.tenant, l.last_seq
        from logs l
        where l.total > quantity
    )
    select array_agg(l.message_id)
    into v_short
    from logs l
    where l.total <= quantity;
    delete from treadle.events e
    where e.message_id = any(v_short);
end $$;

-- Delete up to `quantity` events of the trash: those of many short logs, or else of one long log from where the last
-- call stopped, so that no call reads dead rows again. Returns how many.
create or replace function treadle._empty_trash(quantity integer) returns integer
language plpgsql as $$
declare
    v_short uuid[];
    v_long treadle.trash;
    v_deleted integer;
begin
    select array_agg(t.message_id)
    into v_short
    from (
        select l.message_id, sum(l.last_seq) over (order by l.message_id) as total
        from (
            select t.message_id, t.last_seq
            from treadle.trash t
            where t.last_seq <= quantity
            order by t.message_id
            limit quantity
            for update skip locked
        ) l
    ) t
    where t.total <= quantity;
    if v_short is not null then
        delete from treadle.events e
        where e.message_id = any(v_short);
        get diagnostics v_deleted = row_count;
        delete from treadle.trash t
        where t.message_id = any(v_short);
        return v_deleted;
    end if;
    select *
    into v_long
    from treadle.trash t
    order by t.message_id
    limit 1
    for update skip locked;
    if not found then
        return 0;
    end if;
    delete from treadle.events e
    where e.message_id = v_long.message_id
        and e.seq > v_long.deleted_seq
        and e.seq <= v_long.deleted_seq + quantity;
    get diagnostics v_deleted = row_count;
    if v_long.deleted_seq + quantity < v_long.last_seq then
        update treadle.trash t
        set deleted_seq = v_long.deleted_seq + quantity
        where t.message_id = v_long.message_id;
    else
        delete from treadle.trash t
        where t.message_id = v_long.message_id;
    end if;
    return v_deleted;
end $$;
