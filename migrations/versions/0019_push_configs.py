"""Push notifications of A2A: the addresses at which the client of a task wants to be told.

Revision ID: 0019
"""

from alembic import op

revision = "0019"
down_revision = "0018"

STATEMENTS = """
create table if not exists treadle.push_configs (
    message_id  uuid not null,
    config_id   text not null,
    tenant      text not null,
    url         text not null check (length(url) between 1 and 2000),
    token       text,
    scheme      text,
    credentials text,
    created_at  timestamptz not null,
    primary key (message_id, config_id)
);
comment on table treadle.push_configs is 'Addresses at which the client of a task of A2A, which is a message, wants to be told of it';
comment on column treadle.push_configs.token is 'The client''s own, in the header X-A2A-Notification-Token of each notification';
comment on column treadle.push_configs.scheme is 'With credentials the header Authorization of each notification';
create index if not exists push_configs_tenant on treadle.push_configs (tenant)
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
