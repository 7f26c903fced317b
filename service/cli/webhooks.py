"""Webhooks: create, list, change, rotate, test and delete them, and show what signs callbacks."""

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import click

from service.access.principal import COMMAND_LINE, DEFAULT_TENANT
from service.cli import common, show
from service.cli.durations import Duration
from service.config import Settings
from service.errors import Refused

SHOWN_ONCE = "Keep the secret: it is shown this once."

of_tenant = click.option("--tenant", default=DEFAULT_TENANT, show_default=True, help="The tenant that it is of.")
grace_option = click.option(
    "--grace", type=Duration(), default="24h", show_default=True, help="How long the old secrets sign as well."
)


def _names(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> list[str] | None:
    """Names between commas."""
    return None if value is None else [name.strip() for name in value.split(",") if name.strip()]


@click.group()
def webhooks() -> None:
    """Create, list, change, rotate, test and delete webhooks.

    \b
    Example:
      treadle webhooks create https://example.com/hook --events message.failed
    """


@webhooks.command()
@click.argument("url")
@click.option("--events", callback=_names, help="Between commas; without it, the three ends of messages.")
@click.option("--agents", callback=_names, help="Of messages for these agents only, between commas.")
@click.option("--queues", callback=_names, help="Of messages in these queues only, between commas.")
@click.option("--format", "format_", type=click.Choice(["standard", "openai"]), default="standard", show_default=True)
@click.option("--description", default="", help="What it is for.")
@of_tenant
@common.as_json
@click.pass_obj
def create(
    settings: Settings,
    url: str,
    events: list[str] | None,
    agents: list[str] | None,
    queues: list[str] | None,
    format_: str,
    description: str,
    tenant: str,
    as_json: bool,
) -> None:
    """Create a webhook and print its id and its secret, once.

    \b
    Examples:
      treadle webhooks create https://example.com/hook
      treadle webhooks create https://example.com/hook --agents echo
    """
    from service.json_input import convert
    from service.webhooks.model import NewWebhook
    from service.webhooks.store import WebhookStore

    given = {"url": url, "agents": agents, "queues": queues, "format": format_, "description": description}
    if events is not None:
        given["events"] = events
    try:
        new: NewWebhook = convert(given, NewWebhook, "webhook")
    except Refused as error:
        raise click.UsageError(str(error)) from None
    _check(settings, url)
    created = common.ask(settings, lambda database: WebhookStore(database).create(COMMAND_LINE.name, tenant, new))
    if as_json:
        show.as_json(created)
        return
    click.echo(created.webhook_id)
    _show_secret(created, False)


@webhooks.command("list")
@of_tenant
@common.as_json
@click.pass_obj
def list_(settings: Settings, tenant: str, as_json: bool) -> None:
    """List the webhooks with their last deliveries, the newest first.

    \b
    Example:
      treadle webhooks list --tenant acme
    """
    from service.webhooks.store import WebhookStore

    rows = common.ask(settings, lambda database: WebhookStore(database).all(tenant))
    if as_json:
        show.as_json(rows)
        return
    lines = [
        SimpleNamespace(
            webhook=row.webhook_id,
            url=row.url,
            enabled="yes" if row.enabled else f"no: {row.disabled_reason or 'disabled by a person'}",
            last=None if row.last_delivery is None else row.last_delivery.error or "delivered",
            at=None if row.last_delivery is None else row.last_delivery.at,
        )
        for row in rows
    ]
    columns = {
        "webhook": "webhook",
        "url": "url",
        "enabled": "enabled",
        "last delivery": "last",
        "at": "at",
    }
    show.table(lines, columns, "There are no webhooks yet.", whole=("webhook",))


@webhooks.command()
@click.argument("webhook_id", type=click.UUID)
@click.option("--url", help="Deliver to this address.")
@click.option("--events", callback=_names, help="Tell it of these events, between commas.")
@click.option("--enable/--disable", "enabled", default=None, help="Deliver to it again, or no more.")
@of_tenant
@common.as_json
@click.pass_obj
def change(
    settings: Settings,
    webhook_id: UUID,
    url: str | None,
    events: list[str] | None,
    enabled: bool | None,
    tenant: str,
    as_json: bool,
) -> None:
    """Change, disable or enable a webhook.

    \b
    Examples:
      treadle webhooks change 01983f6e-0000-7000-8000-000000000000 --enable
      treadle webhooks change 01983f6e-0000-7000-8000-000000000000 --disable
    """
    from service.json_input import convert
    from service.webhooks.model import WebhookChanges
    from service.webhooks.store import WebhookStore

    given = {"url": url, "events": events, "enabled": enabled}
    try:
        changes: WebhookChanges = convert(
            {name: value for name, value in given.items() if value is not None}, WebhookChanges, "webhook"
        )
    except Refused as error:
        raise click.UsageError(str(error)) from None
    if url is not None:
        _check(settings, url)

    async def run(database: Any) -> Any:
        store = WebhookStore(database)
        await store.change(COMMAND_LINE.name, tenant, webhook_id, changes)
        return await store.get(tenant, webhook_id)

    changed = common.ask(settings, run)
    show.as_json(changed) if as_json else click.echo(
        f"The webhook {webhook_id} is {'enabled' if changed.enabled else 'disabled'}."
    )


@webhooks.command()
@click.argument("webhook_id", type=click.UUID)
@grace_option
@of_tenant
@common.as_json
@click.pass_obj
def rotate(settings: Settings, webhook_id: UUID, grace: float, tenant: str, as_json: bool) -> None:
    """Give a webhook another secret and print it, once. Until --grace is over, deliveries carry both signatures.

    \b
    Example:
      treadle webhooks rotate 01983f6e-0000-7000-8000-000000000000 --grace 7d
    """
    from service.webhooks.store import WebhookStore

    _check_grace(grace)
    _show_secret(
        common.ask(
            settings, lambda database: WebhookStore(database).rotate(COMMAND_LINE.name, tenant, webhook_id, grace)
        ),
        as_json,
    )


@webhooks.command()
@click.argument("webhook_id", type=click.UUID)
@of_tenant
@common.as_json
@click.pass_obj
def test(settings: Settings, webhook_id: UUID, tenant: str, as_json: bool) -> None:
    """Send a webhook an event of the type webhook.test; prints the id of the delivery, which is a message.

    \b
    Example:
      treadle webhooks test 01983f6e-0000-7000-8000-000000000000
    """
    from service.webhooks.store import WebhookStore

    message_id = common.ask(
        settings, lambda database: WebhookStore(database).test(COMMAND_LINE.name, tenant, webhook_id)
    )
    show.as_json({"message_id": message_id}) if as_json else click.echo(message_id)


@webhooks.command()
@click.argument("webhook_id", type=click.UUID)
@of_tenant
@common.as_json
@click.pass_obj
def delete(settings: Settings, webhook_id: UUID, tenant: str, as_json: bool) -> None:
    """Delete a webhook; its deliveries that are open fail.

    \b
    Example:
      treadle webhooks delete 01983f6e-0000-7000-8000-000000000000
    """
    from service.webhooks.store import WebhookStore

    common.ask(settings, lambda database: WebhookStore(database).delete(COMMAND_LINE.name, tenant, webhook_id))
    show.as_json({"webhook_id": webhook_id}) if as_json else click.echo(f"The webhook {webhook_id} is deleted.")


@webhooks.command()
@click.option("--rotate", "rotates", is_flag=True, help="Make another secret first.")
@grace_option
@of_tenant
@common.as_json
@click.pass_obj
def secret(settings: Settings, rotates: bool, grace: float, tenant: str, as_json: bool) -> None:
    """Print the secret that signs the deliveries to the callback_url of messages.

    \b
    Examples:
      treadle webhooks secret
      treadle webhooks secret --rotate --grace 7d
    """
    from service.webhooks.store import WebhookStore

    _check_grace(grace)
    shown = common.ask(
        settings,
        lambda database: WebhookStore(database).callback_secret(COMMAND_LINE.name, tenant, grace if rotates else None),
    )
    show.as_json(shown) if as_json else click.echo(shown.secret)


def _show_secret(created: Any, as_json: bool) -> None:
    if as_json:
        show.as_json(created)
    else:
        click.echo(created.secret)
        click.echo(SHOWN_ONCE, err=True)


def _check(settings: Settings, url: str) -> None:
    """Raises UsageError for an address to which no webhook may go."""
    from service.outbound_filter import AddressRefused, filter_of

    try:
        filter_of(settings.webhook_networks, http=settings.webhook_http).check_url(url)
    except AddressRefused as error:
        raise click.UsageError(str(error)) from None


def _check_grace(grace: float) -> None:
    from service.limits import MAX_GRACE_SECONDS

    if grace > MAX_GRACE_SECONDS:
        raise click.BadParameter("It must be at most 30d.", param_hint="--grace")
