"""Remote workers: each serves one tenant.

Revision ID: 0010
"""

from alembic import op

revision = "0010"
down_revision = "0009"

STATEMENTS = """
alter table treadle.workers add column if not exists serves text;
comment on column treadle.workers.serves is 'The tenant whose messages a remote worker claims, over HTTP; null: a worker of the installation';
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
