"""Tenants: isolated customers of one installation."""

import asyncio
from typing import Any

import click
import msgspec
import uvloop

from service.access.principal import COMMAND_LINE
from service.cli import common, show
from service.cli.address import with_login
from service.config import Settings
from service.db.pages import read_all

PAUSE_SECONDS = 0.2  # between two looks at what other processes delete


@click.group()
def tenants() -> None:
    """Manage tenants, and their logins to PostgreSQL.

    \b
    Examples:
      treadle tenants create acme
      treadle tenants sql-role acme
    """


@tenants.command()
@click.argument("tenant")
@common.as_json
@click.pass_obj
def create(settings: Settings, tenant: str, as_json: bool) -> None:
    """Create a tenant. Its name has 1 to 40 of a-z, 0-9, _ and -.

    \b
    Example:
      treadle tenants create acme
    """
    from service.tenants.store import TenantStore

    made = common.ask(settings, lambda database: TenantStore(database).create(COMMAND_LINE.name, tenant))
    show.as_json(made) if as_json else click.echo(f"The tenant {tenant} is created.")


@tenants.command("list")
@common.as_json
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """List the tenants, with their open messages.

    \b
    Example:
      treadle tenants list
    """
    from service.tenants.store import TenantStore

    rows = common.ask(settings, lambda database: read_all(TenantStore(database).page))
    columns = {
        "tenant": "tenant",
        "created": "created_at",
        "queued": "queued",
        "running": "processing",
        "suspended": "suspended_at",
        "being deleted": "deleted_at",
    }
    show.as_json(rows) if as_json else show.table(rows, columns, "There are no tenants.", whole=["tenant"])


@tenants.command()
@click.argument("tenant")
@common.as_json
@click.pass_obj
def suspend(settings: Settings, tenant: str, as_json: bool) -> None:
    """Suspend a tenant: it submits nothing, and workers claim nothing of it. What runs goes on to its end.

    \b
    Example:
      treadle tenants suspend acme
    """
    _suspend(settings, tenant, suspended=True, as_json=as_json)


@tenants.command()
@click.argument("tenant")
@common.as_json
@click.pass_obj
def resume(settings: Settings, tenant: str, as_json: bool) -> None:
    """Let a suspended tenant go on.

    \b
    Example:
      treadle tenants resume acme
    """
    _suspend(settings, tenant, suspended=False, as_json=as_json)


@tenants.command()
@click.argument("tenant")
@click.option("--queued", type=click.IntRange(1), help="Messages that may be queued.")
@click.option("--running", type=click.IntRange(1), help="Messages that may run at once, on all workers together.")
@click.option("--per-minute", type=click.IntRange(1), help="Messages that it may submit in a minute.")
@click.option("--bytes-per-day", type=click.IntRange(1), help="Bytes that it may store in a UTC day.")
@click.option("--store-bytes", type=click.IntRange(1), help="Bytes that it may have in stores, all together.")
@click.option("--reset", is_flag=True, help="Remove its own limits first: those of the settings hold again.")
@common.as_json
@click.pass_obj
def limit(
    settings: Settings,
    tenant: str,
    queued: int | None,
    running: int | None,
    per_minute: int | None,
    bytes_per_day: int | None,
    store_bytes: int | None,
    reset: bool,
    as_json: bool,
) -> None:
    """Give a tenant limits of its own, and print its limits and what it used.

    \b
    Examples:
      treadle tenants limit acme --queued 10000 --running 50 --per-minute 600
      treadle tenants limit acme --reset
    """
    given = {"queued": queued, "running": running, "per_minute": per_minute, "bytes_per_day": bytes_per_day}
    given["store_bytes"] = store_bytes
    limits = {name: value for name, value in given.items() if value is not None}
    found = uvloop.run(_limit(settings, tenant, limits, reset))
    show.as_json(found) if as_json else show.facts(msgspec.structs.asdict(found))


@tenants.command()
@click.argument("tenant")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(settings: Settings, tenant: str, yes: bool) -> None:
    """Delete a tenant with all that it has: threads, messages, events, keys. It is unknown at once.

    The rows are deleted bit by bit. If the command is stopped, the workers' janitors go on; so does the command itself,
    when it is run again.

    \b
    Example:
      treadle tenants delete acme --yes
    """
    if not yes:
        click.confirm(f"Delete the tenant {tenant} with all that it has?", abort=True)
    uvloop.run(_delete(settings, tenant))
    click.echo(f"The tenant {tenant} is deleted.")


