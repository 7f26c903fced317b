"""Hints between workers: what this one does when it receives one, and what it sends when messages have arrived."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from uuid import UUID

from service.db.notifier import CANCEL, EVENTS, EVERYTHING, INSTANCES, RECORDS, TOPICS, WORK, Notifier, event_hint
from service.maintenance.janitor import Janitor
from service.worker.attempts import Attempts
from service.worker.heartbeat import Heartbeat
from service.worker.instances import InstanceCache


class ReceivedHints:
    """`work` is set when there may be messages to claim."""

    def __init__(
        self,
        *,
        queues: Sequence[str],
        work: asyncio.Event,
        attempts: Attempts,
        heartbeat: Heartbeat,
        instances: InstanceCache,
        janitor: Janitor,
    ) -> None:
        self._queues = queues
        self._work = work
        self._attempts = attempts
        self._heartbeat = heartbeat
        self._instances = instances
        self._janitor = janitor

    @property
    def handlers(self) -> Mapping[str, Callable[[str], None]]:
        """By channel, for the Listener."""
        return {
            WORK: self.on_work,
            CANCEL: self.on_cancel,
            INSTANCES: self.on_instances,
            RECORDS: self.on_records,
        }

    def on_connect(self) -> None:
        """The listener is connected: hints were missed, and the heartbeat can name the server that holds its lock."""
        self._work.set()
        self._janitor.route()
        self._heartbeat.send_soon()

    def on_work(self, payload: str) -> None:
        if payload == EVERYTHING or not set(self._queues).isdisjoint(payload.split(",")):
            self._work.set()

    def on_cancel(self, payload: str) -> None:
        if self._attempts.names_any(payload):
            self._heartbeat.send_soon()  # its answer names the cancelled leases

    def on_instances(self, payload: str) -> None:
        for name in payload.split(","):
            self._instances.drop(name)

    def on_records(self, payload: str) -> None:
        for item in payload.split(","):
            if item == EVERYTHING:
                self._janitor.route()
            else:
                self._janitor.deliver(item)


class ArrivalHints:
    """Wakes this worker, other workers and readers. Implements service.maintenance.chore.Arrivals."""

    def __init__(self, *, queues: Sequence[str], work: asyncio.Event, notifier: Notifier) -> None:
        self._queues = queues
        self._work = work
        self._notifier = notifier

    def in_lanes(self, queues: Iterable[str]) -> None:
        for queue in queues:
            self._notifier.hint(WORK, queue)
            if queue in self._queues:
                self._work.set()

    def in_log(self, message_id: UUID, thread: int | None) -> None:
        self._notifier.hint(EVENTS, event_hint(message_id, thread))

    def in_topics(self, topics: Iterable[int]) -> None:
        for topic in topics:
            self._notifier.hint(TOPICS, str(topic))
