"""What keeps costs flat: low-water marks, room for updates in place, leases in order.

Revision ID: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS = """
create table treadle.low_water (
    name     text primary key,
    tenant   text not null default 'default',
    low      bigint not null default 0,
    next_low bigint,
    next_xid bigint,
    constraint low_water_next check ((next_low is null) = (next_xid is null))
) with (fillfactor = 50);
comment on table treadle.low_water is 'Below these ids nothing is left to be found: readers of tables that are emptied from their head begin there';
comment on column treadle.low_water.name is 'A lane''s table in pgmq, or leases, or counters';
comment on column treadle.low_water.next_low is 'The mark to come, once all transactions below next_xid have ended';

alter table treadle.messages set (fillfactor = 50);
comment on table treadle.messages is 'What clients asked agents to do. No indexed column changes on claim and finish, and pages have room: both stay HOT updates';

alter table treadle.leases add column id bigint generated always as identity;
comment on column treadle.leases.id is 'The order of claims: who looks for leases begins at the low-water mark of these';
drop index treadle.leases_worker;
create index leases_order on treadle.leases (id);
create index leases_thread on treadle.leases (thread) where thread is not null;
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
