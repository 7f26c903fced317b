"""What the janitor expects of a chore, and what chores expect of the worker."""

import asyncio
import random
from collections.abc import Iterable
from typing import Protocol
from uuid import UUID


class Chore(Protocol):
    """The janitor runs it, waits for `pause`, and runs it again."""

    name: str

    async def run(self) -> None: ...

    async def pause(self) -> None: ...


class Periodic:
    """Pauses for `seconds`, give or take a fifth, so that the workers' janitors spread out."""

    def __init__(self, name: str, seconds: float) -> None:
        self.name = name
        self._seconds = seconds

    async def pause(self) -> None:
        await asyncio.sleep(self._seconds * random.uniform(0.8, 1.2))


class Arrivals(Protocol):
    """Tells workers and readers what a chore has changed."""

    def in_lanes(self, queues: Iterable[str]) -> None:
        """Messages of these queues were put into their lanes: workers can claim them."""

    def in_log(self, message_id: UUID, thread: int | None) -> None:
        """This message's log has a new event."""

    def in_topics(self, topics: Iterable[int]) -> None:
        """The logs of these topics (topics.id) grew."""
