"""Webhooks, how their last deliveries went, and the secrets of callbacks."""

from sqlalchemy import Boolean, Index, Integer, Table, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from service.db.tables.columns import Time, key, may, metadata, must, tenant

webhooks = Table(
    "webhooks",
    metadata,
    key("webhook_id", UUID),
    tenant(),
    must("url", Text),
    must("events", ARRAY(Text)),
    may("agents", ARRAY(Text)),
    may("queues", ARRAY(Text)),
    must("format", Text),
    must("description", Text, "''"),
    must("enabled", Boolean, "true"),
    may("disabled_reason", Text),
    must("secrets", JSONB),
    must("created_at", Time),
    Index("webhooks_tenant", "tenant", "created_at"),
    Index("webhooks_enabled", "tenant", postgresql_where=text("enabled")),
)

webhook_outcomes = Table(
    "webhook_outcomes",
    metadata,
    key("webhook_id", UUID),
    tenant(),
    must("at", Time),
    must("message_id", UUID),
    may("status", Integer),
    may("error", Text),
    may("succeeded_at", Time),
    may("failing_since", Time),
)

callback_secrets = Table("callback_secrets", metadata, tenant(primary_key=True), must("secrets", JSONB))
