"""Room in the pages of the logs' ends: each message of a thread updates its row three times.

Revision ID: 0009
"""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.execute("alter table treadle.thread_log set (fillfactor = 20)")
