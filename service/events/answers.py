"""What an agent's entries say to a client that asked it: its questions, and its answer."""

from typing import Any

import msgspec

from service.events.model import Entry
from service.messages.model import Hold

MAX_CALLS = 24  # of one question
MAX_TEXT_CHARS = 10_000_000  # of an answer that was streamed; a longer one is followed by its result
ASK = "input"  # the function that a question becomes which is no function call itself


class _Parked(msgspec.Struct):
    hold: Hold | None = None


def is_question(entry: Entry) -> bool:
    """Whether the message waits for an answer of the client."""
    return entry.type == "parked" and msgspec.json.decode(entry.data, type=_Parked).hold == "input"


def calls_of(question: Any) -> list[tuple[str, str]]:
    """Names and arguments (JSON text) of the function calls that a question is. An agent asks
    {"function_calls": [{"name", "arguments"}, ...]}, or one such object; any other question is a call of `input`."""
    asked = question.get("function_calls", [question]) if isinstance(question, dict) else [question]
    calls = asked if isinstance(asked, list) and 1 <= len(asked) <= MAX_CALLS else [question]
    if all(isinstance(call, dict) and isinstance(call.get("name"), str) and "arguments" in call for call in calls):
        return [(call["name"], as_text(call["arguments"])) for call in calls]
    return [(ASK, as_text({"question": question}))]


def answers_calls(question: Any) -> bool:
    """Whether the agent expects the outputs of several calls, as an object by the number of the call."""
    return isinstance(question, dict) and isinstance(question.get("function_calls"), list)


def answer_of(streamed: str, result: Any) -> str | None:
    """The answer of the agent, as text; None: the text that it has streamed is the answer."""
    text = "" if result is None else as_text(result)
    is_streamed = streamed and (result is None or isinstance(result, str)) and streamed.rstrip().endswith(text.strip())
    return None if is_streamed else text


class StreamedText:
    """The text that an agent has streamed, of which MAX_TEXT_CHARS are kept."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._chars = 0

    def add(self, text: str) -> None:
        self._chars += len(text)
        if self._chars <= MAX_TEXT_CHARS:
            self._pieces.append(text)

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def is_cut(self) -> bool:
        """Whether the text was too long to keep."""
        return self._chars > MAX_TEXT_CHARS

    def answer(self, result: Any) -> str | None:
        """What answer_of says; a text that was too long to keep is never the answer."""
        return answer_of("" if self.is_cut else self.text, result)


def as_text(value: Any) -> str:
    """A text unchanged, any other value as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
