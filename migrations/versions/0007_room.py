"""Room in the pages of messages for both updates of a message, and leases of a thread by their age.

Revision ID: 0007
"""

from alembic import op

revision = "0007"
down_revision = "0006"

STATEMENTS = """
alter table treadle.messages set (fillfactor = 42);
create index if not exists leases_of_thread on treadle.leases (thread, id) where thread is not null;
drop index if exists treadle.leases_thread;
create index if not exists low_water_passed on treadle.low_water (name) where passed <> '{}';
comment on column treadle.low_water.name is 'A lane''s table in pgmq (for its new messages), the same and "returned" (for messages that come back), leases, counters, lane_shares, or due (for the microseconds since 1970 of messages that wait for their time). One row each';
comment on column treadle.low_water.low is 'Rises; that of due also falls. Part of the key, so that a search finds the newest version first';
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
