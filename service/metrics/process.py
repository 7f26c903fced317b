"""What one process counts: a listener of telemetry, and a collector of prometheus_client.

Labels have few values: queues, registered agents (all others are `other`), outcomes, routes, pools. No ids, no tenants.
"""

import time
from collections import Counter as Tally
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

import msgspec
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service import telemetry
from service.metrics.process_tallies import ProcessTallies
from service.telemetry import Answered, Asked, LostWork, Work
from service.token_counts import INPUT_NAMES, OUTPUT_NAMES, first_count

OTHER = "other"
TOKENS = {"input": INPUT_NAMES, "output": OUTPUT_NAMES}
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Pool(Protocol):
    """A pool of connections to PostgreSQL."""

    @property
    def name(self) -> str: ...
    @property
    def connections(self) -> tuple[int, int, int]:
        """How many are in use, how many are idle, and how many there may be."""


class ProcessMetrics(Collector):
    """`agents`: the names that become values of a label. `more_agents`: how many other names do as well, the first that
    it meets (remote workers claim for registered agents only). `running`: how many messages this worker runs, of how
    many."""

    def __init__(
        self,
        *,
        pools: Sequence[Pool] = (),
        agents: Collection[str] = (),
        more_agents: int = 0,
        running: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self._pools = pools
        self._agents = set(agents)
        self._more_agents = more_agents
        self._running = running
        self._open: Tally[str] = Tally()
        self._tallies = ProcessTallies()

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
                telemetry.tokens.listen(self._use),
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
        yield from self._tallies.families()
        opened = GaugeMetricFamily("treadle_open_streams", "Streams and sockets that are open.", labels=("kind",))
        for kind in ("message", "thread", "topic", "changes", "socket"):
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
        if work.agent not in self._agents:
            if not self._more_agents:
                return OTHER
            self._more_agents -= 1
            self._agents.add(work.agent)
        return work.agent

    def _submit(self, *, tenant: str, messages: Sequence[Asked], answers: Sequence[Answered], seconds: float) -> None:
        for answer in answers:
            self._tallies.submitted.counts[answer.queue or OTHER, answer.state] += 1
        self._tallies.batch.observe(("submit",), len(messages))

    def _claim(self, *, works: Sequence[Work], room: int, seconds: float) -> None:
        now = time.time()
        for work in works:
            self._tallies.claimed.counts[(work.queue,)] += 1
            if work.attempt == 1:
                self._tallies.wait.observe((work.queue, self._agent(work)), max(0.0, now - work.created_at.timestamp()))
        self._tallies.batch.observe(("claim",), len(works))

    def _emit_first(self, *, work: Work, seconds: float) -> None:
        self._tallies.first_chunk.observe((work.queue, self._agent(work)), seconds)

    def _end_run(self, *, work: Work, outcome: str, seconds: float) -> None:
        agent = self._agent(work)
        self._tallies.attempts.counts[work.queue, agent, outcome] += 1
        self._tallies.run.observe((work.queue, agent), seconds)

    def _append(self, *, appends: int, events: int, seconds: float) -> None:
        self._tallies.events.counts[()] += events
        self._tallies.batch.observe(("append",), appends)

    def _settle(self, *, attempts: int, events: int, seconds: float) -> None:
        self._tallies.events.counts[()] += events
        self._tallies.batch.observe(("settle",), attempts)

    def _finish(self, *, work: Work, outcome: str, status: str, seconds: float) -> None:
        if status != "queued":
            self._tallies.finished.counts[work.queue, self._agent(work), status] += 1

    def _use(self, *, work: Work, usage: str) -> None:
        counted = msgspec.json.decode(usage)
        for kind, names in TOKENS.items():
            found = first_count(counted, *names)
            if found > 0:
                self._tallies.tokens.counts[work.queue, self._agent(work), kind] += found

    def _retry(self, *, work: Work, outcome: str, delay_seconds: float) -> None:
        self._tallies.retries.counts[work.queue, self._agent(work), outcome] += 1

    def _lose(self, *, work: Work) -> None:
        self._tallies.lost.counts[(work.queue,)] += 1

    def _reap(self, *, works: Sequence[LostWork]) -> None:
        for work in works:
            self._tallies.reaped.counts[(work.queue,)] += 1

    def _admit(self, *, messages: int) -> None:
        self._tallies.admitted.counts[()] += messages

    def _deliver(self, *, messages: int, seconds: float) -> None:
        self._tallies.delivered.counts[()] += messages

    def _answer(self, *, method: str, route: str | None, status: int, seconds: float) -> None:
        route = route or OTHER
        self._tallies.requests.counts[method if method in METHODS else OTHER, route, str(status)] += 1
        self._tallies.request_seconds.observe((route,), seconds)

    def _stream(self, *, kind: str, opened: bool) -> None:
        self._open[kind] += 1 if opened else -1
        if opened:
            self._tallies.opened.counts[(kind,)] += 1

    def _socket(self, *, opened: bool) -> None:
        self._stream(kind="socket", opened=opened)

    def _call(self, *, pool: str, seconds: float, error: str | None) -> None:
        self._tallies.calls.counts[pool, error or "none"] += 1
        self._tallies.call_seconds.observe((pool,), seconds)
