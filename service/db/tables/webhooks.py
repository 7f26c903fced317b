"""Webhooks, how their last deliveries went, the secrets of callbacks, and addresses of push notifications."""

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

push_configs = Table(
    "push_configs",
    metadata,
    key("message_id", UUID),
    key("config_id", Text),
    tenant(),
    must("url", Text),
    may("token", Text),
    may("scheme", Text),
    may("credentials", Text),
    must("created_at", Time),
    Index("push_configs_tenant", "tenant"),
)
