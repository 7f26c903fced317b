"""Talk to the agents: send a message, and read its answer as it comes."""

import asyncio
import sys
from typing import Any
from uuid import UUID

import click
import uvloop

from service.access.principal import Principal
from service.cli import common, show
from service.config import Settings
from service.errors import Invalid, Refused
from service.json_input import decode
from service.terminal import visible_line


@click.command()
@click.argument("text")
@click.option("--thread", help="The conversation it belongs to.")
@click.option("--agent", help="The agent that answers it; by default the default agent.")
@click.option("--priority", type=click.Choice(["high", "normal", "low"]), default="normal", show_default=True)
@click.option("--metadata", help="A JSON object, e.g. '{\"delay_ms\": 200}'.")
@click.option("--callback-url", help="An address that is told of its end (docs/webhooks.md).")
@click.option("--follow", is_flag=True, help="Print the answer as it comes; exit code 1 if it fails.")
@common.of_tenant
@common.as_json
@click.pass_obj
def send(
    settings: Settings,
    text: str,
    thread: str | None,
    agent: str | None,
    priority: Any,
    metadata: str | None,
    callback_url: str | None,
    follow: bool,
    principal: Principal,
    as_json: bool,
) -> None:
    """Submit a message; prints its id, or with --follow its answer.

    \b
    Examples:
      treadle send "Hello" --follow
      treadle send "And then?" --thread trip --priority high
      treadle send "one two three" --agent echo --metadata '{"delay_ms": 200}'
      treadle send "Hello" --callback-url https://example.com/done
    """
    from service.db.notifier import Notifier
    from service.messages.model import NewMessage
    from service.messages.store import MessageStore
    from service.messages.validation import validate_messages

    if not text or len(text) > settings.max_message_chars:
        raise Invalid(f"The text must have 1 to {settings.max_message_chars} characters.")
    message = NewMessage(text, priority, thread, agent, _object(metadata), callback_url=callback_url)
    validate_messages([message], settings, in_batch=False)

    async def run() -> bool:
        async with common.database(settings) as database:
            notifier = Notifier(database)
            store = MessageStore(database, notifier, max_queue_size=settings.max_queue_size)
            accepted = await store.submit(principal, message)
            await notifier.flush()
        if not follow:
            show.as_json(accepted) if as_json else click.echo(accepted.message_id)
            return True
        click.echo(f"message {accepted.message_id}", err=True)
        return await _follow(settings, principal, accepted.message_id, as_json)

    sys.exit(0 if uvloop.run(run()) else 1)


@click.command()
@click.argument("message_id", type=click.UUID)
@common.of_tenant
@common.as_json
@click.pass_obj
def explain(settings: Settings, message_id: UUID, principal: Principal, as_json: bool) -> None:
    """Say why a message has not finished, the nearest reason first, and what to do.

    \b
    Examples:
      treadle explain 01890a5d-ac96-774b-bcce-b302099a8057
      treadle explain 01890a5d-ac96-774b-bcce-b302099a8057 --json
    """
    from service.db.notifier import Notifier
    from service.messages.store import MessageStore

    found = common.ask(
        settings,
        lambda database: MessageStore(database, Notifier(database), max_queue_size=settings.max_queue_size).explain(
            principal, message_id
        ),
    )
    if as_json:
        show.as_json(found)
        return
    for reason in found.reasons:
        click.echo(visible_line(reason.sentence))
        click.echo(f"  {visible_line(reason.advice)}")


@click.command()
@click.argument("message_id", type=click.UUID)
@common.of_tenant
@common.as_json
@click.pass_obj
def tail(settings: Settings, message_id: UUID, principal: Principal, as_json: bool) -> None:
    """Print a message's answer from its start, as it comes; exit code 1 if it fails.

    With --json each event is a line.

    \b
    Examples:
      treadle tail 01890a5d-ac96-774b-bcce-b302099a8057
      treadle tail "$(treadle send "Hello")" --json
    """
    sys.exit(0 if uvloop.run(_follow(settings, principal, message_id, as_json)) else 1)


async def _follow(settings: Settings, principal: Principal, message_id: UUID, as_json: bool) -> bool:
    """Print a message's answer as it comes; whether it was completed."""
    from service.cli import follow
    from service.db.listener import Listener
    from service.db.notifier import EVENTS, EVERYTHING
    from service.events.store import EventStore

    async with common.database(settings) as database:
        wake = asyncio.Event()

        def hear(payload: str) -> None:
            if payload == EVERYTHING or str(message_id) in payload:
                wake.set()

        listener = Listener(settings.listen_database_url or common.dsn(settings), {EVENTS: hear}, wake.set)
        listening = asyncio.create_task(listener.run())
        try:
            found = follow.entries(EventStore(database), wake, principal, message_id, settings.poll_interval)
            return await follow.show_answer(found, message_id, as_json)
        finally:
            listening.cancel()


def _object(text: str | None) -> dict[str, Any] | None:
    """Metadata as POST /messages takes it."""
    if text is None:
        return None
    try:
        value: dict[str, Any] = decode(text, dict[str, Any], "metadata")
    except Refused as error:
        raise click.BadParameter(str(error), param_hint="--metadata") from None
    return value
