"""Types of values, and their versions."""

from sqlalchemy import ForeignKeyConstraint, Index, Integer, LargeBinary, Table, Text, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB, UUID

from service.db.tables.columns import Time, key, may, metadata, must, tenant

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
