"""The capacity model: what a load needs, from what smaller and larger loads were measured to cost.

A cost is the sum of six: that of idle processes, of messages, of messages whose agents emit at all, of the tokens that
agents emit, of messages whose stream is read, and of the tokens that streams deliver. Each grows with its rate as it
was measured, and less than the rate does, because events that arrive together share calls. So it is taken at the rate
of one process.
"""

import math
from collections.abc import Callable, Sequence

import msgspec

from service.capacity.costs import Cost, Costs, Sample

BUSY_SHARE = 0.7  # of a core that a process or a machine should use: the rest is for bursts
PLACES_PER_RUNNING_MESSAGE = 1.3  # of all workers together
SHORT_TOKENS = 50  # of a message: samples with fewer tell the cost of a message, those with more that of a token
MAX_ROUNDS = 20  # until the curves of messages and of their tokens agree
SECONDS_PER_DAY = 86_400


class Load(msgspec.Struct, frozen=True):
    """`streams` are open at once; as many of them as messages run receive tokens, the others wait. `token_rate`: of a
    running message, in a second."""

    messages_per_second: float
    tokens_per_message: float
    streams: float
    token_rate: float

    @property
    def tokens(self) -> float:
        """In a second."""
        return self.messages_per_second * self.tokens_per_message

    @property
    def running(self) -> float:
        """Messages that run at once."""
        return self.tokens / self.token_rate

    @property
    def read_tokens(self) -> float:
        """In a second."""
        return min(self.streams, self.running) * self.token_rate


class Plan(msgspec.Struct, frozen=True):
    """Cores that the processes use, and how many of each there should be; bytes a day."""

    cores_postgres: float
    cores_api: float
    cores_worker: float
    cores: int  # of the machines together, with room for bursts
    api_processes: int
    worker_processes: int
    worker_concurrency: int  # of each worker process
    connections: int
    wal_bytes_per_day: float
    growth_bytes_per_day: float


class Model:
    def __init__(self, costs: Costs) -> None:
        samples = costs.measured
        self._idle = next(sample.cost for sample in samples if not sample.messages)
        self._messages = Curve(
            [(s.messages, _less(s.cost, self._idle)) for s in samples if s.messages and not s.tokens]
        )
        rest = [(s, _less(_less(s.cost, self._idle), self._messages.at(s.messages))) for s in samples if s.tokens]
        self._emitting, self._tokens = _apart(
            [(s.messages, s.tokens, cost) for s, cost in rest if not s.read_tokens],
        )
        self._followed, self._reads = _apart(
            [(s.read_messages, s.read_tokens, _less(cost, self._emitted(s))) for s, cost in rest if s.read_tokens],
        )

    def cost(self, messages: float, tokens: float, read_tokens: float, *, apis: int = 1, workers: int = 1) -> Cost:
        """Of these rates on so many processes together."""
        followed = messages * read_tokens / tokens if tokens else 0.0
        parts = [
            _times(self._messages.at(messages / apis), apis),
            _times(self._emitting.at(messages / workers), workers if tokens else 0),
            _times(self._tokens.at(tokens / workers), workers),
            _times(self._followed.at(followed / apis), apis),
            _times(self._reads.at(read_tokens / apis), apis),
        ]
        own = {"postgres": self._idle.postgres, "api": apis * self._idle.api, "worker": workers * self._idle.worker}
        return _total([msgspec.structs.replace(self._idle, **own), *parts])

    def plan(self, load: Load, *, api_connections: int, worker_connections: int) -> Plan:
        """`api_connections`, `worker_connections`: that a process of each kind opens at most."""
        rates = (load.messages_per_second, load.tokens, load.read_tokens)
        apis = _fewest(lambda n: self.cost(*rates, apis=n).api)
        workers = _fewest(lambda n: self.cost(*rates, workers=n).worker)
        cost = self.cost(*rates, apis=apis, workers=workers)
        used = cost.postgres + cost.api + cost.worker
        return Plan(
            cores_postgres=cost.postgres,
            cores_api=cost.api,
            cores_worker=cost.worker,
            cores=math.ceil(used / BUSY_SHARE),
            api_processes=apis,
            worker_processes=workers,
            worker_concurrency=max(10, math.ceil(load.running * PLACES_PER_RUNNING_MESSAGE / workers)),
            connections=apis * api_connections + workers * worker_connections,
            wal_bytes_per_day=cost.wal * SECONDS_PER_DAY,
            growth_bytes_per_day=cost.growth * SECONDS_PER_DAY,
        )

    def predict(self, sample: Sample) -> Cost:
        """What the model says of a load that was measured."""
        return self.cost(sample.messages, sample.tokens, sample.read_tokens)

    def _emitted(self, sample: Sample) -> Cost:
        return _total([self._emitting.at(sample.messages), self._tokens.at(sample.tokens)])


