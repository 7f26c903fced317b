"""Publish records to a topic, and print those of a topic as they come."""

import asyncio
import itertools
import sys
from collections.abc import Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click
import msgspec
import uvloop

from service.access.principal import Principal
from service.cli import common, show
from service.config import Settings
from service.errors import Refused
from service.json_input import decode
from service.limits import MAX_BATCH_RECORDS, PAGE_ITEMS, START_RULE
from service.terminal import visible_line
from service.waiting import wait_for
from service.wording import counted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from service.topics.model import NewRecord, Published, Record
    from service.topics.store import TopicStore


@click.command()
@click.argument("topic")
@click.argument("value")
@click.option("--text", is_flag=True, help="VALUE is a text, not JSON.")
@click.option("--key", help="Records of one key are handled in order.")
@click.option("--header", "headers", multiple=True, metavar="NAME=TEXT", help="A header; may be repeated.")
@click.option("--record-id", type=click.UUID, help="A UUIDv7: to publish it again changes nothing.")
@common.of_tenant
@common.as_json
@click.pass_obj
def publish(
    settings: Settings,
    topic: str,
    value: str,
    text: bool,
    key: str | None,
    headers: tuple[str, ...],
    record_id: UUID | None,
    principal: Principal,
    as_json: bool,
) -> None:
    """Publish a record; prints its id. With - as VALUE, each line of stdin is the value of one record.

    \b
    Examples:
      treadle topics publish plan.in '{"goal": "a login page"}' --key 42
      treadle topics publish notes "Hello" --text --header from=ada
      treadle topics publish plan.in - < plans.jsonl
    """
    from service.topics.model import NewRecord

    named = dict(_header(header) for header in headers) or None
    if value == "-":
        if record_id is not None:
            raise click.UsageError("--record-id is for one record, not for the lines of stdin.")
        values = _lines(text)
    else:
        values = iter([_value(value, text, "VALUE")])
    records = (NewRecord(each, key, named, record_id) for each in values)
    written = uvloop.run(_publish(settings, principal, topic, records, each_shown=value != "-", as_json=as_json))
    if value == "-" and not as_json:
        click.echo(f"{counted(written, 'record is', 'records are')} published to {topic}.")


def _header(header: str) -> tuple[str, str]:
    name, equals, text = header.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{header!r} is not NAME=TEXT.", param_hint="--header")
    return name, text


def _lines(text: bool) -> Iterator[Any]:
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            stripped = line.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise click.ClickException(f"Line {number} is not UTF-8.") from None
        if stripped:
            yield _value(stripped, text, f"line {number}")


def _value(value: str, text: bool, place: str) -> Any:
    if text:
        return value
    try:
        return decode(value, Any, place)
    except Refused as error:
        raise click.BadParameter(f"{error} --text takes it as a text.", param_hint=place) from None


async def _publish(
    settings: Settings,
    principal: Principal,
    topic: str,
    records: Iterator["NewRecord"],
    *,
    each_shown: bool,
    as_json: bool,
) -> int:
    """Publish in batches; returns how many records. With --json, a line for each."""
    from service.db.notifier import Notifier
    from service.schemas.records import RecordSchemas
    from service.schemas.registry import Registry
    from service.schemas.sandboxed.checks import SchemaChecks
    from service.schemas.store import SchemaStore
    from service.topics.store import TopicStore

    count = 0
    async with common.database(settings) as database, SchemaChecks() as checks:
        notifier = Notifier(database)
        store, schemas = TopicStore(database, notifier), RecordSchemas(Registry(SchemaStore(database), checks))
        principal = await common.own(database, principal)
        while batch := _next(records, count):
            schema_id, values = await schemas.read(principal, topic, [record.value for record in batch])
            batch = [msgspec.structs.replace(record, value=value) for record, value in zip(batch, values, strict=True)]
            written = await store.publish(principal, topic, batch, [schema_id] * len(batch))
            count += len(written)
            _report(written, each_shown, as_json)
        await notifier.flush()
    return count


def _next(records: Iterator["NewRecord"], published: int) -> list["NewRecord"]:
    """The next batch. An error says how many records are published already."""
    try:
        return list(itertools.islice(records, MAX_BATCH_RECORDS))
    except click.ClickException as error:
        if not published:
            raise
        told = counted(published, "record before it is", "records before it are")
        raise click.ClickException(f"{error.format_message()} {told} published.") from None


def _report(written: list["Published"], each_shown: bool, as_json: bool) -> None:
    for each in written:
        if as_json:
            show.as_json(each)
        elif each_shown:
            click.echo(each.record_id)


@click.command()
@click.argument("topic")
@click.option("--from", "start", default="latest", show_default=True, help=f"Where to begin: {START_RULE}.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="End after so many records.")
@click.option("--no-follow", is_flag=True, help="End at the end of the topic, instead of waiting for more.")
@common.of_tenant
@common.as_json
@click.pass_obj
def tail(
    settings: Settings,
    topic: str,
    start: str,
    limit: int | None,
    no_follow: bool,
    principal: Principal,
    as_json: bool,
) -> None:
    """Print the records of a topic as they come, until Ctrl-C: offset, time, key and value.

    \b
    Examples:
      treadle topics tail plan.in
      treadle topics tail plan.in --from earliest --no-follow --json
      treadle topics tail plan.in --from 2026-01-31T12:00:00Z --limit 10
    """
    from service.db.listener import Listener
    from service.db.notifier import TOPICS, Notifier
    from service.topics.feed import TopicFeed
    from service.topics.store import TopicStore

    async def run() -> None:
        async with common.database(settings) as database:
            store, feed = TopicStore(database, Notifier(database)), TopicFeed()
            who = await common.own(database, principal)
            key = await store.topic_key(who, topic)
            first = await store.offset(who, topic, start)
            address = settings.listen_database_url or common.dsn(settings)
            listening = asyncio.create_task(Listener(address, {TOPICS: feed.receive}, feed.wake_all).run())
            try:
                with feed.subscribe(key) as wake:
                    poll_interval = None if no_follow else settings.poll_interval
                    async with aclosing(_records(store, who, topic, first, wake, poll_interval)) as records:
                        await _print(records, limit, as_json)
            finally:
                listening.cancel()

    uvloop.run(run())


async def _records(
    store: "TopicStore", principal: Principal, topic: str, start: int, wake: asyncio.Event, poll_interval: float | None
) -> "AsyncGenerator[Record, None]":
    """The records from an offset on. Without `poll_interval`, they end at the end of the topic. Raises NotFound."""
    while True:
        wake.clear()
        page = await store.read(principal, topic, start, PAGE_ITEMS)
        if page.gap:
            click.echo(
                f"[gap] retention has deleted {counted(page.gap, 'record')} before offset {start + page.gap}", err=True
            )
        for record in page.records:
            yield record
        start = page.next_offset
        if page.records:
            continue
        if poll_interval is None:
            return
        await wait_for(wake, poll_interval)


async def _print(records: "AsyncGenerator[Record, None]", limit: int | None, as_json: bool) -> None:
    count = 0
    async for record in records:
        if as_json:
            show.as_json(record)
        else:
            at = record.created_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
            value = visible_line(msgspec.json.encode(record.value).decode())
            click.echo(f"{record.offset}  {at}  {visible_line(record.key or '-')}  {value}")
        count += 1
        if count == limit:
            return
