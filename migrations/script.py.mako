"""${message}

A migration only adds, and the service goes on meanwhile. One that changes several tables runs each statement in a
transaction of its own (`op.get_context().autocommit_block()`) and can be repeated (`if not exists`): locks on several
tables at once would meet a deadlock.

Revision ID: ${up_revision}
"""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
