"""A worker whose lock is free is a suspect first.

Revision ID: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("alter table treadle.workers add column suspected_at timestamptz")
    op.execute(
        "comment on column treadle.workers.suspected_at is"
        " 'A janitor found its advisory lock free then, and it has not beaten since'"
    )
