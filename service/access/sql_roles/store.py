"""Login roles of SQL users, in PostgreSQL."""

import secrets
from datetime import datetime

from msgspec import Struct

from service.access.sql_roles.scram import verifier
from service.db.pool import Database
from service.db.rows import from_row

PASSWORD_BYTES = 24


class SqlRole(Struct, frozen=True):
    role: str
    created_at: datetime


class SqlRoleStore:
    """The caller connects as the owner, except for `own_tenant`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self, tenant: str, *, connections: int, statement_seconds: int, actor: str | None = None
    ) -> tuple[str, str]:
        """Create a login role that is bound to the tenant; returns its name and its password, which is kept nowhere.

        Raises Conflict where PUBLIC may create objects in the schema public, Unprocessable where the caller may not
        create roles.
        """
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        role = await self._database.fetchval(
            "select treadle.create_sql_role("
            "tenant => $1, verifier => $2, connections => $3, statement_seconds => $4, actor => $5)",
            *(tenant, verifier(password), connections, statement_seconds, actor),
            repeatable=False,
        )
        return role, password

    async def own_tenant(self) -> str | None:
        """The tenant to which the login role of this session is bound; None: it is bound to none."""
        tenant: str | None = await self._database.fetchval("select treadle._session_tenant()")
        return tenant

    async def all(self, tenant: str) -> list[SqlRole]:
        rows = await self._database.fetch("select role, created_at from treadle.sql_roles_of($1)", tenant)
        return [from_row(SqlRole, row) for row in rows]

    async def drop(self, role: str, *, actor: str | None = None) -> None:
        """End the role's sessions and drop it; raises NotFound."""
        await self._database.fetchval("select treadle.drop_sql_role($1, actor => $2)", role, actor)
