"""The store: what clients and agents keep beside threads.

Revision ID: 0018
"""

from alembic import op

revision = "0018"
down_revision = "0017"

STATEMENTS = """
create table if not exists treadle.store_items (
    tenant text not null,
    owner text not null,
    namespace text[] not null,
    key text not null,
    value jsonb not null check (jsonb_typeof(value) = 'object'),
    created_at timestamptz not null,
    updated_at timestamptz not null,
    primary key (tenant, owner, namespace, key)
);
comment on table treadle.store_items is 'The store: values that clients and agents keep beside threads, by namespace and key';
comment on column treadle.store_items.owner is 'The subject whose store it is; empty: the one of the tenant';
create table if not exists treadle.store_sizes (
    tenant text not null,
    owner text not null,
    items bigint not null default 0,
    bytes bigint not null default 0,
    primary key (tenant, owner)
) with (fillfactor = 50);
comment on table treadle.store_sizes is 'How many items a store has, and how many bytes they have together. Its row is the lock of all changes of the store'
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
