"""Lines: each claims from queues of its own, and has places of its own. So the deliveries of webhooks, which wait for
servers of others, never take the places of agents."""

import asyncio
from collections.abc import Iterable, Sequence
from uuid import UUID

import msgspec

from service.leases.model import Verdict
from service.worker.attempts import Attempts
from service.worker.claimer import Claimer


class Line(msgspec.Struct, frozen=True):
    """`work` is set when there may be messages to claim."""

    queues: Sequence[str]
    work: asyncio.Event
    attempts: Attempts
    claimer: Claimer


class Lines:
    """The lines of a worker, together."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = lines

    def __len__(self) -> int:
        """How many messages run."""
        return sum(len(line.attempts) for line in self._lines)

    @property
    def held_characters(self) -> int:
        """Of the messages and memories of the line that holds the most. At MAX_HELD_CHARACTERS it claims nothing."""
        return max((line.attempts.held_characters for line in self._lines), default=0)

    @property
    def queues(self) -> list[str]:
        return [queue for line in self._lines for queue in line.queues]

    @property
    def leases(self) -> dict[UUID, UUID]:
        """By message. In any thread."""
        held: dict[UUID, UUID] = {}
        for line in self._lines:
            held |= line.attempts.leases.copy()
        return held

    @property
    def is_claiming(self) -> bool:
        return any(line.claimer.is_claiming for line in self._lines)

    async def claim(self) -> None:
        """Until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            for line in self._lines:
                tasks.create_task(line.claimer.run())

    def stop(self) -> None:
        """Claim no more."""
        for line in self._lines:
            line.claimer.stop()

    def wake(self, queues: Iterable[str] | None = None) -> None:
        """There may be messages in these queues (None: in any)."""
        named = None if queues is None else set(queues)
        for line in self._lines:
            if named is None or not named.isdisjoint(line.queues):
                line.work.set()

    def names_any(self, payload: str) -> bool:
        """Whether the hint about cancelled messages names one of ours."""
        return any(line.attempts.names_any(payload) for line in self._lines)

    def obey(self, verdicts: Sequence[Verdict]) -> None:
        for line in self._lines:
            line.attempts.obey(verdicts)

    def release_all(self) -> None:
        for line in self._lines:
            line.attempts.release_all()

    async def wait_for_end(self, seconds: float) -> None:
        """Wait until all attempts have ended, at most so long."""
        async with asyncio.TaskGroup() as tasks:
            for line in self._lines:
                tasks.create_task(line.attempts.wait_for_end(seconds))
