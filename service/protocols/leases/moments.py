"""The moments of telemetry in the work of remote workers: this process raises them, from what PostgreSQL answered, as a
worker raises its own. A call that is repeated after a lost answer raises nothing twice.

What happens only in the program of a remote worker (tools, calls of models, the time of a step) has no moment here.
"""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from service import telemetry
from service.leases.model import Claim, EventToAppend
from service.protocols.leases.store import RemoteAppend, RemoteAppended, RemoteFinish, RemoteFinished

CHUNK = "chunk"
REMEMBERED_LOSSES = 10_000


class RemoteWork(NamedTuple):
    """Implements service.telemetry.Work."""

    message_id: UUID
    tenant: str
    queue: str
    agent: str
    attempt: int
    created_at: datetime


class RemoteMoments:
    def __init__(self) -> None:
        self._losses: dict[UUID, None] = {}  # leases whose loss was told, the oldest first

    def claimed(self, claims: Sequence[Claim], quantity: int, began: float) -> None:
        """`began`: of the call, by the monotonic clock."""
        telemetry.claim(works=claims, room=quantity, seconds=time.monotonic() - began)

    def appended(self, batch: Sequence[RemoteAppend], answers: Sequence[RemoteAppended], began: float) -> None:
        events = 0
        for append, answer in zip(batch, answers, strict=True):
            if answer.status == "ok":
                events += _written(append, answer.former_seq)
                if answer.agent is not None and _has_chunk(append.events):  # it had written none before
                    assert answer.queue is not None
                    assert answer.attempt is not None
                    assert answer.created_at is not None
                    work = RemoteWork(
                        append.message_id, append.tenant, answer.queue, answer.agent, answer.attempt, answer.created_at
                    )
                    telemetry.first_chunk(work=work, seconds=answer.seconds or 0.0)
        telemetry.append(appends=len(batch), events=events, seconds=time.monotonic() - began)

    def ended(self, batch: Sequence[RemoteFinish], answers: Sequence[RemoteFinished], began: float) -> None:
        events = 0
        for finish, answer in zip(batch, answers, strict=True):
            work = _work(finish, answer)
            if work is None or answer.repeated or answer.status in {"gap", "busy"}:
                continue
            if answer.status == "lost":
                self._lose(finish.lease, work)
                continue
            events += _written(finish, answer.former_seq)
            _tell_end(finish, answer, work)
        telemetry.settle(attempts=len(batch), events=events, seconds=time.monotonic() - began)

    def _lose(self, lease: UUID, work: RemoteWork) -> None:
        """A worker that does not know of its loss may try to end the attempt more than once."""
        if lease not in self._losses:
            self._losses[lease] = None
            if len(self._losses) > REMEMBERED_LOSSES:
                del self._losses[next(iter(self._losses))]
            telemetry.loss(work=work)


def _tell_end(finish: RemoteFinish, answer: RemoteFinished, work: RemoteWork) -> None:
    outcome, seconds = finish.outcome, answer.seconds or 0.0
    if not answer.chunked and _has_chunk(finish.events):
        telemetry.first_chunk(work=work, seconds=seconds)
    telemetry.run(work=work, outcome=outcome.kind, seconds=seconds)
    if finish.usage is not None:
        telemetry.tokens(work=work, usage=finish.usage)
    telemetry.finish(work=work, outcome=outcome.kind, status=answer.status, seconds=seconds)
    if answer.status == "queued" and outcome.is_retried:
        telemetry.retry(work=work, outcome=outcome.kind, delay_seconds=max(0.0, answer.delay_seconds or 0.0))


def _work(finish: RemoteFinish, answer: RemoteFinished) -> RemoteWork | None:
    """None: the tenant has no such message."""
    if answer.queue is None or answer.agent is None or answer.created_at is None:
        return None
    return RemoteWork(finish.message_id, finish.tenant, answer.queue, answer.agent, finish.attempt, answer.created_at)


def _written(item: RemoteAppend | RemoteFinish, former_seq: int | None) -> int:
    """How many of its events were not in the log before."""
    if former_seq is None:
        return 0
    return max(0, min(len(item.events), item.first_seq + len(item.events) - 1 - former_seq))


def _has_chunk(events: Sequence[EventToAppend]) -> bool:
    return any(event.type == CHUNK for event in events)
