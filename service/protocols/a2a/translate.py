"""From a message and its log to a task and the events of its stream: pure functions of the entries."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from service.events.answers import StreamedText, is_question
from service.events.model import Entry
from service.inspection.model import MessageSummary
from service.messages.model import Status
from service.protocols.a2a.inputs import OWN
from service.protocols.a2a.model import Json

ARTIFACT = "answer"
SUBMITTED, WORKING = "TASK_STATE_SUBMITTED", "TASK_STATE_WORKING"
COMPLETED, FAILED, CANCELED = "TASK_STATE_COMPLETED", "TASK_STATE_FAILED", "TASK_STATE_CANCELED"
INPUT_REQUIRED = "TASK_STATE_INPUT_REQUIRED"
TERMINAL = frozenset({COMPLETED, FAILED, CANCELED})
STATES = {
    "queued": SUBMITTED,
    "processing": WORKING,
    "completed": COMPLETED,
    "failed": FAILED,
    "cancelled": CANCELED,
}


class _Data(msgspec.Struct):
    """Of the entries that are translated."""

    chunk: str = ""
    question: Any = None
    input: Any = None
    result: Any = None
    error: str | None = None


def state_of(message: Status | MessageSummary) -> str:
    """Of a message, or of a summary of one."""
    return INPUT_REQUIRED if message.hold == "input" else STATES[message.state]


def changed_at(message: Status | MessageSummary) -> datetime:
    """When the message, or the one that a summary is of, came into its state, as far as it says so."""
    return message.completed_at or message.started_at or message.created_at


def parts_of(value: Any) -> list[Json]:
    """A text, or any JSON."""
    return [{"text": value, "mediaType": "text/plain"} if isinstance(value, str) else {"data": value}]


def task_of(message: Status, *, artifacts: bool, history: int | None) -> Json:
    """A task without its log, for lists. The JSON of the message is decoded."""
    task = TaskLog(message)
    task.change(state_of(message), changed_at(message), _said_last(message))
    if artifacts and message.state == "completed" and message.result is not None:
        task.parts = parts_of(message.result)
    return task.task(history, artifacts=artifacts)


def _said_last(message: Status) -> Any:
    if message.state == "failed":
        return message.error
    return None if message.asks is None else message.asks.question


class TaskLog:
    """A task as of the last entry that was folded into it. `parts` are those of its artifact."""

    def __init__(self, message: Status) -> None:
        """The JSON of the message is decoded."""
        self.message_id = message.message_id
        self.task_id = str(message.message_id)
        self.state = SUBMITTED
        self.parts: list[Json] = []
        self.seq = 0
        self._names = {"taskId": self.task_id} | ({"contextId": message.thread_id} if message.thread_id else {})
        self._metadata = {name: value for name, value in message.metadata.items() if name != OWN}
        kept = message.metadata.get(OWN)
        message_id = kept.get("messageId") if isinstance(kept, dict) else None
        asked = self._message("ROLE_USER", message_id or f"{self.task_id}-0", message.user_message)
        self._history = [asked]
        self._status: Json = {"state": SUBMITTED, "timestamp": _time(message.created_at)}
        self._streamed: StreamedText | None = None  # the text of the attempt; None: no text yet

    @property
    def is_over(self) -> bool:
        return self.state in TERMINAL

    @property
    def is_settled(self) -> bool:
        """Whether streams end here: the task is over or waits for an answer."""
        return self.is_over or self.state == INPUT_REQUIRED

    def task(self, history: int | None, *, artifacts: bool = True) -> Json:
        """`history`: so many messages at most; None: all."""
        task: Json = {"id": self.task_id, "status": self._status}
        if "contextId" in self._names:
            task["contextId"] = self._names["contextId"]
        if artifacts and self.parts:
            task["artifacts"] = [{"artifactId": ARTIFACT, "parts": self.parts}]
        elif artifacts and self._streamed:
            task["artifacts"] = [{"artifactId": ARTIFACT, "parts": parts_of(self._streamed.text)}]
        kept = self._history if history is None else self._history[max(len(self._history) - history, 0) :]
        if kept:
            task["history"] = kept
        if self._metadata:
            task["metadata"] = self._metadata
        return task

    def change(self, state: str, at: datetime, said: Any = None) -> Json:
        """Into another state; `said` by the agent. Returns the event."""
        self.state = state
        self._status = {"state": state, "timestamp": _time(at)}
        if said is not None:
            self._status["message"] = self._message("ROLE_AGENT", f"{self.task_id}-{self.seq}", said)
        return {"statusUpdate": {**self._names, "status": self._status}}

    def fold(self, entry: Entry) -> list[Json]:
        """Applies the entry and returns its stream events."""
        self.seq = entry.seq
        return list(self._events(entry))

    def _events(self, entry: Entry) -> Iterator[Json]:
        at = entry.created_at
        if entry.type == "chunk":
            yield self._add(msgspec.json.decode(entry.data, type=_Data).chunk)
        elif is_question(entry):
            asked = msgspec.json.decode(entry.data, type=_Data).question
            yield self.change(INPUT_REQUIRED, at, "The agent waits for an answer." if asked is None else asked)
            self._history.append(self._status["message"])
        elif entry.type == "input":
            given = msgspec.json.decode(entry.data, type=_Data).input
            self._history.append(self._message("ROLE_USER", f"{self.task_id}-{entry.seq}", given))
            yield self.change(SUBMITTED, at)
        elif entry.type == "started":
            self._streamed, self.parts = None, []  # an attempt begins with an empty answer
            yield self.change(WORKING, at)
        elif entry.type in {"retry", "parked"} or (entry.type == "queued" and entry.seq > 1):
            yield self.change(SUBMITTED, at)
        elif entry.type == "progress":
            yield self.change(WORKING, at, msgspec.json.decode(entry.data))
        elif entry.type == "done":
            yield from self._answer(msgspec.json.decode(entry.data, type=_Data).result)
            yield self.change(COMPLETED, at)
        elif entry.type == "error" and entry.last:  # else a redrive has begun another life
            yield self.change(FAILED, at, msgspec.json.decode(entry.data, type=_Data).error or "The agent failed.")
        elif entry.type == "cancelled":
            yield self.change(CANCELED, at)

    def _add(self, text: str) -> Json:
        append = self._streamed is not None
        if self._streamed is None:
            self._streamed = StreamedText()
        self._streamed.add(text)
        return self._artifact(parts_of(text), append=append, last=False)

    def _answer(self, result: Any) -> Iterator[Json]:
        """The result, where it is not what the agent has streamed."""
        streamed = self._streamed or StreamedText()
        if streamed.answer(result) is None:
            self.parts = parts_of(streamed.text)
        elif result is not None:
            self.parts = parts_of(result)
            yield self._artifact(self.parts, append=False, last=True)

    def _artifact(self, parts: list[Json], *, append: bool, last: bool) -> Json:
        artifact = {"artifactId": ARTIFACT, "parts": parts}
        return {"artifactUpdate": {**self._names, "artifact": artifact, "append": append, "lastChunk": last}}

    def _message(self, role: str, message_id: str, said: Any) -> Json:
        return {"messageId": message_id, **self._names, "role": role, "parts": parts_of(said)}


def _time(at: datetime) -> str:
    """In UTC, with milliseconds."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
