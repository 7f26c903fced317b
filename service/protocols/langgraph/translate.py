"""From the log of a message to the events of a run: pure functions of the entries.

The id of an event is computed from the seq of the entry that it comes from, and from its place among all events of that
entry, of whatever mode. So every replica gives the same ids, for every choice of modes.
"""

from collections.abc import Collection, Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from service.events.model import RESERVED_TYPES, Entry
from service.messages.model import Hold
from service.protocols.langgraph.conversation import Exchange, ai, ai_id, answer_text, input_messages, with_messages
from service.protocols.langgraph.ids import RunId, interrupts_of
from service.protocols.langgraph.model import Json

EVENTS_OF_ENTRY = 100  # ids that one entry has
MAX_TEXT_CHARS = 10_000_000  # of one message that is repeated with each piece (mode `messages`)
ALWAYS = "*"  # the mode of an event that every reader receives
NEVER = ""  # the mode of an event that has its id, and that no reader receives
OF_GRAPHS = frozenset({"graph", "node", "tool"})  # events that are no `custom` ones
FAILED = "AgentError"


class Event(NamedTuple):
    id: int
    mode: str
    name: str
    data: Any


class _Data(msgspec.Struct):
    chunk: str = ""
    attempt: int = 1
    hold: Hold | None = None
    name: str = ""
    question: Any = None
    result: Any = None
    error: str | None = None


class _Graph(msgspec.Struct):
    """Of an event `graph`: what a graph streams in a mode. `ns`: the namespace of an inner graph."""

    mode: Literal["values", "message", "debug", "tasks", "checkpoints"]
    data: Any = msgspec.UNSET
    ns: list[str] = []
    interrupts: list[Json] = []


class _Node(msgspec.Struct):
    node: str
    update: Any = msgspec.UNSET


def _read(entry: Entry) -> _Graph | _Node | None:
    """What an adapter has written. None: an agent has written an event of this type and another shape."""
    try:
        if entry.type == "node":
            return msgspec.json.decode(entry.data, type=_Node)
        event = msgspec.json.decode(entry.data, type=_Graph)
        if event.mode == "message" and event.data is not msgspec.UNSET:
            msgspec.convert(event.data, tuple[Json, Json])
        return event
    except msgspec.ValidationError:
        return None


def is_question(entry: Entry) -> bool:
    """Whether the message waits for an answer of the client: the run is over."""
    return entry.type == "parked" and msgspec.json.decode(entry.data, type=_Data).hold == "input"


