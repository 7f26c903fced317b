"""Messages that failed or were cancelled have rows of their own, so that lists find them among very many others.

Revision ID: 0016
"""

from alembic import op

revision = "0016"
down_revision = "0015"

STATEMENTS = """
create table if not exists treadle.not_completed (
    tenant text not null,
    state text not null check (state in ('failed', 'cancelled')),
    message_id uuid not null,
    primary key (tenant, state, message_id)
);
comment on table treadle.not_completed is 'Messages that failed or were cancelled. No index of treadle.messages can name the state, which each claim changes';

insert into treadle.not_completed (tenant, state, message_id)
    select m.tenant, m.state, m.message_id
    from treadle.messages m
    where m.state in ('failed', 'cancelled')
    on conflict do nothing
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
