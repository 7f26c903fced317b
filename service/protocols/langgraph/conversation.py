"""Messages of LangChain as JSON: what agents of every kind are told and say, and the values of a thread. Pure
functions.

The values of a thread are those of its graph. An agent that is no graph has the values {"messages": [...]}.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from service.errors import Unprocessable
from service.messages.model import Status
from service.protocols.langgraph.ids import message_id_of
from service.protocols.langgraph.model import Json, Kept

OWN_METADATA = frozenset({"langgraph", "history", "system", "langgraph_deleted"})
SPEAKERS = {"user": "human", "human": "human", "assistant": "ai", "ai": "ai", "system": "system", "developer": "system"}
NO_MESSAGE = "The input has no message of the user after the last answer."
ONLY_TEXTS = "This agent takes texts: send messages with texts."


class Exchange(NamedTuple):
    """A message of a thread. `said`: by one that was interrupted. `graph`: the data of the last values of its graph."""

    message: Status
    interrupted: bool = False
    said: str | None = None
    graph: Json | None = None

    @property
    def kept(self) -> Kept:
        return kept_of(self.message.metadata)

    @property
    def is_deleted(self) -> bool:
        """A run that was rolled back is deleted for the clients of this dialect."""
        metadata, rolled_back = self.message.metadata, self.message.state == "cancelled" and not self.interrupted
        return bool(metadata.get("langgraph_deleted")) or (rolled_back and "langgraph" in metadata)

    @property
    def is_open(self) -> bool:
        return self.message.state in ("queued", "processing")

    @property
    def counts(self) -> bool:
        """Whether it is a part of the conversation."""
        return self.message.state == "completed" or (self.message.state == "cancelled" and self.interrupted)


class Told(NamedTuple):
    """What an agent that is no graph is told."""

    message: str
    system: str
    history: list[dict[str, str]]


def kept_of(metadata: Json) -> Kept:
    """Empty for a message that came another way."""
    try:
        return msgspec.convert(metadata.get("langgraph", {}), Kept)
    except msgspec.ValidationError:
        return Kept()


def human(content: Any, id: str) -> Json:
    return {"content": content, "additional_kwargs": {}, "response_metadata": {}, "type": "human", "id": id}


def ai(content: Any, id: str, *, chunk: bool = False) -> Json:
    message = {
        "content": content,
        "additional_kwargs": {},
        "response_metadata": {},
        "type": "AIMessageChunk" if chunk else "ai",
        "id": id,
        "tool_calls": [],
        "invalid_tool_calls": [],
    }
    return message | {"tool_call_chunks": []} if chunk else message


def ai_id(message_id: UUID, attempt: int) -> str:
    """The id of what an attempt of an agent that is no graph says."""
    return message_id_of(message_id, f"answer {attempt}")


def answer_text(result: Any) -> str:
    return result if isinstance(result, str) else msgspec.json.encode(result).decode()


def input_messages(message: Status) -> list[Json]:
    """What the client has said, each message with an id."""
    given = kept_of(message.metadata).input
    given = message.user_message if given is None else given
    said = given.get("messages") if isinstance(given, dict) else given
    if said is None:
        said = [] if kept_of(message.metadata).graph else answer_text(given)
    items = said if isinstance(said, list) else [said]
    return [_complete(item, message_id_of(message.message_id, str(number))) for number, item in enumerate(items)]


def _complete(item: Any, id: str) -> Json:
    if not isinstance(item, dict):
        return human(item if isinstance(item, str) else answer_text(item), id)
    kind = item.get("type") or SPEAKERS.get(str(item.get("role")), "human")
    rest = {name: value for name, value in item.items() if name != "role"}
    given = item.get("id")
    known = given if isinstance(given, str) and given else id
    return {"additional_kwargs": {}, "response_metadata": {}, **rest, "type": kind, "id": known}


def values_after(exchanges: Sequence[Exchange], first: Json | None = None) -> Json:
    """The values of a thread after these exchanges, in their order. `first`: those with which it began."""
    values: Json = first or {"messages": []}
    for exchange in exchanges:
        if not exchange.counts:
            continue
        message = exchange.message
        state = exchange.graph.get("data") if exchange.graph else None
        values = state if isinstance(state, dict) else with_messages(values, input_messages(message))
        answer = exchange.said
        if not exchange.interrupted and not isinstance(state, dict):
            answer = answer_text(message.result)
        if answer:
            values = with_messages(values, [ai(answer, ai_id(message.message_id, message.attempt))])
    return values


def graph_values(exchanges: Iterable[Exchange]) -> Json | None:
    """The values after these exchanges, the newest first, if they are those of a graph."""
    last = next((exchange for exchange in exchanges if exchange.counts), None)
    is_graph = last is not None and last.graph is not None and isinstance(last.graph.get("data"), dict)
    return values_after([last]) if last is not None and is_graph else None


def with_messages(values: Json, more: Iterable[Json]) -> Json:
    """A message with a known id takes the place of that one. A value that is no state with messages has none."""
    if not isinstance(values, dict):
        return values
    known = values.get("messages")
    items = [item for item in known if isinstance(item, dict)] if isinstance(known, list) else []
    merged: dict[Any, Json] = {}
    for item in (*items, *more):
        merged[item["id"] if isinstance(item.get("id"), str) else object()] = item
    return {**values, "messages": list(merged.values())}


def read_told(given: Any) -> Told:
    """Folds the messages of a client into a text, what goes before it, and the orders of the system. Raises
    Unprocessable."""
    items = given.get("messages") if isinstance(given, dict) else given
    system: list[str] = []
    said: list[str] = []
    history: list[dict[str, str]] = []
    for item in items if isinstance(items, list) else [items]:
        kind, text = _speaker_and_text(item)
        if kind == "system":
            system.append(text)
        elif kind == "human":
            said.append(text)
        elif text:
            history.append({"message": "\n\n".join(said), "result": text})
            said = []
    if not any(said):
        raise Unprocessable(NO_MESSAGE)
    return Told("\n\n".join(said), "\n\n".join(system), history)


def _speaker_and_text(item: Any) -> tuple[str, str]:
    if isinstance(item, str):
        return "human", item
    if isinstance(item, list) and len(item) == 2:
        item = {"role": item[0], "content": item[1]}
    if not isinstance(item, dict):
        raise Unprocessable("Each of the messages must be an object with type and content, or a text.")
    kind = str(item.get("type") if item.get("type") not in (None, "message") else item.get("role", "human"))
    if kind not in SPEAKERS:
        return kind, ""  # a tool's result, say
    return SPEAKERS[kind], _text(item.get("content"))


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    texts = [part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise Unprocessable(ONLY_TEXTS)
    return "\n\n".join(text for text in texts if text)
