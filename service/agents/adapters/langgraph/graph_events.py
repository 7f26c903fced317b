"""Writes events `graph`: what a client of LangGraph's own API has asked for. Nothing is written for others."""

from collections.abc import Sequence
from typing import Any

import msgspec

from service.agents.adapters.langgraph.asked import Asked
from service.agents.adapters.langgraph.events import is_from_model
from service.agents.contract import Context
from service.agents.tool_events import write_event

INTERRUPT_KEY = "__interrupt__"


class GraphEvents:
    def __init__(self, context: Context, asked: Asked | None) -> None:
        self._context = context
        self._asked = asked
        self._message = ""  # the id of the message whose text is streamed
        self._state: Any = None  # that was written last

    async def values(self, state: Any, namespace: Sequence[str]) -> None:
        """After a super-step."""
        if self._asked is not None and self._asked.wants_values and (not namespace or self._asked.stream_subgraphs):
            if not namespace:
                self._state = state
            await self._write("values", _without_interrupts(state), namespace)

    async def last_values(self, state: Any, following: Sequence[str] = ()) -> None:
        """At the end: a state of the thread needs them, whatever the client watches. `following`: nodes that are
        due."""
        if self._asked is not None and (following or self._state is not state):
            more = {"next": list(following)} if following else {}
            await self._write("values", _without_interrupts(state), **more)

    async def asks(self, saved: Any, interrupts: Any) -> None:
        """Before a question for a person. `saved`: the state of the graph. `interrupts`: LangGraph's."""
        if self._asked is not None:
            asked = [{"value": one.value, "id": one.id} for one in interrupts]
            following = [task.name for task in saved.tasks]
            await self._write("values", saved.values, interrupts=asked, next=following)

    async def passed_on(self, mode: str, data: Any, namespace: Sequence[str]) -> None:
        if not namespace or (self._asked is not None and self._asked.stream_subgraphs):
            await self._write(mode, data, namespace)

    async def message(self, message: Any, place: dict[str, Any], *, has_text: bool) -> None:
        """Where the text of another message begins, and calls of tools and their results."""
        if self._asked is None or not self._asked.wants_messages:
            return
        told = {name: value for name, value in place.items() if name.startswith("langgraph_") or name == "tags"}
        if not is_from_model(message):
            await self._write("message", [message, told])
            return
        calls = getattr(message, "tool_call_chunks", None) or getattr(message, "tool_calls", None)
        if calls or (has_text and message.id != self._message):
            self._message = message.id
            chunk = {"type": "AIMessageChunk", "id": message.id, "content": ""}
            if calls:
                chunk |= {
                    name: value
                    for name in ("tool_call_chunks", "tool_calls", "invalid_tool_calls")
                    if (value := getattr(message, name, None))
                }
            await self._write("message", [chunk, told])

    async def _write(self, mode: str, data: Any, namespace: Sequence[str] = (), **more: Any) -> None:
        about: dict[str, Any] = {"mode": mode, **more}
        if namespace:
            about["ns"] = list(namespace)
        await write_event(self._context, "graph", **_plain(about), data=_plain(data))


def _without_interrupts(state: Any) -> Any:
    if isinstance(state, dict) and INTERRUPT_KEY in state:
        return {name: value for name, value in state.items() if name != INTERRUPT_KEY}
    return state


def _plain(value: Any) -> Any:
    """As JSON; messages have all their fields, as LangGraph's server sends them."""
    try:
        return msgspec.to_builtins(value, str_keys=True, enc_hook=_encode)
    except (TypeError, ValueError, RecursionError):
        return str(value)


def _encode(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "_asdict"):
        return value._asdict()
    if hasattr(value, "__dataclass_fields__"):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    return str(value)
