"""The index by which a tenant lists its messages.

Revision ID: 0005
"""

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS = """
create index if not exists messages_tenant on treadle.messages (tenant, message_id) where tenant <> 'default'
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
