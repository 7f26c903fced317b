"""Look at a running Treadle: its messages, agents and workers, once or live."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import starmap
from typing import Any, NamedTuple
from uuid import UUID

import click
import uvloop

from service.access.principal import Principal
from service.cli import common, show
from service.cli.durations import Duration
from service.config import Settings
from service.limits import MAX_PAGE_ITEMS, PAGE_ITEMS

REFRESH_SECONDS = 2.0
IDS = re.compile("[0-9a-f]{8}-[0-9a-f-]{27}")
NUMBERS = re.compile(r"\d+")


@click.command()
@click.option("--state", help="queued, processing, completed, failed, cancelled, or open (queued or processing).")
@click.option("--agent", help="Of this agent only.")
@click.option("--queue", help="Of this queue only.")
@click.option("--thread", "thread_id", help="Of this thread only, the last place first.")
@click.option("--parent", type=click.UUID, help="Sent by this message only.")
@click.option("--since", type=Duration(), help="Not longer ago than this, such as 2h.")
@click.option("--error", help="Whose error contains this text.")
@click.option("--q", help="Whose message, result or metadata contains this text.")
@click.option("--limit", type=click.IntRange(1, MAX_PAGE_ITEMS), default=20, show_default=True)
@common.of_tenant
@common.as_json
@click.pass_obj
def messages(
    settings: Settings,
    /,
    since: float | None,
    parent: UUID | None,
    limit: int,
    principal: Principal,
    as_json: bool,
    **wanted: str | None,
) -> None:
    """List messages, the newest first.

    It looks at 10,000 messages and says so where others follow.

    \b
    Examples:
      treadle messages --state failed --agent planner
      treadle messages --since 2h --q invoice --json
    """
    from service.inspection.filters import parse_filter
    from service.inspection.store import MANY_LOOKS, InspectionStore

    begin = None if since is None else (datetime.now(UTC) - timedelta(seconds=since)).isoformat()
    found = parse_filter(wanted | {"since": begin, "parent": None if parent is None else str(parent)})

    async def page(database: Any) -> Any:
        return await InspectionStore(database).page(
            await common.own(database, principal), found, before=None, limit=limit, looks=MANY_LOOKS
        )

    answer = common.ask(settings, page)
    if as_json:
        show.as_json(answer)
        return
    columns = {"message": "message_id", "state": "state", "agent": "agent", "created": "created_at"}
    show.table(answer.messages, columns, "No message satisfies this.", whole={"message", "state", "agent"})
    if errors := _count_errors(message.error for message in answer.messages if message.error):
        click.echo()  # they have no room in the table
        show.table(errors, {"messages": "messages", "error": "error"}, "")
    if answer.searched_until is not None and len(answer.messages) < limit:
        click.echo(f"Older messages than {answer.searched_until:%Y-%m-%d %H:%M:%S} UTC were not looked at.", err=True)


@click.command()
@click.option("--queue", help="Of this queue only.")
@click.option("--agent", help="Of this agent only.")
@click.option("--since", type=Duration(), default="1h", show_default=True, help="Not longer ago than this, such as 7d.")
@click.option("--step", type=Duration(), help="The length of a step, such as 5m.")
@click.option("--by", type=click.Choice(["queue", "agent"]), help="Figures of each by itself.")
@common.of_tenant
@common.as_json
@click.pass_obj
def stats(
    settings: Settings,
    /,
    since: float,
    step: float | None,
    principal: Principal,
    as_json: bool,
    **wanted: Any,
) -> None:
    """Print what happened, in steps of time: counts, seconds of wait and run, tokens and cost.

    Without --tenant they are those of all tenants.

    \b
    Examples:
      treadle stats --since 24h --by agent
      treadle stats --queue default --step 5m --json
    """
    from service.statistics.store import StatisticsStore

    async def read(database: Any) -> Any:
        begin = datetime.now(UTC) - timedelta(seconds=since)
        return await StatisticsStore(database).read(
            principal, begin=begin, step_seconds=None if step is None else int(step), **wanted
        )

    found = common.ask(settings, read)
    if as_json:
        show.as_json(found)
        return
    name = {"submitted": "submitted"} if wanted["by"] is None else {wanted["by"]: "name"}
    columns = {"at": "at", **name, "completed": "completed", "failed": "failed"}
    columns |= {"wait p95": "wait.p95", "run p95": "run.p95", "tokens": "output_tokens"}
    show.table(found.steps, columns, "Nothing happened.")


@click.command()
@common.of_tenant
@common.as_json
@click.pass_obj
def agents(settings: Settings, principal: Principal, as_json: bool) -> None:
    """List the agents that workers have registered.

    \b
    Example:
      treadle agents
    """
    from service.queues.store import QueueStore

    rows = common.ask(settings, lambda database: QueueStore(database).agents(principal))
    columns = {
        "agent": "agent",
        "queue": "queue",
        "timeout (s)": "timeout_seconds",
        "attempts": "max_attempts",
        "default": "is_default",
        "registered": "registered_at",
    }
    show.as_json(rows) if as_json else show.table(rows, columns, "No worker has registered an agent yet.")


@click.command()
@common.as_json
@click.pass_obj
def workers(settings: Settings, as_json: bool) -> None:
    """List the workers that are alive, and how many messages each runs.

    \b
    Example:
      treadle workers --json
    """
    from service.queues.store import QueueStore

    rows = common.ask(settings, lambda database: QueueStore(database).workers())
    show.as_json(rows) if as_json else show.table(rows, WORKER_COLUMNS, "No worker is alive.", whole=WORKER_WHOLE)


@click.command()
@click.option("--agent", help="Those of this agent.")
@click.option("--thread", "thread_id", help="Those of this thread.")
@click.option("--limit", default=PAGE_ITEMS, show_default=True, type=click.IntRange(1, MAX_PAGE_ITEMS))
@common.of_tenant
@common.as_json
@click.pass_obj
def instances(
    settings: Settings, principal: Principal, agent: str | None, thread_id: str | None, limit: int, as_json: bool
) -> None:
    """List the warm instances that workers keep for threads, the newest first.

    \b
    Examples:
      treadle instances
      treadle instances --agent planner --json
    """
    from service.queues.store import QueueStore

    async def find(database: Any) -> list[Any]:
        own = await common.own(database, principal)
        store = QueueStore(database)
        return (await store.instance_page(own, agent=agent, thread_id=thread_id, limit=limit))[0]

    rows = common.ask(settings, find)
    columns = {
        "agent": "agent",
        "thread": "thread_id",
        "worker": "worker_id",
        "age (s)": "age_seconds",
        "made": "made_at",
    }
    show.as_json(rows) if as_json else show.table(rows, columns, "No worker keeps a warm instance.")


class CountedError(NamedTuple):
    error: str
    messages: int


def _count_errors(errors: Iterable[str]) -> list[CountedError]:
    """The most frequent first. Errors that differ in numbers and ids only count as the first one of them."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for error in errors:
        line = error.partition("\n")[0]
        kind = NUMBERS.sub("#", IDS.sub("#", line))
        counts[first.setdefault(kind, line)] += 1
    return list(starmap(CountedError, counts.most_common()))


