"""What a worker and an agent's process tell each other: JSON, preceded by its length in four bytes.

The worker begins with Start. The child sends requests (Put and the queries); the worker answers each with a Reply, in
order. Count, Happened, Park and Ended get no reply. The worker may send Stop at any time. After Ended the child waits
to be killed. What the fork server writes about a child is no frame: READY_BYTE, and finally an EXIT_CODE.
"""

import asyncio
import struct
from typing import Any, Literal, TypeAlias, TypeVar
from uuid import UUID

import msgspec

from service.leases.model import Claim, EarlierResults, Outcome, SentMessage
from service.schemas.model import CheckedRecord
from service.threads.store import StoredExchange, StoredTurn

READY_BYTE = b"+"
EXIT_CODE = struct.Struct("!i")  # or the negative number of a signal

LENGTH_BYTES = 4

MomentName: TypeAlias = Literal["step", "tool", "publish", "model_call"]


class _Frame(msgspec.Struct, frozen=True, tag=True, tag_field="frame"):
    """Tagged with the name of its class."""


class Start(msgspec.Struct, frozen=True):
    """The attempt that the child runs. `trace_parent`: its span (W3C trace context), if there is one."""

    claim: Claim
    trace_parent: str | None


class Put(_Frame, frozen=True):
    """An event for the log; the reply comes when there is room for more, or, with `save`, when the event is there."""

    type: str
    data: str
    save: bool = False
    sends: str | None = None


class QueryEarlierResults(_Frame, frozen=True):
    message_id: UUID


class QueryExchanges(_Frame, frozen=True):
    thread: int
    before: int
    limit: int
    tools: bool
    max_bytes: int | None


class QueryChildren(_Frame, frozen=True):
    asker: UUID
    message_ids: list[UUID]


class QueryTurnInProgress(_Frame, frozen=True):
    thread: int


class QueryIncoming(_Frame, frozen=True):
    message_id: UUID
    lease: UUID


class QueryStore(_Frame, frozen=True):
    """`calls`: a JSON array."""

    message_id: UUID
    lease: UUID
    calls: str


class QueryMisfit(_Frame, frozen=True):
    agent: str | None
    message: Any


class QueryRecord(_Frame, frozen=True):
    tenant: str
    topic: str
    value: Any


class Count(_Frame, frozen=True):
    """Usage, a JSON object, and the step in which it was counted."""

    usage: str
    step: str


class Happened(_Frame, frozen=True):
    """A moment of service.telemetry in the child: its listeners are in the worker. `measured`: without `work`."""

    moment: MomentName
    measured: dict[str, Any]


class Park(_Frame, frozen=True):
    """The attempt must end with this outcome: the agent waits for others."""

    outcome: Outcome


class Ended(_Frame, frozen=True):
    """The agent has ended; without an outcome if it was stopped."""

    outcome: Outcome | None


class Reply(_Frame, frozen=True):
    """`refused`: why the request failed."""

    earlier_results: EarlierResults = EarlierResults()
    exchanges: list[StoredExchange] = []
    children: list[SentMessage] = []
    turn_in_progress: StoredTurn | None = None
    incoming: list[Any] = []
    misfit: str | None = None
    record: CheckedRecord = CheckedRecord()
    store: list[Any] | None = None
    refused: str | None = None


class Stop(_Frame, frozen=True):
    """The attempt must end. `reason`: a StopReason; None: it has taken too long."""

    reason: str | None = None


Query: TypeAlias = (
    QueryEarlierResults
    | QueryExchanges
    | QueryChildren
    | QueryTurnInProgress
    | QueryIncoming
    | QueryStore
    | QueryMisfit
    | QueryRecord
)
Request: TypeAlias = Put | Query
FromChild: TypeAlias = Request | Count | Happened | Park | Ended
FromWorker: TypeAlias = Reply | Stop
Frame = TypeVar("Frame")

START_DECODER = msgspec.json.Decoder(Start)
FROM_CHILD_DECODER: msgspec.json.Decoder[FromChild] = msgspec.json.Decoder(FromChild)
FROM_WORKER_DECODER: msgspec.json.Decoder[FromWorker] = msgspec.json.Decoder(FromWorker)


async def read(reader: asyncio.StreamReader, decoder: msgspec.json.Decoder[Frame]) -> Frame | None:
    """The next frame; None at the end."""
    try:
        size = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
        return decoder.decode(await reader.readexactly(size))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def write(writer: asyncio.StreamWriter, frame: Any) -> None:
    """Buffer a frame; it is dropped if the other end has closed the connection."""
    body = msgspec.json.encode(frame)
    writer.writelines((len(body).to_bytes(LENGTH_BYTES, "big"), body))
