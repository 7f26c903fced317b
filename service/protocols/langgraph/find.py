"""Finds what an id of the dialect names, and says how a run stands."""

from collections.abc import Sequence
from typing import NamedTuple

from service.access.principal import Principal
from service.errors import NotFound
from service.messages.model import Status
from service.protocols.langgraph.ids import RunId, parse_run
from service.protocols.langgraph.services import LangGraphServices
from service.protocols.langgraph.store import Asked, PlacedTurn

STATUSES = {
    "queued": "pending",
    "processing": "running",
    "completed": "success",
    "failed": "error",
    "cancelled": "interrupted",
}


class Found(NamedTuple):
    """`thread_id`: the run's own id, where its message has no thread."""

    run_id: RunId
    thread_id: str
    placed: PlacedTurn
    status: str

    @property
    def is_open(self) -> bool:
        return self.status in ("pending", "running")

    @property
    def message(self) -> Status:
        return self.placed.turn.message


async def find_run(services: LangGraphServices, principal: Principal, thread_id: str | None, text: str) -> Found:
    """`thread_id` None: whatever its thread is. Raises NotFound."""
    run_id = parse_run(text)
    unknown = NotFound(f"There is no run {text[:100]!r}.")
    try:
        placed = await services.store.turn(principal, run_id.message_id)
    except NotFound:
        raise unknown from None
    own_thread = thread_of(placed)
    if thread_id not in (None, own_thread) or placed.turn.is_deleted:
        raise unknown
    asked = await questions_of(services, placed)
    if placed.turn.kept.update is not None or run_id not in runs_of(placed, asked):
        raise unknown
    return Found(run_id, own_thread, placed, status_of(run_id, placed, asked))


def thread_of(placed: PlacedTurn) -> str:
    message = placed.turn.message
    return message.thread_id or str(message.message_id)


async def questions_of(services: LangGraphServices, placed: PlacedTurn) -> list[Asked]:
    """What the message has asked a person so far."""
    message = placed.turn.message
    return await services.store.questions(message.message_id) if message.attempt > 0 else []


def status_of(run_id: RunId, placed: PlacedTurn, asked: Sequence[Asked]) -> str:
    """A run that ended with a question has succeeded."""
    if any(question.seq > run_id.after for question in asked):
        return "success"
    return STATUSES[placed.turn.message.state]


def runs_of(placed: PlacedTurn, asked: Sequence[Asked]) -> list[RunId]:
    """The runs that a message is, in their order."""
    message_id = placed.turn.message.message_id
    return [RunId(message_id), *(RunId(message_id, question.seq) for question in asked if question.answered)]
