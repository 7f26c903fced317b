"""Hints between workers: what this one does when it receives one, and what it sends when messages have arrived."""

from collections.abc import Callable, Iterable, Mapping
from uuid import UUID

from service.db.notifier import CANCEL, EVENTS, EVERYTHING, INSTANCES, RECORDS, TOPICS, WORK, Notifier, event_hint
from service.maintenance.janitor import Janitor
from service.worker.heartbeat import Heartbeat
from service.worker.instances import InstanceCache
from service.worker.lines import Lines


class ReceivedHints:
    def __init__(
        self,
        *,
        lines: Lines,
        heartbeat: Heartbeat,
        instances: InstanceCache,
        janitor: Janitor,
    ) -> None:
        self._lines = lines
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
        self._lines.wake()
        self._janitor.route()
        self._heartbeat.send_soon()

    def on_work(self, payload: str) -> None:
        self._lines.wake(None if payload == EVERYTHING else payload.split(","))

    def on_cancel(self, payload: str) -> None:
        if self._lines.names_any(payload):
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

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self.lines = Lines(())  # of this worker, as soon as it has some

    def in_lanes(self, queues: Iterable[str]) -> None:
        for queue in queues:
            self._notifier.hint(WORK, queue)
            self.lines.wake([queue])

    def in_log(self, message_id: UUID, thread: int | None) -> None:
        self._notifier.hint(EVENTS, event_hint(message_id, thread))

    def in_topics(self, topics: Iterable[int]) -> None:
        for topic in topics:
            self._notifier.hint(TOPICS, str(topic))
