"""What one process counts: a listener of telemetry, and a collector of prometheus_client.

Labels have few values: queues, registered agents (all others are `other`), outcomes, routes, pools. No ids, no tenants.
"""

import time
from collections import Counter as Tally
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service import telemetry
from service.metrics.tallies import Counter, Histogram
from service.telemetry import Answered, Asked, LostWork, Work

OTHER = "other"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ITEMS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Pool(Protocol):
    """A pool of connections to PostgreSQL."""

    @property
    def name(self) -> str: ...
    @property
    def connections(self) -> tuple[int, int, int]:
        """How many are in use, how many are idle, and how many there may be."""


class ProcessMetrics(Collector):
    """`agents`: the names that become values of a label. `running`: how many messages this worker runs, of how many."""

    def __init__(
        self,
        *,
        pools: Sequence[Pool] = (),
        agents: Collection[str] = (),
        running: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self._pools = pools
        self._agents = frozenset(agents)
        self._running = running
        self._open: Tally[str] = Tally()
        work = ("queue", "agent")
        self._submitted = Counter(
            "treadle_messages_submitted", "Messages of clients, by the answer.", ("queue", "state")
        )
        self._claimed = Counter("treadle_messages_claimed", "Messages that this worker has leased.", ("queue",))
        self._attempts = Counter("treadle_attempts", "Attempts whose agent has ended.", (*work, "outcome"))
        self._finished = Counter("treadle_messages_finished", "Messages that have ended.", (*work, "state"))
        self._retries = Counter("treadle_retries", "Attempts that another one follows.", (*work, "outcome"))
        self._lost = Counter("treadle_leases_lost", "Attempts whose lease was no longer held at the end.", ("queue",))
        self._reaped = Counter("treadle_messages_reaped", "Messages taken back from dead workers.", ("queue",))
        self._admitted = Counter("treadle_messages_admitted", "Messages whose delay or backoff has ended.", ())
        self._delivered = Counter("treadle_records_delivered", "Records that became messages of subscriptions.", ())
        self._events = Counter("treadle_events_written", "Events that agents wrote into logs.", ())
        self._requests = Counter("treadle_http_requests", "Requests that were answered.", ("method", "route", "status"))
        self._calls = Counter("treadle_database_calls", "Round trips to PostgreSQL, by the error.", ("pool", "error"))
        self._opened = Counter("treadle_streams_opened", "Streams and sockets that were opened.", ("kind",))
        self._wait = Histogram(
            "treadle_message_wait_seconds", "From submit to the first start, by the worker's clock.", work, SECONDS
        )
        self._run = Histogram("treadle_attempt_run_seconds", "How long the agent of an attempt ran.", work, SECONDS)
        self._first_chunk = Histogram(
            "treadle_first_chunk_seconds", "From the start of an attempt to its first chunk.", work, SECONDS
        )
        self._request_seconds = Histogram(
            "treadle_http_request_seconds", "From a request to the head of its answer.", ("route",), CALL_SECONDS
        )
        self._call_seconds = Histogram(
            "treadle_database_call_seconds", "Of a round trip, with the wait for a connection.", ("pool",), CALL_SECONDS
        )
        self._batch = Histogram("treadle_batch_items", "Items of one call to PostgreSQL.", ("call",), ITEMS)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Count meanwhile."""
        with ExitStack() as stops:
            for stop in (
                telemetry.submit.listen(self._submit),
                telemetry.claim.listen(self._claim),
                telemetry.first_chunk.listen(self._emit_first),
                telemetry.run.listen(self._end_run),
                telemetry.append.listen(self._append),
                telemetry.settle.listen(self._settle),
                telemetry.finish.listen(self._finish),
                telemetry.retry.listen(self._retry),
                telemetry.loss.listen(self._lose),
                telemetry.reap.listen(self._reap),
                telemetry.admit.listen(self._admit),
                telemetry.deliver.listen(self._deliver),
                telemetry.request.listen(self._answer),
                telemetry.stream.listen(self._stream),
                telemetry.socket.listen(self._socket),
                telemetry.database_call.listen(self._call),
            ):
                stops.callback(stop)
            yield

    def collect(self) -> Iterator[Metric]:
        for tally in vars(self).values():
            if isinstance(tally, Counter | Histogram):
                yield tally.family()
        opened = GaugeMetricFamily("treadle_open_streams", "Streams and sockets that are open.", labels=("kind",))
        for kind in ("message", "thread", "topic", "socket"):
            opened.add_metric((kind,), self._open[kind])
        yield opened
        pools = GaugeMetricFamily(
            "treadle_pool_connections", "Connections to PostgreSQL; `limit`: at most.", labels=("pool", "state")
        )
        for pool in self._pools:
            for state, number in zip(("used", "idle", "limit"), pool.connections, strict=True):
                pools.add_metric((pool.name, state), number)
        yield pools
        if self._running is not None:
            running, limit = self._running()
            yield GaugeMetricFamily("treadle_worker_running", "Messages that this worker runs.", running)
            yield GaugeMetricFamily("treadle_worker_concurrency", "Messages that it may run at once.", limit)

    def _agent(self, work: Work) -> str:
        return work.agent if work.agent in self._agents else OTHER

    def _submit(self, *, tenant: str, messages: Sequence[Asked], answers: Sequence[Answered], seconds: float) -> None:
        for answer in answers:
            self._submitted.counts[answer.queue or OTHER, answer.state] += 1
        self._batch.observe(("submit",), len(messages))

    def _claim(self, *, works: Sequence[Work], room: int, seconds: float) -> None:
        now = time.time()
        for work in works:
            self._claimed.counts[(work.queue,)] += 1
            if work.attempt == 1:
                self._wait.observe((work.queue, self._agent(work)), max(0.0, now - work.created_at.timestamp()))
        self._batch.observe(("claim",), len(works))

    def _emit_first(self, *, work: Work, seconds: float) -> None:
        self._first_chunk.observe((work.queue, self._agent(work)), seconds)

    def _end_run(self, *, work: Work, outcome: str, seconds: float) -> None:
        agent = self._agent(work)
        self._attempts.counts[work.queue, agent, outcome] += 1
        self._run.observe((work.queue, agent), seconds)

    def _append(self, *, appends: int, events: int, seconds: float) -> None:
        self._events.counts[()] += events
        self._batch.observe(("append",), appends)

    def _settle(self, *, attempts: int, events: int, seconds: float) -> None:
        self._events.counts[()] += events
        self._batch.observe(("settle",), attempts)

    def _finish(self, *, work: Work, outcome: str, status: str, seconds: float) -> None:
        if status != "queued":
            self._finished.counts[work.queue, self._agent(work), status] += 1

    def _retry(self, *, work: Work, outcome: str, delay_seconds: float) -> None:
        self._retries.counts[work.queue, self._agent(work), outcome] += 1

    def _lose(self, *, work: Work) -> None:
        self._lost.counts[(work.queue,)] += 1

    def _reap(self, *, works: Sequence[LostWork]) -> None:
        for work in works:
            self._reaped.counts[(work.queue,)] += 1

    def _admit(self, *, messages: int) -> None:
        self._admitted.counts[()] += messages

    def _deliver(self, *, messages: int, seconds: float) -> None:
        self._delivered.counts[()] += messages

    def _answer(self, *, method: str, route: str | None, status: int, seconds: float) -> None:
        route = route or OTHER
        self._requests.counts[method if method in METHODS else OTHER, route, str(status)] += 1
        self._request_seconds.observe((route,), seconds)

    def _stream(self, *, kind: str, opened: bool) -> None:
        self._open[kind] += 1 if opened else -1
        if opened:
            self._opened.counts[(kind,)] += 1

    def _socket(self, *, opened: bool) -> None:
        self._stream(kind="socket", opened=opened)

    def _call(self, *, pool: str, seconds: float, error: str | None) -> None:
        self._calls.counts[pool, error or "none"] += 1
        self._call_seconds.observe((pool,), seconds)
