"""Rows of treadle.lost_rows can be deleted where a publication of logical replication has all tables.

Revision ID: 0029
"""

from alembic import op

revision = "0029"
down_revision = "0028"


def upgrade() -> None:
    op.execute("alter table treadle.lost_rows replica identity full")
