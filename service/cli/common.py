"""Shared by the commands: the connection to the database, and the option --json."""

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import click
import msgspec
import uvloop

from service.access.principal import COMMAND_LINE, DEFAULT_TENANT, Principal
from service.config import Settings

Answer = TypeVar("Answer")

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def _principal(_ctx: click.Context, _parameter: click.Parameter, tenant: str | None) -> Principal:
    return COMMAND_LINE if tenant is None else msgspec.structs.replace(COMMAND_LINE, tenant=tenant)


of_tenant = click.option(
    "--tenant", "principal", callback=_principal, help=f"For this tenant; without it, for {DEFAULT_TENANT}."
)


def dsn(settings: Settings) -> str:
    """The connection string: DATABASE_URL, or that of the private PostgreSQL."""
    if settings.database_url is not None:
        return settings.database_url
    from service.local.private_postgres import PrivatePostgres

    return PrivatePostgres(settings.treadle_home).dsn


@contextlib.asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[Any]:
    """The database, closed at the end. Changes wait for what another transaction holds, for a while."""
    from service.db.patient import PatientDatabase

    opened = PatientDatabase(dsn(settings), name="cli", size=4, pooler=settings.database_pooler == "transaction")
    try:
        yield opened
    finally:
        await opened.close()


async def own(database: Any, principal: Principal) -> Principal:
    """The principal of a command: with a tenant's login to PostgreSQL that tenant, unless --tenant names one."""
    from service.access.sql_roles.store import SqlRoleStore

    if principal is not COMMAND_LINE:
        return principal
    tenant = await SqlRoleStore(database).own_tenant()
    return principal if tenant is None else msgspec.structs.replace(principal, tenant=tenant)


def ask(settings: Settings, question: Callable[[Any], Coroutine[Any, Any, Answer]]) -> Answer:
    """What the database answers to one question, asked in a loop of its own."""

    async def run() -> Answer:
        async with database(settings) as opened:
            return await question(opened)

    return uvloop.run(run())
