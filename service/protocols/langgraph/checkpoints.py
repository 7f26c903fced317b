"""Finds the checkpoint from which a run begins, or a change of the state.

<message>      the state after the message
<message>-0    the state before it, where its input waits: a run from here replaces the input, or repeats it
<message>-1    the state with its input: a run from here has no input, and answers it once more
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from service.errors import NotFound, Unprocessable
from service.limits import HISTORY_EXCHANGES, JSON_PAGE_BYTES
from service.protocols.langgraph.conversation import Exchange
from service.protocols.langgraph.lookup.store import ThreadRow
from service.protocols.langgraph.services import LangGraphServices, first_values
from service.protocols.langgraph.store import PlacedExchange
from service.queues.model import Agent

_CHECKPOINT = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(-[01])?")
BEGIN = ""  # in place of a message: the state in which a thread begins
NO_FORK = "Only runs of LangGraph graphs begin at an earlier checkpoint: this agent goes on with the last state."
OTHER_AGENT = "The checkpoint is one of the agent {!r}: a run from it is for the same agent."
NO_INPUT_HERE = (
    "The checkpoint has the input already: send none, or name the checkpoint before it to replace the input."
)
NOT_KEPT = "The state at this checkpoint is not kept for another run: name another one, or none for the last state."
COPIED_BEGIN = "The state in which a copied thread begins is not kept: name a checkpoint after it."


class Base(NamedTuple):
    """`named`: the checkpoint. `after`: the id of the message after which it begins, or BEGIN. `exchange`: its input is
    replaced or, where the client sends none, repeated; None: the run goes on after the message."""

    named: str
    after: str
    exchange: Exchange | None = None


def named_checkpoint(checkpoint_id: Any, checkpoint: Mapping[str, Any] | None) -> str | None:
    named = checkpoint_id or (checkpoint or {}).get("checkpoint_id")
    return None if named is None else str(named)


def shown(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """Those that have a state."""
    return [exchange for exchange in exchanges if not exchange.is_deleted and (exchange.counts or exchange.is_open)]


async def find_base(services: LangGraphServices, row: ThreadRow, named: str | None, agent: Agent) -> Base | None:
    """None: the last state of the thread. Raises NotFound, Unprocessable. What it names can be loaded: a run that is
    accepted ends the question with which the thread waits."""
    if named is None:
        return None
    found = _CHECKPOINT.fullmatch(named.lower())
    placed = await services.store.exchanges(row.thread, HISTORY_EXCHANGES, JSON_PAGE_BYTES)
    last = shown([one.exchange for one in placed])[:1]
    by_id = {one.exchange.message.message_id: one for one in placed if shown([one.exchange])}
    at = None if found is None else by_id.get(UUID(found[1]))
    if found is None or at is None or (found[2] and at.exchange.kept.update is not None):
        raise NotFound(f"There is no checkpoint {named[:100]!r} among the last states of the thread.")
    exchange, is_input = at.exchange, found[2] is not None
    if not is_input and exchange is last[0]:
        return None
    if "graph" not in agent.settings:
        raise Unprocessable(NO_FORK)
    if exchange.message.agent != agent.agent:
        raise Unprocessable(OTHER_AGENT.format(exchange.message.agent))
    if is_input:
        base = Base(found[0], await _before(services, row, at), exchange)
    else:
        base = Base(found[0], str(exchange.message.message_id))
    if base.after != BEGIN and await services.store.state_after(row.thread, base.after) is None:
        raise Unprocessable(NOT_KEPT)
    return base


def input_ids(exchange: Exchange) -> dict[str, str]:
    """The ids that the state of a graph gave to the texts of its input."""
    state = (exchange.graph or {}).get("data")
    told = state.get("messages") if isinstance(state, dict) else None
    humans = (item for item in told if _is_text(item) and item.get("type") == "human") if isinstance(told, list) else ()
    return {item["content"]: item["id"] for item in humans if isinstance(item.get("id"), str)}


def repeated_input(exchange: Exchange) -> Any:
    """The input of a run, for another one. Its messages have the ids that the state gave them, so that both runs have
    the same message."""
    given: Any = exchange.message.user_message
    said = given.get("messages") if isinstance(given, dict) else None
    if not isinstance(said, list):
        return given
    ids = input_ids(exchange)
    return {**given, "messages": [_with_id(item, ids) for item in said]}


def _with_id(item: Any, ids: dict[str, str]) -> Any:
    return {"id": ids[item["content"]], **item} if _is_text(item) and item["content"] in ids else item


def _is_text(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("content"), str)


async def _before(services: LangGraphServices, row: ThreadRow, at: PlacedExchange) -> str:
    """The message after whose state the exchange has begun, which may be older than a page. Raises Unprocessable."""
    if at.exchange.kept.checkpoint is not None:
        return at.exchange.kept.checkpoint
    before = await services.store.completed_before(row.thread, at.ord, at.exchange.message.agent)
    if before is not None:
        return str(before)
    if first_values(row) is not None:
        raise Unprocessable(COPIED_BEGIN)
    return BEGIN
