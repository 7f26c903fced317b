"""Messages send messages and wait for them; threads have a state; agents say more of themselves.

Each statement is a transaction of its own, and can be repeated: whoever works meanwhile holds some of these tables and
wants others, so all of them at once would meet a deadlock. None looks at what is in a table.

Revision ID: 0004
"""

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = """
create table if not exists treadle.parked (
    message_id uuid primary key,
    tenant     text not null default 'default',
    children   uuid[] not null
);
comment on table treadle.parked is
    'What messages wait for (hold = children); of those that were cancelled or deleted, what is to be cancelled, too';
alter table treadle.agents add column if not exists settings jsonb not null default '{}';
comment on column treadle.agents.settings is
    'What else the agent declares: run_in, concurrency, idle_timeout (seconds), meanwhile';
alter table treadle.queues add column if not exists concurrency integer check (concurrency >= 1);
comment on column treadle.queues.concurrency is 'How many of its messages run at once, in all workers together; null: as many as they take';
alter table treadle.threads add column if not exists memory jsonb;
comment on column treadle.threads.memory is 'What its agents keep from message to message; written with the completion of one';
alter table treadle.messages add column if not exists parent uuid;
comment on column treadle.messages.parent is 'The message that sent this one'
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in STATEMENTS.split(";\n"):
            op.execute(statement)
