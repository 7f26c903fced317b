"""The installation: queues, agents, workers with their warm instances, and what the chores note."""

from sqlalchemy import BigInteger, Boolean, Double, ForeignKey, Index, Integer, Table, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from service.db.tables.columns import Time, key, may, metadata, must, tenant

meta = Table("meta", metadata, key("name", Text), must("value", Text))

mutexes = Table("mutexes", metadata, key("name", Text))

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

low_water = Table(
    "low_water",
    metadata,
    key("name", Text),
    key("low", BigInteger, default="0"),
    may("next_low", BigInteger),
    must("awaited", ARRAY(Text), "'{}'"),
    must("passed", ARRAY(Text), "'{}'"),
    must("passed_lows", ARRAY(BigInteger), "'{}'"),
    Index("low_water_passed", "name", postgresql_where=text("passed <> '{}'")),
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
    may("serves", Text),
    may("memory_bytes", BigInteger),
    may("tenants", ARRAY(Text)),
)

instances = Table(
    "instances",
    metadata,
    key("worker_id", Text, ForeignKey("treadle.workers.worker_id", ondelete="CASCADE")),
    key("thread", BigInteger),
    key("agent", Text),
    tenant(),
    must("made_at", Time),
)
