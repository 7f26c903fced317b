"""Webhooks: endpoints that are told of the ends of messages, and addresses that a message names for its own end.

Revision ID: 0013
"""

from alembic import op

revision = "0013"
down_revision = "0012"

STATEMENTS = """
create table if not exists treadle.webhooks (
    webhook_id      uuid primary key,
    tenant          text not null,
    url             text not null check (length(url) between 1 and 2000),
    events          text[] not null check (cardinality(events) > 0),
    agents          text[] check (cardinality(agents) > 0),
    queues          text[] check (cardinality(queues) > 0),
    format          text not null check (format in ('standard', 'openai')),
    description     text not null default '',
    enabled         boolean not null default true,
    disabled_reason text check (disabled_reason is null or not enabled),
    secrets         jsonb not null check (jsonb_typeof(secrets) = 'array'),
    created_at      timestamptz not null
);
comment on table treadle.webhooks is 'Endpoints that are told of events of their tenant';
comment on column treadle.webhooks.events is 'The types of events that it is told of';
comment on column treadle.webhooks.agents is 'The only agents of whose messages it is told; null: all';
comment on column treadle.webhooks.queues is 'The only queues of whose messages it is told; null: all';
comment on column treadle.webhooks.disabled_reason is 'Why Treadle disabled it; null: it is enabled, or a person disabled it';
comment on column treadle.webhooks.secrets is 'What signs its deliveries, the newest first: {"secret", "until"}; all that are valid sign, and only the newest has no end';
create index if not exists webhooks_tenant on treadle.webhooks (tenant, created_at);
create index if not exists webhooks_enabled on treadle.webhooks (tenant) where enabled;

create table if not exists treadle.webhook_outcomes (
    webhook_id    uuid primary key,
    tenant        text not null,
    at            timestamptz not null,
    message_id    uuid not null,
    status        integer,
    error         text,
    succeeded_at  timestamptz,
    failing_since timestamptz
) with (fillfactor = 50);
comment on table treadle.webhook_outcomes is 'How the last deliveries to each webhook went. A worker writes a change at once, and a repeat every ten seconds';
comment on column treadle.webhook_outcomes.message_id is 'The delivery';
comment on column treadle.webhook_outcomes.status is 'Of the answer; null: there was none';
comment on column treadle.webhook_outcomes.error is 'Null: it was delivered';

create table if not exists treadle.callback_secrets (
    tenant  text primary key,
    secrets jsonb not null check (jsonb_typeof(secrets) = 'array')
);
comment on table treadle.callback_secrets is 'What signs the deliveries to the callback_url of messages, as in treadle.webhooks.secrets';

alter table treadle.messages add column if not exists callback_url text;
comment on column treadle.messages.callback_url is 'The address that is told of its end; null: none';
alter table treadle.messages add column if not exists delivery jsonb;
comment on column treadle.messages.delivery is 'Of a message to the built-in agent webhook: {"webhook"} or {"url", "headers"}, where its body is sent. Null: an ordinary message'
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
