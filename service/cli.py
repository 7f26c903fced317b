"""The command `treadle`: the composition root, the only file that wires the parts together."""

import asyncio
import contextlib
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import click
import uvloop

from service import config, logs, show
from service.config import Settings
from service.errors import Invalid, SchemaError, TreadleError, Unavailable
from service.lifeline import follow_supervisor

Answer = TypeVar("Answer")

HARD_STOP_MARGIN = 10.0  # seconds beyond SHUTDOWN_GRACE

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


class _Commands(click.Group):
    """Errors of ours are one sentence on stderr and exit code 1; commands are listed in the order of this file."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TreadleError as error:
            hint = ""
            if isinstance(error, Unavailable) and ctx.obj is not None and ctx.obj.database_url is None:
                hint = f" Does treadle up run in {ctx.obj.treadle_home}?"
            raise click.ClickException(f"{error}{hint}") from error
        except UnicodeEncodeError as error:
            raise click.ClickException("The arguments must be valid UTF-8.") from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group("treadle", cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="treadle")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Treadle, a durable queue service for AI agents.

    Settings come from the environment, or from a YAML file named by TREADLE_CONFIG. Without DATABASE_URL, a private
    PostgreSQL under TREADLE_HOME (.treadle) is used.

    \b
    Examples:
      treadle up                       run everything on this machine
      treadle send "Hello" --follow    submit a message and watch the answer
      treadle psql -c "table treadle.queue_overview"
    """
    settings = config.load(os.environ)
    logs.configure(settings.log_level, settings.log_format)
    ctx.obj = settings


@main.command()
@click.pass_obj
def up(settings: Settings) -> None:
    """Run PostgreSQL, the API and the workers until Ctrl-C.

    One supervisor restarts whatever of them dies. With DATABASE_URL set, that server is used.

    \b
    Examples:
      treadle up
      PORT=9000 WORKERS=4 treadle up
    """
    from service import supervisor

    sys.exit(supervisor.run(settings, os.environ, click.echo))