class Translation:
    """The events of one run, entry by entry. `values` are those as of the last entry."""

    def __init__(
        self, run_id: RunId, thread_id: str, exchange: Exchange, first: Json, *, modes: Collection[str] = frozenset()
    ) -> None:
        """`first`: the values of the thread before the message. `modes`: those of the reader. The data of events of
        other modes may be left out."""
        message = exchange.message
        self.over = False
        self.failure: Json | None = None
        self.values = with_messages(first, input_messages(message))
        self._base = self.values
        self._id = run_id
        self._agent = message.agent
        self._metadata = {
            "run_id": str(run_id),
            "thread_id": thread_id,
            "graph_id": message.agent,
            "langgraph_node": message.agent,
        }
        self._subgraphs = exchange.kept.stream_subgraphs
        self._is_graph = exchange.kept.graph
        self._told_values = False  # of the graph itself
        self._graph: Json = {}  # the last of them, with what they say of interrupts
        self._attempt = 1
        self._message = ai_id(message.message_id, 1)  # that the text belongs to
        self._place: Json = {}  # what a graph says of the message
        self._told: set[str] = set()  # messages with an event messages/metadata
        self._repeats = "messages" in modes  # texts are repeated with each piece
        self._pieces: dict[str, list[str]] = {}  # of the messages of this attempt, if they are repeated
        self._chars = 0

    def translate(self, entry: Entry, following: Entry | None = None) -> list[Event]:
        """`following`: the next entry, if it is there already."""
        first = entry.seq * EVENTS_OF_ENTRY
        goes_on = following is not None and following.type == "chunk"
        return [Event(number, *event) for number, event in enumerate(self._events(entry, goes_on=goes_on), first)]

    def _events(self, entry: Entry, *, goes_on: bool) -> Iterator[tuple[str, str, Any]]:
        if entry.seq == self._id.after + 1:
            yield ALWAYS, "metadata", {"run_id": str(self._id), "attempt": 1}
        if entry.type == "chunk":
            yield from self._say(msgspec.json.decode(entry.data, type=_Data).chunk, goes_on=goes_on)
        elif entry.type in ("graph", "node"):
            match _read(entry):
                case _Graph() as event:
                    yield from self._stream(event)
                case _Node() as node:
                    yield from self._update(node)
                case None:
                    yield self._custom(entry)
        elif entry.type == "started":
            yield from self._begin(msgspec.json.decode(entry.data, type=_Data).attempt)
        elif entry.type == "retry":
            yield ALWAYS, "metadata", {"run_id": str(self._id), "attempt": self._attempt + 1}
        elif entry.last or is_question(entry):
            yield from self._end(entry, msgspec.json.decode(entry.data, type=_Data))
        elif entry.type not in RESERVED_TYPES and entry.type not in OF_GRAPHS:
            yield self._custom(entry)

    def _custom(self, entry: Entry) -> tuple[str, str, Any]:
        data = msgspec.json.decode(entry.data)
        return "custom", "custom", data if entry.type == "progress" else {"event": entry.type, "data": data}

    def _begin(self, attempt: int) -> Iterator[tuple[str, str, Any]]:
        self._attempt, self._pieces, self._chars = attempt, {}, 0
        self._message, self._place = ai_id(self._id.message_id, attempt), {}
        if not self._is_graph:
            yield "values", "values", self._base
        yield "events", "events", self._run_event("on_chain_start", {"input": self._base})

    def _say(self, text: str, *, goes_on: bool) -> Iterator[tuple[str, str, Any]]:
        """A piece of the text of the current message. The whole text is repeated after the last of the pieces that are
        there: one repetition for each piece would be quadratic."""
        metadata = {**self._metadata, **self._place}
        chunk = ai(text, self._message, chunk=True)
        yield from self._introduce(self._message, metadata)
        self._chars += len(text)
        if self._repeats and self._chars <= MAX_TEXT_CHARS:
            self._pieces.setdefault(self._message, []).append(text)
        if self._repeats and not goes_on:
            yield "messages", "messages/partial", [ai(self._whole_text(), self._message)]
        else:
            yield NEVER, "messages/partial", None
        yield "messages-tuple", "messages", [chunk, metadata]
        yield "events", "events", self._run_event("on_chat_model_stream", {"chunk": chunk})

    def _whole_text(self) -> str:
        whole = "".join(self._pieces.get(self._message, ()))
        self._pieces[self._message] = [whole]
        return whole

    def _introduce(self, message_id: str, metadata: Json) -> Iterator[tuple[str, str, Any]]:
        if message_id not in self._told:
            self._told.add(message_id)
            yield "messages", "messages/metadata", {message_id: {"metadata": metadata}}

    def _stream(self, event: _Graph) -> Iterator[tuple[str, str, Any]]:
        """What a graph has streamed in a mode."""
        if event.data is msgspec.UNSET:  # it was too large
            return
        if event.mode == "message":
            yield from self._other_message(*event.data)
            return
        if event.mode == "values" and not event.ns:
            self._graph = {"interrupts": event.interrupts}
            is_known, self.values = self.values == event.data and self._told_values, event.data
            self._told_values = True
            if is_known:
                return
        if event.ns and not self._subgraphs:
            return
        yield event.mode, "|".join([event.mode, *event.ns]), event.data

    def _other_message(self, message: Json, place: Json) -> Iterator[tuple[str, str, Any]]:
        """One that is not (only) text: calls of tools, and their results. An empty one of a model begins a text."""
        self._place = place
        if is_model := message.get("type") == "AIMessageChunk":
            self._message = str(message.get("id"))
            if not (message.get("tool_call_chunks") or message.get("tool_calls")):
                return
        metadata = {**self._metadata, **place}
        yield from self._introduce(str(message.get("id")), metadata)
        yield "messages", "messages/partial" if is_model else "messages/complete", [message]
        yield "messages-tuple", "messages", [message, metadata]

    def _update(self, node: _Node) -> Iterator[tuple[str, str, Any]]:
        *outer, name = node.node.split("/")
        if node.update is not msgspec.UNSET and (self._subgraphs or not outer):
            yield "updates", "|".join(["updates", *outer]), {name: node.update}

    def _end(self, entry: Entry, data: _Data) -> Iterator[tuple[str, str, Any]]:
        self.over = True
        if entry.type == "parked":
            asked = interrupts_of({"name": data.name, "question": data.question}, self._graph)
            state = self.values if isinstance(self.values, dict) else {"__root__": self.values}
            self.values = {**state, "__interrupt__": asked}
            yield "updates", "updates", {"__interrupt__": asked}
            yield "values", "values", self.values
        elif entry.type == "done":
            if not self._told_values:
                answer = ai(answer_text(data.result), ai_id(self._id.message_id, self._attempt))
                self.values = with_messages(self._base, [answer])
                yield "updates", "updates", {self._agent: {"messages": [answer]}}
                yield "values", "values", self.values
                yield "messages", "messages/complete", [answer]
            yield "events", "events", self._run_event("on_chain_end", {"output": self.values})
        elif entry.type == "error":
            self.failure = {"error": FAILED, "message": data.error or "The agent failed."}
            yield ALWAYS, "error", self.failure

    def end_cancelled(self, said: str | None) -> None:
        """The values with what an interrupted message has said."""
        if said:
            self.values = with_messages(self.values, [ai(said, self._message)])

    def _run_event(self, kind: str, data: Json) -> Json:
        return {
            "event": kind,
            "name": self._agent,
            "run_id": str(self._id),
            "data": data,
            "tags": [],
            "metadata": self._metadata,
            "parent_ids": [],
        }