class Curve:
    """Cost by rate, through the measured points and zero. It never falls: where a higher rate was measured to cost
    less, other work had delayed the processes, so that more events shared a call.

    Between two points, and beyond the last one, a cost grows like a power of the rate, because batches grow with it: a
    line between them would be too low.
    """

    def __init__(self, points: Sequence[tuple[float, Cost]]) -> None:
        self._points: list[tuple[float, Cost]] = []
        highest = Cost()
        for rate, cost in sorted(points, key=lambda point: point[0]):
            highest = Cost(*(max(getattr(highest, name), getattr(cost, name)) for name in Cost.__struct_fields__))
            self._points.append((rate, highest))

    def at(self, rate: float) -> Cost:
        return Cost(*(self._part(name, rate) for name in Cost.__struct_fields__))

    def _part(self, name: str, rate: float) -> float:
        points = [(at, getattr(cost, name)) for at, cost in self._points if getattr(cost, name) > 0]
        if not points or rate <= 0:
            return 0.0
        above = next((n for n, (at, _) in enumerate(points) if rate <= at), len(points) - 1)
        if above == 0:  # below the first point, or it is the only one
            return float(points[0][1] * rate / points[0][0])
        (low_rate, low), (high_rate, high) = points[above - 1 : above + 1]
        power = math.log(high / low) / math.log(high_rate / low_rate)
        if rate <= high_rate:
            return float(low * (rate / low_rate) ** power)
        return float(high * (rate / high_rate) ** min(1.0, power))


def _apart(samples: Sequence[tuple[float, float, Cost]]) -> tuple[Curve, Curve]:
    """The cost by messages and the cost by tokens, from rates of both with the cost of both together.

    Short messages tell the first and long ones the second, each without what the other curve explains of it. This is
    repeated until both agree.
    """
    short = [sample for sample in samples if sample[1] < SHORT_TOKENS * sample[0]]
    long = [sample for sample in samples if sample[1] >= SHORT_TOKENS * sample[0]]
    messages = Curve([])
    for _ in range(MAX_ROUNDS):
        tokens = Curve([(rate, _less(cost, messages.at(count))) for count, rate, cost in long])
        messages = Curve([(count, _less(cost, tokens.at(rate))) for count, rate, cost in short])
    return messages, tokens


def _fewest(cores: Callable[[int], float]) -> int:
    """The fewest processes of which each has enough with its share of one core."""
    processes = 1
    while (needed := math.ceil(cores(processes) / BUSY_SHARE)) > processes:
        processes = needed
    return processes


def _total(costs: Sequence[Cost]) -> Cost:
    return Cost(*(sum(getattr(cost, name) for cost in costs) for name in Cost.__struct_fields__))


def _times(cost: Cost, factor: float) -> Cost:
    return Cost(*(getattr(cost, name) * factor for name in Cost.__struct_fields__))


def _less(cost: Cost, other: Cost) -> Cost:
    """No part of it is below zero: a small difference of two measured costs may be."""
    return Cost(*(max(0.0, getattr(cost, name) - getattr(other, name)) for name in Cost.__struct_fields__))
