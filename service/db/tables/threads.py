"""Conversations, and whose turn it is."""

from sqlalchemy import BigInteger, Identity, Index, Integer, Interval, Table, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from service.db.tables.columns import Time, key, may, metadata, must, tenant

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

store_items = Table(
    "store_items",
    metadata,
    tenant(primary_key=True),
    key("owner", Text),
    key("namespace", ARRAY(Text)),
    key("key", Text),
    must("value", JSONB),
    must("created_at", Time),
    must("updated_at", Time),
    may("bytes", BigInteger),
    may("ttl", Interval),
    may("expires_at", Time),
    Index("store_items_expires", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
)

store_sizes = Table(
    "store_sizes",
    metadata,
    tenant(primary_key=True),
    key("owner", Text),
    key("slot", Integer, default="0"),
    must("items", BigInteger, "0"),
    must("bytes", BigInteger, "0"),
)

store_totals = Table(
    "store_totals",
    metadata,
    tenant(primary_key=True),
    key("slot", Integer, default="0"),
    must("bytes", BigInteger, "0"),
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
