"""The schema registry.

Revision ID: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"

STATEMENTS = """
create table if not exists treadle.schema_ends (
    tenant  text primary key,
    next_id integer not null check (next_id > 0)
);
comment on table treadle.schema_ends is 'The next schema_id of each tenant. An id is never given twice: clients keep schemas by id for ever. A transaction that changes schemas of the tenant locks the row';

create table if not exists treadle.schemas (
    tenant     text not null,
    schema_id  integer not null check (schema_id > 0),
    kind       text not null check (kind in ('JSON', 'PROTOBUF')),
    schema     text not null,
    refs       jsonb not null default '[]' check (jsonb_typeof(refs) = 'array'),
    extras     jsonb,
    descriptor bytea check ((descriptor is null) = (kind = 'JSON')),
    digest     uuid not null,
    created_at timestamptz not null,
    primary key (tenant, schema_id),
    constraint schemas_digest unique (tenant, digest)
);
comment on table treadle.schemas is 'Schemas by id. One schema has one id, in however many subjects it is';
comment on column treadle.schemas.schema is 'As it was registered: JSON, or for Protobuf the text of a .proto file or base64 of its descriptor';
comment on column treadle.schemas.refs is 'The schemas that it imports: [{"name", "subject", "version"}]';
comment on column treadle.schemas.extras is 'What clients keep with it and the service does not read: {"metadata", "ruleSet"}';
comment on column treadle.schemas.descriptor is 'Of Protobuf: the FileDescriptorProto';
comment on column treadle.schemas.digest is 'Of its kind, its content without what has no meaning (white space, comments) and its refs';

create table if not exists treadle.schema_versions (
    tenant     text not null,
    subject    text not null check (length(subject) between 1 and 255),
    version    integer not null check (version > 0),
    schema_id  integer not null,
    created_at timestamptz not null,
    deleted_at timestamptz,
    primary key (tenant, subject, version),
    foreign key (tenant, schema_id) references treadle.schemas (tenant, schema_id)
);
comment on table treadle.schema_versions is 'The versions of each subject';
comment on column treadle.schema_versions.deleted_at is 'Since when no new reader finds it by its subject; readers of old data still find it by its schema_id';
create index if not exists schema_versions_schema on treadle.schema_versions (tenant, schema_id);

create table if not exists treadle.schema_rules (
    tenant  text not null,
    subject text not null,
    rule    text not null,
    value   text not null,
    primary key (tenant, subject, rule),
    check (case rule
        when 'compatibility' then value in ('NONE', 'BACKWARD', 'BACKWARD_TRANSITIVE', 'FORWARD', 'FORWARD_TRANSITIVE',
            'FULL', 'FULL_TRANSITIVE')
        when 'mode' then value in ('READWRITE', 'READONLY')
        else false
    end)
);
comment on table treadle.schema_rules is 'What a subject allows: which changes between versions (compatibility), and whether any (mode)';
comment on column treadle.schema_rules.subject is 'Empty: all subjects that have no such rule';
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
