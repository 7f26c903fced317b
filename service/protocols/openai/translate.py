"""From the log of a message to the events of a response: pure functions of the entries.

The sequence number of an event is computed from the seq of the entry that it comes from. So every replica gives the
same numbers, at any time, however much of the log a client has read before.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from service.events.answers import StreamedText, calls_of, is_question
from service.events.model import Entry
from service.protocols.openai.ids import CallId, ResponseId
from service.protocols.openai.model import Item, Response

CANCELLED_DETAIL = "The response was cancelled."

# Numbers that one entry has: at the end, 3 events end the text, each of MAX_CALLS calls has 4, one ends the response.
EVENTS_OF_ENTRY = 100

Event = dict[str, Any]


class _Chunk(msgspec.Struct):
    chunk: str = ""


class _Closing(msgspec.Struct):
    """Of the entries `parked`, `done` and `error`."""

    question: Any = None
    result: Any = None
    error: str | None = None


def ends_response(entry: Entry) -> bool:
    return entry.last or is_question(entry)


def message_item(item_id: str, text: str | None, status: str) -> Item:
    """A text of the assistant; None: it has no content yet."""
    content = [] if text is None else [text_part(text)]
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def text_part(text: str) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def call_item(call: CallId, name: str, arguments: str, status: str) -> Item:
    return {
        "id": f"fc_{str(call).removeprefix('call_')}",
        "type": "function_call",
        "call_id": str(call),
        "name": name,
        "arguments": arguments,
        "status": status,
    }


class Translation:
    """The events of one response, entry by entry. `response` is the response as of the last entry."""

    def __init__(self, response_id: ResponseId, response: Response) -> None:
        """`response`: as of its creation."""
        self.response = response
        self.over = False
        self._id = response_id
        self._items = 0  # that were opened
        self._is_open = False  # whether the last item is a text to which more may be added
        self._text: StreamedText | None = None  # of this attempt; None: it has said nothing
        self._sent = ""  # what the open text has of an earlier attempt, until this one has said the same
        self._place = 0  # up to which this attempt has said the same

    def translate(self, entry: Entry) -> list[Event]:
        first = (entry.seq - self._id.after - 1) * EVENTS_OF_ENTRY
        events = list(self._events(entry))
        for number, event in enumerate(events, first):
            event["sequence_number"] = number
        return events

    def _events(self, entry: Entry) -> Iterator[Event]:
        if entry.seq == self._id.after + 1:
            yield self._tell("response.created")
            yield self._tell("response.queued")
        elif entry.type == "chunk":
            yield from self._add(msgspec.json.decode(entry.data, type=_Chunk).chunk)
        elif entry.type == "started" and self.response.status == "queued":
            self._become(status="in_progress")
            yield self._tell("response.in_progress")
        elif ends_response(entry):
            yield from self._end(entry, msgspec.json.decode(entry.data, type=_Closing))
        elif entry.type in {"started", "retry", "parked", "input", "queued", "error", "done", "cancelled"}:
            yield from self._begin_again()

    def _end(self, entry: Entry, closing: _Closing) -> Iterator[Event]:
        self.over = True
        if entry.type == "parked":
            output = [*self._close(), *self._calls(entry, closing.question)]
            yield from output
            self._become(status="completed", completed_at=_seconds(entry), output=self._finished(output))
            yield self._tell("response.completed")
        elif entry.type == "done":
            output = list(self._answer(closing.result))
            yield from output
            self._become(status="completed", completed_at=_seconds(entry), output=self._finished(output))
            yield self._tell("response.completed")
        else:
            yield from self._drop()
            failed = entry.type == "error"
            reason = (closing.error or "The agent failed.") if failed else CANCELLED_DETAIL
            error = {"code": "server_error", "message": reason}
            self._become(status="failed" if failed else "cancelled", error=error)
            # The dialect has no event for a cancelled response. Most clients take a stream without a last event for a
            # whole answer.
            yield self._tell("response.failed")

    def _finished(self, events: list[Event]) -> list[Item]:
        items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        return [item for item in items if item["status"] == "completed"]

    def _add(self, text: str) -> Iterator[Event]:
        self._text = self._text or StreamedText()
        self._text.add(text)
        rest = self._after_repeat(text)
        if rest is None:
            yield from self._drop()
            rest = self._text.text
        yield from self._say(rest)

    def _after_repeat(self, text: str) -> str | None:
        """The end of a text that the client has not received yet; None: it differs from what the client has."""
        same = min(len(text), len(self._sent) - self._place)
        if not self._sent.startswith(text[:same], self._place):
            return None
        self._place += same
        if self._place == len(self._sent):
            self._sent, self._place = "", 0
        return text[same:]

    def _say(self, text: str) -> Iterator[Event]:
        if not text:
            return
        if not self._is_open:
            self._is_open = True
            self._items += 1
            yield self._of_item("response.output_item.added", message_item(self._item_id, None, "in_progress"))
            yield self._of_part("response.content_part.added", part=text_part(""))
        yield self._of_part("response.output_text.delta", delta=text, logprobs=[])

    def _begin_again(self) -> Iterator[Event]:
        """Another attempt begins with an empty answer. Where it says the same again, the open text goes on."""
        if self._text is not None and self._text.is_cut:
            yield from self._drop()
        elif self._text is not None and self._is_open and not self._sent:
            self._sent = self._text.text
        self._text, self._place = None, 0

    def _answer(self, result: Any) -> Iterator[Event]:
        """The end of the text that was streamed; or the result as a text of its own."""
        other = (self._text or StreamedText()).answer(result)
        if other is not None:
            if self._text is not None or not other:
                yield from self._drop()
                self._text = None
            yield from self._add(other)
        yield from self._close()

    def _close(self) -> Iterator[Event]:
        """End the open text, which is the answer of this attempt."""
        text = "" if self._text is None else self._text.text
        self._text = None
        if self._sent:
            yield from self._drop()
            yield from self._say(text)
        if not self._is_open:
            return
        yield self._of_part("response.output_text.done", text=text, logprobs=[])
        yield self._of_part("response.content_part.done", part=text_part(text))
        yield self._of_item("response.output_item.done", message_item(self._item_id, text, "completed"))
        self._is_open = False

    def _drop(self) -> Iterator[Event]:
        """End the open text, which is no part of the answer."""
        if self._is_open:
            text = self._sent or ("" if self._text is None else self._text.text)
            yield self._of_item("response.output_item.done", message_item(self._item_id, text, "incomplete"))
        self._is_open, self._sent, self._place = False, "", 0

    def _calls(self, entry: Entry, question: Any) -> Iterator[Event]:
        for number, (name, arguments) in enumerate(calls_of(question)):
            call = CallId(entry.message_id, entry.seq, number)
            item = call_item(call, name, "", "in_progress")
            place = {"item_id": item["id"], "output_index": self._items}
            self._items += 1
            yield self._of_item("response.output_item.added", item)
            yield {"type": "response.function_call_arguments.delta", **place, "delta": arguments}
            yield {"type": "response.function_call_arguments.done", **place, "name": name, "arguments": arguments}
            yield self._of_item("response.output_item.done", call_item(call, name, arguments, "completed"))

    @property
    def _item_id(self) -> str:
        return self._id.item(self._items)

    def _become(self, **changes: Any) -> None:
        self.response = msgspec.structs.replace(self.response, **changes)

    def _tell(self, type: str) -> Event:
        return {"type": type, "response": self.response}

    def _of_item(self, type: str, item: Item) -> Event:
        return {"type": type, "output_index": self._items - 1, "item": item}

    def _of_part(self, type: str, **fields: Any) -> Event:
        place = {"item_id": self._item_id, "output_index": self._items - 1, "content_index": 0}
        return {"type": type, **place, **fields}


def _seconds(entry: Entry) -> int:
    return int(entry.created_at.timestamp())
