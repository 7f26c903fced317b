"""The places of a message's questions, which clients of other systems see as the ends of runs.

Revision ID: 0017
"""

from alembic import op

revision = "0017"
down_revision = "0016"

STATEMENTS = """
alter table treadle.messages add column if not exists questions integer[];
comment on column treadle.messages.questions is 'The places (seq) in its log of the questions that it has asked a person; null: none, or before this column'
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
