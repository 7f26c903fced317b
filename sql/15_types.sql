-- Row types: what the functions hand to each other.
--
-- Inside, a list of things is one array of a row type (treadle.entry[]), not several parallel arrays. On the wire there
-- are only built-in types, for a client behind a connection pooler cannot look up others: each public function zips its
-- arrays once. No table, no view and no public function uses these types.
--
-- How to change a type: change it here, and `treadle migrate` replaces it.
-- * An attribute that is added at the end is added in place. Functions, plans and running calls keep the type. Each
--   `row(...)::treadle.<type>` must name the new attribute, too. A call that began before the migration leaves it null,
--   so the functions that read it must accept null.
-- * After any other change the type is dropped with the functions of this schema that take or return it. The files that
--   follow write all of them again, in the same transaction; workers of the older release go on with the new functions.
--   Only a call that is running at the moment of the commit may fail; nothing of it is written. So prefer the first
--   kind.
-- * A type that is not needed any more: delete it here, and write `drop type if exists` at the end of 95_obsolete.sql.

-- The attributes of a row type, in their order.
create or replace function treadle._attributes(type_name text) returns text[]
language sql stable as $$
    select array_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)) order by a.attnum)
    from pg_attribute a
    where a.attrelid = (select t.typrelid from pg_type t where t.oid = to_regtype(type_name))
        and not a.attisdropped
$$;

-- Drop a row type, and the functions of this schema that take or return it (or an array of it).
create or replace function treadle._drop_type(type_name text) returns void
language plpgsql as $$
declare
    v_function regprocedure;
begin
    for v_function in
        select distinct p.oid::regprocedure
        from pg_type t
        join pg_depend d on d.refclassid = 'pg_type'::regclass and d.refobjid in (t.oid, t.typarray)
        join pg_proc p on d.classid = 'pg_proc'::regclass and p.oid = d.objid
        where t.oid = type_name::regtype and p.pronamespace = 'treadle'::regnamespace
    loop
        execute format('drop function %s', v_function);
    end loop;
    execute format('drop type %s', type_name);
end $$;

-- Make treadle.<name> the row type with these attributes (the text between the parentheses of `create type`).
create or replace function treadle._define_type(name text, attributes text) returns void
language plpgsql as $$
declare
    v_type constant text := 'treadle.' || name;
    v_old constant text[] := treadle._attributes(v_type);
    v_new text[];
begin
    execute format('create type treadle._wanted as (%s)', attributes);
    v_new := treadle._attributes('treadle._wanted');
    if v_old is null or v_old <> v_new[:cardinality(v_old)] then
        if v_old is not null then
            perform treadle._drop_type(v_type);
        end if;
        execute format('alter type treadle._wanted rename to %I', name);
        execute format('revoke usage on type %s from public', v_type);
        return;
    end if;
    for i in cardinality(v_old) + 1 .. cardinality(v_new) loop
        execute format('alter type %s add attribute %s', v_type, v_new[i]);
    end loop;
    drop type treadle._wanted;
end $$;

-- A row of a PGMQ queue that is one of our lanes.
select treadle._define_type('lane_row', $$
    queue   text,
    lane    text,    -- null: the message has no lane row
    lane_id bigint,  -- msg_id of the row
    body    jsonb
$$);

-- An event that is to be written to a message's log.
select treadle._define_type('entry', $$
    message_id uuid,
    seq        integer,
    thread     bigint,  -- null: the message has no thread
    type       text,
    data       jsonb,
    tenant     text
$$);

-- One message of a submit, decoded, with what its agent adds. `state` says what becomes of it:
--   null       it is to be written
--   known      its id is there already: nothing is written
--   refused    refusal_code and refusal say why: nothing is written
--   busy       another transaction holds its thread, and the caller does not wait: nothing is written
select treadle._define_type('submission', $$
    n               integer,           -- its number in the call, from 1
    message_id      uuid,
    priority        text,
    rank            smallint,          -- 0 high, 1 normal, 2 low
    agent           text,
    queue           text,
    thread_id       text,
    aside           boolean,
    max_attempts    integer,
    timeout_seconds double precision,
    run_at          timestamptz,
    parent          uuid,
    state           text,
    refusal_code    text,              -- SQLSTATE
    refusal         text,              -- one sentence
    hold            text,
    thread          bigint,            -- threads.id
    ord             bigint,            -- place in the thread
    behind          bigint,            -- open messages of the thread that go before it, less the one that has the turn
    depth           integer,           -- how many messages lie above it, each sent by the one before
    owner           text,
    goes_first      boolean,           -- in its lane, because its tenant has only a few rows there
    max_losses      integer,           -- null: the setting of the worker that counts
    turn            uuid               -- the message with the thread's turn, if it waits for that
$$);

