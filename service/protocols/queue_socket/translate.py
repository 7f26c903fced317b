"""Between AutoGen's messages and the events of a thread's log."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from service.events.model import Entry
from service.json_input import decode

SYSTEM = "system"  # the source of frames that no agent said

Frame: TypeAlias = dict[str, Any]


class TextMessage(Struct, frozen=True):
    """A frame of the client. AutoGen's further fields are passed over."""

    content: Annotated[str, Meta(min_length=1, description="a text that is not empty")]
    source: Annotated[str, Meta(max_length=255, description="a text of at most 255 characters")] = "user"
    type: Annotated[Literal["TextMessage"], Meta(description="TextMessage")] = "TextMessage"
    request_id: UUID | None = None  # of the question that it answers


def read_frame(frame: str | bytes) -> TextMessage:
    """Raises Invalid, Unprocessable."""
    decoded: TextMessage = decode(frame, TextMessage, "frame")
    return decoded


def encode(frame: Frame) -> str:
    return msgspec.json.encode(frame).decode()


def error_frame(error: Exception) -> str:
    return encode(_said("error", SYSTEM, str(error)))


class Translator:
    """The frames for the entries of a log, in its order, from any place on. `questions`: the names of those that wait
    for an answer by the messages that ask, the one that waits longest first."""

    def __init__(self) -> None:
        self._agents: dict[UUID, str] = {}  # of the messages that are not over
        self.questions: dict[UUID, str] = {}

    def knows(self, message_id: UUID) -> bool:
        return message_id in self._agents

    def begin(self, message_id: UUID, agent: str, question: str | None = None) -> None:
        """The message stands in the log before the entries that follow."""
        self._agents[message_id] = agent
        if question is not None:
            self.questions[message_id] = question

    def forget(self, message_id: UUID, name: str | None) -> None:
        """The question waits no more. The message may have asked another one by now: that stays."""
        if self.questions.get(message_id) == name:
            self.questions.pop(message_id, None)

    def frames(self, entry: Entry) -> Iterator[Frame]:
        """AutoGen's messages, each with the `id` of the entry."""
        data = msgspec.json.decode(entry.data)
        fields = data if isinstance(data, dict) else {}
        if entry.type == "queued" and "agent" in fields:
            self.begin(entry.message_id, str(fields["agent"]))
        self.questions.pop(entry.message_id, None)  # any further event of the message follows its answer
        source = self._agents.get(entry.message_id) or "assistant"
        for frame in self._of(entry, fields, source):
            yield {"id": entry.cursor, "message_id": str(entry.message_id), **frame}
        if entry.last:
            self._agents.pop(entry.message_id, None)

    def _of(self, entry: Entry, data: dict[str, Any], source: str) -> Iterator[Frame]:
        match entry.type:
            case "queued" if "message" in data:  # a redrive repeats none
                yield _said("TextMessage", "user", _text(data.get("message")))
            case "chunk":
                yield _said("ModelClientStreamingChunkEvent", source, data.get("chunk"))
            case "thinking":
                yield _said("ThoughtEvent", data.get("source", source), _text(data.get("content")))
            case "tool" if "input" in data:
                call = {"id": data.get("id"), "name": data.get("name"), "arguments": _text(data["input"])}
                yield _said("ToolCallRequestEvent", data.get("source", source), [call])
            case "tool":
                result = {"call_id": data.get("id"), "name": data.get("name"), "content": _text(data.get("output"))}
                is_error = bool(data.get("failed"))
                yield _said("ToolCallExecutionEvent", data.get("source", source), [result | {"is_error": is_error}])
            case "message" if isinstance(data.get("type"), str):
                yield _said(data["type"], data.get("source", source), data.get("content"))
            case "parked" if "name" in data:
                self.questions[entry.message_id] = str(data["name"])
                asked = _said("UserInputRequestedEvent", source, _text(data.get("question")))
                yield asked | {"request_id": str(entry.message_id)}
            case "retry":
                yield _said("retry", SYSTEM, data.get("error"))  # what this attempt has streamed does not count
            case "done":
                yield _said("TextMessage", source, _text(data.get("result")))
            case "error":
                yield _said("error", SYSTEM, data.get("error"))
            case "cancelled":
                yield _said("StopMessage", SYSTEM, "The message was cancelled.")


def _said(type: str, source: Any, content: Any) -> Frame:
    return {"type": type, "source": source, "content": content}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
