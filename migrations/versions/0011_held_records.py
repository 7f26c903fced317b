"""Records that wait because another transaction holds the thread of their key.

Revision ID: 0011
"""

from alembic import op

revision = "0011"
down_revision = "0010"

STATEMENTS = """
alter table treadle.subscriptions add column if not exists held integer not null default 0;
comment on column treadle.subscriptions.held is 'How many rows of held_records it has; the router changes it under the lock of the row';

create table if not exists treadle.held_records (
    subscription bigint not null,
    topic        bigint not null,
    "offset"     bigint not null,
    tenant       text not null,
    key          text not null,
    primary key (subscription, topic, "offset")
);
comment on table treadle.held_records is 'Records that a position has passed and that are not delivered yet: another transaction holds the thread of their key. The router tries them again';
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
