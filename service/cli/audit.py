"""The audit: who did what."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import click

from service.audit.model import Act
from service.cli import common, show
from service.cli.durations import Duration
from service.config import Settings
from service.limits import MAX_PAGE_ITEMS

MAX_CHARS = 1000  # of what was done


@click.command()
@click.option("--tenant", help="Of this tenant only.")
@click.option("--since", type=Duration(), help="Not longer ago than this, such as 7d.")
@click.option("--limit", type=click.IntRange(1, MAX_PAGE_ITEMS), default=20, show_default=True)
@common.as_json
@click.pass_obj
def audit(settings: Settings, tenant: str | None, since: float | None, limit: int, as_json: bool) -> None:
    """List who changed access, or stopped, repeated or deleted work, the newest first.

    \b
    Examples:
      treadle audit --tenant acme --since 7d
      treadle audit --limit 1000 --json
    """
    from service.audit.store import AuditStore

    begin = None if since is None else datetime.now(UTC) - timedelta(seconds=since)
    rows, _ = common.ask(
        settings, lambda database: AuditStore(database).page(tenant, since=begin, before=None, limit=limit)
    )
    if as_json:
        show.as_json(rows)
        return
    deeds = [Deed(row.at, _sentence(row)) for row in rows]  # columns of their own would not fit a terminal
    show.table(deeds, {"at": "at", "what": "what"}, "The audit is empty.", chars=MAX_CHARS)


class Deed(NamedTuple):
    at: datetime
    what: str


def _sentence(act: Act) -> str:
    """`key.revoke 4f2a by auth off (acme)`; the tenant default is left out."""
    tenant = "" if act.tenant == "default" else f" ({act.tenant})"
    return f"{act.action} {act.target} by {act.principal}{tenant}"
