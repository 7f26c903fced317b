"""The lines in which messages wait: lanes of queues, and the messages behind the turn of a thread."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import get_args

from msgspec import Struct

from service.events.model import QueuePosition, StopOfMany

STOPS_OF_MANY = frozenset(get_args(StopOfMany))


class LinePosition(Struct, frozen=True):
    """Where a message stood when it was looked up, and what its readers are told. It stands in a lane (`lane_id`), or
    behind the turn of its thread (`place`), or in no line: then only another look tells its position."""

    told: QueuePosition
    queue: str
    tenant: str
    agent: str
    lane_rank: int | None = None
    lane_id: int | None = None
    thread: int | None = None
    place: int | None = None
    believed_until: float = 0.0  # by time.monotonic; not for a place that the lines confirm

    @property
    def is_at_head(self) -> bool:
        """Whether it is the first of its lane, and nothing stops its queue. Only another look tells what else keeps it
        there."""
        return self.lane_id is not None and self.told.position == 0 and self.told.stop not in STOPS_OF_MANY

    @property
    def is_in_line(self) -> bool:
        return self.lane_id is not None or self.place is not None


class Line(Struct, frozen=True):
    """The first ids of a lane, in order, and the last one if there are others."""

    ids: Sequence[int]
    last_id: int | None = None

    def depth(self) -> int:
        return len(self.ids) if self.last_id is None else self.before(self.last_id + 1)

    def before(self, lane_id: int) -> int:
        """How many rows lie before this id. Beyond `ids`, the span of the ids of messages that have not returned (their
        ids begin at 1) stands for their number."""
        n = bisect_left(self.ids, lane_id)
        if n < len(self.ids) or self.last_id is None:
            return n
        returned = bisect_left(self.ids, 0)
        return n if returned == n else returned + lane_id - self.ids[returned]


class Claimed(Struct, frozen=True):
    """The agents of the living workers of a queue that claim messages of these tenants; None: of all."""

    tenants: frozenset[str] | None
    agents: frozenset[str] = frozenset()


class QueueLines(Struct, frozen=True):
    """The lanes of a queue by their rank, and what holds up all of its messages, or those of a tenant or an agent.
    `stopped`: tenants that are suspended."""

    paused: bool
    stopped: frozenset[str]
    claimed: list[Claimed]
    lanes: list[Line]

    def ahead_of(self, place: LinePosition) -> tuple[int, bool] | None:
        """How many rows are claimed before a row, and whether it was seen; None if it has left its lane."""
        assert place.lane_rank is not None
        assert place.lane_id is not None
        line = self.lanes[place.lane_rank]
        ahead = sum(lane.depth() for lane in self.lanes[: place.lane_rank])
        n = bisect_left(line.ids, place.lane_id)
        if n < len(line.ids):
            return (ahead + n, True) if line.ids[n] == place.lane_id else None
        if line.last_id is None or place.lane_id > line.last_id:
            return None
        return ahead + line.before(place.lane_id), False

    def told(self, place: LinePosition, position: int) -> QueuePosition:
        return QueuePosition("queued", position, self._stop(place))

    def _stop(self, place: LinePosition) -> StopOfMany | None:
        if self.paused:
            return "paused"
        if place.tenant in self.stopped:
            return "tenant_suspended"
        claimed = [each for each in self.claimed if each.tenants is None or place.tenant in each.tenants]
        if not claimed:
            return "unclaimed"
        return None if any(place.agent in each.agents for each in claimed) else "no_agent"


def step(
    place: LinePosition, queues: Mapping[str, QueueLines], threads: Mapping[int, Sequence[int]]
) -> tuple[QueuePosition, bool] | None:
    """What the readers of a message are told now, and whether its place was seen; None if it is no longer there."""
    lines = queues.get(place.queue)
    if lines is None:
        return None
    if place.thread is None or place.place is None or place.lane_rank is None:
        found = lines.ahead_of(place)
        return None if found is None else (lines.told(place, found[0]), found[1])
    behind = threads.get(place.thread, ())
    n = bisect_left(behind, place.place)
    if n == len(behind) or behind[n] != place.place:
        return None
    return lines.told(place, n + sum(lane.depth() for lane in lines.lanes[: place.lane_rank + 1])), True
