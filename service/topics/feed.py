"""Wakes the readers of topics. A lost hint delays a reader by one poll interval at most."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator

from service.db.notifier import EVERYTHING


class TopicFeed:
    def __init__(self) -> None:
        self._readers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self.closing = False

    @contextlib.contextmanager
    def subscribe(self, topic_key: int) -> Iterator[asyncio.Event]:
        """An asyncio.Event that is set whenever the topic (topics.id) may have new records."""
        wake, key = asyncio.Event(), str(topic_key)
        self._readers[key].add(wake)
        try:
            yield wake
        finally:
            self._readers[key].discard(wake)
            if not self._readers[key]:
                del self._readers[key]

    def receive(self, payload: str) -> None:
        """Wake the readers that a hint on treadle_topics names."""
        if payload == EVERYTHING:
            self.wake_all()
            return
        for key in payload.split(","):
            self._wake(key)

    def wake_all(self) -> None:
        for key in list(self._readers):
            self._wake(key)

    def close(self) -> None:
        """End every stream and long poll; clients go on at another process."""
        self.closing = True
        self.wake_all()

    def _wake(self, key: str) -> None:
        for wake in list(self._readers.get(key, ())):
            wake.set()
