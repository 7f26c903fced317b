"""Room of stores: how many bytes a tenant has in all of them, and items that expire. Questions of messages that were open
before their places were kept.

Revision ID: 0025
"""

from alembic import op

revision = "0025"
down_revision = "0024"

STATEMENTS = """
alter table treadle.store_items add column if not exists bytes bigint;
alter table treadle.store_items add column if not exists ttl interval;
alter table treadle.store_items add column if not exists expires_at timestamptz;
comment on column treadle.store_items.bytes is 'Of the value as text; null: not counted yet';
comment on column treadle.store_items.ttl is 'How long it is kept after its last change, or its last read; null: for ever';
create index if not exists store_items_expires on treadle.store_items (expires_at) where expires_at is not null;
create table if not exists treadle.store_totals (
    tenant text primary key,
    bytes bigint not null default 0
) with (fillfactor = 50);
comment on table treadle.store_totals is 'How many bytes all stores of a tenant have together. Its row is the lock of all changes of them';
insert into treadle.store_totals (tenant, bytes)
    select s.tenant, sum(s.bytes)
    from treadle.store_sizes s
    group by s.tenant
    on conflict do nothing;
update treadle.messages m
    set questions = q.seqs
    from (
        select o.message_id, array_agg(e.seq order by e.seq) as seqs
        from treadle.messages o
        join treadle.events e on e.message_id = o.message_id
        where o.state in ('queued', 'processing')
            and o.attempt > 1
            and o.questions is null
            and e.type = 'parked'
            and e.data ->> 'hold' = 'input'
        group by o.message_id
    ) q
    where m.message_id = q.message_id
        and m.questions is null
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
