"""The sizes of stores in several rows, so that transactions do not wait for each other.

Revision ID: 0026
"""

from alembic import op

revision = "0026"
down_revision = "0025"

STATEMENTS = """
alter table treadle.store_sizes add column if not exists slot integer not null default 0;
alter table treadle.store_sizes
    drop constraint if exists store_sizes_pkey,
    add constraint store_sizes_pkey primary key (tenant, owner, slot);
comment on table treadle.store_sizes is 'How many items a store has, and how many bytes they have together: the sum of its rows';
comment on column treadle.store_sizes.slot is 'Each transaction counts in a row that no other one holds';
alter table treadle.store_totals add column if not exists slot integer not null default 0;
alter table treadle.store_totals
    drop constraint if exists store_totals_pkey,
    add constraint store_totals_pkey primary key (tenant, slot);
comment on table treadle.store_totals is 'How many bytes all stores of a tenant have together: the sum of its rows';
comment on column treadle.store_totals.slot is 'Each transaction counts in a row that no other one holds'
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
