"""Operate a running Treadle: its database, queues, threads and dead letters."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from service.access.principal import Principal
from service.cli import common, show
from service.cli.address import split_password
from service.config import Settings
from service.errors import SchemaError
from service.limits import MAX_PAGE_ITEMS
from service.terminal import visible_line

MOST_LOOKS = 100  # calls for one list of threads, each of which looks at a part of them


@click.command()
@click.option("--invariants", is_flag=True, help="Also check every row against the invariants; slow.")
@common.as_json
@click.pass_obj
def check(settings: Settings, invariants: bool, as_json: bool) -> None:
    """Check the database and count its workers. Exit code 1 if it is not in order.

    The health is `degraded` where something keeps messages waiting or slows the service down; the reasons follow.

    With --invariants it reads everything there is (the view treadle.violations), from one snapshot and without a lock:
    some seconds for each hundred thousand messages.

    \b
    Examples:
      treadle check
      treadle check --json
      treadle check --invariants
    """
    from service.db import schema
    from service.installation.store import InstallationStore

    async def facts(database: Any) -> dict[str, Any]:
        await schema.require(database)
        await InstallationStore(database).require_lanes()
        found = await InstallationStore(database).installation()
        if found.functions != schema.digest():
            raise SchemaError("The database's functions are not those of this version: run treadle migrate.")
        names = ("postgresql", "pgmq", "release", "workers", "queued", "processing")
        reasons = (await InstallationStore(database).health()).reasons()
        health = {"health": "degraded" if reasons else "healthy", "reasons": reasons}
        return {name: getattr(found, name) for name in names} | health

    found = common.ask(settings, facts)
    if not invariants:
        show.as_json(found) if as_json else _show_facts(found)
        return
    violations = common.ask(settings, lambda database: InstallationStore(database).violations())
    if as_json:
        show.as_json(found | {"violations": violations})
    else:
        _show_facts(found | {"violations": len(violations)})
        for violation in violations:
            click.echo(visible_line(f"{violation.subject}: {violation.rule}"))
    sys.exit(1 if violations else 0)


def _show_facts(found: dict[str, Any]) -> None:
    reasons = found.pop("reasons")
    show.facts(found)
    for reason in reasons:
        click.echo(visible_line(reason))


@click.command()
@click.pass_obj
def dsn(settings: Settings) -> None:
    """Print the connection string, for programs that connect by themselves.

    pg_dump must be of the server's major version or newer; docs/operations.md says where to find one for the private
    PostgreSQL. `treadle psql` opens psql.

    \b
    Example:
      DATABASE_URL="$(treadle dsn)" python my_report.py
    """
    click.echo(common.dsn(settings))


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def psql(settings: Settings, arguments: tuple[str, ...]) -> None:
    """Open psql on the database; takes psql's own arguments.

    Objects that you create go to the schema public by default.

    \b
    Examples:
      treadle psql
      treadle psql -c "table treadle.queue_overview"
    """
    program: str | Path | None = shutil.which("psql") if settings.database_url is not None else None
    if program is None:
        from service.local.private_postgres import PrivatePostgres

        program = PrivatePostgres(settings.treadle_home).program("psql")
    # Without it, objects of a role named treadle would go to the schema treadle. A pooler refuses the option.
    environ = dict(os.environ)
    if settings.database_pooler == "none":
        environ["PGOPTIONS"] = f"-c search_path=public {environ.get('PGOPTIONS', '')}"
    address, password = split_password(common.dsn(settings))
    if password is not None:
        environ["PGPASSWORD"] = password  # any user of the machine can read the arguments of a process
    os.execve(program, [os.fspath(program), address, *arguments], environ)


@click.command()
@common.of_tenant
@common.as_json
@click.pass_obj
def queues(settings: Settings, principal: Principal, as_json: bool) -> None:
    """List the queues with their figures.

    queued: messages that wait; ready: those that a worker could claim now; age: of the oldest of those; running: those
    that workers process; workers: that claim from the queue. Without --tenant they are those of all tenants.

    \b
    Examples:
      treadle queues
      treadle queues --json
    """
    from service.queues.store import QueueStore

    rows = common.ask(settings, lambda database: QueueStore(database).all(principal))
    columns = {
        "queue": "name",
        "queued": "depth",
        "ready": "visible",
        "age (s)": "oldest_age_seconds",
        "running": "in_flight",
        "failed": "failed",
        "per min": "throughput_per_minute",
        "workers": "workers",
        "paused": "paused",
    }
    show.as_json(rows) if as_json else show.table(rows, columns, "There are no queues yet.")


@click.command()
@click.option("--limit", type=click.IntRange(1, MAX_PAGE_ITEMS), default=20, show_default=True)
@common.of_tenant
@common.as_json
@click.pass_obj
def threads(settings: Settings, limit: int, principal: Principal, as_json: bool) -> None:
    """List the threads, the last active first.

    \b
    Example:
      treadle threads --limit 5
    """
    from service.threads.store import ThreadStore

    async def newest(database: Any) -> list[Any]:
        store = ThreadStore(database)
        found: list[Any] = []
        before = None
        for _ in range(MOST_LOOKS):
            more, before = await store.page(principal, limit - len(found), before)
            found += more
            if before is None or len(found) == limit:
                return found
        click.echo("There may be more: it stopped after many threads that it does not list.", err=True)
        return found

    rows = common.ask(settings, newest)
    columns = {
        "thread": "thread_id",
        "messages": "message_count",
        "last active": "last_activity",
        "last message": "last_message_preview",
    }
    show.as_json(rows) if as_json else show.table(rows, columns, "There are no threads yet.")


@click.group("dead-letters", invoke_without_command=True)
@click.option("--queue", help="Of this queue only.")
@click.option("--limit", type=click.IntRange(1, MAX_PAGE_ITEMS), default=20, show_default=True)
@common.of_tenant
@common.as_json
@click.pass_context
def dead_letters(ctx: click.Context, queue: str | None, limit: int, principal: Principal, as_json: bool) -> None:
    """List the messages that failed for good, the newest first.

    \b
    Examples:
      treadle dead-letters
      treadle dead-letters --queue default --limit 5 --json
      treadle dead-letters redrive 01890a5d-ac96-774b-bcce-b302099a8057
    """
    from service.queues.store import QueueStore

    if ctx.invoked_subcommand is None:

        async def letters(database: Any) -> list[Any]:
            store = QueueStore(database)
            if queue is not None:
                await store.get(principal, queue)  # raises NotFound
            return await store.dead_letters(principal, queue, limit)

        rows = common.ask(ctx.obj, letters)
        columns = {"message": "message_id", "agent": "agent", "attempts": "attempts", "reason": "reason"}
        show.as_json(rows) if as_json else show.table(rows, columns, "There are no dead letters.", whole=["message"])


@dead_letters.command()
@click.argument("message_id", type=click.UUID)
@common.of_tenant
@common.as_json
@click.pass_obj
def redrive(settings: Settings, message_id: UUID, principal: Principal, as_json: bool) -> None:
    """Queue a failed message again: failures count from 0, attempts count on.

    \b
    Example:
      treadle dead-letters redrive 01890a5d-ac96-774b-bcce-b302099a8057
    """
    from service.messages.control.store import MessageControl

    state = common.ask(settings, lambda database: MessageControl(database).redrive(principal, message_id))
    show.as_json({"message_id": message_id, "state": state}) if as_json else click.echo(
        f"{message_id} is {state} again."
    )


@click.command()
@click.argument("message_id", type=click.UUID)
@click.argument("answer")
@click.option("--name", help="The question's name; by default the one that the message asks now.")
@common.of_tenant
@common.as_json
@click.pass_obj
def input(
    settings: Settings, message_id: UUID, answer: str, name: str | None, principal: Principal, as_json: bool
) -> None:
    """Answer the question that a message waits with. ANSWER is a text.

    \b
    Example:
      treadle input 01890a5d-ac96-774b-bcce-b302099a8057 "Yes, go on."
    """
    from service.messages.control.store import MessageControl
    from service.messages.model import NewInput
    from service.messages.validation import validate_input

    given = NewInput(input=answer, name=name)
    validate_input(given, settings)
    state = common.ask(settings, lambda database: MessageControl(database).input(principal, message_id, given))
    show.as_json({"message_id": message_id, "state": state}) if as_json else click.echo(
        f"{message_id} is {state} again."
    )
