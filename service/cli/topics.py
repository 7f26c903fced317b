"""Topics: named logs of records."""

import contextlib
import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import msgspec

from service.access.principal import Principal
from service.cli import common, show
from service.cli.records import publish, tail
from service.config import Settings
from service.db.pages import read_all
from service.errors import Conflict, NotFound

if TYPE_CHECKING:
    from service.topics.store import TopicStore

WATCH_SECONDS = 1.0


@click.group()
def topics() -> None:
    """Manage topics, publish records to them, and read them.

    \b
    Examples:
      treadle topics create plan.in
      treadle topics publish plan.in '{"goal": "a login page"}' --key 42
      treadle topics tail plan.in --from earliest
    """


@topics.command("list")
@common.of_tenant
@common.as_json
@click.pass_obj
def list_(settings: Settings, principal: Principal, as_json: bool) -> None:
    """List the topics.

    \b
    Example:
      treadle topics list
    """
    found = _ask(settings, principal, lambda store, who: read_all(partial(store.page, who)))
    columns = {
        "topic": "topic",
        "next offset": "next_offset",
        "bytes": "bytes",
        "per minute": "records_per_minute",
        "retention (h)": "retention_hours",
        "schema": "schema_subject",
    }
    show.as_json(found) if as_json else show.table(found, columns, "There are no topics.", whole=["topic"])


@topics.command("show")
@click.argument("topic")
@common.of_tenant
@common.as_json
@click.pass_obj
def show_(settings: Settings, topic: str, principal: Principal, as_json: bool) -> None:
    """Show a topic, and the subscriptions that read it.

    \b
    Example:
      treadle topics show plan.in
    """
    found = _ask(settings, principal, lambda store, who: store.get(who, topic))
    if as_json:
        show.as_json(found)
        return
    facts = msgspec.structs.asdict(found)
    readers = facts.pop("subscriptions")
    show.facts(facts)
    click.echo()
    columns = {"subscription": "subscription", "next offset": "next_offset", "lag": "lag"}
    show.table(readers, columns, "No subscription reads it.", whole=["subscription"])


class _Hours(click.ParamType[float]):
    """A number of hours; `forever` is infinity."""

    name = "HOURS"

    def convert(self, value: Any, parameter: Any, context: Any) -> float:
        try:
            return math.inf if value == "forever" else float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor forever.", parameter, context)


def _fields(command: Any) -> Any:
    """The options for the fields of a topic."""
    for option in (
        click.option("--schema", metavar="SUBJECT", help="The subject whose schema its records must fit; '' for none."),
        click.option("--max-record-bytes", type=click.IntRange(1), help="Of one record."),
        click.option("--retention", type=_Hours(), help="How long a record is kept, or forever."),
    ):
        command = option(command)
    return command


def _given(retention: float | None, max_record_bytes: int | None, schema: str | None) -> dict[str, Any]:
    """The fields that the options give."""
    given: dict[str, Any] = {}
    if retention is not None:
        given["retention_hours"] = None if retention == math.inf else retention
    if max_record_bytes is not None:
        given["max_record_bytes"] = max_record_bytes
    if schema is not None:
        given["schema_subject"] = schema or None
    return given


@topics.command()
@click.argument("topic")
@_fields
@common.of_tenant
@common.as_json
@click.pass_obj
def create(settings: Settings, /, topic: str, principal: Principal, as_json: bool, **fields: Any) -> None:
    """Create a topic. A field that is not given has its default: 168 hours, 1,000,000 bytes, no schema.

    \b
    Examples:
      treadle topics create plan.in
      treadle topics create orders --retention forever --schema orders-value
    """
    from service.topics.model import NewTopic

    async def make(store: "TopicStore", who: Principal) -> Any:
        with contextlib.suppress(NotFound):
            await store.get(who, topic)
            raise Conflict(f"There is a topic {topic!r} already: treadle topics set changes it.")
        await store.declare(who, topic, NewTopic(**_given(**fields)))
        return await store.get(who, topic)

    made = _ask(settings, principal, make)
    show.as_json(made) if as_json else click.echo(f"The topic {topic} is created.")