def _collect_rarely() -> None:
    """Look for garbage cycles less often: we make hardly any, and looking took an eighth of a busy worker's time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@main.command()
@click.pass_obj
def serve(settings: Settings) -> None:
    """Run the API on HOST and PORT.

    \b
    Example:
      DATABASE_URL=postgresql://me@db/treadle HOST=0.0.0.0 treadle serve
    """
    from service.api.app import Api

    follow_supervisor(os.environ, settings.shutdown_grace + HARD_STOP_MARGIN)

    async def run() -> None:
        await Api(settings, _dsn(settings)).serve()

    _collect_rarely()
    uvloop.run(run())


@main.command()
@click.pass_obj
def work(settings: Settings) -> None:
    """Run one worker; SIGTERM drains it.

    It claims messages from QUEUES and runs up to WORKER_CONCURRENCY of them at once, with the agents of the modules
    that AGENTS names. On SIGTERM or Ctrl-C it takes no more and lets them end; after SHUTDOWN_GRACE seconds, or on the
    second signal, it hands them back.

    \b
    Examples:
      treadle work
      AGENTS=examples.summarise QUEUES=default,slow treadle work
    """
    from service.agents import registry
    from service.worker.loop import Worker

    follow_supervisor(os.environ, settings.shutdown_grace + HARD_STOP_MARGIN)

    async def run() -> None:
        worker = Worker(settings, _dsn(settings), registry.load(settings))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, worker.stop)
        await worker.run()
        # An agent that ignores its end, in a thread or on the loop, must not keep the process alive.
        sys.stderr.flush()
        os._exit(0)

    _collect_rarely()
    uvloop.run(run())


@main.command()
@click.pass_obj
def migrate(settings: Settings) -> None:
    """Bring the database to this release and register the agents.

    Run it before the other processes of a new release; old ones go on meanwhile. Running it again does no harm.

    \b
    Example:
      DATABASE_URL=postgresql://owner@db/treadle treadle migrate
    """
    from service.agents import registry
    from service.db.migrate import migrate as run_migration
    from service.queues.store import QueueStore

    agents = registry.load(settings).rows()
    dsn = _dsn(settings)

    async def run() -> None:
        await run_migration(dsn)
        async with _database(settings) as database:
            await QueueStore(database).register(agents)

    uvloop.run(run())
    click.echo("The database is ready.")


@main.command()
@as_json
@click.pass_obj
def check(settings: Settings, as_json: bool) -> None:
    """Say whether the database is in order, and who works on it. Exit code 1 where it is not.

    \b
    Examples:
      treadle check
      treadle check --json
    """
    from service.db import schema

    async def run() -> dict[str, Any]:
        async with _database(settings) as database:
            facts = {row["name"]: row["value"] for row in await database.fetch("select name, value from treadle.meta")}
            row = await database.fetchrow(
                "select current_setting('server_version') as postgresql,"
                " (select count(*) from treadle.workers) as workers,"
                " (select coalesce(sum(queued), 0)::bigint from treadle.queue_counts) as queued,"
                " (select coalesce(sum(processing), 0)::bigint from treadle.queue_counts) as processing"
            )
            assert row is not None
            await schema.require(database)
            if facts.get("functions") != schema.digest():
                raise SchemaError("The database's functions are not those of this checkout: run treadle migrate.")
            return {"postgresql": row["postgresql"], "pgmq": facts["pgmq"], "release": facts["release"]} | {
                name: row[name] for name in ("workers", "queued", "processing")
            }

    found = uvloop.run(run())
    show.as_json(found) if as_json else show.facts(found)


@main.command()
@click.pass_obj
def dsn(settings: Settings) -> None:
    """Print the connection string.

    \b
    Example:
      pg_dump "$(treadle dsn)" > backup.sql
    """
    click.echo(_dsn(settings))


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def psql(settings: Settings, arguments: tuple[str, ...]) -> None:
    """Open psql on the database; takes psql's own arguments.

    \b
    Examples:
      treadle psql
      treadle psql -c "table treadle.queue_overview"
    """
    program: str | Path | None = shutil.which("psql") if settings.database_url is not None else None
    if program is None:
        from service.embedded import Embedded

        program = Embedded(settings.treadle_home).binary("psql")
    sys.exit(subprocess.call([program, _dsn(settings), *arguments]))


@main.command()
@click.argument("text")
@click.option("--thread", help="The conversation it belongs to.")
@click.option("--agent", help="Who is to answer it; the default agent if not given.")
@click.option("--priority", type=click.Choice(["high", "normal", "low"]), default="normal", show_default=True)
@click.option("--metadata", help="A JSON object, e.g. '{\"delay_ms\": 200}'.")
@click.option("--follow", is_flag=True, help="Print the answer as it comes; exit code 1 where it fails.")
@as_json
@click.pass_obj
def send(
    settings: Settings,
    text: str,
    thread: str | None,
    agent: str | None,
    priority: Any,
    metadata: str | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Submit a message; prints its id, or with --follow its answer.

    \b
    Examples:
      treadle send "Hello" --follow
      treadle send "And then?" --thread trip --priority high
      treadle send "one two three" --agent echo --metadata '{"delay_ms": 200}'
    """
    from service.db.notifier import Notifier
    from service.messages.model import NewMessage
    from service.messages.store import MessageStore

    if not text or len(text) > settings.max_message_chars or "\x00" in text:
        raise Invalid(f"The text must have 1 to {settings.max_message_chars} characters.")
    message = NewMessage(text, priority, thread, agent, _object(metadata))

    async def run() -> bool:
        async with _database(settings) as database:
            notifier = Notifier(database)
            store = MessageStore(database, notifier, max_queue_size=settings.max_queue_size)
            accepted = await store.submit(message)
            await notifier.flush()
        if not follow:
            show.as_json(accepted) if as_json else click.echo(accepted.message_id)
            return True
        click.echo(f"message {accepted.message_id}", err=True)
        return await _follow(settings, accepted.message_id, as_json)

    sys.exit(0 if uvloop.run(run()) else 1)


@main.command()
@click.argument("message_id", type=click.UUID)
@as_json
@click.pass_obj
def tail(settings: Settings, message_id: UUID, as_json: bool) -> None:
    """Print a message's answer from its start, as it comes; exit code 1 where it fails.

    With --json each event is a line.

    \b
    Examples:
      treadle tail 01890a5d-ac96-774b-bcce-b302099a8057
      treadle tail "$(treadle send "Hello")" --json
    """
    sys.exit(0 if uvloop.run(_follow(settings, message_id, as_json)) else 1)


