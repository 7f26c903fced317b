"""Read a message's log as it grows, and print it for a person or a machine: `treadle tail` and `send --follow`."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from uuid import UUID

import click

from service.cli import show
from service.errors import NotFound
from service.events.feed import Feed
from service.events.model import Entry


async def entries(feed: Feed, message_id: UUID, poll_interval: float) -> AsyncIterator[Entry]:
    """The message's events from the first to the last; raises NotFound."""
    seq = 0
    with feed.subscribe(message_id) as wake:
        while True:
            wake.clear()
            read = await feed.read_message(message_id, seq)
            if read is None:
                raise NotFound(f"There is no message {message_id}.")
            for entry in read:
                seq = entry.seq
                yield entry
                if entry.last:
                    return
            if not read:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), poll_interval)


async def show_answer(feed: Feed, message_id: UUID, poll_interval: float, as_json: bool) -> bool:
    """Print the answer as it comes; whether the message was completed."""
    streamed = False  # this attempt's answer came in chunks: the result need not be shown
    last = ""
    async for entry in entries(feed, message_id, poll_interval):
        last = entry.type
        streamed = last == "chunk" or (streamed and last != "retry")
        if as_json:
            show.as_json({"seq": entry.seq, "type": last, "data": json.loads(entry.data)})
        else:
            _print(last, json.loads(entry.data), streamed)
    return last == "done"


def _print(kind: str, data: dict[str, object], streamed: bool) -> None:
    if kind == "chunk":
        click.echo(data["chunk"], nl=False)
    elif kind == "done":
        result = "" if streamed or data["result"] is None else data["result"]
        click.echo(result if isinstance(result, str) else json.dumps(result, ensure_ascii=False))
    elif kind in {"retry", "error", "cancelled"}:
        click.echo(f"\n[{kind}] {data.get('error', '')}".rstrip(), err=True)