@tenants.command("sql-role")
@click.argument("tenant")
@click.option("--connections", type=click.IntRange(1, 1000), default=5, show_default=True, help="At most, at once.")
@click.option("--statement-timeout", type=click.IntRange(1), default=60, show_default=True, help="In seconds.")
@common.as_json
@click.pass_obj
def sql_role(settings: Settings, tenant: str, connections: int, statement_timeout: int, as_json: bool) -> None:
    """Create a login to PostgreSQL for a tenant, and print its address.

    With it, psql and other programs submit and read for this tenant, and see no other one. The password is shown once.

    \b
    Examples:
      DATABASE_URL="$(treadle tenants sql-role acme)" treadle psql
      treadle tenants sql-role acme --connections 20 --json
    """
    from service.access.sql_roles.store import SqlRoleStore

    role, password = common.ask(
        settings,
        lambda database: SqlRoleStore(database).create(
            tenant, connections=connections, statement_seconds=statement_timeout, actor=COMMAND_LINE.name
        ),
    )
    # Past a pooler, which does not know the new login.
    address = with_login(settings.listen_database_url or common.dsn(settings), role, password)
    show.as_json({"role": role, "address": address}) if as_json else click.echo(address)


@tenants.command("sql-roles")
@click.argument("tenant")
@common.as_json
@click.pass_obj
def sql_roles(settings: Settings, tenant: str, as_json: bool) -> None:
    """List a tenant's logins to PostgreSQL.

    \b
    Example:
      treadle tenants sql-roles acme
    """
    from service.access.sql_roles.store import SqlRoleStore

    rows = common.ask(settings, lambda database: SqlRoleStore(database).all(tenant))
    columns = {"role": "role", "created": "created_at"}
    show.as_json(rows) if as_json else show.table(rows, columns, "The tenant has no SQL roles.")


@tenants.command("drop-sql-role")
@click.argument("role")
@click.pass_obj
def drop_sql_role(settings: Settings, role: str) -> None:
    """Drop a tenant's login to PostgreSQL, and end its sessions.

    \b
    Example:
      treadle tenants drop-sql-role treadle_sql_4f2a91c07be3
    """
    from service.access.sql_roles.store import SqlRoleStore

    common.ask(settings, lambda database: SqlRoleStore(database).drop(role, actor=COMMAND_LINE.name))
    click.echo(f"{role} is dropped.")


def _suspend(settings: Settings, tenant: str, *, suspended: bool, as_json: bool) -> None:
    from service.tenants.store import TenantStore

    found = common.ask(
        settings, lambda database: TenantStore(database).suspend(COMMAND_LINE.name, tenant, suspended=suspended)
    )
    state = "suspended" if suspended else "active"
    show.as_json(found) if as_json else click.echo(f"The tenant {tenant} is {state}.")


async def _limit(settings: Settings, tenant: str, limits: dict[str, int], reset: bool) -> Any:
    from service.tenants.store import TenantStore

    async with common.database(settings) as database:
        store = TenantStore(database)
        if reset:
            await store.limit(COMMAND_LINE.name, tenant, None)
        if limits:
            await store.limit(COMMAND_LINE.name, tenant, limits)
        await store.get(tenant)  # raises NotFound
        return await store.limits(tenant)


async def _delete(settings: Settings, tenant: str) -> None:
    """Deletes until the tenant is gone, beside the janitors, and tells how far it is."""
    from service.errors import NotFound
    from service.tenants.store import TenantStore

    async with common.database(settings) as database:
        store = TenantStore(database)
        await store.delete(COMMAND_LINE.name, tenant)
        total, waits = 0, False
        while True:
            chunk = await store.delete_chunk(tenant)
            if chunk is not None and chunk.is_deleted:
                return
            if chunk is not None and chunk.deleted:
                total += chunk.deleted
                click.echo(f"deleted {total} threads and messages", err=True)
            if chunk is not None and not (chunk.pass_over and chunk.deleted == 0):
                continue
            try:
                awaited = (await store.get(tenant)).awaited_transactions
            except NotFound:  # a janitor was faster
                return
            if awaited and not waits:
                waits = True
                click.echo(f"waiting for {awaited} transactions that were open before", err=True)
            await asyncio.sleep(PAUSE_SECONDS)
