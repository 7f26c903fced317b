"""Subscriptions: who reads which topics, and how far."""

from functools import partial
from typing import TYPE_CHECKING, Any

import click
import msgspec

from service.access.principal import Principal
from service.cli import common, show
from service.config import Settings
from service.db.pages import read_all
from service.errors import Conflict, NotFound, Refused
from service.json_input import decode
from service.limits import DEFAULT_MAX_IN_FLIGHT, MAX_IN_FLIGHT, START_RULE
from service.wording import counted

if TYPE_CHECKING:
    from service.subscriptions.model import Subscription
    from service.subscriptions.store import SubscriptionStore


@click.group()
def subscriptions() -> None:
    """Manage subscriptions: each record of their topics becomes a message for their agent.

    \b
    Examples:
      treadle subscriptions create planner plan.in --agent planner --from earliest
      treadle subscriptions seek planner earliest
    """


@subscriptions.command("list")
@common.of_tenant
@common.as_json
@click.pass_obj
def list_(settings: Settings, principal: Principal, as_json: bool) -> None:
    """List the subscriptions.

    \b
    Example:
      treadle subscriptions list
    """
    found = _ask(settings, principal, lambda store, who: read_all(partial(store.page, who)))
    columns = {
        "subscription": "subscription",
        "topics": "topics",
        "agent": "agent",
        "lag": "lag",
        "open": "open",
        "completed": "completed",
        "failed": "failed",
        "paused": "paused",
    }
    show.as_json(found) if as_json else show.table(
        found, columns, "There are no subscriptions.", whole=["subscription"]
    )


@subscriptions.command("show")
@click.argument("name")
@common.of_tenant
@common.as_json
@click.pass_obj
def show_(settings: Settings, name: str, principal: Principal, as_json: bool) -> None:
    """Show a subscription, and its position in each topic.

    \b
    Example:
      treadle subscriptions show planner
    """
    found = _ask(settings, principal, lambda store, who: store.get(who, name))
    if as_json:
        show.as_json(found)
        return
    facts = msgspec.structs.asdict(found)
    positions = facts.pop("positions")
    show.facts(facts)
    click.echo()
    columns = {"topic": "topic", "next offset": "next_offset", "lag": "lag"}
    show.table(positions, columns, "It reads no topic yet.", whole=["topic"])


@subscriptions.command()
@click.argument("name")
@click.argument("topics", nargs=-1, required=True)
@click.option("--agent", required=True, help="The agent that handles the records.")
@click.option("--from", "start", default="latest", show_default=True, help=f"Where it begins: {START_RULE}.")
@click.option(
    "--delivery",
    type=click.Choice(["at_least_once", "at_most_once", "exactly_once"]),
    default="at_least_once",
    show_default=True,
)
@click.option(
    "--max-in-flight", type=click.IntRange(1, MAX_IN_FLIGHT), default=DEFAULT_MAX_IN_FLIGHT, show_default=True
)
@click.option("--filter", "filter_", metavar="JSON", help='What records contain: {"value": ..., "headers": ...}.')
@click.option("--no-dead-letter", is_flag=True, help="Drop and count a record that fails for good.")
@common.of_tenant
@common.as_json
@click.pass_obj
def create(
    settings: Settings,
    /,
    name: str,
    topics: tuple[str, ...],
    filter_: str | None,
    no_dead_letter: bool,
    principal: Principal,
    as_json: bool,
    **fields: Any,
) -> None:
    """Create a subscription to TOPICS: names, or patterns in which * is one word and # any number of them.

    \b
    Examples:
      treadle subscriptions create planner plan.in --agent planner
      treadle subscriptions create audit '#' --agent archive --from earliest
    """
    from service.subscriptions.model import Filter, NewSubscription

    declared = NewSubscription(list(topics), filter=_filter(filter_, Filter), dead_letter=not no_dead_letter, **fields)

    async def make(store: "SubscriptionStore", who: Principal) -> "Subscription":
        try:
            await store.get(who, name)
        except NotFound:
            await store.declare(who, name, declared)
            return await store.get(who, name)
        raise Conflict(f"There is a subscription {name!r} already: treadle subscriptions set changes it.")

    made = _ask(settings, principal, make)
    show.as_json(made) if as_json else click.echo(f"The subscription {name} is created.")


