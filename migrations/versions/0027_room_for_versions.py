"""Room in the pages of messages for all versions of a message, which stay while another transaction is open.

Revision ID: 0027
"""

from alembic import op

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    op.execute("alter table treadle.messages set (fillfactor = 28)")
