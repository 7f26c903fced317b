"""What a worker and an agent's process tell each other: JSON, four bytes before it that say how long it is.

The worker begins with the Claim. The child asks (Put and the lookups), and each question is answered with an Answer, in
order; Count, Park and Ended are told and not answered. The worker may say Stop at any time. After Ended the child waits
to be ended. What the nursery says of a child is no frame: READY, and at its end an EXIT_CODE.
"""

import asyncio
import struct
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

import msgspec

from service.leases.store import Child, Recorded
from service.queues.model import Claim
from service.threads.store import Exchange, UnderWay
from service.worker.outcome import Outcome

READY = b"+"
EXIT_CODE = struct.Struct("!i")  # or the negative number of a signal

PREFIX = 4  # bytes


class _Frame(msgspec.Struct, frozen=True, tag=True, tag_field="frame"):
    """Named by its class."""


class Put(_Frame, frozen=True):
    """An event for the log; answered when there is room for more, or, to be saved, when it is there."""

    type: str
    data: str
    save: bool = False
    sends: str | None = None


class LookUpRecorded(_Frame, frozen=True):
    message_id: UUID


class LookUpExchanges(_Frame, frozen=True):
    thread: int
    before: int
    limit: int
    tools: bool


class LookUpChildren(_Frame, frozen=True):
    message_ids: list[UUID]


class LookUpUnderWay(_Frame, frozen=True):
    thread: int


class Count(_Frame, frozen=True):
    """Usage: a JSON object."""

    counts: str


class Park(_Frame, frozen=True):
    """The attempt is to end like this: the agent waits for others."""

    outcome: Outcome


class Ended(_Frame, frozen=True):
    """The agent has ended; without an outcome where it was stopped."""

    outcome: Outcome | None


class Answer(_Frame, frozen=True):
    """`refused`: why the question could not be answered."""

    recorded: Recorded = Recorded()
    exchanges: list[Exchange] = []
    children: list[Child] = []
    under_way: UnderWay | None = None
    refused: str | None = None


class Stop(_Frame, frozen=True):
    """The attempt is to end."""


LookUp: TypeAlias = LookUpRecorded | LookUpExchanges | LookUpChildren | LookUpUnderWay
Question: TypeAlias = Put | LookUp
FromChild: TypeAlias = Question | Count | Park | Ended
FromWorker: TypeAlias = Answer | Stop
Frame = TypeVar("Frame")

CLAIM = msgspec.json.Decoder(Claim)
FROM_CHILD: msgspec.json.Decoder[FromChild] = msgspec.json.Decoder(FromChild)
FROM_WORKER: msgspec.json.Decoder[FromWorker] = msgspec.json.Decoder(FromWorker)


async def read(reader: asyncio.StreamReader, decoder: msgspec.json.Decoder[Frame]) -> Frame | None:
    """The next frame; None at the end."""
    try:
        size = int.from_bytes(await reader.readexactly(PREFIX), "big")
        return decoder.decode(await reader.readexactly(size))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def write(writer: asyncio.StreamWriter, frame: Any) -> None:
    """Buffer a frame; it is dropped where nobody reads any more."""
    body = msgspec.json.encode(frame)
    writer.writelines((len(body).to_bytes(PREFIX, "big"), body))
