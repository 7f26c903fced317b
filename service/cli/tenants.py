"""Tenants: isolated customers of one installation."""

import click

from service.cli import common, show
from service.cli.address import with_login
from service.config import Settings


@click.group()
def tenants() -> None:
    """Manage tenants, and their logins to PostgreSQL.

    \b
    Examples:
      treadle tenants sql-role acme
      treadle tenants sql-roles acme
    """


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
            tenant, connections=connections, statement_seconds=statement_timeout
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

    common.ask(settings, lambda database: SqlRoleStore(database).drop(role))
    click.echo(f"{role} is dropped.")
