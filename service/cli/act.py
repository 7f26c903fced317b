"""Act on a running Treadle: cancel and redrive messages, pause and resume queues."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import click

from service.access.principal import Principal
from service.cli import common, show
from service.cli.durations import Duration
from service.config import Settings
from service.inspection.model import Changes
from service.limits import MAX_PAGE_ITEMS
from service.wording import counted

PART_MESSAGES = 200  # changed between two lines of progress


def _selection(command: Callable[..., None]) -> Callable[..., None]:
    """The options that select messages."""
    for option in (
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--error", help="Those whose error contains this text."),
        click.option("--since", type=Duration(), help="Those not older than this, such as 2h."),
        click.option("--thread", "thread_id", help="Those of this thread."),
        click.option("--queue", help="Those of this queue."),
        click.option("--agent", help="Those of this agent."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("message_id", type=click.UUID, required=False)
@_selection
@common.of_tenant
@common.as_json
@click.pass_obj
def cancel(
    settings: Settings, /, message_id: UUID | None, principal: Principal, as_json: bool, yes: bool, **wanted: Any
) -> None:
    """Cancel a message; or with options, every open message that satisfies all of them.

    Those are counted first, and a question asks whether to go on.

    \b
    Examples:
      treadle cancel 01890a5d-ac96-774b-bcce-b302099a8057
      treadle cancel --agent planner --since 1h
      treadle cancel --queue default --yes --json
    """
    _act(settings, "cancel", "open", message_id, principal, wanted, yes=yes, as_json=as_json)


@click.command()
@click.argument("message_id", type=click.UUID, required=False)
@_selection
@common.of_tenant
@common.as_json
@click.pass_obj
def redrive(
    settings: Settings, /, message_id: UUID | None, principal: Principal, as_json: bool, yes: bool, **wanted: Any
) -> None:
    """Queue a failed message again; or with options, every failed message that satisfies all of them.

    Those are counted first, and a question asks whether to go on.

    \b
    Examples:
      treadle redrive 01890a5d-ac96-774b-bcce-b302099a8057
      treadle redrive --agent planner --error "rate limit"
    """
    _act(settings, "redrive", "failed", message_id, principal, wanted, yes=yes, as_json=as_json)


@click.command()
@click.argument("message_id", type=click.UUID)
@click.argument("step")
@common.of_tenant
@common.as_json
@click.pass_obj
def retry(settings: Settings, message_id: UUID, step: str, principal: Principal, as_json: bool) -> None:
    """Run a message that is over again, from the step named STEP: the results of the steps before it are kept.

    \b
    Example:
      treadle retry 01890a5d-ac96-774b-bcce-b302099a8057 plan
    """
    from service.messages.control.store import MessageControl

    async def one(database: Any) -> Any:
        return await MessageControl(database).retry(await common.own(database, principal), message_id, step)

    state = common.ask(settings, one)
    said = f"{message_id}: {state}"
    show.as_json({"message_id": message_id, "state": state}) if as_json else click.echo(said)


def _act(
    settings: Settings,
    action: str,
    state: str,
    message_id: UUID | None,
    principal: Principal,
    wanted: dict[str, Any],
    *,
    yes: bool,
    as_json: bool,
) -> None:
    from service.inspection.filters import parse_filter
    from service.inspection.store import InspectionStore
    from service.messages.control.store import MessageControl

    since = wanted.pop("since")
    given = wanted | {"since": None if since is None else (datetime.now(UTC) - timedelta(seconds=since)).isoformat()}
    if (message_id is None) == all(value is None for value in given.values()):
        raise click.UsageError("Name a message, or select messages with options.")
    if message_id is not None:

        async def one(database: Any) -> Any:
            return await getattr(MessageControl(database), action)(await common.own(database, principal), message_id)

        state = common.ask(settings, one)
        said = f"{message_id}: {state}"
        show.as_json({"message_id": message_id, "state": state}) if as_json else click.echo(said)
        return
    found = parse_filter(given | {"state": state})

    async def go_through(database: Any, *, preview: bool) -> Changes:
        """All parts of the selection, one after the other."""
        store, caller = InspectionStore(database), await common.own(database, principal)
        change = None if preview else getattr(MessageControl(database), action)
        matched = changed = skipped = 0
        before: UUID | None = None
        while True:
            limit = MAX_PAGE_ITEMS if preview else PART_MESSAGES
            part = await store.change(caller, found, change, before=before, limit=limit)
            matched, changed, skipped = matched + part.matched, changed + part.changed, skipped + part.skipped
            if part.next_cursor is None:
                return Changes(matched, changed, skipped, None, None)
            before = UUID(part.next_cursor)
            if not preview and not as_json:
                click.echo(f"{changed} so far", err=True)

    if not yes:
        count = common.ask(settings, lambda database: go_through(database, preview=True)).matched
        if count == 0:
            raise click.ClickException("No message satisfies this.")
        click.confirm(f"{action.capitalize()} {counted(count, 'message')}?", abort=True, err=True)
    done = common.ask(settings, lambda database: go_through(database, preview=False))
    if as_json:
        show.as_json({"changed": done.changed, "skipped": done.skipped})
    else:
        click.echo(f"{action}: {counted(done.changed, 'message')}; {done.skipped} left as found.")


@click.command()
@click.argument("queue")
@common.as_json
@click.pass_obj
def pause(settings: Settings, queue: str, as_json: bool) -> None:
    """Pause a queue: workers claim nothing of it, submits go on, what runs goes on.

    \b
    Example:
      treadle pause default
    """
    _switch(settings, queue, paused=True, as_json=as_json)


@click.command()
@click.argument("queue")
@common.as_json
@click.pass_obj
def resume(settings: Settings, queue: str, as_json: bool) -> None:
    """Resume a paused queue.

    \b
    Example:
      treadle resume default
    """
    _switch(settings, queue, paused=False, as_json=as_json)


def _switch(settings: Settings, queue: str, *, paused: bool, as_json: bool) -> None:
    from service.access.principal import COMMAND_LINE
    from service.queues.store import QueueStore

    found = common.ask(settings, lambda database: QueueStore(database).pause(COMMAND_LINE, queue, paused))
    show.as_json(found) if as_json else click.echo(
        f"The queue {queue} is paused; {counted(found.depth, 'message waits', 'messages wait')} in it."
        if paused
        else f"The queue {queue} goes on."
    )
