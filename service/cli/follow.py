"""Read a message's log as it grows, and print it for a person or a machine: `treadle tail` and `send --follow`."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import click
import msgspec

from service.access.principal import Principal
from service.cli import show
from service.errors import NotFound
from service.events.model import Entry
from service.events.store import EventStore
from service.messages.model import Hold
from service.terminal import visible, visible_line
from service.waiting import wait_for


async def entries(
    store: EventStore, wake: asyncio.Event, principal: Principal, message_id: UUID, poll_interval: float
) -> AsyncIterator[Entry]:
    """The message's events from the first to the last; `wake` says when there may be more. Raises NotFound."""
    seq = 0
    while True:
        wake.clear()
        page = await store.page(principal, message_id, seq)
        if page is None:
            raise NotFound(f"There is no message {message_id}.")
        for entry in page.entries:
            seq = entry.seq
            yield entry
            if entry.last:
                return
        if page.ends_before is not None:  # a failover lost the end of the log: the event before it may be the final one
            seq = max(page.ends_before - 1, 0)
            continue
        if not page.more:
            await wait_for(wake, poll_interval)


async def show_answer(found: AsyncIterator[Entry], message_id: UUID, as_json: bool) -> bool:
    """Print the answer as it comes; returns whether the message was completed."""
    last, page = "", _Page(message_id)
    async for entry in found:
        last = entry.type
        if as_json:
            show.as_json({"seq": entry.seq, "type": last, "data": msgspec.Raw(entry.data.encode())})
        else:
            page.add(last, entry.data)
    return last == "done"


class _Data(msgspec.Struct):
    """What a person sees of an event's data."""

    chunk: str = ""
    error: str = ""
    hold: Hold | None = None
    question: msgspec.Raw = msgspec.Raw(b"null")
    result: msgspec.Raw = msgspec.Raw(b"null")


class _Page:
    """The answer for a person: its chunks as they come, its questions, and the result unless the chunks already contain
    it."""

    def __init__(self, message_id: UUID) -> None:
        self._message_id = message_id
        self._chunks: list[str] = []  # of this attempt
        self._open = False  # whether there is something on the last line of stdout

    def add(self, kind: str, data: str) -> None:
        if kind not in {"chunk", "done", "retry", "error", "cancelled", "parked"}:
            return
        event = msgspec.json.decode(data, type=_Data)
        if kind == "parked" and event.hold != "input":  # it waits for other messages
            return
        if kind == "chunk":
            click.echo(visible(event.chunk), nl=False)
            self._chunks.append(event.chunk)
            if event.chunk:
                self._open = not event.chunk.endswith("\n")
        elif kind == "done":
            self._end_line()
            self._result(event.result)
        elif kind == "parked":
            self._end_line()
            self._chunks.clear()  # the next attempt begins from the start
            question = visible_line(bytes(event.question).decode())
            click.echo(f"[question] {question}\nAnswer with: treadle input {self._message_id} ANSWER", err=True)
        else:
            self._end_line()
            self._chunks.clear()
            click.echo(visible(f"[{kind}] {event.error}").rstrip(), err=True)

    def _end_line(self) -> None:
        if self._open:
            click.echo()
            self._open = False

    def _result(self, raw: msgspec.Raw) -> None:
        streamed = "".join(self._chunks)
        result = bytes(raw).decode()
        if result.startswith('"'):
            text = msgspec.json.decode(result, type=str)
            if text.strip() != streamed.strip():
                click.echo(visible(text))
        elif result != "null" and not streamed:
            click.echo(visible_line(result))
