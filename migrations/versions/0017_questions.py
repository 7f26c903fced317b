"""The places of a message's questions, which clients of other systems see as the ends of runs.

Revision ID: 0017
"""

from alembic import op

revision = "0017"
down_revision = "0016"

STATEMENTS = """
alter table treadle.messages add column if not exists questions integer[];
comment on column treadle.messages.questions is 'The places (seq) in its log of the questions that it has asked a person; null: none, or before this column';
update treadle.messages m
    set questions = array(
        select e.seq
        from treadle.events e
        where e.message_id = m.message_id
            and e.type = 'parked'
            and e.data ->> 'hold' = 'input'
        order by e.seq)
    where m.hold = 'input'
        and m.questions is null
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
