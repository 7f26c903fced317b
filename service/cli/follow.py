"""Read a message's log as it grows, and print it for a person or a machine: `treadle tail` and `send --follow`."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import click

from service.cli import show
from service.errors import NotFound
from service.events.feed import Feed
from service.events.model import Entry
from service.waiting import wait_for


async def entries(feed: Feed, message_id: UUID, poll_interval: float) -> AsyncIterator[Entry]:
    """The message's events from the first to the last; raises NotFound."""
    seq, behind = 0, False
    with feed.subscribe(message_id) as wake:
        while True:
            wake.clear()
            page = await feed.read(message_id, seq, behind=behind)
            if page is None:
                raise NotFound(f"There is no message {message_id}.")
            for entry in page.entries:
                seq = entry.seq
                yield entry
                if entry.last:
                    return
            seq, behind = page.log_end if page.log_end is not None else seq, page.more
            if not behind:
                await wait_for(wake, poll_interval)


async def show_answer(feed: Feed, message_id: UUID, poll_interval: float, as_json: bool) -> bool:
    """Print the answer as it comes; returns whether the message was completed."""
    last, page = "", _Page()
    async for entry in entries(feed, message_id, poll_interval):
        last, data = entry.type, json.loads(entry.data)
        if as_json:
            show.as_json({"seq": entry.seq, "type": last, "data": data})
        else:
            page.add(last, data)
    return last == "done"


class _Page:
    """The answer for a person: its chunks as they come, and the result unless the chunks already contain it."""

    def __init__(self) -> None:
        self._chunks: list[str] = []  # of this attempt
        self._open = False  # whether there is something on the last line of stdout

    def add(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "chunk":
            click.echo(data["chunk"], nl=False)
            self._chunks.append(data["chunk"])
            if data["chunk"]:
                self._open = not data["chunk"].endswith("\n")
        elif kind == "done":
            self._end_line()
            self._result(data["result"])
        elif kind in {"retry", "error", "cancelled"}:
            self._end_line()
            self._chunks.clear()
            click.echo(f"[{kind}] {data.get('error', '')}".rstrip(), err=True)

    def _end_line(self) -> None:
        if self._open:
            click.echo()
            self._open = False

    def _result(self, result: Any) -> None:
        streamed = "".join(self._chunks)
        if isinstance(result, str):
            if result.strip() != streamed.strip():
                click.echo(result)
        elif result is not None and not streamed:
            click.echo(json.dumps(result, ensure_ascii=False))
