"""Double-texting: messages that were interrupted by a later one of their thread, or steer the one that runs.

Revision ID: 0008
"""

from alembic import op

revision = "0008"
down_revision = "0007"

STATEMENTS = """
alter table treadle.messages add column if not exists interrupted boolean not null default false;
comment on column treadle.messages.interrupted is 'A later message of the thread has cancelled it (on_busy = interrupt): what it has said stays in the history';
alter table treadle.messages add column if not exists steers boolean not null default false;
comment on column treadle.messages.steers is 'The message that runs in the thread may take it (on_busy = steer)';
alter table treadle.messages add column if not exists steered_into uuid;
comment on column treadle.messages.steered_into is 'The message that took it while it ran; null: none';
create index if not exists messages_steered on treadle.messages (steered_into) where steered_into is not null;
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
