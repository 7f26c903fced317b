"""Topics, their records, and the subscriptions to them."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Double,
    Identity,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from service.db.tables.columns import Time, key, may, metadata, must, tenant

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
    may("traceparent", Text),
    may("depth", SmallInteger),
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
    must("held", Integer, "0"),
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

held_records = Table(
    "held_records",
    metadata,
    key("subscription", BigInteger),
    key("topic", BigInteger),
    key("offset", BigInteger),
    tenant(),
    must("key", Text),
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
