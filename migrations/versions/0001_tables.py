"""The tables.

The statements are plain SQL: they are what `\\d` shows and what a person with psql reads. `service/db/tables/` states
the same tables for SQLAlchemy, and a test compares the two.

Tenant-owned tables carry `tenant`. Agents, queues and workers belong to the installation and carry none.

Revision ID: 0001
"""

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = """
comment on schema treadle is 'A durable queue service for AI agents: start at the views message_overview, thread_overview, queue_overview';

create table treadle.meta (
    name  text primary key,
    value text not null
);
comment on table treadle.meta is 'Facts about this installation: the release of the functions, the version of PGMQ, the declared default agent';

create table treadle.mutexes (
    name text primary key
);
comment on table treadle.mutexes is 'A transaction locks a row to do the work of that name alone. Any login role of the server can take an advisory lock, but only Treadle can lock these rows';

create table treadle.sql_roles (
    role       text primary key,
    tenant     text not null,
    created_at timestamptz not null
);
comment on table treadle.sql_roles is 'Login roles of SQL users, each bound to one tenant (treadle tenants sql-role)';

create table treadle.tenants (
    tenant       text primary key check (tenant ~ '^[a-z0-9][a-z0-9_-]{0,39}$'),
    created_at   timestamptz not null,
    suspended_at timestamptz,
    deleted_at   timestamptz,
    delete_after uuid,
    delete_awaits text[],
    limits       jsonb not null default '{}',
    in_force     jsonb
);
comment on table treadle.tenants is 'Isolated customers of this installation; default is there from the start';
comment on column treadle.tenants.suspended_at is 'Since when it may submit nothing and nothing of it is claimed; null: it is active';
comment on column treadle.tenants.deleted_at is 'Since when it is being deleted: it counts as unknown, and its rows are deleted in chunks; the last chunk deletes this row';
comment on column treadle.tenants.delete_after is 'How far the pass of its deletion over all messages came; null: the next pass begins';
comment on column treadle.tenants.delete_awaits is 'Of the transactions that were open at its deletion: those that were still open when the pass began';
comment on column treadle.tenants.limits is 'Limits of its own: queued, per_minute, bytes_per_day';
comment on column treadle.tenants.in_force is 'Its limits with those that the settings declare; null: none';
create index tenants_stopped on treadle.tenants (tenant) where suspended_at is not null or deleted_at is not null;
insert into treadle.tenants (tenant, created_at) values ('default', now());

create table treadle.queues (
    queue       text primary key check (queue ~ '^[a-z][a-z0-9_]{0,39}$'),
    paused      boolean not null default false,
    concurrency integer check (concurrency >= 1),
    created_at  timestamptz not null
);
comment on table treadle.queues is 'Named streams of work; each is four PGMQ queues: <queue>_high, _normal, _low and _dlq';
comment on column treadle.queues.paused is 'While true, workers claim nothing; submits are still accepted';
comment on column treadle.queues.concurrency is 'How many of its messages may run at once, on all workers together; null: no limit';

create table treadle.agents (
    agent           text primary key check (length(agent) between 1 and 100),
    queue           text not null references treadle.queues,
    timeout_seconds double precision not null check (timeout_seconds > 0),
    max_attempts    integer not null check (max_attempts >= 1),
    is_default      boolean not null default false,
    input           jsonb,
    description     text not null default '',
    registered_at   timestamptz not null,
    settings        jsonb not null default '{}'
);
comment on table treadle.agents is 'The agents that can answer. Workers upsert them at their start; a submit is checked against them';
comment on column treadle.agents.is_default is 'Answers messages that name no agent; at most one agent is the default';
comment on column treadle.agents.input is 'JSON Schema of the input type that the agent declares; null: the agent takes text';
comment on column treadle.agents.settings is 'Further declarations of the agent: run_in, concurrency, idle_timeout (seconds), while_busy';
create unique index agents_default on treadle.agents (is_default) where is_default;

create table treadle.threads (
    id            bigint generated always as identity primary key,
    tenant        text not null,
    thread_id     text not null check (length(thread_id) between 1 and 255 and thread_id !~ '[[:cntrl:]/]'),
    owner         text check (length(owner) between 1 and 255),
    agents        text[] not null default '{}',
    created_at    timestamptz not null,
    metadata      jsonb not null default '{}',
    memory        jsonb,
    unique (tenant, thread_id)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
comment on table treadle.threads is 'Conversations. The lock of a thread''s row orders its messages';
comment on column treadle.threads.id is 'Surrogate key, the column "thread" of other tables; never shown to clients';
comment on column treadle.threads.thread_id is 'The id that the client chose, unique in its tenant';
comment on column treadle.threads.owner is 'The subject that the thread belongs to; null: none, so that no principal with a subject sees it';
comment on column treadle.threads.agents is 'The agents of its messages, written under the lock of this row';
comment on column treadle.threads.memory is 'JSON that the thread''s agents keep from message to message; written with the completion of one';

create table treadle.thread_turns (
    thread        bigint not null,
    version       bigint not null default 0,
    tenant        text not null,
    last_ord      bigint not null default 0,
    turn          uuid,
    completed     bigint not null default 0,
    failed        bigint not null default 0,
    cancelled     bigint not null default 0,
    last_activity timestamptz not null,
    next_high     bigint not null default 0,
    next_normal   bigint not null default 0,
    next_low      bigint not null default 0,
    primary key (thread, version)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
comment on table treadle.thread_turns is 'What changes with each message of a thread: its counts and whose turn it is. One row for each thread, written under the lock of its row in threads';
comment on column treadle.thread_turns.version is 'Counts the changes. Part of the key, so that a search finds the newest version first, also past the dead ones that an old snapshot keeps';
comment on column treadle.thread_turns.last_ord is 'Messages ever submitted; minus completed, failed and cancelled: the open ones';
comment on column treadle.thread_turns.turn is 'The one message of the thread that may run: it is in its lane, running, waiting for a retry, or parked';
comment on column treadle.thread_turns.next_high is 'No message of priority high and a lower ord waits for the turn: the search for the next one begins here';
comment on column treadle.thread_turns.next_normal is 'The same for normal';
comment on column treadle.thread_turns.next_low is 'The same for low';
create index thread_turns_recent on treadle.thread_turns (tenant, last_activity desc, thread desc);

create table treadle.messages (
    message_id      uuid primary key,
    tenant          text not null,
    thread          bigint,
    ord             bigint,
    aside           boolean not null default false,
    queue           text not null,
    lane            text check (lane in ('high', 'normal', 'low', 'dlq')),
    lane_id         bigint,
    share_place     bigint,
    agent           text not null,
    priority        text not null check (priority in ('high', 'normal', 'low')),
    rank            smallint not null check (rank between -1 and 2),
    state           text not null check (state in ('queued', 'processing', 'completed', 'failed', 'cancelled')),
    hold            text check (hold in ('thread', 'delay', 'backoff', 'children', 'input', 'share')),
    attempt         integer not null default 0,
    failures        integer not null default 0,
    losses          integer not null default 0,
    max_attempts    integer not null check (max_attempts >= 1),
    max_losses      integer check (max_losses >= 1),
    timeout_seconds double precision not null check (timeout_seconds > 0),
    last_seq        integer not null default 1,
    created_at      timestamptz not null,
    run_at          timestamptz not null,
    started_at      timestamptz,
    completed_at    timestamptz,
    overloaded_since timestamptz,
    worker_id       text,
    parent          uuid,
    depth           smallint not null default 0 check (depth >= 0),
    owner           text check (length(owner) between 1 and 255),
    traceparent     text check (length(traceparent) between 55 and 512),
    schema_id       integer,
    body            jsonb not null,
    metadata        jsonb not null default '{}',
    result          jsonb,
    error           text,
    usage           jsonb,
    constraint messages_place check ((thread is null) = (ord is null)),
    constraint messages_hold check (hold is null or state = 'queued'),
    constraint messages_lane check ((lane is not null or hold is not distinct from 'share') = (lane_id is not null)
        and (lane is not null) = (state in ('processing', 'failed') or (state = 'queued' and hold is null))
        and (lane = 'dlq') = (state = 'failed')),
    constraint messages_over check ((completed_at is not null) = (state in ('completed', 'failed', 'cancelled')))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
comment on table treadle.messages is 'What clients ask agents to do. Claim and finish change no indexed column and pages have room, so both are HOT updates';
comment on column treadle.messages.thread is 'threads.id; no foreign key, because every writer holds the lock of the thread''s row';
comment on column treadle.messages.ord is 'Place in the thread, assigned under the lock of the thread''s row';
comment on column treadle.messages.aside is 'Belongs to the thread but takes no turn in it';
comment on column treadle.messages.lane is 'The PGMQ queue that holds its row. Submitted: its priority. Work that comes back after a start: high. Failed: dlq';
comment on column treadle.messages.lane_id is 'msg_id of that row; with hold = share: the place that the message waits at';
comment on column treadle.messages.share_place is 'Its place among the messages of its tenant that wait for the lane, while hold = share: a copy of lane_id, which is in no index because each finish changes it';
comment on column treadle.messages.rank is 'Order within the thread, before ord: -1 redriven, 0 high, 1 normal, 2 low';
comment on column treadle.messages.state is 'queued -> processing (claim), cancelled (cancel). processing -> queued (retry, release, loss, park), completed, failed or cancelled (finish, reap). failed -> queued (redrive). completed and cancelled are final';
comment on column treadle.messages.hold is 'Why a queued message has no lane row; null: it has one. thread (another message has the turn) -> null by promotion. delay (not due) -> thread or null when due. backoff (waits for a retry) -> null when due. children -> null when they are over. input -> null when a person answers. share (its tenant has its share of the lane, or is suspended) -> null when there is room';
comment on column treadle.messages.attempt is 'Executions that began; only grows';
comment on column treadle.messages.failures is 'Attempts that failed since the last progress (a step, a park); the message fails at max_attempts. A redrive resets it';
comment on column treadle.messages.losses is 'Attempts whose worker, or whose own process, died; the message fails at MAX_LOSSES. Progress forgives all but one';
comment on column treadle.messages.max_losses is 'Overrides MAX_LOSSES; null: MAX_LOSSES holds. Reserved: nothing fills it yet';
comment on column treadle.messages.timeout_seconds is 'How long one attempt may run';
comment on column treadle.messages.last_seq is 'Last event of the log at the last change of state; while processing, leases.last_seq is newer';
comment on column treadle.messages.run_at is 'Not before this time: the end of the delay or of the backoff';
comment on column treadle.messages.overloaded_since is 'Since when attempts find a service of the agent overloaded; null again after any other end of an attempt';
comment on column treadle.messages.parent is 'The message that sent this one';
comment on column treadle.messages.depth is 'How many messages lie above it, each sent by the one before. A chain has an end, so that agents that send to themselves cannot fill the database';
comment on column treadle.messages.owner is 'The subject that it belongs to: in a thread that of the thread; null: none, so that no principal with a subject sees it';
comment on column treadle.messages.traceparent is 'W3C trace context of the submit. Reserved: nothing fills it yet';
comment on column treadle.messages.schema_id is 'The registered schema that body satisfies; null: none. Reserved: nothing fills it yet';
comment on column treadle.messages.usage is 'What its attempts used together, as the agent reports it (tokens by kind)';
create unique index messages_ord on treadle.messages (thread, ord) where thread is not null;
create index messages_waiting on treadle.messages (thread, rank, ord) where hold = 'thread';
create index messages_due on treadle.messages (run_at) where hold in ('delay', 'backoff');
create index messages_share on treadle.messages (tenant, queue, priority, share_place) where hold = 'share';
create index messages_parent on treadle.messages (parent) where parent is not null;

create table treadle.parked (
    message_id uuid primary key,
    tenant     text not null,
    children   uuid[] not null
);
comment on table treadle.parked is 'The children that a message with hold = children waits for. After a message failed, or was cancelled or deleted: those of its children that are still to be cancelled';

create table treadle.leases (
    message_id       uuid primary key,
    id               bigint generated always as identity,
    tenant           text not null,
    lease            uuid not null,
    worker_id        text not null,
    thread           bigint,
    last_seq         integer not null,
    cancel_requested boolean not null default false,
    progressed       boolean not null default false,
    claimed_at       timestamptz not null,
    expires_at       timestamptz not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
comment on table treadle.leases is 'One row for each message that is processing: (message_id, lease) fences every write of its worker';
comment on column treadle.leases.id is 'The order of claims; a search for leases begins at the low-water mark of these ids';
comment on column treadle.leases.progressed is 'The attempt has written a step: that forgives the earlier failures and losses';
comment on column treadle.leases.last_seq is 'Last event of the log; the lease holder numbers its events from here';
comment on column treadle.leases.expires_at is 'The visibility timeout; heartbeats extend it';
create index leases_order on treadle.leases (id);
create index leases_thread on treadle.leases (thread) where thread is not null;

create table treadle.events (
    message_id uuid not null,
    seq        integer not null check (seq >= 1),
    tenant     text not null,
    thread     bigint,
    thread_pos bigint,
    type       text not null,
    data       jsonb,
    created_at timestamptz not null,
    primary key (message_id, seq)
) partition by range (message_id);
comment on table treadle.events is 'The append-only log of each message, dense from 1 by seq, and of each thread, dense from 1 by thread_pos';
comment on column treadle.events.data is 'null for queued and done: readers take both from the message itself, so log and result cannot disagree';
create index events_thread on treadle.events (thread, thread_pos) where thread is not null;
create table treadle.events_default partition of treadle.events default;

create table treadle.thread_log (
    thread   bigint not null,
    era      bigint not null default 0,
    tenant   text not null,
    last_pos bigint not null,
    primary key (thread, era),
    constraint thread_log_era check (era = last_pos / 16)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
comment on table treadle.thread_log is 'The last thread_pos of each thread, in one row. Apart from threads, so that an append never waits for an open transaction that submits';
comment on column treadle.thread_log.era is 'Part of the key, so that a search finds the newest version first, also past the dead ones that an old snapshot keeps. Changes seldom, so that most updates touch no index';

create table treadle.late_events (
    xid        bigint,
    n          bigint generated always as identity,
    message_id uuid not null,
    seq        integer not null,
    tenant     text not null,
    thread     bigint not null,
    primary key (xid, n)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
comment on table treadle.late_events is 'Events that get their thread_pos when their transaction (xid) commits; the same transaction deletes the rows';
create function treadle._give_late_positions() returns trigger language plpgsql as 'begin return null; end';
create constraint trigger late_events after insert on treadle.late_events deferrable initially deferred
    for each row execute function treadle._give_late_positions();

create table treadle.late_cancels (
    xid        bigint,
    n          bigint generated always as identity,
    message_id uuid not null,
    tenant     text not null,
    primary key (xid, n)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
comment on table treadle.late_cancels is 'Running messages whose cancellation is requested when this transaction (xid) commits; the same transaction deletes the rows';
create function treadle._give_late_cancels() returns trigger language plpgsql as 'begin return null; end';
create constraint trigger late_cancels after insert on treadle.late_cancels deferrable initially deferred
    for each row execute function treadle._give_late_cancels();

create table treadle.trash (
    message_id  uuid primary key,
    tenant      text not null,
    last_seq    integer not null,
    deleted_seq integer not null default 0,
    constraint trash_rest check (deleted_seq >= 0 and deleted_seq < last_seq)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
comment on table treadle.trash is 'Deleted messages whose events are not all deleted yet. purge deletes the rest in chunks; no reader is shown them';
comment on column treadle.trash.last_seq is 'The last event of the log';
comment on column treadle.trash.deleted_seq is 'Events up to this seq are deleted already';

create table treadle.counters (
    id          bigint generated always as identity primary key,
    tenant      text not null,
    queue       text not null,
    slot        timestamptz not null,
    queued      bigint not null default 0,
    processing  bigint not null default 0,
    completed   bigint not null default 0,
    failed      bigint not null default 0,
    cancelled   bigint not null default 0,
    run_seconds double precision not null default 0
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
comment on table treadle.counters is 'Deltas of how many messages are in which state. Inserts never wait for each other; the janitor folds rows together, and sums stay exact';
comment on column treadle.counters.slot is 'The ten seconds in which it happened; -infinity once it is too old for the rates';
comment on column treadle.counters.run_seconds is 'How long the messages that finished in the slot ran';

create table treadle.tenant_use (
    tenant  text primary key,
    arrival timestamptz not null,
    day     date not null,
    bytes   bigint not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
comment on table treadle.tenant_use is 'What tenants with limits used of them';
comment on column treadle.tenant_use.arrival is 'The theoretical arrival time of the next message (GCRA)';

create table treadle.late_charges (
    xid      bigint,
    n        bigint generated always as identity,
    tenant   text not null,
    messages bigint not null,
    bytes    bigint not null,
    primary key (xid, n)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
comment on table treadle.late_charges is 'Submits that are charged to their tenant when their transaction (xid) commits; the same transaction deletes the rows';
create function treadle._give_late_charges() returns trigger language plpgsql as 'begin return null; end';
create constraint trigger late_charges after insert on treadle.late_charges deferrable initially deferred
    for each row execute function treadle._give_late_charges();

create table treadle.lane_shares (
    id     bigint generated always as identity primary key,
    tenant text not null,
    queue  text not null,
    lane   text not null,
    ready  bigint not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
comment on table treadle.lane_shares is 'Deltas of how many visible rows each tenant has in a lane, while there is more than one tenant. The janitor counts them again';
create index lane_shares_lane on treadle.lane_shares (tenant, queue, lane);

create table treadle.low_water (
    name        text not null,
    low         bigint not null default 0,
    next_low    bigint,
    awaited     text[] not null default '{}',
    passed      text[] not null default '{}',
    passed_lows bigint[] not null default '{}',
    primary key (name, low),
    constraint low_water_passed check (cardinality(passed) = cardinality(passed_lows))
) with (fillfactor = 50);
comment on table treadle.low_water is 'Below these ids no live row is left. Readers of tables that are emptied from their head begin here, past the dead rows';
comment on column treadle.low_water.name is 'A lane''s table in pgmq (for its new messages), the same and "returned" (for messages that come back), leases, or counters. One row each';
comment on column treadle.low_water.low is 'Only rises. Part of the key, so that a search finds the newest version first';
comment on column treadle.low_water.next_low is 'The next mark; it holds once the awaited transactions have ended';
comment on column treadle.low_water.awaited is 'Virtual ids of transactions that may still commit a row below next_low';
comment on column treadle.low_water.passed is 'Virtual ids of transactions that stayed open for long, and may still commit rows below the mark';
comment on column treadle.low_water.passed_lows is 'For each of them: the mark when it was passed; its rows are not below that';

create table treadle.lost_rows (
    message_id uuid not null,
    queue      text not null,
    lane       text not null,
    lane_id    bigint not null
);
comment on table treadle.lost_rows is 'Lane rows that a truncate (pgmq.purge_queue) removed; the janitor gives their messages new ones';

create table treadle.workers (
    worker_id      text primary key,
    host           text not null,
    pid            integer not null,
    queues         text[] not null,
    agents         text[] not null default '{}',
    concurrency    integer not null,
    in_flight      integer not null default 0,
    started_at     timestamptz not null,
    heartbeat_at   timestamptz not null,
    reported_at    timestamptz not null,
    beating_since  timestamptz not null,
    server_started timestamptz,
    suspected_at   timestamptz
);
comment on table treadle.workers is 'Processes that claim messages';
comment on column treadle.workers.heartbeat_at is 'The last heartbeat, its own or one of its stand-in';
comment on column treadle.workers.reported_at is 'The last heartbeat of its own, which named its leases';
comment on column treadle.workers.beating_since is 'Heartbeats have arrived without a gap since this time';
comment on column treadle.workers.server_started is 'Start time of the PostgreSQL server on which the worker''s listener holds its advisory lock; null: it holds none';
comment on column treadle.workers.suspected_at is 'When a janitor found its advisory lock free; null after the next heartbeat';

create table treadle.idempotency (
    tenant       text not null,
    restriction  bytea not null,
    key          text not null check (length(key) between 1 and 255),
    request_hash bytea not null,
    answer       jsonb,
    created_at   timestamptz not null,
    primary key (tenant, restriction, key)
);
comment on table treadle.idempotency is 'The first answer to each Idempotency-Key, kept for 24 hours';
comment on column treadle.idempotency.restriction is 'SHA-256 of what restricts the principal within its tenant, empty for nothing: principals that see different rows share no keys';
create index idempotency_age on treadle.idempotency (created_at);

create table treadle.keys (
    key_id       text primary key check (key_id ~ '^[0-9a-z]{12}$'),
    tenant       text not null,
    name         text not null default '' check (length(name) <= 100),
    secret_hash  bytea not null check (length(secret_hash) = 32),
    former_hash  bytea check (length(former_hash) = 32),
    former_until timestamptz,
    scopes       text[] not null check (cardinality(scopes) > 0
        and scopes <@ array['submit', 'read', 'operate', 'publish', 'work', 'admin']),
    agents       text[] check (cardinality(agents) > 0),
    created_at   timestamptz not null,
    created_by   text not null,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    constraint keys_rotation check ((former_hash is null) = (former_until is null))
);
comment on table treadle.keys is 'API keys. Only the SHA-256 of a secret is kept';
comment on column treadle.keys.former_hash is 'The secret before the last rotation; valid until former_until';
comment on column treadle.keys.agents is 'The only agents that it may address; null: all';
comment on column treadle.keys.created_by is 'The principal that created it, as in the audit';
comment on column treadle.keys.last_used_at is 'Written at most once a minute';
create index keys_tenant on treadle.keys (tenant, created_at);

create table treadle.secrets (
    name       text primary key,
    value      bytea not null check (length(value) >= 32),
    created_at timestamptz not null
);
comment on table treadle.secrets is 'What all processes of the installation share: the secret that signs access tokens';

create table treadle.audit (
    id        bigint generated always as identity primary key,
    at        timestamptz not null,
    tenant    text not null,
    principal text not null,
    action    text not null check (action ~ '^[a-z_]+[.][a-z_]+$'),
    target    text not null,
    details   jsonb not null default '{}'
);
comment on table treadle.audit is 'Who changed access, or stopped, repeated or deleted work: written in the transaction of the act, kept for AUDIT_RETENTION_HOURS';
comment on column treadle.audit.principal is 'Such as key 4f2a (ci), token of key 4f2a (ci), or role alice for a session in SQL';
comment on column treadle.audit.action is 'What was done to what, such as key.revoke or message.cancel';
comment on column treadle.audit.target is 'The id or the name of what was acted on';
create index audit_at on treadle.audit (at);
create index audit_tenant on treadle.audit (tenant, at);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
