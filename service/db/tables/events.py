"""The logs of messages and of threads."""

from sqlalchemy import BigInteger, Identity, Index, Integer, Table, Text, text
from sqlalchemy.dialects.postgresql import JSONB, UUID

from service.db.tables.columns import Time, key, may, metadata, must, tenant

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