-- A thread that is locked.
select treadle._define_type('locked_thread', $$
    thread    bigint,
    thread_id text,
    owner     text,
    agents    text[]  -- of its messages
$$);

-- A thread that takes new messages.
select treadle._define_type('target_thread', $$
    thread    bigint,
    base_ord  bigint,  -- last_ord before the new messages
    open      bigint,  -- messages that were open before the new ones
    turn      uuid     -- the message that has the turn now
$$);

-- The answer about one message of a submit.
select treadle._define_type('submit_answer', $$
    n            integer,
    message_id   uuid,
    state        text,    -- queued: just written; known, refused, busy as in treadle.submission
    queue        text,
    rank         smallint,
    lane         text,
    ahead        bigint,  -- its position in the queue, less the rows that are ready once all are written
    thread       bigint,
    thread_id    text,
    refusal_code text,
    refusal      text,
    moved        boolean   -- the turn of its thread has changed since it was written, so it may be in its lane by now
$$);

-- A lease that a worker names in a call, and whether the call may write under it. `status`:
--   ok      the lease is locked by this transaction
--   gap     it is, but events before first_seq are missing in the log
--   lost    the lease has ended, or is another worker's
--   busy    another transaction holds the lease, its thread or its log
select treadle._define_type('named_lease', $$
    item             integer,  -- its number in the call, from 1
    message_id       uuid,
    thread           bigint,
    last_seq         integer,  -- last event of the log
    first_seq        integer,  -- of the events that the call brings
    cancel_requested boolean,
    status           text,
    tenant           text
$$);

-- How an attempt ends. The outcomes are listed in 60_settle.sql.
select treadle._define_type('ending', $$
    message_id    uuid,
    outcome       text,
    result        jsonb,
    error         text,
    traceback     text,
    delay_seconds double precision,  -- until the next attempt
    usage         jsonb,
    last_seq      integer            -- last event of the attempt; null: as the lease or the message says
$$);

-- What an ending makes of its message. `becomes` is completed, failed or cancelled (the state), or why it is queued:
-- backoff, children, input (the hold), or again (before new messages of its priority).
select treadle._define_type('settlement', $$
    message_id    uuid,
    thread        bigint,
    queue         text,
    old_state     text,
    started_at    timestamptz,
    attempt       integer,
    old_lane      text,
    old_lane_id   bigint,
    outcome       text,
    becomes       text,
    state         text,
    lane          text,
    lane_id       bigint,
    seq           integer,           -- of the event that tells it
    result        jsonb,
    error         text,
    traceback     text,
    delay_seconds double precision,
    usage         jsonb,
    failures      integer,           -- of the message, after this
    losses        integer,
    tenant        text,
    subscription  bigint,            -- that delivered the message; null: none
    dropped       boolean,           -- it failed and leaves no dead letter
    agent         text,
    ready_at      timestamptz,       -- when it could first run; null: this was not its first attempt
    first_chunk_at timestamptz,      -- null: the attempt has written no chunk
    callback_url  text,              -- that is told of the message's end; null: none
    is_post       boolean,           -- the message is itself a delivery of a webhook
    asked_seq     integer            -- of the last question before this; null: it has asked none
$$);

-- Where a dead letter is.
select treadle._define_type('dead_letter_place', $$
    queue   text,
    dlq_id  bigint,
    dead_at timestamptz
$$);

-- One record of a publish, decoded.
select treadle._define_type('new_record', $$
    n         integer,  -- its number in the call, from 1
    record_id uuid,
    key       text,
    headers   jsonb,
    value     jsonb,
    bytes     integer,
    schema_id integer,
    problem   text,     -- why it is refused
    traceparent text    -- W3C trace context
$$);

-- A record that is to be delivered to a subscription.
select treadle._define_type('delivery', $$
    n         integer,
    topic     bigint,
    "offset"  bigint,
    record_id uuid,
    key       text,
    headers   jsonb,
    value     jsonb,
    schema_id integer,
    wanted    boolean,  -- false: the filter leaves it out, or a message of it is still open
    filtered  boolean,
    traceparent text,
    depth     integer   -- how many messages lie above the one that published it; null: a client did
$$);

-- A POST that the agent webhook is to make. `webhook`, `url` or `config` says where.
select treadle._define_type('post', $$
    message_id  uuid,   -- of the delivery that is to be written
    tenant      text,
    webhook     uuid,
    url         text,
    headers     jsonb,  -- further ones, {"name": "text"}; null: none
    body        jsonb,
    event       text,   -- its type
    source      uuid,   -- the message that it tells of; null: none
    traceparent text,   -- W3C trace context
    config      text    -- of treadle.push_configs, which says where; null: none
$$);
