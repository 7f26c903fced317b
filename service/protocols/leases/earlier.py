"""What earlier attempts at a message left, and what they have sent."""

from typing import NamedTuple

import msgspec

from service.leases.model import EarlierResults


class Sender(NamedTuple):
    """The message of an attempt that sends, and the ids of what earlier attempts have sent. `delivery`: how its
    subscription delivers it, if one does."""

    thread: int | None
    ord: int | None
    depth: int
    delivery: str | None
    traceparent: str | None
    sent: list[str]
    cancelled: list[str]
    retries: int

    @property
    def earlier(self) -> EarlierResults:
        return EarlierResults(sent=set(self.sent), cancelled=set(self.cancelled), retries=self.retries)


class Earlier(msgspec.Struct):
    """What earlier attempts at a message left, by name: JSON as PostgreSQL has it."""

    steps: dict[str, msgspec.Raw] = {}
    inputs: dict[str, msgspec.Raw] = {}
    questions: dict[str, msgspec.Raw] = {}

    @property
    def size_bytes(self) -> int:
        return sum(
            memoryview(value).nbytes for kept in (self.steps, self.inputs, self.questions) for value in kept.values()
        )
