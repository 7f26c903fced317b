"""Records continue traces, and count for the limits of their tenant.

Revision ID: 0012
"""

from alembic import op

revision = "0012"
down_revision = "0011"

STATEMENTS = """
alter table treadle.records add column if not exists traceparent text;
comment on column treadle.records.traceparent is 'W3C trace context of the publish; null: it had none';

alter table treadle.late_charges add column if not exists records bigint not null default 0;
comment on table treadle.late_charges is 'Submits and publishes that are charged to their tenant when their transaction (xid) commits; the same transaction deletes the rows'
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
