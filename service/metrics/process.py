"""What one process counts: a listener of telemetry, and a collector of prometheus_client.

Labels have few values: queues, registered agents (all others are `other`), outcomes, routes, pools. No ids, no tenants.
"""

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Protocol

import msgspec
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service import telemetry
from service.metrics.process_tallies import SECONDS, ProcessTallies, WorkTallies
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
    def connection_counts(self) -> tuple[int, int, int]:
        """How many are in use, how many are idle, and how many there may be."""


class WorkerLoad(Protocol):
    """What a worker runs and holds."""

    @property
    def running(self) -> tuple[int, int]:
        """How many messages it runs, and how many it may run at once."""

    @property
    def held_characters(self) -> int:
        """Of the messages and memories that it holds."""


class ProcessMetrics(Collector):
    """`agents`: the names that become values of a label. `more_agents`: how many other names do as well, the first that
    it meets (remote workers claim for registered agents only). `worker`: this process is one."""

    def __init__(
        self,
        *,
        pools: Sequence[Pool] = (),
        agents: Collection[str] = (),
        more_agents: int = 0,
        worker: WorkerLoad | None = None,
    ) -> None:
        self._pools = pools
        self._agents = set(agents)
        self._more_agents = more_agents
        self._worker = worker
        self._open: Tally[str] = Tally()
        self._tallies = ProcessTallies()
        self._of_work: dict[tuple[str, str], WorkTallies] = {}  # by queue and label of the agent

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Count meanwhile."""
        with telemetry.listening(
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
            for state, number in zip(("used", "idle", "limit"), pool.connection_counts, strict=True):
                pools.add_metric((pool.name, state), number)
        yield pools
        if self._worker is not None:
            running, limit = self._worker.running
            yield GaugeMetricFamily("treadle_worker_running", "Messages that this worker runs.", running)
            yield GaugeMetricFamily("treadle_worker_concurrency", "Messages that it may run at once.", limit)
            help = "Characters of the messages and memories that it holds; at 200 million it claims no more."
            yield GaugeMetricFamily("treadle_worker_held_characters", help, self._worker.held_characters)

    def _agent(self, agent: str) -> str:
        """The value of the label."""
        if agent not in self._agents:
            if not self._more_agents:
                return OTHER
            self._more_agents -= 1
            self._agents.add(agent)
        return agent

    def _find_of_work(self, queue: str, agent: str) -> WorkTallies:
        """What has not been counted for this queue and agent before, or is for one of the other agents."""
        labels = (queue, self._agent(agent))
        if labels not in self._of_work:
            self._of_work[labels] = WorkTallies(self._tallies, *labels)
        return self._of_work[labels]

    def _submit(self, *, tenant: str, messages: Sequence[Asked], answers: Sequence[Answered], seconds: float) -> None:
        for answer in answers:
            self._tallies.submitted.add((answer.queue or OTHER, answer.state))
        self._tallies.batch.observe(("submit",), len(messages))

    def _claim(self, *, works: Sequence[Work], room: int, seconds: float) -> None:
        now = datetime.now(UTC)
        for work in works:
            tallies = self._of_work.get((work.queue, work.agent)) or self._find_of_work(work.queue, work.agent)
            tallies.claimed[0] += 1
            if work.attempt == 1:
                waited = (now - work.created_at).total_seconds()
                wait = tallies.wait
                wait[bisect_left(SECONDS, waited)] += 1
                if waited > 0:  # the clock of PostgreSQL may be ahead
                    wait[-1] += waited
        self._tallies.batch.observe(("claim",), len(works))

    def _emit_first(self, *, work: Work, seconds: float) -> None:
        self._tallies.first_chunk.observe((work.queue, self._agent(work.agent)), seconds)

    def _end_run(self, *, work: Work, outcome: str, seconds: float) -> None:
        tallies = self._of_work.get((work.queue, work.agent)) or self._find_of_work(work.queue, work.agent)
        tallies.attempts[outcome][0] += 1
        run = tallies.run
        run[bisect_left(SECONDS, seconds)] += 1
        run[-1] += seconds

    def _append(self, *, appends: int, events: int, seconds: float) -> None:
        self._tallies.events.add((), events)
        self._tallies.batch.observe(("append",), appends)

    def _settle(self, *, attempts: int, events: int, seconds: float) -> None:
        self._tallies.events.add((), events)
        self._tallies.batch.observe(("settle",), attempts)

    def _finish(self, *, work: Work, outcome: str, status: str, seconds: float) -> None:
        if status != "queued":
            tallies = self._of_work.get((work.queue, work.agent)) or self._find_of_work(work.queue, work.agent)
            tallies.finished[status][0] += 1

    def _use(self, *, work: Work, usage: str) -> None:
        counted = msgspec.json.decode(usage)
        for kind, names in TOKENS.items():
            found = first_count(counted, *names)
            if found > 0:
                self._tallies.tokens.add((work.queue, self._agent(work.agent), kind), found)

    def _retry(self, *, work: Work, outcome: str, delay_seconds: float) -> None:
        self._tallies.retries.add((work.queue, self._agent(work.agent), outcome))

    def _lose(self, *, work: Work) -> None:
        self._tallies.lost.add((work.queue,))

    def _reap(self, *, works: Sequence[LostWork]) -> None:
        for work in works:
            self._tallies.reaped.add((work.queue,))

    def _admit(self, *, messages: int) -> None:
        self._tallies.admitted.add((), messages)

    def _deliver(self, *, messages: int, seconds: float) -> None:
        self._tallies.delivered.add((), messages)

    def _answer(self, *, method: str, route: str | None, status: int, seconds: float) -> None:
        route = route or OTHER
        self._tallies.requests.add((method if method in METHODS else OTHER, route, str(status)))
        self._tallies.request_seconds.observe((route,), seconds)

    def _stream(self, *, kind: str, opened: bool) -> None:
        self._open[kind] += 1 if opened else -1
        if opened:
            self._tallies.opened.add((kind,))

    def _socket(self, *, opened: bool) -> None:
        self._stream(kind="socket", opened=opened)

    def _call(self, *, pool: str, seconds: float, error: str | None) -> None:
        self._tallies.calls.add((pool, error or "none"))
        self._tallies.call_seconds.observe((pool,), seconds)
