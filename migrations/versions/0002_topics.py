"""Topics, records and subscriptions.

Revision ID: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS = """
create table if not exists treadle.topics (
    id               bigint generated always as identity primary key,
    tenant           text not null,
    topic            text not null check (topic ~ '^[A-Za-z0-9._-]{1,249}$' and topic not in ('.', '..')),
    retention_hours  double precision check (retention_hours > 0),
    max_record_bytes integer not null check (max_record_bytes > 0),
    schema_subject   text check (length(schema_subject) between 1 and 255),
    first_offset     bigint not null default 0,
    purged_bytes     bigint not null default 0,
    created_at       timestamptz not null,
    deleted_at       timestamptz
) with (fillfactor = 50);
comment on table treadle.topics is 'Named, retained logs of records';
comment on column treadle.topics.id is 'Surrogate key, the column "topic" of other tables; never shown to clients';
comment on column treadle.topics.retention_hours is 'How long a record is kept; null: for ever';
comment on column treadle.topics.max_record_bytes is 'Of one record: its key, headers and value as stored, before compression';
comment on column treadle.topics.schema_subject is 'The subject of the schema registry whose schema its records satisfy; null: none';
comment on column treadle.topics.first_offset is 'Of the oldest record that is kept: those before are deleted, or about to be';
comment on column treadle.topics.purged_bytes is 'The bytes of the records that are deleted';
comment on column treadle.topics.deleted_at is 'Since when it is being deleted: it counts as unknown, and its rows are deleted in chunks';
create unique index if not exists topics_name on treadle.topics (tenant, topic) where deleted_at is null;
create index if not exists topics_deleted on treadle.topics (id) where deleted_at is not null;

