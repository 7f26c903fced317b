"""The tables Treadle stands on.

The statements are plain SQL on purpose: this is what `\\d` shows, and what a person with psql reads. `service/db/tables.py`
states the same for SQLAlchemy, and a test compares the two.

Revision ID: 0001
"""

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = """
create schema if not exists treadle;
comment on schema treadle is 'A durable queue service for AI agents: start at the views message_overview, thread_overview, queue_overview';

create table treadle.meta (
    name   text primary key,
    tenant text not null default 'default',
    value  text not null
);
comment on table treadle.meta is 'Facts about this installation: the release of the functions, the version of PGMQ';

create table treadle.queues (
    queue      text primary key check (queue ~ '^[a-z][a-z0-9_]{0,39}$'),
    tenant     text not null default 'default',
    paused     boolean not null default false,
    created_at timestamptz not null
);
comment on table treadle.queues is 'Named streams of work; each is four PGMQ queues: <queue>_high, _normal, _low and _dlq';
comment on column treadle.queues.paused is 'No claims while true; submits go on';

create table treadle.agents (
    tenant          text not null default 'default',
    agent           text not null check (length(agent) between 1 and 100),
    queue           text not null references treadle.queues,
    timeout_seconds double precision not null check (timeout_seconds > 0),
    max_attempts    integer not null check (max_attempts >= 1),
    is_default      boolean not null default false,
    input           jsonb,
    description     text not null default '',
    registered_at   timestamptz not null,
    primary key (tenant, agent)
);
comment on table treadle.agents is 'Who can answer; upserted by workers when they start, and what a submit is checked against';
comment on column treadle.agents.input is 'JSON Schema of the input type the agent declares; null: the agent takes text';
create unique index agents_default on treadle.agents (tenant) where is_default;

create table treadle.threads (
    id            bigint generated always as identity primary key,
    tenant        text not null default 'default',
    thread_id     text not null check (length(thread_id) between 1 and 255 and thread_id !~ '[[:cntrl:]/]'),
    last_ord      bigint not null default 0,
    turn          uuid,
    completed     bigint not null default 0,
    failed        bigint not null default 0,
    cancelled     bigint not null default 0,
    created_at    timestamptz not null,
    last_activity timestamptz not null,
    metadata      jsonb not null default '{}',
    unique (tenant, thread_id)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
comment on table treadle.threads is 'Conversations; this row''s lock is what gives messages their order';
comment on column treadle.threads.turn is 'The one message that may run: in its lane, running, waiting to retry, or parked';
comment on column treadle.threads.last_ord is 'Messages ever submitted; minus completed, failed and cancelled: those still open';
create index threads_recent on treadle.threads (tenant, last_activity desc, id desc);

create table treadle.messages (
    message_id      uuid primary key,
    tenant          text not null default 'default',
    thread          bigint,
    ord             bigint,
    aside           boolean not null default false,
    queue           text not null,
    lane            text check (lane in ('high', 'normal', 'low', 'dlq')),
    lane_id         bigint,
    agent           text not null,
    priority        text not null check (priority in ('high', 'normal', 'low')),
    rank            smallint not null check (rank between -1 and 2),
    state           text not null check (state in ('queued', 'processing', 'completed', 'failed', 'cancelled')),
    hold            text check (hold in ('thread', 'delay', 'backoff', 'children', 'input')),
    attempt         integer not null default 0,
    failures        integer not null default 0,
    losses          integer not null default 0,
    max_attempts    integer not null check (max_attempts >= 1),
    timeout_seconds double precision not null check (timeout_seconds > 0),
    last_seq        integer not null default 1,
    created_at      timestamptz not null,
    run_at          timestamptz not null,
    started_at      timestamptz,
    completed_at    timestamptz,
    worker_id       text,
    body            jsonb not null,
    metadata        jsonb not null default '{}',
    result          jsonb,
    error           text,
    usage           jsonb,
    constraint messages_place check ((thread is null) = (ord is null)),
    constraint messages_hold check (hold is null or state = 'queued'),
    constraint messages_lane check ((lane is null) = (lane_id is null)
        and (lane is not null) = (state in ('processing', 'failed') or (state = 'queued' and hold is null))
        and (lane = 'dlq') = (state = 'failed')),
    constraint messages_over check ((completed_at is not null) = (state in ('completed', 'failed', 'cancelled')))
) with (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
comment on table treadle.messages is 'What clients asked agents to do. No indexed column changes on claim and finish, so both stay HOT updates';
comment on column treadle.messages.thread is 'threads.id; no foreign key: the thread''s row is locked by whoever writes here';
comment on column treadle.messages.ord is 'Place in the thread, given under the thread''s row lock';
comment on column treadle.messages.aside is 'Belongs to the thread, but takes no turn in it';
comment on column treadle.messages.lane is 'Which PGMQ queue its row is in; started work that comes back waits in high';
comment on column treadle.messages.lane_id is 'msg_id of that row';
comment on column treadle.messages.rank is 'Order within the thread: -1 redriven, 0 high, 1 normal, 2 low';
comment on column treadle.messages.hold is 'Why a queued message is not in its lane: behind its thread, not due, failed and waiting, for children, for input';
comment on column treadle.messages.attempt is 'Executions begun; only grows';
comment on column treadle.messages.failures is 'Attempts that failed, compared with max_attempts; forgiven by redrive';
comment on column treadle.messages.losses is 'Attempts whose worker, or whose own process, died; compared with MAX_LOSSES';
comment on column treadle.messages.last_seq is 'Last event of the log at the last change of state; while processing, leases.last_seq';
create unique index messages_ord on treadle.messages (thread, ord) where thread is not null;
create index messages_waiting on treadle.messages (thread, rank, ord) where hold = 'thread';
create index messages_due on treadle.messages (run_at) where hold in ('delay', 'backoff');

create table treadle.leases (
    message_id       uuid primary key,
    tenant           text not null default 'default',
    lease            uuid not null,
    worker_id        text not null,
    thread           bigint,
    last_seq         integer not null,
    cancel_requested boolean not null default false,
    claimed_at       timestamptz not null,
    expires_at       timestamptz not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
comment on table treadle.leases is 'One row for each message being processed: (message_id, lease) fences every write of its worker';
comment on column treadle.leases.expires_at is 'The visibility timeout; heartbeats push it on';
create index leases_worker on treadle.leases (worker_id, claimed_at);

create table treadle.events (
    message_id uuid not null,
    seq        integer not null check (seq >= 1),
    tenant     text not null default 'default',
    thread     bigint,
    thread_pos bigint,
    type       text not null,
    data       jsonb,
    created_at timestamptz not null,
    primary key (message_id, seq)
) partition by range (message_id);
comment on table treadle.events is 'The append-only log of each message, dense from 1, and by thread_pos of each thread';
comment on column treadle.events.data is 'null for queued and done: both are read from the message itself, so log and result cannot disagree';
create index events_thread on treadle.events (thread, thread_pos) where thread is not null;
create table treadle.events_default partition of treadle.events default;

create table treadle.thread_log (
    thread   bigint primary key,
    tenant   text not null default 'default',
    last_pos bigint not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
comment on table treadle.thread_log is 'The last thread_pos of each thread; apart from threads, so that appends never wait for a submit';

create table treadle.counters (
    id         bigint generated always as identity primary key,
    tenant     text not null default 'default',
    queue      text not null,
    slot       timestamptz not null,
    queued     bigint not null default 0,
    processing bigint not null default 0,
    completed  bigint not null default 0,
    failed     bigint not null default 0,
    cancelled  bigint not null default 0,
    busy       double precision not null default 0
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
comment on table treadle.counters is 'Deltas of how many messages are in which state: nobody waits for a counter; the janitor folds them, sums stay exact';
comment on column treadle.counters.slot is 'The ten seconds in which it happened; -infinity once it is older than the rates look back';
comment on column treadle.counters.busy is 'Seconds that the finished messages ran';

create table treadle.workers (
    worker_id      text primary key,
    tenant         text not null default 'default',
    host           text not null,
    pid            integer not null,
    queues         text[] not null,
    concurrency    integer not null,
    in_flight      integer not null default 0,
    started_at     timestamptz not null,
    heartbeat_at   timestamptz not null,
    beating_since  timestamptz not null,
    server_started timestamptz
);
comment on table treadle.workers is 'Processes that claim messages';
comment on column treadle.workers.beating_since is 'Heartbeats have come without a gap since then';
comment on column treadle.workers.server_started is 'Start time of the server on which its listener holds its advisory lock; null: it holds none';

create table treadle.idempotency (
    tenant       text not null default 'default',
    key          text not null check (length(key) between 1 and 255),
    request_hash bytea not null,
    answer       jsonb,
    created_at   timestamptz not null,
    primary key (tenant, key)
);
comment on table treadle.idempotency is 'First answers by Idempotency-Key, kept 24 hours';
create index idempotency_age on treadle.idempotency (created_at);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
