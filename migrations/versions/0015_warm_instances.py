"""Warm instances, as their workers report them.

Revision ID: 0015
"""

from alembic import op

revision = "0015"
down_revision = "0013"

STATEMENTS = """
create table if not exists treadle.instances (
    worker_id text not null references treadle.workers on delete cascade,
    thread bigint not null,
    agent text not null,
    tenant text not null,
    made_at timestamptz not null,
    primary key (worker_id, thread, agent)
);
comment on table treadle.instances is 'What agents keep in the memory of a worker for a thread: a report, up to some seconds old';
comment on column treadle.instances.thread is 'Key of a thread, which may be deleted by now'
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