create table if not exists treadle.topic_ends (
    topic       bigint not null,
    next_offset bigint not null default 0,
    tenant      text not null,
    bytes       bigint not null default 0,
    primary key (topic, next_offset)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
comment on table treadle.topic_ends is 'Where each topic ends, in one row. Only the router writes it, so a publisher waits for nothing';
comment on column treadle.topic_ends.topic is 'topics.id';
comment on column treadle.topic_ends.next_offset is 'Only rises. Part of the key, so that a search finds the newest version first, also past the dead ones that an old snapshot keeps';
comment on column treadle.topic_ends.bytes is 'Of all records that ever got an offset';

create table if not exists treadle.records (
    record_id  uuid primary key,
    tenant     text not null,
    topic      bigint not null,
    key        text check (length(key) between 1 and 255),
    headers    jsonb not null default '{}',
    value      jsonb not null,
    bytes      integer not null,
    schema_id  integer,
    created_at timestamptz not null
) partition by range (record_id);
comment on table treadle.records is 'What was published. A record without an offset is still in the PGMQ queue treadle_inbox';
comment on column treadle.records.topic is 'topics.id';
comment on column treadle.records.key is 'Records of one key are handled in order; null: this one has no order';
comment on column treadle.records.bytes is 'Of key, headers and value, before compression';
comment on column treadle.records.schema_id is 'The registered schema that value satisfies; null: none';
create table if not exists treadle.records_default partition of treadle.records default;

create table if not exists treadle.topic_log (
    topic     bigint not null,
    "offset"  bigint not null check ("offset" >= 0),
    tenant    text not null,
    record_id uuid not null,
    primary key (topic, "offset")
);
comment on table treadle.topic_log is 'The records of each topic in their order: dense from its first_offset to its end';

create table if not exists treadle.subscriptions (
    id            bigint generated always as identity primary key,
    tenant        text not null,
    subscription  text not null check (subscription ~ '^[A-Za-z0-9._-]{1,100}$' and subscription not in ('.', '..')),
    topics        text[] not null check (cardinality(topics) between 1 and 100),
    agent         text not null check (length(agent) between 1 and 100),
    delivery      text not null check (delivery in ('at_least_once', 'at_most_once', 'exactly_once')),
    max_in_flight integer not null check (max_in_flight >= 1),
    filter        jsonb,
    dead_letter   boolean not null default true,
    paused        boolean not null default false,
    created_at    timestamptz not null,
    unique (tenant, subscription)
) with (fillfactor = 50);
comment on table treadle.subscriptions is 'Consumer groups. The router locks a row while it delivers to it';
comment on column treadle.subscriptions.id is 'Surrogate key, the column "subscription" of other tables; never shown to clients';
comment on column treadle.subscriptions.topics is 'Names or patterns: * stands for one word, # for any number of them; dots separate words';
comment on column treadle.subscriptions.agent is 'Handles its records. While no worker has registered the agent, nothing is delivered';
comment on column treadle.subscriptions.delivery is 'at_most_once: a record is tried once. exactly_once: what the handler publishes and sends commits with its completion';
comment on column treadle.subscriptions.max_in_flight is 'Messages that may be open at once; the other records stay in the log';
comment on column treadle.subscriptions.filter is 'Only records whose value and headers contain these: {"value", "headers"}; null: all';
comment on column treadle.subscriptions.dead_letter is 'false: a record that fails for good leaves no dead letter and is counted as dropped';

create table if not exists treadle.subscription_topics (
    subscription bigint not null,
    topic        bigint not null,
    tenant       text not null,
    primary key (subscription, topic)
);
comment on table treadle.subscription_topics is 'The topics that the patterns of each subscription match';
create index if not exists subscription_topics_topic on treadle.subscription_topics (topic);

create table if not exists treadle.subscription_positions (
    subscription bigint not null,
    topic        bigint not null,
    version      bigint not null default 0,
    tenant       text not null,
    next_offset  bigint not null,
    fresh_offset bigint not null,
    primary key (subscription, topic, version)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
comment on table treadle.subscription_positions is 'How far each subscription came in each of its topics, in one row. It moves in the transaction that writes the messages';
comment on column treadle.subscription_positions.version is 'Counts the changes. Part of the key, so that a search finds the newest version first, also past the dead ones that an old snapshot keeps';
comment on column treadle.subscription_positions.next_offset is 'Of the next record that is delivered';
comment on column treadle.subscription_positions.fresh_offset is 'The highest next_offset so far. A record before it was delivered already: it is not delivered again while its message is open';

create table if not exists treadle.subscription_counts (
    id           bigint generated always as identity primary key,
    tenant       text not null,
    subscription bigint not null,
    open         bigint not null default 0,
    completed    bigint not null default 0,
    failed       bigint not null default 0,
    cancelled    bigint not null default 0,
    dropped      bigint not null default 0,
    filtered     bigint not null default 0,
    expired      bigint not null default 0
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
comment on table treadle.subscription_counts is 'Deltas of what became of the records of each subscription. Inserts never wait for each other; the janitor folds rows together';
comment on column treadle.subscription_counts.open is 'Messages that are queued or processing';
comment on column treadle.subscription_counts.dropped is 'Messages that failed and left no dead letter';
comment on column treadle.subscription_counts.filtered is 'Records that the filter left out';
comment on column treadle.subscription_counts.expired is 'Records that were deleted by retention before they were delivered';
create index if not exists subscription_counts_subscription on treadle.subscription_counts (subscription, id);

alter table treadle.messages add column if not exists subscription bigint;
alter table treadle.messages add column if not exists record_topic bigint;
alter table treadle.messages add column if not exists record_offset bigint;
comment on column treadle.messages.subscription is 'subscriptions.id, where a subscription delivered it';
comment on column treadle.messages.record_topic is 'topics.id of its record';
comment on column treadle.messages.record_offset is 'The offset of its record';
create index if not exists messages_records on treadle.messages (subscription, record_topic, record_offset) where subscription is not null;
alter table treadle.messages drop constraint if exists messages_lane;
alter table treadle.messages add constraint messages_lane check ((lane is not null or hold is not distinct from 'share') = (lane_id is not null)
    and ((lane is not null) = (state in ('processing', 'failed') or (state = 'queued' and hold is null)) and (lane = 'dlq') = (state = 'failed')
        or (subscription is not null and state = 'failed' and lane is null)));
comment on column treadle.messages.max_losses is 'Overrides MAX_LOSSES; null: MAX_LOSSES holds';

alter table treadle.threads drop constraint if exists threads_thread_id_check;
alter table treadle.threads add constraint threads_thread_id_check check ((length(thread_id) between 1 and 255 and thread_id !~ '[[:cntrl:]/]')
    or (thread_id ~ '^records/[A-Za-z0-9._-]+/' and length(thread_id) between 1 and 400));
comment on column treadle.threads.thread_id is 'The id that the client chose, unique in its tenant; or records/<subscription>/<key>, which no client can choose'
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
