"""The tables for SQLAlchemy: Alembic compares a database with them to draft the next migration.

The migrations create the tables, and a test compares the two. CHECKs, comments and storage parameters stand only in
the migrations.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, DATE, JSONB, TIMESTAMP, UUID
from sqlalchemy.types import TypeEngine

metadata = MetaData(schema="treadle")

Type = TypeEngine[Any] | type[TypeEngine[Any]]
Time = TIMESTAMP(timezone=True)


def key(name: str, type: Type, *more: Any, default: str | None = None) -> Column[Any]:
    """A column of the primary key; `default` is SQL."""
    return Column(name, type, *more, primary_key=True, server_default=None if default is None else text(default))


def must(name: str, type: Type, default: str | None = None, *more: Any) -> Column[Any]:
    """A column that is never null; `default` is SQL."""
    return Column(name, type, *more, nullable=False, server_default=None if default is None else text(default))


def may(name: str, type: Type) -> Column[Any]:
    """A column that may be null."""
    return Column(name, type)


def tenant(primary_key: bool = False) -> Column[Any]:
    return Column("tenant", Text, nullable=False, primary_key=primary_key)


meta = Table("meta", metadata, key("name", Text), must("value", Text))

mutexes = Table("mutexes", metadata, key("name", Text))

sql_roles = Table("sql_roles", metadata, key("role", Text), must("tenant", Text), must("created_at", Time))

tenants = Table(
    "tenants",
    metadata,
    key("tenant", Text),
    must("created_at", Time),
    may("suspended_at", Time),
    may("deleted_at", Time),
    may("delete_after", UUID),
    may("delete_awaits", ARRAY(Text)),
    must("limits", JSONB, "'{}'"),
    may("in_force", JSONB),
    Index(
        "tenants_stopped",
        "tenant",
        postgresql_where=text("suspended_at is not null or deleted_at is not null"),
    ),
)

queues = Table(
    "queues",
    metadata,
    key("queue", Text),
    must("paused", Boolean, "false"),
    may("concurrency", Integer),
    must("created_at", Time),
)

agents = Table(
    "agents",
    metadata,
    key("agent", Text),
    must("queue", Text, None, ForeignKey("treadle.queues.queue")),
    must("timeout_seconds", Double),
    must("max_attempts", Integer),
    must("is_default", Boolean, "false"),
    may("input", JSONB),
    must("description", Text, "''"),
    must("registered_at", Time),
    must("settings", JSONB, "'{}'"),
    Index("agents_default", "is_default", unique=True, postgresql_where=text("is_default")),
)

threads = Table(
    "threads",
    metadata,
    key("id", BigInteger, Identity(always=True)),
    tenant(),
    must("thread_id", Text),
    may("owner", Text),
    must("agents", ARRAY(Text), "'{}'"),
    must("created_at", Time),
    must("metadata", JSONB, "'{}'"),
    may("memory", JSONB),
    UniqueConstraint("tenant", "thread_id", name="threads_tenant_thread_id_key"),
)

thread_turns = Table(
    "thread_turns",
    metadata,
    key("thread", BigInteger),
    key("version", BigInteger, default="0"),
    tenant(),
    must("last_ord", BigInteger, "0"),
    may("turn", UUID),
    must("completed", BigInteger, "0"),
    must("failed", BigInteger, "0"),
    must("cancelled", BigInteger, "0"),
    must("last_activity", Time),
    must("next_high", BigInteger, "0"),
    must("next_normal", BigInteger, "0"),
    must("next_low", BigInteger, "0"),
    Index("thread_turns_recent", "tenant", text("last_activity DESC"), text("thread DESC")),
)

messages = Table(
    "messages",
    metadata,
    key("message_id", UUID),
    tenant(),
    may("thread", BigInteger),
    may("ord", BigInteger),
    must("aside", Boolean, "false"),
    must("queue", Text),
    may("lane", Text),
    may("lane_id", BigInteger),
    may("share_place", BigInteger),
    must("agent", Text),
    must("priority", Text),
    must("rank", SmallInteger),
    must("state", Text),
    may("hold", Text),
    must("attempt", Integer, "0"),
    must("failures", Integer, "0"),
    must("losses", Integer, "0"),
    must("max_attempts", Integer),
    may("max_losses", Integer),
    must("timeout_seconds", Double),
    must("last_seq", Integer, "1"),
    must("created_at", Time),
    must("run_at", Time),
    may("started_at", Time),
    may("completed_at", Time),
    may("overloaded_since", Time),
    may("worker_id", Text),
    may("parent", UUID),
    must("depth", SmallInteger, "0"),
    may("owner", Text),
    may("traceparent", Text),
    may("schema_id", Integer),
    must("body", JSONB),
    must("metadata", JSONB, "'{}'"),
    may("result", JSONB),
    may("error", Text),
    may("usage", JSONB),
    may("subscription", BigInteger),
    may("record_topic", BigInteger),
    may("record_offset", BigInteger),
    Index("messages_ord", "thread", "ord", unique=True, postgresql_where=text("thread is not null")),
    Index("messages_waiting", "thread", "rank", "ord", postgresql_where=text("hold = 'thread'")),
    Index("messages_due", "run_at", postgresql_where=text("hold in ('delay', 'backoff')")),
    Index("messages_share", "tenant", "queue", "priority", "share_place", postgresql_where=text("hold = 'share'")),
    Index("messages_parent", "parent", postgresql_where=text("parent is not null")),
    Index(
        "messages_records",
        "subscription",
        "record_topic",
        "record_offset",
        postgresql_where=text("subscription is not null"),
    ),
)

parked = Table("parked", metadata, key("message_id", UUID), tenant(), must("children", ARRAY(UUID)))

leases = Table(
    "leases",
    metadata,
    key("message_id", UUID),
    must("id", BigInteger, None, Identity(always=True)),
    tenant(),
    must("lease", UUID),
    must("worker_id", Text),
    may("thread", BigInteger),
    must("last_seq", Integer),
    must("cancel_requested", Boolean, "false"),
    must("progressed", Boolean, "false"),
    must("claimed_at", Time),
    must("expires_at", Time),
    Index("leases_order", "id"),
    Index("leases_thread", "thread", postgresql_where=text("thread is not null")),
)

events = Table(
    "events",
    metadata,
    key("message_id", UUID),
    key("seq", Integer),
    tenant(),
    may("thread", BigInteger),
    may("thread_pos", BigInteger),
    must("type", Text),
    may("data", JSONB),
    must("created_at", Time),
    Index("events_thread", "thread", "thread_pos", postgresql_where=text("thread is not null")),
    postgresql_partition_by="range (message_id)",
)

trash = Table(
    "trash", metadata, key("message_id", UUID), tenant(), must("last_seq", Integer), must("deleted_seq", Integer, "0")
)

thread_log = Table(
    "thread_log",
    metadata,
    key("thread", BigInteger),
    key("era", BigInteger, default="0"),
    tenant(),
    must("last_pos", BigInteger),
)

late_events = Table(
    "late_events",
    metadata,
    key("xid", BigInteger),
    key("n", BigInteger, Identity(always=True)),
    must("message_id", UUID),
    must("seq", Integer),
    tenant(),
    must("thread", BigInteger),
)

late_cancels = Table(
    "late_cancels",
    metadata,
    key("xid", BigInteger),
    key("n", BigInteger, Identity(always=True)),
    must("message_id", UUID),
    tenant(),
)

counters = Table(
    "counters",
    metadata,
    key("id", BigInteger, Identity(always=True)),
    tenant(),
    must("queue", Text),
    must("slot", Time),
    must("queued", BigInteger, "0"),
    must("processing", BigInteger, "0"),
    must("completed", BigInteger, "0"),
    must("failed", BigInteger, "0"),
    must("cancelled", BigInteger, "0"),
    must("run_seconds", Double, "0"),
)

tenant_use = Table(
    "tenant_use",
    metadata,
    tenant(primary_key=True),
    must("arrival", Time),
    must("day", DATE),
    must("bytes", BigInteger),
)

late_charges = Table(
    "late_charges",
    metadata,
    key("xid", BigInteger),
    key("n", BigInteger, Identity(always=True)),
    tenant(),
    must("messages", BigInteger),
    must("bytes", BigInteger),
)

lane_shares = Table(
    "lane_shares",
    metadata,
    key("id", BigInteger, Identity(always=True)),
    tenant(),
    must("queue", Text),
    must("lane", Text),
    must("ready", BigInteger),
    Index("lane_shares_lane", "tenant", "queue", "lane"),
)

low_water = Table(
    "low_water",
    metadata,
    key("name", Text),
    key("low", BigInteger, default="0"),
    may("next_low", BigInteger),
    must("awaited", ARRAY(Text), "'{}'"),
    must("passed", ARRAY(Text), "'{}'"),
    must("passed_lows", ARRAY(BigInteger), "'{}'"),
)

lost_rows = Table(
    "lost_rows",
    metadata,
    must("message_id", UUID),
    must("queue", Text),
    must("lane", Text),
    must("lane_id", BigInteger),
)

workers = Table(
    "workers",
    metadata,
    key("worker_id", Text),
    must("host", Text),
    must("pid", Integer),
    must("queues", ARRAY(Text)),
    must("agents", ARRAY(Text), "'{}'"),
    must("concurrency", Integer),
    must("in_flight", Integer, "0"),
    must("started_at", Time),
    must("heartbeat_at", Time),
    must("reported_at", Time),
    must("beating_since", Time),
    may("server_started", Time),
    may("suspected_at", Time),
)

idempotency = Table(
    "idempotency",
    metadata,
    tenant(primary_key=True),
    key("restriction", LargeBinary),
    key("key", Text),
    must("request_hash", LargeBinary),
    may("answer", JSONB),
    must("created_at", Time),
    Index("idempotency_age", "created_at"),
)

keys = Table(
    "keys",
    metadata,
    key("key_id", Text),
    tenant(),
    must("name", Text, "''"),
    must("secret_hash", LargeBinary),
    may("former_hash", LargeBinary),
    may("former_until", Time),
    must("scopes", ARRAY(Text)),
    may("agents", ARRAY(Text)),
    must("created_at", Time),
    must("created_by", Text),
    may("expires_at", Time),
    may("revoked_at", Time),
    may("last_used_at", Time),
    Index("keys_tenant", "tenant", "created_at"),
)

secrets = Table("secrets", metadata, key("name", Text), must("value", LargeBinary), must("created_at", Time))

audit = Table(
    "audit",
    metadata,
    key("id", BigInteger, Identity(always=True)),
    must("at", Time),
    tenant(),
    must("principal", Text),
    must("action", Text),
    must("target", Text),
    must("details", JSONB, "'{}'"),
    Index("audit_at", "at"),
    Index("audit_tenant", "tenant", "at"),
)

topics = Table(
    "topics",
    metadata,
    key("id", BigInteger, Identity(always=True)),
    tenant(),
    must("topic", Text),
    may("retention_hours", Double),
    must("max_record_bytes", Integer),
    may("schema_subject", Text),
    must("first_offset", BigInteger, "0"),
    must("purged_bytes", BigInteger, "0"),
    must("created_at", Time),
    may("deleted_at", Time),
    Index("topics_name", "tenant", "topic", unique=True, postgresql_where=text("deleted_at is null")),
    Index("topics_deleted", "id", postgresql_where=text("deleted_at is not null")),
)

topic_ends = Table(
    "topic_ends",
    metadata,
    key("topic", BigInteger),
    key("next_offset", BigInteger, default="0"),
    tenant(),
    must("bytes", BigInteger, "0"),
)

records = Table(
    "records",
    metadata,
    key("record_id", UUID),
    tenant(),
    must("topic", BigInteger),
    may("key", Text),
    must("headers", JSONB, "'{}'"),
    must("value", JSONB),
    must("bytes", Integer),
    may("schema_id", Integer),
    must("created_at", Time),
    postgresql_partition_by="range (record_id)",
)

topic_log = Table(
    "topic_log",
    metadata,
    key("topic", BigInteger),
    key("offset", BigInteger),
    tenant(),
    must("record_id", UUID),
)

subscriptions = Table(
    "subscriptions",
    metadata,
    key("id", BigInteger, Identity(always=True)),
    tenant(),
    must("subscription", Text),
    must("topics", ARRAY(Text)),
    must("agent", Text),
    must("delivery", Text),
    must("max_in_flight", Integer),
    may("filter", JSONB),
    must("dead_letter", Boolean, "true"),
    must("paused", Boolean, "false"),
    must("created_at", Time),
    UniqueConstraint("tenant", "subscription", name="subscriptions_tenant_subscription_key"),
)

subscription_topics = Table(
    "subscription_topics",
    metadata,
    key("subscription", BigInteger),
    key("topic", BigInteger),
    tenant(),
    Index("subscription_topics_topic", "topic"),
)

subscription_positions = Table(
    "subscription_positions",
    metadata,
    key("subscription", BigInteger),
    key("topic", BigInteger),
    key("version", BigInteger, default="0"),
    tenant(),
    must("next_offset", BigInteger),
    must("fresh_offset", BigInteger),
)

subscription_counts = Table(
    "subscription_counts",
    metadata,
    key("id", BigInteger, Identity(always=True)),
    tenant(),
    must("subscription", BigInteger),
    must("open", BigInteger, "0"),
    must("completed", BigInteger, "0"),
    must("failed", BigInteger, "0"),
    must("cancelled", BigInteger, "0"),
    must("dropped", BigInteger, "0"),
    must("filtered", BigInteger, "0"),
    must("expired", BigInteger, "0"),
    Index("subscription_counts_subscription", "subscription", "id"),
)

schema_ends = Table("schema_ends", metadata, tenant(primary_key=True), must("next_id", Integer))

schemas = Table(
    "schemas",
    metadata,
    tenant(primary_key=True),
    key("schema_id", Integer),
    must("kind", Text),
    must("schema", Text),
    must("refs", JSONB, "'[]'"),
    may("extras", JSONB),
    may("descriptor", LargeBinary),
    must("digest", UUID),
    must("created_at", Time),
    UniqueConstraint("tenant", "digest", name="schemas_digest"),
)

schema_versions = Table(
    "schema_versions",
    metadata,
    tenant(primary_key=True),
    key("subject", Text),
    key("version", Integer),
    must("schema_id", Integer),
    must("created_at", Time),
    may("deleted_at", Time),
    ForeignKeyConstraint(["tenant", "schema_id"], ["treadle.schemas.tenant", "treadle.schemas.schema_id"]),
    Index("schema_versions_schema", "tenant", "schema_id"),
)

schema_rules = Table(
    "schema_rules", metadata, tenant(primary_key=True), key("subject", Text), key("rule", Text), must("value", Text)
)
