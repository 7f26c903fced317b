"""A synthetic next release."""

from collections.abc import Callable
from typing import TypeAlias

from service.db.schema import NEWEST_MIGRATION

NEXT = f"{int(NEWEST_MIGRATION) + 1:04}"

# A migration as the next release may bring one: it only adds, each statement is a transaction of its own, and each can
# be repeated.
NEXT_STATEMENTS = (
    "create table if not exists treadle.notes (message_id uuid primary key, note text not null)",
    "alter table treadle.threads add column if not exists colour text not null default 'plain'",
    "alter table treadle.messages add column if not exists colour text",
)
REMOVE_NEXT = f"""
    drop table if exists treadle.notes;
    alter table treadle.threads drop column if exists colour;
    alter table treadle.messages drop column if exists colour;
    update treadle.alembic_version set version_num = '{NEWEST_MIGRATION}'"""
NEXT_MIGRATION = f"""
from alembic import op

revision, down_revision = "{NEXT}", "{NEWEST_MIGRATION}"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in {NEXT_STATEMENTS!r}:
            op.execute(statement)
"""

AddMigration: TypeAlias = Callable[[str], None]
