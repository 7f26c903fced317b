"""API keys: create, list, rotate and revoke them."""

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import click

from service.access.principal import COMMAND_LINE, DEFAULT_TENANT, SCOPES
from service.cli import common, show
from service.cli.durations import Duration
from service.config import Settings
from service.db.pages import read_all
from service.errors import Refused

SHOWN_ONCE = "Keep the key: it is shown this once."


def _names(_ctx: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> list[str] | None:
    """Names between commas, of an option that may be repeated."""
    return [name.strip() for value in values for name in value.split(",") if name.strip()] if values else None


@click.group()
def keys() -> None:
    """Create, list, rotate and revoke API keys.

    \b
    Example:
      treadle keys create --scope submit,read --name ci
    """


@keys.command()
@click.option("--tenant", default=DEFAULT_TENANT, show_default=True, help="The tenant that the key is for.")
@click.option(
    *("--scope", "scopes"),
    required=True,
    multiple=True,
    callback=_names,
    help=f"Between commas, of: {', '.join(SCOPES)}.",
)
@click.option(
    "--agents", multiple=True, callback=_names, help="The only agents that the key may address, between commas."
)
@click.option("--expires", type=Duration(), help="After this time it ends, such as 90d; without it, never.")
@click.option("--name", default="", help="What it is for; the audit shows it.")
@common.as_json
@click.pass_obj
def create(
    settings: Settings,
    tenant: str,
    scopes: list[str],
    agents: list[str] | None,
    expires: float | None,
    name: str,
    as_json: bool,
) -> None:
    """Create a key and print it, once: only a hash of it is kept.

    \b
    Examples:
      treadle keys create --scope submit,read --name ci --expires 90d
      treadle keys create --tenant acme --scope submit,read --agents echo
    """
    from service.access.model import NewKey
    from service.access.store import KeyStore
    from service.json_input import convert

    given = {"scopes": scopes, "agents": agents, "expires_in": expires, "name": name, "tenant": tenant}
    try:
        new: NewKey = convert(given, NewKey, "key")
    except Refused as error:
        raise click.UsageError(str(error)) from None
    created = common.ask(settings, lambda database: KeyStore(database).create(COMMAND_LINE.name, tenant, new))
    _show(created, as_json)


@keys.command("list")
@click.option("--tenant", help="Of this tenant only.")
@common.as_json
@click.pass_obj
def list_(settings: Settings, tenant: str | None, as_json: bool) -> None:
    """List the keys, the newest first, without their secrets.

    \b
    Example:
      treadle keys list --tenant acme
    """
    from service.access.store import KeyStore

    rows = common.ask(settings, lambda database: read_all(partial(KeyStore(database).page, tenant)))
    if as_json:
        show.as_json(rows)
        return
    lines = [
        SimpleNamespace(
            key=row.key_id,
            tenant=row.tenant,
            name=row.name,
            scopes=" ".join(row.scopes),
            used=row.last_used_at,
            ends="revoked" if row.revoked_at else row.expires_at,
        )
        for row in rows
    ]
    columns = {
        "key": "key",
        "tenant": "tenant",
        "name": "name",
        "scopes": "scopes",
        "last used": "used",
        "ends": "ends",
    }
    show.table(lines, columns, "There are no keys yet.", whole=("key",))


@keys.command()
@click.argument("key_id")
@click.option("--grace", type=Duration(), default="24h", show_default=True, help="How long the old secret is valid.")
@common.as_json
@click.pass_obj
def rotate(settings: Settings, key_id: str, grace: float, as_json: bool) -> None:
    """Give a key another secret and print the key, once. The old secret stays valid for --grace.

    \b
    Example:
      treadle keys rotate 4f2a91c07b3d --grace 7d
    """
    from service.access.store import KeyStore
    from service.limits import MAX_GRACE_SECONDS

    if grace > MAX_GRACE_SECONDS:
        raise click.BadParameter("It must be at most 30d.", param_hint="--grace")
    created = common.ask(settings, lambda database: KeyStore(database).rotate(COMMAND_LINE.name, None, key_id, grace))
    _show(created, as_json)


@keys.command()
@click.argument("key_id")
@common.as_json
@click.pass_obj
def revoke(settings: Settings, key_id: str, as_json: bool) -> None:
    """End a key, with the access tokens that it made; every API process knows it within a second.

    \b
    Example:
      treadle keys revoke 4f2a91c07b3d
    """
    from service.access.store import KeyStore

    at = common.ask(settings, lambda database: KeyStore(database).revoke(COMMAND_LINE.name, None, key_id))
    show.as_json({"key_id": key_id, "revoked_at": at}) if as_json else click.echo(f"The key {key_id} is revoked.")


def _show(created: Any, as_json: bool) -> None:
    if as_json:
        show.as_json(created)
    else:
        click.echo(created.key)
        click.echo(SHOWN_ONCE, err=True)
