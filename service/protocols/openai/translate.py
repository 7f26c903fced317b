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
        self._streamed: StreamedText | None = None  # the open text; None: no text is open

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
            yield from self._drop()  # another attempt begins with an empty answer

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
            if entry.type == "error":
                reason = closing.error or "The agent failed."
                self._become(status="failed", error={"code": "server_error", "message": reason})
                yield self._tell("response.failed")
            else:
                self._become(status="cancelled")  # the dialect has no event for it

    def _finished(self, events: list[Event]) -> list[Item]:
        items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        return [item for item in items if item["status"] == "completed"]

    def _add(self, text: str) -> Iterator[Event]:
        if self._streamed is None:
            self._streamed = StreamedText()
            self._items += 1
            yield self._of_item("response.output_item.added", message_item(self._item_id, None, "in_progress"))
            yield self._of_part("response.content_part.added", part=text_part(""))
        self._streamed.add(text)
        yield self._of_part("response.output_text.delta", delta=text, logprobs=[])

    def _answer(self, result: Any) -> Iterator[Event]:
        """The end of the text that was streamed; or the result as a text of its own."""
        other = (self._streamed or StreamedText()).answer(result)
        if other is None:
            yield from self._close()
            return
        yield from self._drop()
        if other:
            yield from self._add(other)
        yield from self._close()

    def _close(self) -> Iterator[Event]:
        if self._streamed is None:
            return
        text = self._streamed.text
        yield self._of_part("response.output_text.done", text=text, logprobs=[])
        yield self._of_part("response.content_part.done", part=text_part(text))
        yield self._of_item("response.output_item.done", message_item(self._item_id, text, "completed"))
        self._streamed = None

    def _drop(self) -> Iterator[Event]:
        """End the open text, which is no part of the answer."""
        if self._streamed is not None:
            item = message_item(self._item_id, self._streamed.text, "incomplete")
            yield self._of_item("response.output_item.done", item)
            self._streamed = None

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
