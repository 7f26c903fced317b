"""What is deleted with a long log goes at once; its log goes bit by bit.

Revision ID: 0005
"""

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS = """
create table treadle.trash (
    message_id uuid primary key,
    tenant     text not null default 'default',
    last_seq   integer not null,
    gone       integer not null default 0,
    constraint trash_rest check (gone >= 0 and gone < last_seq)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
comment on table treadle.trash is 'Messages that are deleted, and whose events are not yet: purge deletes them bit by bit, and nobody is shown them';
comment on column treadle.trash.last_seq is 'The last event of its log';
comment on column treadle.trash.gone is 'Up to this seq they are deleted'
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        op.execute(statement)