@subscriptions.command("set")
@click.argument("name")
@click.argument("topics", nargs=-1)
@click.option("--agent", help="The agent that handles the records.")
@click.option("--from", "start", help=f"Where it begins in topics that it does not read yet: {START_RULE}.")
@click.option("--delivery", type=click.Choice(["at_least_once", "at_most_once", "exactly_once"]))
@click.option("--max-in-flight", type=click.IntRange(1, MAX_IN_FLIGHT))
@click.option(
    "--filter", "filter_", metavar="JSON", help='What records contain, {"value": ..., "headers": ...}; {} for any.'
)
@click.option(
    "--dead-letter/--no-dead-letter", default=None, help="Keep, or drop and count, a record that fails for good."
)
@common.of_tenant
@common.as_json
@click.pass_obj
def set_(
    settings: Settings,
    /,
    name: str,
    topics: tuple[str, ...],
    filter_: str | None,
    principal: Principal,
    as_json: bool,
    **fields: Any,
) -> None:
    """Change a subscription: its TOPICS, if some are named, and the fields that are given; its places stay.

    \b
    Examples:
      treadle subscriptions set planner --max-in-flight 10
      treadle subscriptions set audit 'plan.#' 'code.#' --from earliest
    """
    from service.subscriptions.model import Filter, NewSubscription

    given = {field: value for field, value in fields.items() if value is not None}
    if topics:
        given["topics"] = list(topics)
    if filter_ is not None:
        given["filter"] = _filter(filter_, Filter)
    if not given.keys() - {"start"}:
        raise click.UsageError("Name topics, or give at least one option to change.")

    async def change(store: "SubscriptionStore", who: Principal) -> "Subscription":
        found = await store.get(who, name)
        kept = {field: getattr(found, field) for field in NewSubscription.__struct_fields__ if field != "start"}
        await store.declare(who, name, NewSubscription(**kept | given))
        return await store.get(who, name)

    changed = _ask(settings, principal, change)
    show.as_json(changed) if as_json else click.echo(f"The subscription {name} is changed.")


@subscriptions.command()
@click.argument("name")
@common.of_tenant
@common.as_json
@click.pass_obj
def pause(settings: Settings, name: str, principal: Principal, as_json: bool) -> None:
    """Deliver nothing more to a subscription. Its open messages go on.

    \b
    Example:
      treadle subscriptions pause planner
    """
    found = _ask(settings, principal, lambda store, who: store.pause(who, name, True))
    show.as_json(found) if as_json else click.echo(f"The subscription {name} is paused.")


@subscriptions.command()
@click.argument("name")
@common.of_tenant
@common.as_json
@click.pass_obj
def resume(settings: Settings, name: str, principal: Principal, as_json: bool) -> None:
    """Let a paused subscription go on where it stopped.

    \b
    Example:
      treadle subscriptions resume planner
    """
    found = _ask(settings, principal, lambda store, who: store.pause(who, name, False))
    show.as_json(found) if as_json else click.echo(
        f"The subscription {name} goes on; {counted(found.lag, 'record waits', 'records wait')}."
    )


@subscriptions.command()
@click.argument("name")
@click.argument("to")
@click.option("--topic", help="Only in this topic; without it, in all that it reads.")
@common.of_tenant
@common.as_json
@click.pass_obj
def seek(settings: Settings, name: str, to: str, topic: str | None, principal: Principal, as_json: bool) -> None:
    """Move a subscription to "earliest", "latest", an offset, or a time in ISO 8601.

    What lies behind the new place is delivered again, as new messages; a record whose message is still open is not.

    \b
    Examples:
      treadle subscriptions seek planner earliest
      treadle subscriptions seek planner 1200 --topic plan.in
      treadle subscriptions seek planner 2026-01-31T12:00:00Z
    """
    from service.subscriptions.model import NewPosition

    found = _ask(settings, principal, lambda store, who: store.seek(who, name, NewPosition(to, topic)))
    show.as_json(found) if as_json else click.echo(
        f"The subscription {name} goes on; {counted(found.lag, 'record waits', 'records wait')}."
    )


@subscriptions.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common.of_tenant
@common.as_json
@click.pass_obj
def delete(settings: Settings, name: str, yes: bool, principal: Principal, as_json: bool) -> None:
    """Delete a subscription with its positions. Its open messages go on.

    \b
    Example:
      treadle subscriptions delete planner --yes
    """
    if not yes:
        click.confirm(f"Delete the subscription {name} with its positions?", abort=True)
    _ask(settings, principal, lambda store, who: store.delete(who, name))
    show.as_json({"subscription": name}) if as_json else click.echo(f"The subscription {name} is deleted.")


def _filter(text: str | None, kind: type) -> Any:
    if text is None:
        return None
    try:
        return decode(text, kind, "filter")
    except Refused as error:
        raise click.BadParameter(str(error), param_hint="--filter") from None


def _ask(settings: Settings, principal: Principal, question: Any) -> Any:
    from service.subscriptions.store import SubscriptionStore

    async def run(database: Any) -> Any:
        return await question(SubscriptionStore(database), await common.own(database, principal))

    return common.ask(settings, run)