WORKER_COLUMNS = {
    "worker": "worker_id",
    "queues": "queues",
    "running": "in_flight",
    "of": "concurrency",
    "heartbeat": "heartbeat_at",
}
WORKER_WHOLE = ["worker"]
QUEUE_COLUMNS = {
    "queue": "name",
    "queued": "depth",
    "ready": "visible",
    "running": "in_flight",
    "failed": "failed",
    "per min": "throughput_per_minute",
    "age (s)": "oldest_age_seconds",
    "workers": "workers",
    "paused": "paused",
}
NEWEST_COLUMNS = {"message": "message_id", "state": "state", "agent": "agent", "created": "created_at"}
NEWEST_MESSAGES = 10


@click.command()
@click.option("--once", is_flag=True, help="Print it once.")
@common.of_tenant
@click.pass_obj
def top(settings: Settings, once: bool, principal: Principal) -> None:
    """Watch the queues, the workers and the newest messages; Ctrl-C ends it.

    A tenant's login sees its own queues and messages.

    \b
    Examples:
      treadle top
      treadle top --once
    """
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from service.access.sql_roles.store import SqlRoleStore
    from service.inspection.store import InspectionStore
    from service.installation.store import InstallationStore
    from service.queues.store import QueueStore

    async def of_installation(database: Any, queues: QueueStore) -> tuple[list[Any], list[Any]]:
        """The problems and the workers: a tenant's login sees neither."""
        if await SqlRoleStore(database).own_tenant() is not None:
            return [], []
        reasons = (await InstallationStore(database).health()).reasons()
        workers = show.grid(await queues.workers(), WORKER_COLUMNS, whole=WORKER_WHOLE)
        return [Text(reason, style="yellow") for reason in reasons], [workers]

    async def look(database: Any) -> Group:
        queues, own = QueueStore(database), await common.own(database, principal)
        reasons, workers = await of_installation(database, queues)
        newest = await InspectionStore(database).page(own, {}, before=None, limit=NEWEST_MESSAGES)
        parts: list[Any] = [
            Text(f"{datetime.now():%Y-%m-%d %H:%M:%S}", style="bold"),
            *reasons,
            show.grid(await queues.all(own), QUEUE_COLUMNS),
            *workers,
            show.grid(newest.messages, NEWEST_COLUMNS),
        ]
        spaced = [part for part in parts for part in (part, Text(""))]
        return Group(*spaced[:-1])

    async def watch() -> None:
        async with common.database(settings) as database:
            console = show.terminal()
            if once:
                console.print(await look(database))
                return
            with Live(await look(database), console=console, screen=console.is_terminal, auto_refresh=False) as live:
                while True:
                    await asyncio.sleep(REFRESH_SECONDS)
                    live.update(await look(database), refresh=True)

    uvloop.run(watch())
