"""Statistics by minute and hour, and what the deltas of the counters carry for them.

Revision ID: 0006
"""

from alembic import op

revision = "0006"
down_revision = "0005"

STATEMENTS = """
alter table treadle.counters add column if not exists agent text;
alter table treadle.counters add column if not exists submitted integer;
alter table treadle.counters add column if not exists retried integer;
alter table treadle.counters add column if not exists lost integer;
alter table treadle.counters add column if not exists waits smallint[];
alter table treadle.counters add column if not exists runs smallint[];
alter table treadle.counters add column if not exists first_chunks smallint[];
alter table treadle.counters add column if not exists input_tokens double precision;
alter table treadle.counters add column if not exists output_tokens double precision;
alter table treadle.counters add column if not exists cost double precision;
comment on column treadle.counters.agent is 'The agent of all messages of this delta; null: the statistics have it already, or do not count it. The columns that follow are for the statistics alone';
comment on column treadle.counters.submitted is 'New messages';
comment on column treadle.counters.retried is 'Attempts that failed, or whose worker died, and that another one follows';
comment on column treadle.counters.lost is 'Attempts whose worker, or whose own process, died';
comment on column treadle.counters.waits is 'For each message that ended its first attempt: how long it waited for that, as a bucket of treadle._bucket';
comment on column treadle.counters.runs is 'For each attempt that ended: how long it ran, as a bucket';
comment on column treadle.counters.first_chunks is 'For each attempt that ended and wrote a chunk: how long after its start, as a bucket';
comment on column treadle.counters.cost is 'In the currency of the agents: what they report as cost_usd or cost';

alter table treadle.leases add column if not exists first_chunk_at timestamptz;
comment on column treadle.leases.first_chunk_at is 'When the attempt wrote its first chunk; null: none yet';

create table if not exists treadle.stat_rows (
    tenant        text not null,
    seconds       integer not null check (seconds in (60, 3600)),
    at            timestamptz not null,
    queue         text not null,
    agent         text not null,
    submitted     bigint not null default 0,
    completed     bigint not null default 0,
    failed        bigint not null default 0,
    retried       bigint not null default 0,
    cancelled     bigint not null default 0,
    lost          bigint not null default 0,
    waits         bigint[],
    runs          bigint[],
    first_chunks  bigint[],
    input_tokens  double precision not null default 0,
    output_tokens double precision not null default 0,
    cost          double precision not null default 0,
    primary key (tenant, seconds, at, queue, agent)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
comment on table treadle.stat_rows is 'What happened in each minute (kept 8 days) and each hour (400 days). The janitor adds the deltas of the counters to it';
comment on column treadle.stat_rows.seconds is 'The length of the time: a minute or an hour';
comment on column treadle.stat_rows.waits is 'How many waits fell into each bucket of treadle._bucket; null: none';
create index if not exists stat_rows_age on treadle.stat_rows (seconds, at)
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
