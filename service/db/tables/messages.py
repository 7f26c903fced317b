"""Messages, their leases, and the counters of their states."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from service.db.tables.columns import Time, key, may, metadata, must, tenant

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
    Index("messages_tenant", "tenant", "message_id", postgresql_where=text("tenant <> 'default'")),
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

lane_shares = Table(
    "lane_shares",
    metadata,
    key("id", BigInteger, Identity(always=True)),
    tenant(),
    must("queue", Text),
    must("lane", Text),
    must("ready", BigInteger),
    must("behind", BigInteger, "0"),
    Index("lane_shares_order", "tenant", "queue", "lane", "id"),
)

lane_surplus = Table(
    "lane_surplus",
    metadata,
    key("queue", Text),
    key("lane", Text),
    tenant(primary_key=True),
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
