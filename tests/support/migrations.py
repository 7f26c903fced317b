"""A synthetic next release."""

from collections.abc import Callable
from typing import TypeAlias

# A migration as the next release may bring one: it only adds, each statement is a transaction of its own, and each can
# be repeated.
NEXT_STATEMENTS = (
    "create table if not exists treadle.notes (message_id uuid primary key, note text not null)",
    "alter table treadle.threads add column if not exists colour text not null default 'plain'",
    "alter table treadle.messages add column if not exists colour text",
)
REMOVE_NEXT = """
    drop table if exists treadle.notes;
    alter table treadle.threads drop column if exists colour;
    alter table treadle.messages drop column if exists colour;
    update treadle.alembic_version set version_num = '0002'"""
NEXT_MIGRATION = f"""
from alembic import op

revision, down_revision = "0003", "0002"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in {NEXT_STATEMENTS!r}:
            op.execute(statement)
"""

AddMigration: TypeAlias = Callable[[str], None]
