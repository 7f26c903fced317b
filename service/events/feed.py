"""Who is reading: a subscriber is a cursor, not a buffer.

A hint wakes the readers of the messages it names; each reads on from its own cursor, and the reads of all that are
awake go out as one query. Lost hints cost a poll interval, nothing else.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeAlias, TypeVar
from uuid import UUID

from service.batching import Batcher
from service.db.notifier import EVERYTHING
from service.events.model import Entry
from service.events.store import EventStore

Key: TypeAlias = UUID | int  # a message_id, or a thread's surrogate key
Read: TypeAlias = list[Entry] | None
Cursor = TypeVar("Cursor", tuple[UUID, int], tuple[int, int])


class Feed:
    def __init__(self, store: EventStore) -> None:
        self._readers: defaultdict[Key, set[asyncio.Event]] = defaultdict(set)
        self._messages: Batcher[tuple[UUID, int], Read] = Batcher(_once_each(store.read_messages), limit=500)
        self._threads: Batcher[tuple[int, int], Read] = Batcher(_once_each(store.read_threads), limit=500)
        self._positions: Batcher[UUID, tuple[str, int | None]] = Batcher(lambda ids, _: store.positions(ids), limit=200)
        self.closing = False

    @contextlib.contextmanager
    def subscribe(self, key: Key) -> Iterator[asyncio.Event]:
        """An asyncio.Event that is set whenever there may be something new of `key`."""
        wake = asyncio.Event()
        self._readers[key].add(wake)
        try:
            yield wake
        finally:
            self._readers[key].discard(wake)
            if not self._readers[key]:
                del self._readers[key]

    async def read_message(self, message_id: UUID, after: int) -> Read:
        """Events after seq `after`; None where the message is gone."""
        return await self._messages.submit((message_id, after))

    async def read_thread(self, thread: int, after: int) -> Read:
        """Events after thread_pos `after`; None where the thread is gone."""
        return await self._threads.submit((thread, after))

    async def position(self, message_id: UUID) -> tuple[str, int | None]:
        """State and queue position of a message."""
        return await self._positions.submit(message_id)

    def receive(self, payload: str) -> None:
        """A hint on treadle_events: wake whom it names."""
        if payload == EVERYTHING:
            self.wake_all()
            return
        for item in payload.split(","):
            message_id, _, thread = item.partition(":")
            with contextlib.suppress(ValueError):
                self._wake(UUID(message_id))
                if thread:
                    self._wake(int(thread))

    def wake_all(self) -> None:
        for wakes in self._readers.values():
            _set(list(wakes))

    def close(self) -> None:
        """Let every stream end: its client will reconnect elsewhere."""
        self.closing = True
        self.wake_all()

    def _wake(self, key: Key) -> None:
        if key in self._readers:
            _set(list(self._readers[key]))


def _once_each(
    read: Callable[[Sequence[Cursor]], Awaitable[list[Read]]],
) -> Callable[[Sequence[Cursor], bool], Awaitable[list[Read]]]:
    """Readers at the same place of the same log share one reading."""

    async def read_once(cursors: Sequence[Cursor], _: bool) -> list[Read]:
        places = list(dict.fromkeys(cursors))
        found = dict(zip(places, await read(places), strict=True))
        return [found[cursor] for cursor in cursors]

    return read_once


def _set(wakes: Sequence[asyncio.Event]) -> None:
    for wake in wakes:
        wake.set()
