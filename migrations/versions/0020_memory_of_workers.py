"""Workers tell how much memory they use.

Revision ID: 0020
"""

from alembic import op

revision = "0020"
down_revision = "0019"

STATEMENTS = """
alter table treadle.workers add column if not exists memory_bytes bigint;
comment on column treadle.workers.memory_bytes is 'Resident memory of its process, without those of isolated agents; null: it did not tell'
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
