"""Tenants, what they may use and have used, and who may act for them."""

from sqlalchemy import BigInteger, Identity, Index, LargeBinary, Table, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, DATE, JSONB, UUID

from service.db.tables.columns import Time, key, may, metadata, must, tenant

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
    must("records", BigInteger, "0"),
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
    Index("keys_created", "created_at", "key_id"),
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
