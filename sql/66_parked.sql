-- Parked messages: they wait for others.
--
-- A message that waits has ended its attempt: it is queued without a lane row, hold = children or input, and keeps its
-- thread's turn. Its next attempt repeats what no step remembers. treadle.parked says which children it waits for;
-- treadle.input (80_control.sql) answers a message that waits for a person.
-- A message that failed, or was cancelled or deleted, takes its open children along: treadle.parked then says which are
-- still to be cancelled. That happens in transactions of their own, because the children's threads come before other
-- locks. What a completed message has sent goes on.

-- Note the open children of messages that end without a result, for treadle.tend_parents to cancel.
create or replace function treadle._leave_children(ids uuid[]) returns void
language plpgsql as $$
begin
    insert into treadle.parked as p (message_id, tenant, children)
        select m.parent, m.tenant, array_agg(m.message_id order by m.message_id)
        from treadle.messages m
        where m.parent is not null
            and m.parent = any(ids)
            and m.state in ('queued', 'processing')
        group by m.parent, m.tenant
        order by m.parent
        on conflict (message_id) do update set children = excluded.children;
end $$;

-- The parked messages, up to `quantity`, that may go on because all their children are over, and those that ended
-- without a result.
create or replace function treadle._parked_to_tend(quantity integer) returns uuid[]
language plpgsql stable as $$
begin
    return array(
        select p.message_id
        from treadle.parked p
        left join treadle.messages m on m.message_id = p.message_id
        where coalesce(m.state, 'deleted') not in ('queued', 'processing')
            or not exists (
                select
                from treadle.messages c
                where c.message_id = any(p.children) and c.state in ('queued', 'processing'))
        order by p.message_id
        limit quantity);
end $$;

-- Admit messages whose children are over; cancel the children of those that failed, or were cancelled or deleted.
-- `ids`: of these, null: of all. Skips what other transactions hold. `queues`: where there may be messages to claim
-- now.
create or replace function treadle.tend_parents(
    ids uuid[] default null,
    quantity integer default 1000,
    out admitted integer,
    out queues text[])
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
    v_now constant timestamptz := treadle.clock();
    v_ready uuid[];     -- messages that may go on
    v_ended uuid[];     -- messages that ended without a result
    v_children uuid[];  -- open children of those
    v_threads bigint[];
    v_admitted uuid[];
begin
    admitted := 0;
    if ids is null then
        -- One transaction at a time looks at all of them.
        if not treadle._try_mutex('tend_parents') then
            return;
        end if;
        ids := treadle._parked_to_tend(quantity);
    end if;
    v_ready := array(
        select p.message_id
        from treadle.parked p
        join treadle.messages m on m.message_id = p.message_id and m.hold = 'children'
        where p.message_id = any(ids)
            and not exists (
                select
                from treadle.messages c
                where c.message_id = any(p.children) and c.state in ('queued', 'processing')));
    v_ended := array(
        select p.message_id
        from treadle.parked p
        left join treadle.messages m on m.message_id = p.message_id
        where p.message_id = any(ids) and coalesce(m.state, 'deleted') not in ('queued', 'processing'));
    if v_ready = '{}' and v_ended = '{}' then
        return;
    end if;
    v_children := array(
        select c.message_id
        from treadle.parked p
        join treadle.messages c on c.message_id = any(p.children)
        where p.message_id = any(v_ended) and c.state in ('queued', 'processing'));
    v_threads := array(
        select t.id
        from treadle.threads t
        where t.id in (select m.thread from treadle.messages m where m.message_id = any(v_ready || v_children))
        order by t.id
        for no key update skip locked);
    perform treadle._cancel_children(parents => v_ended, children => v_children, threads => v_threads, at => v_now);
    v_admitted := treadle._resume_parents(ids => v_ready, threads => v_threads, at => v_now);
    admitted := cardinality(v_admitted);
    queues := treadle._queues_of(v_admitted || v_children);  -- a cancelled child passes the turn of its thread on
end $$;
comment on function treadle.tend_parents(uuid[], integer)
    is 'Let messages go on whose children are over, and cancel the children of those that failed or were cancelled';

-- Admit parked messages, before the new ones of their priority. The caller holds these threads; messages of others are
-- left for later. Returns those.
create or replace function treadle._resume_parents(ids uuid[], threads bigint[], at timestamptz) returns uuid[]
language plpgsql as $$
declare
    v_ids constant uuid[] := array(
        select m.message_id
        from treadle.messages m
        where m.message_id = any(ids) and m.hold = 'children' and (m.thread is null or m.thread = any(threads))
        order by m.message_id
        for update skip locked);
begin
    delete from treadle.parked p where p.message_id = any(v_ids);
    perform treadle._admit(ids => v_ids, at => at, returned => true);
    return v_ids;
end $$;

-- Cancel the children of messages that wait no longer: the workers of those that run are told, those that wait are
-- cancelled now. The caller holds these threads; what other transactions hold is left for later.
create or replace function treadle._cancel_children(parents uuid[], children uuid[], threads bigint[], at timestamptz)
    returns void
language plpgsql as $$
declare
    v_running constant uuid[] := array(
        select l.message_id
        from treadle.leases l
        where l.message_id = any(children)
        order by l.message_id
        for key share skip locked);
    v_queued uuid[];
begin
    perform treadle._cancel_late(v_running);
    v_queued := array(
        select m.message_id
        from treadle.messages m
        where m.message_id = any(children) and m.state = 'queued' and (m.thread is null or m.thread = any(threads))
        order by m.message_id
        for update skip locked);
    perform treadle._settle(endings => treadle._endings(ids => v_queued, outcome => 'cancelled'), max_losses => 1,
        at => at, late => true);
    perform treadle._hint_each(
        'treadle_events',
        array(
            select m.message_id || coalesce(':' || m.thread, '')
            from treadle.messages m
            where m.message_id = any(v_queued)));
    delete from treadle.parked p
        where p.message_id in (
            select x.message_id
            from treadle.parked x
            where x.message_id = any(parents)
                and not exists (
                    select
                    from treadle.messages c
                    left join treadle.leases l on l.message_id = c.message_id
                    where c.message_id = any(x.children)
                        and c.state in ('queued', 'processing')
                        and l.cancel_requested is not true
                        and not c.message_id = any(v_running))
            order by x.message_id
            for update skip locked);
end $$;
