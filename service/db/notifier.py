"""Hints to other processes, sent after commit and coalesced: hints that arrive during one NOTIFY go with the next.

Channels and payloads (items separated by commas, `*` for "look at everything"):
    treadle_work     names of queues that have messages to claim
    treadle_events   `message_id` or `message_id:thread` (threads.id) of messages with new events
    treadle_cancel   ids of messages whose cancellation was requested
    treadle_keys     ids of API keys that changed
    treadle_records  `*`: records were published; `tenant/subscription`: it may be delivered to
    treadle_topics   keys of topics (topics.id) whose logs grew
    treadle_instances  names of instances that workers must drop (service.worker.instances.InstanceCache.name)
"""

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from uuid import UUID

from service.db.hint_timing import HintTiming
from service.db.pool import Database
from service.errors import TreadleError

log = logging.getLogger(__name__)

WORK = "treadle_work"
EVENTS = "treadle_events"
CANCEL = "treadle_cancel"
INSTANCES = "treadle_instances"
KEYS = "treadle_keys"
RECORDS = "treadle_records"
TOPICS = "treadle_topics"
EVERYTHING = "*"

MAX_PAYLOAD_ITEMS = 120  # a payload has at most 8,000 bytes
MAX_PAYLOADS = 8  # above that, one payload tells listeners to look at everything


class Notifier:
    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._timing = HintTiming()
        self._pending: defaultdict[str, set[str]] = defaultdict(set)
        self._sending: asyncio.Task[None] | None = None

    def hint(self, channel: str, item: str) -> None:
        """Tell listeners soon; call it after the commit. If it fails, polling finds what the hint was about."""
        self._pending[channel].add(item)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())

    def hint_kept(self, kept: str | None) -> None:
        """Send the hints that a call has kept for its caller (treadle._kept_hints)."""
        for line in filter(None, (kept or "").split("\n")):
            channel, _, payload = line.partition(" ")
            for item in payload.split(","):
                self.hint(channel, item)

    @contextlib.contextmanager
    def with_commit(self, *, single: bool) -> Iterator[bool]:
        """Whether the hint of the write in this context travels with its commit, as that of a `single` item may (see
        HintTiming)."""
        began = self._clock()
        travels = single and self._timing.travels(began)
        try:
            yield travels
        finally:
            if single:
                ended = self._clock()
                self._timing.note(ended, ended - began, hinted=travels)

    async def flush(self) -> None:
        """Wait until all hints so far are sent."""
        while self._sending is not None:
            await asyncio.wait({self._sending})

    async def _send(self) -> None:
        try:
            while self._pending:
                pending, self._pending = self._pending, defaultdict(set)
                try:
                    await self._notify(pending)
                except TreadleError as error:
                    log.debug("hint lost", extra={"error": str(error)})
                except Exception:
                    log.exception("hint lost")
        finally:
            self._sending = None

    async def _notify(self, items_by_channel: Mapping[str, set[str]]) -> None:
        payloads = [(channel, payload) for channel, items in items_by_channel.items() for payload in _payloads(items)]
        await self._database.fetchval(
            # A hint may be lost, so its commit does not wait for the disk.
            "select set_config('synchronous_commit', 'off', true), count(treadle._notify(c, p))"
            " from unnest($1::text[], $2::text[]) u (c, p)",
            [channel for channel, _ in payloads],
            [payload for _, payload in payloads],
        )


def event_hint(message_id: UUID, thread: int | None) -> str:
    """The item for EVENTS that names the log of this message and that of its thread (threads.id)."""
    return str(message_id) if thread is None else f"{message_id}:{thread}"


def _payloads(items: set[str]) -> list[str]:
    if EVERYTHING in items or len(items) > MAX_PAYLOAD_ITEMS * MAX_PAYLOADS:
        return [EVERYTHING]
    ordered = list(items)
    return [",".join(ordered[start : start + MAX_PAYLOAD_ITEMS]) for start in range(0, len(ordered), MAX_PAYLOAD_ITEMS)]
