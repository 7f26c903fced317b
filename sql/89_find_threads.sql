-- Find: threads, all or by a text, the most recently active first.
--
-- Like a search for messages (89_find_messages.sql), a call looks at a bounded number of rows and bytes, and says where
-- it stopped. It reads of each thread three rows, and does not count its messages.

-- The threads of the tenant that were active before `before` (and `before_thread`), with the last message of each, the
-- most recently active first: at most `rows`. Those of keys of records are among them.
create or replace function treadle._threads_to_search(
    tenant text, before timestamptz, before_thread bigint, rows integer)
returns table (thread bigint, thread_id text, last_ord bigint, created_at timestamptz, last_activity timestamptz,
    owner text, agents text[], metadata jsonb, body jsonb)
language sql stable as $$
    select s.thread, t.thread_id, s.last_ord, t.created_at, s.last_activity, t.owner, t.agents, t.metadata, m.body
    from treadle.thread_turns s
    join treadle.threads t on t.id = s.thread
    left join treadle.messages m on m.thread = s.thread and m.ord = s.last_ord
    where s.tenant = _threads_to_search.tenant
        and (s.last_activity, s.thread) < (before, before_thread)
    order by s.last_activity desc, s.thread desc
    limit _threads_to_search.rows
$$;

-- Up to `quantity` threads that have the text `q` in their id, their metadata or the beginning of their last message,
-- without regard to upper and lower case; without `q`, all but those of keys of records. It looks at `rows` threads at
-- most, and at about so many bytes. Where others follow, the last row has no thread_id: `last_activity` and `thread` of
-- it are those of the last thread that it looked at.
create or replace function treadle.find_threads(
    q text default null, before timestamptz default null, before_thread bigint default null,
    quantity integer default 100, tenant text default 'default', reach jsonb default null, rows integer default 1000,
    bytes bigint default 4000000)
returns table (thread bigint, thread_id text, message_count bigint, created_at timestamptz, last_activity timestamptz,
    last_message_preview text)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
    set enable_mergejoin = off set enable_hashjoin = off set enable_memoize = off as $$
#variable_conflict use_column
declare
    v record;
    v_last record;
    v_preview text;
    v_text text := lower(q);
    v_found integer := 0;
    v_seen integer := 0;
    v_bytes bigint := 0;
begin
    tenant := treadle._bound_tenant(tenant);
    reach := treadle._checked_reach(reach);
    for v in
        select s.*
        from treadle._threads_to_search(
            tenant => find_threads.tenant, before => coalesce(find_threads.before, 'infinity'),
            before_thread => coalesce(find_threads.before_thread, 9223372036854775807),
            rows => find_threads.rows + 1) s
    loop
        v_bytes := v_bytes + treadle._bytes(v.metadata) + treadle._bytes(v.body);
        if v_found = quantity or v_seen = rows or (v_seen > 0 and v_bytes > bytes) then
            return query select v_last.thread, null, null::bigint, null::timestamptz, v_last.last_activity, null;
            return;
        end if;
        v_seen := v_seen + 1;
        v_last := v;
        v_preview := left(treadle._text(v.body), 200);
        if v.thread_id not like 'records/%'
            and (q is null or strpos(lower(concat_ws(E'\n', v.thread_id, v.metadata, v_preview)), v_text) > 0)
            and treadle._sees_thread(reach => reach, owner => v.owner, agents => v.agents, thread_id => v.thread_id)
        then
            v_found := v_found + 1;
            return query select v.thread, v.thread_id, v.last_ord, v.created_at, v.last_activity, v_preview;
        end if;
    end loop;
end $$;
comment on function treadle.find_threads(text, timestamp with time zone, bigint, integer, text, jsonb, integer, bigint)
    is 'Threads, those that have a text or all, the most recently active first, and where to go on';