@topics.command("set")
@click.argument("topic")
@_fields
@common.of_tenant
@common.as_json
@click.pass_obj
def set_(settings: Settings, /, topic: str, principal: Principal, as_json: bool, **fields: Any) -> None:
    """Change a topic: the fields that are given, and no other.

    \b
    Examples:
      treadle topics set plan.in --retention 24
      treadle topics set orders --schema ''
    """
    from service.topics.model import NewTopic

    given = _given(**fields)
    if not given:
        raise click.UsageError("Give at least one of --retention, --max-record-bytes and --schema.")

    async def change(store: "TopicStore", who: Principal) -> Any:
        found = await store.get(who, topic)
        kept = {name: getattr(found, name) for name in NewTopic.__struct_fields__}
        await store.declare(who, topic, NewTopic(**kept | given))
        return await store.get(who, topic)

    changed = _ask(settings, principal, change)
    show.as_json(changed) if as_json else click.echo(f"The topic {topic} is changed.")


@topics.command()
@click.argument("topic")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common.of_tenant
@common.as_json
@click.pass_obj
def delete(settings: Settings, topic: str, yes: bool, principal: Principal, as_json: bool) -> None:
    """Delete a topic with its records. Messages that subscriptions made of them go on.

    \b
    Example:
      treadle topics delete plan.in --yes
    """
    if not yes:
        click.confirm(f"Delete the topic {topic} with all its records?", abort=True)
    _ask(settings, principal, lambda store, who: store.delete(who, topic))
    show.as_json({"topic": topic}) if as_json else click.echo(f"The topic {topic} is deleted.")


class _Lag(msgspec.Struct):
    topic: str
    subscription: str
    next_offset: int
    lag: int


@topics.command()
@click.argument("topic", required=False)
@click.option("--most", type=click.IntRange(0), metavar="N", help="Exit code 1 if a subscription is further behind.")
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@common.of_tenant
@common.as_json
@click.pass_obj
def lag(
    settings: Settings, topic: str | None, most: int | None, watch: bool, principal: Principal, as_json: bool
) -> None:
    """Show how many records each subscription still has to receive, of a topic or of all.

    \b
    Examples:
      treadle topics lag
      treadle topics lag plan.in --watch
      treadle topics lag --most 1000 || echo "too far behind"
    """

    if watch and most is not None:
        raise click.UsageError("--watch shows, and --most gives an exit code: give one of them.")

    async def behind(store: "TopicStore", who: Principal) -> list[_Lag]:
        found = await read_all(partial(store.page, who)) if topic is None else [await store.get(who, topic)]
        return [
            _Lag(each.topic, reader.subscription, reader.next_offset, reader.lag)
            for each in found
            for reader in each.subscriptions
        ]

    columns = {"topic": "topic", "subscription": "subscription", "next offset": "next_offset", "lag": "lag"}
    while True:
        rows = _ask(settings, principal, behind)
        if watch and not as_json:
            click.clear()
        whole = ["topic", "subscription"]
        show.as_json(rows) if as_json else show.table(rows, columns, "No subscription reads it.", whole=whole)
        if not watch:
            break
        time.sleep(WATCH_SECONDS)
    if most is not None and any(row.lag > most for row in rows):
        raise click.exceptions.Exit(1)


topics.add_command(publish)
topics.add_command(tail)


def _ask(settings: Settings, principal: Principal, question: Any) -> Any:
    """What the store of topics answers to one question."""
    from service.db.notifier import Notifier
    from service.topics.store import TopicStore

    async def run(database: Any) -> Any:
        notifier = Notifier(database)
        answer = await question(TopicStore(database, notifier), await common.own(database, principal))
        await notifier.flush()
        return answer

    return common.ask(settings, run)
