"""What the handlers of the dialect share."""

from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from service.access.principal import Principal
from service.config import Settings
from service.errors import NotFound
from service.events.follower import Follower
from service.events.store import EventStore
from service.limits import HISTORY_EXCHANGES, JSON_PAGE_BYTES
from service.messages.store import MessageStore
from service.protocols.langgraph.conversation import values_after
from service.protocols.langgraph.ids import assistant_id
from service.protocols.langgraph.lookup.store import ThreadRow
from service.protocols.langgraph.model import Json
from service.protocols.langgraph.store import LangGraphStore, PlacedExchange
from service.queues.model import Agent
from service.queues.store import QueueStore
from service.threads.store import ThreadStore

COPIED = "langgraph_copy"  # in the memory of a thread: what it began with


class LangGraphServices(NamedTuple):
    settings: Settings
    follower: Follower
    events: EventStore
    messages: MessageStore
    threads: ThreadStore
    queues: QueueStore
    store: LangGraphStore

    async def agent(self, principal: Principal, name: str) -> Agent:
        """By its name, or by the id of its assistant. Raises NotFound."""
        agents = await self.queues.agents(principal)
        named = [agent for agent in agents if agent.agent == name]
        for agent in named or (agent for agent in agents if assistant_id(agent.agent) == name):
            return _decoded(agent)
        raise NotFound(f"There is no assistant (agent) {name[:100]!r}.")

    async def values_before(self, principal: Principal, placed: PlacedExchange) -> Json:
        """The values of the thread before an exchange. Raises NotFound."""
        thread_id = placed.exchange.message.thread_id
        if thread_id is None:
            return {"messages": []}
        row = await self.store.thread(principal, thread_id)
        base = placed.exchange.kept.checkpoint
        if base is not None:
            return await self._values_after(principal, row, base)
        before = await self.store.exchanges(row.thread, HISTORY_EXCHANGES, JSON_PAGE_BYTES, placed.ord)
        return values_after([one.exchange for one in reversed(before)], first_values(row))

    async def _values_after(self, principal: Principal, row: ThreadRow, message_id: str) -> Json:
        """After a message of a graph, or (empty) at the begin of the thread."""
        try:
            exchange = (await self.store.exchange(principal, UUID(message_id))).exchange
        except (NotFound, ValueError):
            return values_after([], first_values(row))
        return values_after([exchange])


def _decoded(agent: Agent) -> Agent:
    """With the values of its JSON, which the store leaves as they are."""
    fields: dict[str, Any] = {
        name: msgspec.json.decode(value)
        for name in ("input", "settings")
        if isinstance(value := getattr(agent, name), msgspec.Raw)
    }
    return msgspec.structs.replace(agent, **fields)


def first_values(row: ThreadRow) -> Json | None:
    """The values with which a thread began; None: none."""
    copied = row.memory.get(COPIED)
    values = copied.get("values") if isinstance(copied, dict) else None
    return values if isinstance(values, dict) else None


def copied_history(row: ThreadRow) -> list[Any]:
    """The exchanges with which a thread began, for agents that are no graphs."""
    copied = row.memory.get(COPIED)
    history = copied.get("history") if isinstance(copied, dict) else None
    return history if isinstance(history, list) else []
