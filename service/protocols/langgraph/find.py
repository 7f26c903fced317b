"""Finds what an id of the dialect names, and says how a run stands."""

from collections.abc import Sequence
from typing import NamedTuple

from service.access.principal import Principal
from service.errors import NotFound
from service.messages.model import Status
from service.protocols.langgraph.ids import RunId, parse_run
from service.protocols.langgraph.services import LangGraphServices
from service.protocols.langgraph.store import STATUSES, Asked, PlacedExchange


class Found(NamedTuple):
    """`thread_id`: the run's own id, where its message has no thread."""

    run_id: RunId
    thread_id: str
    placed: PlacedExchange
    status: str

    @property
    def is_open(self) -> bool:
        return self.status in ("pending", "running")

    @property
    def message(self) -> Status:
        return self.placed.exchange.message


async def find_run(services: LangGraphServices, principal: Principal, thread_id: str | None, text: str) -> Found:
    """`thread_id` None: whatever its thread is. Raises NotFound."""
    run_id = parse_run(text)
    unknown = NotFound(f"There is no run {text[:100]!r}.")
    try:
        placed = await services.store.exchange(principal, run_id.message_id)
    except NotFound:
        raise unknown from None
    message = placed.exchange.message
    if (
        thread_id not in (None, _thread_of(message))
        or placed.exchange.is_deleted
        or placed.exchange.kept.update is not None
    ):
        raise unknown
    asked = await services.store.questions(message.message_id) if message.attempt > 0 else []
    if run_id.after and not any(question.seq == run_id.after and question.answered for question in asked):
        raise unknown
    return found_run(placed, run_id.after, _status_of(run_id, message, asked))


def found_run(placed: PlacedExchange, after: int, status: str) -> Found:
    message = placed.exchange.message
    return Found(RunId(message.message_id, after), _thread_of(message), placed, status)


def _thread_of(message: Status) -> str:
    return message.thread_id or str(message.message_id)


def _status_of(run_id: RunId, message: Status, asked: Sequence[Asked]) -> str:
    """A run that ended with a question has succeeded."""
    if any(question.seq > run_id.after for question in asked):
        return "success"
    return STATUSES[message.state]
