"""Messages send messages and wait for them; threads have a state; agents say more of themselves.

Revision ID: 0004
"""

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = """
alter table treadle.messages add column parent uuid;
alter table treadle.messages add column children uuid[];
comment on column treadle.messages.parent is 'The message that sent this one';
comment on column treadle.messages.children is
    'What it waits for (hold = children); of a cancelled one, what is to be cancelled, too';
create index messages_parked on treadle.messages (message_id) where children is not null;
alter table treadle.threads add column state jsonb;
comment on column treadle.threads.state is 'What its agents keep from message to message; written with the completion of one';
alter table treadle.agents add column settings jsonb not null default '{}';
comment on column treadle.agents.settings is
    'What else the agent declares: run_in, concurrency, idle_timeout (seconds), meanwhile';
alter table treadle.queues add column concurrency integer check (concurrency >= 1);
comment on column treadle.queues.concurrency is 'How many of its messages run at once, in all workers together; null: as many as they take'
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        op.execute(statement)
