"""Collects hints, and tells readers at most once a second whose data has changed.

Hints name messages and topics, and agents that stream cause many that no list shows. So while readers are there, one
look a second at what hints were about serves them all. A hint that is lost is made up for by the readers themselves:
they read again after a while in any case.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Literal

from service.changes.store import ChangeStore, Looked
from service.db.notifier import EVERYTHING
from service.errors import TreadleError

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks
MAX_KEY_DIGITS = 18  # any session of the database may notify
HINTED_TOPICS = 1_000  # above that, a look is at all topics

Kind = Literal["messages", "topics"]


class Reader:
    """A client that is told; `tenant` None: of the changes of all. The first look after it came tells it everything,
    because it does not know what it has missed."""

    def __init__(self, tenant: str | None) -> None:
        self.wake = asyncio.Event()
        self._tenant = tenant
        self._changed: set[Kind] = {"messages", "topics"}  # since it was told last

    def tell(self, looked: Looked) -> None:
        kinds: dict[Kind, frozenset[str]] = {"messages": looked.of_messages, "topics": looked.of_topics}
        for kind, tenants in kinds.items():
            if tenants and (self._tenant is None or self._tenant in tenants):
                self._changed.add(kind)
        if self._changed:
            self.wake.set()

    def take(self) -> list[Kind]:
        """What has changed since the last call."""
        if not self.wake.is_set():
            return []
        self.wake.clear()
        taken, self._changed = sorted(self._changed), set()
        return taken


class ChangeFeed:
    def __init__(self, store: ChangeStore) -> None:
        self._store = store
        self._readers: set[Reader] = set()
        self._hinted = asyncio.Event()
        self._topics: set[int] | None = set()  # that hints named; None: all
        self._after: int | None = None
        self._looking: asyncio.Task[None] | None = None
        self.closing = False

    @contextlib.contextmanager
    def subscribe(self, tenant: str | None) -> Iterator[Reader]:
        """A reader of the changes of a tenant (None: of all). While there is one, hints are followed by looks."""
        reader = Reader(tenant)
        self._readers.add(reader)
        self._hinted.set()
        if self._looking is None:
            self._after = None  # the first look tells only where the next one begins
            self._looking = asyncio.create_task(self._look_while_read())
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            if not self._readers and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    def receive_messages(self, payload: str) -> None:
        """A hint about messages, or about work."""
        self._hinted.set()

    def receive_topics(self, payload: str) -> None:
        """A hint on treadle_topics."""
        if payload == EVERYTHING:
            self._topics = None
        elif self._topics is not None and self._readers:
            self._topics.update(
                int(key) for key in payload.split(",") if len(key) <= MAX_KEY_DIGITS and key.isdecimal()
            )
            if len(self._topics) > HINTED_TOPICS:
                self._topics = None
        self._hinted.set()

    def wake_all(self) -> None:
        """Hints may have been lost."""
        self._topics = None
        self._hinted.set()

    def close(self) -> None:
        """End every stream; clients go on at another process."""
        self.closing = True
        for reader in self._readers:
            reader.wake.set()

    async def _look_while_read(self) -> None:
        looked_at = -LOOK_SECONDS
        while True:
            await self._hinted.wait()
            await asyncio.sleep(max(0.0, looked_at + LOOK_SECONDS - time.monotonic()))
            looked_at = time.monotonic()
            self._hinted.clear()
            topics, self._topics = self._topics, set()
            if looked := await self._look(topics):
                self._after = looked.next_after
                for reader in self._readers:
                    reader.tell(looked)
            else:
                self.wake_all()

    async def _look(self, topics: set[int] | None) -> Looked | None:
        try:
            return await self._store.look(self._after, topics)
        except TreadleError as error:
            log.log(error.log_level, "the look for changes failed", extra={"error": str(error)})
        except Exception:
            log.exception("the look for changes failed")
        return None
