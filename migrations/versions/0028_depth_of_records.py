"""Records keep how deep the message that published them lies.

Revision ID: 0028
"""

from alembic import op

revision = "0028"
down_revision = "0027"

STATEMENTS = """
alter table treadle.records add column if not exists depth smallint;
comment on column treadle.records.depth is 'Messages above the one whose attempt published it; null: a client did'
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        op.execute(statement)
