-- Sequence: records get their offsets.
--
-- One transaction at a time takes rows of the inbox in their order, gives their records the next dense offsets of their
-- topics, and deletes the rows. So a record gets exactly one offset, a reader of the log never sees a hole, and a
-- record's offset is above those of all records whose publish had been answered before its own began.
--
-- Rows leave the inbox at its head, so a search begins at the low-water mark of the inbox (25_low_water.sql). A
-- publisher's transaction that stays open is passed after a while; treadle._sequence_late finds its rows once it has
-- ended.

-- Take up to `quantity` rows of the inbox from msg_id `first` to below `past`, and delete them. Returns their records,
-- numbered in their order. Rows that do not look like ours (a PGMQ client wrote them) are deleted too.
create or replace function treadle._take_inbox(
    first bigint, past bigint, quantity integer, out topics bigint[], out record_ids uuid[], out bytes bigint[],
    out taken integer)
language plpgsql as $$
begin
    with rows as materialized (
        select q.msg_id
        from pgmq.q_treadle_inbox q
        where q.msg_id >= first
            and q.msg_id < past
        order by q.msg_id
        limit quantity
        for update skip locked
    ), deleted as (
        delete from pgmq.q_treadle_inbox q
        using rows r
        where q.msg_id = any(array[r.msg_id])
        returning q.msg_id, q.message
    ), ours as materialized (
        select d.msg_id, (d.message ->> 'topic')::bigint as topic, (d.message ->> 'bytes')::bigint as bytes,
            d.message -> 'record_ids' as record_ids
        from deleted d
        where jsonb_typeof(d.message -> 'topic') = 'number'
            and jsonb_typeof(d.message -> 'bytes') = 'number'
            and jsonb_typeof(d.message -> 'record_ids') = 'array'
    )
    select array_agg(o.topic order by o.msg_id, i.n), array_agg(i.id::uuid order by o.msg_id, i.n),
            array_agg(case when i.n = 1 then o.bytes else 0 end order by o.msg_id, i.n),
            (select count(*) from deleted)
        into topics, record_ids, bytes, taken
        from ours o
        cross join lateral jsonb_array_elements_text(o.record_ids) with ordinality i (id, n);
end $$;

-- Give these records the next offsets of their topics, in their order. The records of a topic that is gone are deleted.
-- Returns the topics whose logs grew.
create or replace function treadle._give_offsets(topics bigint[], record_ids uuid[], bytes bigint[]) returns bigint[]
language plpgsql as $$
declare
    v_ends jsonb;  -- {topic: its next offset before}
begin
    with arriving as materialized (
        select u.topic, count(*) as records, sum(u.bytes) as bytes
        from unnest(topics, bytes) u (topic, bytes)
        group by u.topic
    ), counted as (
        update treadle.topic_ends e
        set next_offset = e.next_offset + a.records, bytes = e.bytes + a.bytes
        from (select * from arriving order by topic) a
        join treadle.topics t on t.id = any(array[a.topic]) and t.deleted_at is null
        cross join lateral treadle._topic_end(a.topic) n
        where e.ctid = n.place
        returning e.topic, e.next_offset - a.records as first
    )
    select coalesce(jsonb_object_agg(c.topic, c.first), '{}')
        into v_ends
        from counted c;
    insert into treadle.topic_log (topic, "offset", tenant, record_id)
        select a.topic, a.first + row_number() over (partition by a.topic order by a.n) - 1, t.tenant, a.record_id
        from (
            select u.topic, u.record_id, u.n, (v_ends ->> u.topic::text)::bigint as first
            from unnest(topics, record_ids) with ordinality u (topic, record_id, n)
        ) a
        join treadle.topics t on t.id = any(array[a.topic])
        where a.first is not null;
    if exists (select from unnest(topics) u (topic) where not v_ends ? u.topic::text) then
        delete from treadle.records r
            where r.record_id = any(array(
                select u.record_id
                from unnest(topics, record_ids) u (topic, record_id)
                where not v_ends ? u.topic::text));
    end if;
    return array(select k::bigint from jsonb_object_keys(v_ends) k);
end $$;

-- Sequence the rows of transactions that the mark of the inbox has passed and that have ended, and let the mark follow
-- the first row. Returns the topics whose logs grew.
create or replace function treadle._sequence_late() returns bigint[]
language plpgsql as $$
declare
    c_patience constant integer := 1000;  -- ids: so many dead rows cost a call about as much as its records
    c_all constant integer := 1000000;
    c_sequence constant text := 'pgmq.q_treadle_inbox_msg_id_seq';
    v_open constant text[] := treadle._draws_of(c_sequence, treadle._open_draws());
    v_mark constant treadle.low_water := treadle._mark('inbox');
    v_late_from constant bigint := treadle._late_from(mark => v_mark, open => v_open);
    v_first bigint;
    v record;
    v_topics bigint[] := '{}';
begin
    if v_late_from is not null then
        v := treadle._take_inbox(first => v_late_from, past => v_mark.low, quantity => c_all);
        v_topics := treadle._give_offsets(topics => v.topics, record_ids => v.record_ids, bytes => v.bytes);
        perform treadle._forget_passed('inbox', v_open);
    end if;
    v_first := coalesce(
        (select min(q.msg_id) from pgmq.q_treadle_inbox q where q.msg_id >= v_mark.low),
        (select s.last_value + s.is_called::integer from pgmq.q_treadle_inbox_msg_id_seq s));
    perform treadle._raise_low_water(
        mark => 'inbox', candidate => v_first, open => v_open,
        drawn => treadle._draws_of(c_sequence, treadle._open_draws()), patience => c_patience);
    return v_topics;
end $$;

-- Give the records of up to `quantity` rows of the inbox their offsets. `late`: also look for rows below the mark, and
-- raise it; a router does that once in a while.
--   topics  whose logs grew
--   more    there may be more to do at once: the inbox had more rows, or another router is at it
create or replace function treadle.sequence_records(
    quantity integer default 100, late boolean default false, out topics bigint[], out more boolean)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_mergejoin = off set enable_hashjoin = off
set enable_memoize = off as $$
declare
    v record;
begin
    topics := '{}';
    if not treadle._try_mutex('sequence') then
        more := true;
        return;
    end if;
    if late and treadle._sees_commits() then
        topics := treadle._sequence_late();
    end if;
    v := treadle._take_inbox(
        first => treadle._low_water_mark('inbox'), past => 9223372036854775807, quantity => quantity);
    more := v.taken >= quantity;
    if v.topics is not null then
        topics := topics || treadle._give_offsets(topics => v.topics, record_ids => v.record_ids, bytes => v.bytes);
    end if;
end $$;
comment on function treadle.sequence_records(integer, boolean)
    is 'Give published records their offsets; returns the topics that grew';
