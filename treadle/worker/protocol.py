"""The lease protocol: the calls of a remote worker, and what the server answers."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol
from uuid import UUID

import msgspec
from msgspec import Struct

from treadle.client.connection import Connection, decode, segment
from treadle.client.errors import Conflict, TooManyRequests, Unavailable
from treadle.client.model import State

Ending = Literal["completed", "failed", "retry", "overloaded", "released", "input", "children"]
VerdictKind = Literal["lost", "cancelled"]
RETRY_SECONDS = 1.0


class Registration(Struct, frozen=True):
    """A worker that the server knows."""

    worker_id: str
    tenant: str
    heartbeat_seconds: float
    silence_seconds: float


class Claim(Struct, frozen=True):
    """A message under lease."""

    message_id: UUID
    lease: UUID
    agent: str
    message: Any
    metadata: dict[str, Any]
    thread_id: str | None
    aside: bool
    memory: Any
    steps: dict[str, Any]
    inputs: dict[str, Any]
    questions: dict[str, Any]
    attempt: int
    failures: int
    timeout_seconds: float
    last_seq: int
    created_at: datetime
    traceparent: str | None = None  # a server of the release before tells none


class Unsent(Struct):
    """What an attempt sends and publishes, as the server takes it: committed with its next step, or with its end."""

    sends: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []

    def __bool__(self) -> bool:
        return bool(self.sends or self.records)

    def fields(self) -> dict[str, Any]:
        """Of the body of the call that commits it."""
        return {name: value for name, value in (("sends", self.sends), ("records", self.records)) if value}


class Event(Struct, frozen=True):
    """An event to append. `data` is encoded JSON. A step may send: then it is appended alone."""

    type: str
    data: msgspec.Raw
    sends: Unsent | None = None

    @property
    def size(self) -> int:
        return len(memoryview(self.data))

    def body(self) -> dict[str, Any]:
        return {"type": self.type, "data": self.data}


class Appended(Struct, frozen=True):
    last_seq: int
    cancel_requested: bool


class Ended(Struct, frozen=True):
    state: State


class Verdict(Struct, frozen=True):
    message_id: UUID
    lease: UUID
    verdict: VerdictKind


class PastExchange(Struct, frozen=True):
    message: Any
    result: Any
    tools: list[Any]


class WaitedMessage(Struct, frozen=True):
    message_id: UUID
    state: State | Literal["deleted"]
    result: Any
    error: str | None
    parent: UUID | None
    thread_id: str | None


class _Waited(Struct, frozen=True):
    messages: list[WaitedMessage]


class _Exchanges(Struct, frozen=True):
    exchanges: list[PastExchange]


class Placed(Struct, frozen=True):
    """A message to send or a record to publish; not `is_new`: an earlier attempt has sent it."""

    is_new: bool
    message_id: str | None = None
    record_id: str | None = None
    name: str = ""


class _Claims(Struct, frozen=True):
    messages: list[Claim]


class _Verdicts(Struct, frozen=True):
    verdicts: list[Verdict]


class Asked(NamedTuple):
    """The question of an attempt that ends until a person answers."""

    name: str
    question: Any


class Waiting(NamedTuple):
    """The messages that an attempt waits for: it ends until all are over."""

    children: list[str]


StopReason = VerdictKind | Literal["released", "timeout"] | Asked | Waiting


class Stoppable(Protocol):
    """An attempt, for the parts of it that end it early."""

    @property
    def is_stopped(self) -> bool:
        """Whether it is over, or has to end."""

    def stop(self, reason: StopReason | Exception) -> None:
        """End it early; the first reason counts."""


class LeaseLost(Exception):
    """The worker does not hold the lease any more: another one has the message, or it is over."""


class Leases(Connection):
    """The calls of one worker. Each is repeated until the server answers."""

    async def register(self, agents: Sequence[dict[str, Any]], concurrency: int, host: str, pid: int) -> Registration:
        body = {"agents": agents, "concurrency": concurrency, "host": host, "pid": pid}
        return decode(await self._send("POST", "/workers", body=body), Registration)

    async def claim(self, worker: str, quantity: int, wait: float) -> list[Claim]:
        """Raises NotFound for a worker that the server has taken for dead, Unavailable."""
        body = {"quantity": quantity, "wait": wait}
        return decode(await self._send("POST", f"/workers/{segment(worker)}/claim", body=body), _Claims).messages

    async def append(self, worker: str, claim: Claim, first_seq: int, events: Sequence[Event]) -> Appended:
        """Raises LeaseLost."""
        body = {**_lease(claim), "first_seq": first_seq, "events": [event.body() for event in events]}
        if (sends := events[0].sends) is not None:
            body |= sends.fields()
        answer = await self._write(f"/workers/{segment(worker)}/append", body, claim)
        return msgspec.json.decode(answer, type=Appended)

    async def finish(
        self,
        worker: str,
        claim: Claim,
        outcome: Ending,
        *,
        first_seq: int,
        events: Sequence[Event],
        **more: Any,
    ) -> str:
        """The state of the message. Raises LeaseLost, Invalid."""
        body = {
            **_lease(claim),
            **more,
            "attempt": claim.attempt,
            "outcome": outcome,
            "first_seq": first_seq,
            "events": [event.body() for event in events],
        }
        answer = await self._write(f"/workers/{segment(worker)}/finish", body, claim)
        return msgspec.json.decode(answer, type=Ended).state

    async def place_message(
        self, worker: str, claim: Claim, send: dict[str, Any], used_numbers: Sequence[int] | None
    ) -> Placed:
        """The id of a message to send; with `used_numbers` its name gets another one. Raises LeaseLost, Invalid."""
        return await self._place(worker, "send", claim, {"send": send}, used_numbers)

    async def place_record(
        self, worker: str, claim: Claim, record: dict[str, Any], used_numbers: Sequence[int] | None
    ) -> Placed:
        """The same for a record to publish."""
        return await self._place(worker, "publish", claim, {"record": record}, used_numbers)

    async def history(self, worker: str, claim: Claim, limit: int, *, tools: bool) -> list[PastExchange]:
        """Raises LeaseLost."""
        body = {**_lease(claim), "limit": limit, "tools": tools}
        answer = await self._persist(f"/workers/{segment(worker)}/history", body)
        return msgspec.json.decode(answer, type=_Exchanges).exchanges

    async def children(self, worker: str, claim: Claim, children: Sequence[str]) -> list[WaitedMessage]:
        """Raises LeaseLost, Invalid."""
        body = {**_lease(claim), "children": children}
        answer = await self._persist(f"/workers/{segment(worker)}/children", body)
        return msgspec.json.decode(answer, type=_Waited).messages

    async def _place(
        self, worker: str, call: str, claim: Claim, body: dict[str, Any], used_numbers: Sequence[int] | None
    ) -> Placed:
        body = {**_lease(claim), **body, **({} if used_numbers is None else {"used_numbers": used_numbers})}
        return msgspec.json.decode(await self._persist(f"/workers/{segment(worker)}/{call}", body), type=Placed)

    async def heartbeat(self, worker: str, leases: dict[UUID, UUID]) -> list[Verdict]:
        """Raises NotFound for a worker that the server has taken for dead, Unavailable."""
        body = {"leases": [{"message_id": message_id, "lease": lease} for message_id, lease in leases.items()]}
        answer = await self._send("POST", f"/workers/{segment(worker)}/heartbeat", body=body)
        return decode(answer, _Verdicts).verdicts

    async def deregister(self, worker: str) -> None:
        await self._send("DELETE", f"/workers/{segment(worker)}")

    async def _write(self, path: str, body: dict[str, Any], claim: Claim) -> bytes:
        """The header says which span sends what the body has to send."""
        return await self._persist(path, body, claim.traceparent)

    async def _persist(self, path: str, body: dict[str, Any], traceparent: str | None = None) -> bytes:
        """The answer to a write, however long the server is away: the lease may still be ours when it returns."""
        while True:
            try:
                return (await self._send("POST", path, body=body, traceparent=traceparent)).content
            except (Unavailable, TooManyRequests):
                await asyncio.sleep(RETRY_SECONDS)
            except Conflict as error:
                if error.retry_after is None:
                    raise LeaseLost(str(error)) from None


def _lease(claim: Claim) -> dict[str, UUID]:
    return {"message_id": claim.message_id, "lease": claim.lease}
