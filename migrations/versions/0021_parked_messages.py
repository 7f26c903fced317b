"""Messages that wait for their children or for a person are found without those that are over.

Revision ID: 0021
"""

from alembic import op

revision = "0021"
down_revision = "0020"

STATEMENTS = """
create index if not exists messages_parked on treadle.messages (message_id) where hold in ('children', 'input')
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