@main.command()
@as_json
@click.pass_obj
def queues(settings: Settings, as_json: bool) -> None:
    """List the queues with their figures.

    queued: all that waits; ready: what a worker could claim now; running: what workers are at.

    \b
    Examples:
      treadle queues
      treadle queues --json
    """
    from service.queues.store import QueueStore

    rows = _ask(settings, lambda database: QueueStore(database).all())
    columns = {
        "queue": "name",
        "queued": "depth",
        "ready": "visible",
        "running": "in_flight",
        "completed": "completed",
        "failed": "failed",
        "per minute": "throughput_per_minute",
        "paused": "paused",
    }
    show.as_json(rows) if as_json else show.table(rows, columns, "There are no queues yet.")


@main.command()
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@as_json
@click.pass_obj
def threads(settings: Settings, limit: int, as_json: bool) -> None:
    """List the threads, the last active first.

    \b
    Example:
      treadle threads --limit 5
    """
    from service.threads.store import ThreadStore

    rows, _ = _ask(settings, lambda database: ThreadStore(database).newest(limit, None))
    columns = {
        "thread": "thread_id",
        "messages": "message_count",
        "last active": "last_activity",
        "last message": "last_message_preview",
    }
    show.as_json(rows) if as_json else show.table(rows, columns, "There are no threads yet.")


@main.group("dead-letters", invoke_without_command=True)
@click.option("--queue", help="Of this queue only.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@as_json
@click.pass_context
def dead_letters(ctx: click.Context, queue: str | None, limit: int, as_json: bool) -> None:
    """List what failed for good, the newest first.

    \b
    Examples:
      treadle dead-letters
      treadle dead-letters --queue default --limit 5 --json
      treadle dead-letters redrive 01890a5d-ac96-774b-bcce-b302099a8057
    """
    from service.queues.store import QueueStore

    if ctx.invoked_subcommand is None:
        rows = _ask(ctx.obj, lambda database: QueueStore(database).dead_letters(queue, limit))
        columns = {"message": "message_id", "agent": "agent", "attempts": "attempts", "reason": "reason"}
        show.as_json(rows) if as_json else show.table(rows, columns, "There are no dead letters.")


@dead_letters.command()
@click.argument("message_id", type=click.UUID)
@as_json
@click.pass_obj
def redrive(settings: Settings, message_id: UUID, as_json: bool) -> None:
    """Give a failed message a new life: its failures are forgiven, its attempts keep counting.

    \b
    Example:
      treadle dead-letters redrive 01890a5d-ac96-774b-bcce-b302099a8057
    """
    call = "select treadle.redrive($1)"
    state = _ask(settings, lambda database: database.fetchval(call, message_id, repeatable=False))
    show.as_json({"message_id": message_id, "state": state}) if as_json else click.echo(
        f"{message_id} is {state} again."
    )


def _dsn(settings: Settings) -> str:
    if settings.database_url is not None:
        return settings.database_url
    from service.embedded import Embedded

    return Embedded(settings.treadle_home).dsn


@contextlib.asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Any]:
    from service.db.pool import Database

    database = Database(_dsn(settings), name="cli", size=4, pooler=settings.database_pooler == "transaction")
    try:
        yield database
    finally:
        await database.close()


def _ask(settings: Settings, question: Callable[[Any], Coroutine[Any, Any, Answer]]) -> Answer:
    async def run() -> Answer:
        async with _database(settings) as database:
            return await question(database)

    return uvloop.run(run())


async def _follow(settings: Settings, message_id: UUID, as_json: bool) -> bool:
    """Print a message's answer as it comes; whether it was completed."""
    from service import follow
    from service.db.listener import Listener
    from service.db.notifier import EVENTS
    from service.events.feed import Feed
    from service.events.store import EventStore

    async with _database(settings) as database:
        feed = Feed(EventStore(database))
        listener = Listener(settings.listen_database_url or _dsn(settings), {EVENTS: feed.receive}, feed.wake_all)
        listening = asyncio.create_task(listener.run())
        try:
            return await follow.show_answer(feed, message_id, settings.poll_interval, as_json)
        finally:
            listening.cancel()


def _object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise click.BadParameter("a JSON object is expected", param_hint="--metadata")
    return value


if __name__ == "__main__":
    main()
