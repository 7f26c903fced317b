"""Workers tell of which tenants they claim messages.

Revision ID: 0024
"""

from alembic import op

revision = "0024"
down_revision = "0021"

STATEMENTS = """
alter table treadle.workers add column if not exists tenants text[];
comment on column treadle.workers.tenants is 'The tenants whose messages it claims (TENANTS); null: those of all'
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
