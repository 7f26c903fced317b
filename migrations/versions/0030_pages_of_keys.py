"""The keys of all tenants have an index in the order of their list.

Revision ID: 0030
"""

from alembic import op

revision = "0030"
down_revision = "0029"


def upgrade() -> None:
    op.execute("create index if not exists keys_created on treadle.keys (created_at, key_id)")
