"""From the log of a message to a chat completion: pure functions of the entries."""

from collections.abc import Iterator
from typing import Any

import msgspec

from service.events.answers import MAX_TEXT_CHARS, StreamedText, calls_of
from service.events.model import Entry
from service.protocols.openai.errors import Failed
from service.protocols.openai.ids import CallId, ResponseId
from service.protocols.openai.model import Usage
from service.protocols.openai.translate import ends_response

ANOTHER_ANSWER = (
    "The agent began again, and its answer differs from what was sent. Send the request again, or read the answer:"
    " GET /v1/responses/{}"
)
LONG_ANSWER = (
    f"The agent began again after more than {MAX_TEXT_CHARS:,} characters, too many to compare its answers. Send the"
    " request again, or read the answer: GET /v1/responses/{}"
)
Delta = dict[str, Any]


class _Data(msgspec.Struct):
    """Of the entries that the service writes."""

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
        self._text = StreamedText()  # of this attempt
        self._result: str | None = None  # where it is the answer
        self._sent = ""  # by an earlier attempt
        self._place = 0  # in that, up to which this attempt has said the same

    @property
    def text(self) -> str:
        """The answer; if `is_cut`, only its begin."""
        return self._text.text if self._result is None else self._result

    @property
    def is_cut(self) -> bool:
        """Whether the answer was too long to keep."""
        return self._result is None and self._text.is_cut

    def translate(self, entry: Entry) -> Iterator[Delta]:
        """Raises Failed."""
        if entry.type == "chunk":
            yield from self._add(msgspec.json.decode(entry.data, type=_Data).chunk)
        elif ends_response(entry):
            yield from self._end(entry, msgspec.json.decode(entry.data, type=_Data))
        elif entry.type in {"started", "retry", "parked", "queued", "error"}:
            self._begin_again()

    def _begin_again(self) -> None:
        if self.is_cut:
            raise Failed(LONG_ANSWER.format(self._id))
        self._sent = self.text + self._sent[self._place :]
        self._text, self._place = StreamedText(), 0

    def _add(self, text: str) -> Iterator[Delta]:
        self._text.add(text)
        same = min(len(text), len(self._sent) - self._place)
        if not self._sent.startswith(text[:same], self._place):
            raise Failed(ANOTHER_ANSWER.format(self._id))
        self._place += same
        if text[same:]:
            yield {"content": text[same:]}

    def _end(self, entry: Entry, data: _Data) -> Iterator[Delta]:
        self.over = True
        if entry.type == "error":
            raise Failed(data.error or "The agent failed.")
        if entry.type == "cancelled":
            raise Failed("The message was cancelled.")
        if self._place < len(self._sent):
            raise Failed(ANOTHER_ANSWER.format(self._id))
        if entry.type == "parked":
            self.finish_reason = "tool_calls"
            for number, (name, arguments) in enumerate(calls_of(data.question)):
                call = str(CallId(entry.message_id, entry.seq, number))
                function = {"name": name, "arguments": arguments}
                self.tool_calls.append({"id": call, "type": "function", "function": function})
                yield {"tool_calls": [{"index": number, **self.tool_calls[-1]}]}
        elif other := self._text.answer(data.result):
            yield {"content": f"\n\n{other}" if self.text else other}
            self._result = other


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
    reason = "length" if completion.is_cut else completion.finish_reason
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": chat_usage(usage)}


def chat_usage(usage: Usage | None) -> dict[str, int]:
    if usage is None:
        return {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }
