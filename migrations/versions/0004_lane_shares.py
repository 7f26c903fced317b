"""Shares of lanes: which rows go behind, a low-water mark, and the tenants with a surplus.

Revision ID: 0004
"""

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = """
alter table treadle.lane_shares add column if not exists behind bigint not null default 0;
comment on column treadle.lane_shares.behind is 'Of them, those that do not go before the rows of other tenants';
drop index if exists treadle.lane_shares_lane;
create index if not exists lane_shares_order on treadle.lane_shares (tenant, queue, lane, id);

create table if not exists treadle.lane_surplus (
    tenant text not null,
    queue  text not null,
    lane   text not null,
    primary key (queue, lane, tenant)
);
comment on table treadle.lane_surplus is 'The tenants that have many more rows in a lane than their share, because they were alone when they submitted them. The janitor sets those aside';
comment on column treadle.low_water.name is 'A lane''s table in pgmq (for its new messages), the same and "returned" (for messages that come back), leases, counters, or lane_shares. One row each';
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
