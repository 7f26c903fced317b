"""From the log of a message to a chat completion: pure functions of the entries."""

from collections.abc import Iterator
from typing import Any

import msgspec

from service.events.answers import answer_of, calls_of
from service.events.model import Entry
from service.protocols.openai.errors import Failed
from service.protocols.openai.ids import CallId, ResponseId
from service.protocols.openai.model import Usage
from service.protocols.openai.translate import ends_response

ANOTHER_ANSWER = (
    "The agent began again, and its answer differs from what was sent. Send the request again, or read the answer:"
    " GET /v1/responses/{}"
)
Delta = dict[str, Any]


class _Data(msgspec.Struct):
    chunk: str = ""
    question: Any = None
    result: Any = None
    error: str | None = None


class Completion:
    """What a chat completion says, entry by entry. A text that was sent cannot be taken back: a later attempt must
    begin with the same text."""

    def __init__(self, response_id: ResponseId) -> None:
        self.over = False
        self.finish_reason = "stop"
        self.tool_calls: list[Delta] = []
        self._id = response_id
        self._pieces: list[str] = []  # of this attempt
        self._sent = ""  # by an earlier attempt, and not yet by this one

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def translate(self, entry: Entry) -> Iterator[Delta]:
        """Raises Failed."""
        data = msgspec.json.decode(entry.data, type=_Data)
        if entry.type == "chunk":
            yield from self._add(data.chunk)
        elif ends_response(entry):
            yield from self._end(entry, data)
        elif entry.type in {"started", "retry", "parked", "queued", "error"}:
            self._sent, self._pieces = self.text + self._sent, []

    def _add(self, text: str) -> Iterator[Delta]:
        self._pieces.append(text)
        if not self._sent:
            yield {"content": text}
            return
        same = min(len(text), len(self._sent))
        if text[:same] != self._sent[:same]:
            raise Failed(ANOTHER_ANSWER.format(self._id))
        self._sent = self._sent[same:]
        if text[same:]:
            yield {"content": text[same:]}

    def _end(self, entry: Entry, data: _Data) -> Iterator[Delta]:
        self.over = True
        if entry.type == "error":
            raise Failed(data.error or "The agent failed.")
        if entry.type == "cancelled":
            raise Failed("The message was cancelled.")
        if self._sent:
            raise Failed(ANOTHER_ANSWER.format(self._id))
        if entry.type == "parked":
            self.finish_reason = "tool_calls"
            for number, (name, arguments) in enumerate(calls_of(data.question)):
                call = str(CallId(entry.message_id, entry.seq, number))
                function = {"name": name, "arguments": arguments}
                self.tool_calls.append({"id": call, "type": "function", "function": function})
                yield {"tool_calls": [{"index": number, **self.tool_calls[-1]}]}
        elif other := answer_of(self.text, data.result):
            yield {"content": f"\n\n{other}" if self._pieces else other}
            self._pieces = [other]


def chunk(head: dict[str, Any], delta: Delta, finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {**head, "object": "chat.completion.chunk", "choices": [choice]}


def usage_chunk(head: dict[str, Any], usage: Usage | None) -> dict[str, Any]:
    return {**head, "object": "chat.completion.chunk", "choices": [], "usage": chat_usage(usage)}


def whole(head: dict[str, Any], completion: Completion, usage: Usage | None) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": completion.text or None, "refusal": None}
    if completion.tool_calls:
        message["tool_calls"] = completion.tool_calls
    else:
        message["content"] = completion.text
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": completion.finish_reason}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": chat_usage(usage)}


def chat_usage(usage: Usage | None) -> dict[str, int]:
    if usage is None:
        return {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }
