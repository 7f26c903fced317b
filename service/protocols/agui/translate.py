"""From the log of a message to the events of a run: pure functions of the entries."""

from collections.abc import Generator, Iterator
from typing import Any

import msgspec

from service.events.answers import ASK, calls_of, is_question
from service.events.model import RESERVED_TYPES, Entry
from service.protocols.agui.content import Content, ToolData
from service.protocols.agui.ids import Asked, QuestionPart, Run
from service.protocols.agui.model import PROTOCOL_VERSION, Event


class _Data(msgspec.Struct):
    """Of the entries that the service writes."""

    chunk: str = ""
    name: str = ""
    question: Any = None
    result: Any = None
    error: str | None = None


class _Thinking(msgspec.Struct):
    content: str


class Translation:
    """The events of one run, entry by entry. `end` is its last event, once it is over; `is_parked`: the message goes on
    with an answer, or with the results of tools that the client runs."""

    def __init__(self, run: Run, asked: Asked, answered: int = 0, *, wants_messages: bool = False) -> None:
        """`answered`: the questions before this place do not end the run. `wants_messages`: of the content."""
        self.end: Event | None = None
        self.is_parked = False
        self.content = Content(run, wants_messages=wants_messages)
        self._run = run
        self._asked = asked
        self._answered = answered

    def opening(self) -> Event:
        parent = {} if self._asked.parent_run_id is None else {"parentRunId": self._asked.parent_run_id}
        kept = {"treadle": {"messageId": str(self._run.message_id)}}
        return {"type": "RUN_STARTED", **self._names, **parent, "protocolVersion": PROTOCOL_VERSION, "metadata": kept}

    def translate(self, entry: Entry) -> list[Event]:
        at = int(entry.created_at.timestamp() * 1000)
        events = list(self._events(entry))
        for event in (*events, *([self.end] if self.end else [])):
            event["timestamp"] = at
        return events

    def _events(self, entry: Entry) -> Iterator[Event]:
        content = self.content
        if entry.type == "chunk":
            yield from content.add(msgspec.json.decode(entry.data, type=_Data).chunk)
        elif is_question(entry) and entry.seq < self._answered:
            yield from content.keep()
        elif entry.last or is_question(entry):
            yield from self._finish(entry, msgspec.json.decode(entry.data, type=_Data))
        elif entry.type in {"started", "retry", "parked", "error"}:
            yield from content.drop()  # another attempt begins with an empty answer
        elif entry.type == "step":
            step = msgspec.json.decode(entry.data, type=_Data).name
            yield from ({"type": f"STEP_{what}", "stepName": step} for what in ("STARTED", "FINISHED"))
        elif entry.type not in RESERVED_TYPES:
            yield from self._of_agent(entry)

    def _of_agent(self, entry: Entry) -> Iterator[Event]:
        try:  # an agent writes what it likes
            if entry.type == "tool":
                yield from self.content.tool(msgspec.json.decode(entry.data, type=ToolData), entry.seq)
                return
            if entry.type == "thinking":
                thinking = msgspec.json.decode(entry.data, type=_Thinking)
                yield from self.content.reason(thinking.content, entry.seq)
                return
        except msgspec.ValidationError:
            pass
        yield {"type": "CUSTOM", "name": entry.type, "value": msgspec.json.decode(entry.data)}

    def _finish(self, entry: Entry, data: _Data) -> Iterator[Event]:
        finished: Event = {"type": "RUN_FINISHED", **self._names}
        if entry.type == "done":
            yield from self.content.answer(data.result)
            result = {} if data.result is None else {"result": data.result}
            self.end = {**finished, **result, "outcome": {"type": "success"}}
        elif entry.type == "parked":
            self.is_parked = True
            parent = self.content.open_text
            yield from self.content.close()
            outcome = yield from self._question(entry, data.question, parent)
            self.end = {**finished, "outcome": outcome}
        else:
            yield from self.content.close()  # a person may read what there is of it
            if entry.type == "error":
                self.end = {"type": "RUN_ERROR", "message": data.error or "The agent failed.", "code": "failed"}
            else:
                self.end = {**finished, "outcome": {"type": "cancelled"}}

    def _question(self, entry: Entry, question: Any, parent: str | None) -> Generator[Event, None, dict[str, Any]]:
        """Returns the outcome of the run: interrupts, or a success with calls of tools that the client runs itself."""
        calls = calls_of(question)
        parts = [QuestionPart(entry.message_id, entry.seq, number) for number in range(len(calls))]
        if calls[0][0] == ASK and len(calls) == 1:
            return {"type": "interrupt", "interrupts": [_interrupt(parts[0], question)]}
        for part, (name, arguments) in zip(parts, calls, strict=True):
            yield from self.content.call(part.call, name, arguments, parent)
        if self._asked.offered.issuperset(name for name, _ in calls):
            return {"type": "success", "pendingToolCallIds": [part.call for part in parts]}
        asked = [{"id": part.interrupt, "reason": "tool_call", "toolCallId": part.call} for part in parts]
        return {"type": "interrupt", "interrupts": asked}

    @property
    def _names(self) -> dict[str, str]:
        return {"threadId": self._asked.thread_id, "runId": self._asked.run_id}


def _interrupt(part: QuestionPart, question: Any) -> dict[str, Any]:
    interrupt: dict[str, Any] = {"id": part.interrupt, "reason": "input_required"}
    if isinstance(question, str):
        return {**interrupt, "message": question}
    interrupt["metadata"] = {"question": question}
    if isinstance(question, dict):
        if isinstance(asked := question.get("message", question.get("question")), str):
            interrupt["message"] = asked
        if isinstance(schema := question.get("response_schema"), dict):
            interrupt["responseSchema"] = schema
    return interrupt


def state_events(before: Any, after: Any) -> list[Event]:
    """Tells of the thread's memory `after`; `before` is what the client was told, None for nothing."""
    if after == before or (before is None and not after):
        return []
    if before is None:
        return [{"type": "STATE_SNAPSHOT", "snapshot": after}]
    return [{"type": "STATE_DELTA", "delta": difference(before, after)}]


def difference(before: dict[str, Any], after: dict[str, Any], path: str = "") -> list[dict[str, Any]]:
    """A JSON Patch (RFC 6902) that makes `after` of `before`."""
    operations: list[dict[str, Any]] = []
    for name in [*before, *(name for name in after if name not in before)]:
        place = f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
        if name not in after:
            operations.append({"op": "remove", "path": place})
        elif name not in before:
            operations.append({"op": "add", "path": place, "value": after[name]})
        elif isinstance(before[name], dict) and isinstance(after[name], dict):
            operations += difference(before[name], after[name], place)
        elif before[name] != after[name]:
            operations.append({"op": "replace", "path": place, "value": after[name]})
    return operations
