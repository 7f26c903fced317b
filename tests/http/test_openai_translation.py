"""The events of a response for the log of its message, where attempts are repeated."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from service.events.model import Entry
from service.protocols.openai.ids import ResponseId
from service.protocols.openai.model import Response
from service.protocols.openai.translate import Translation

MESSAGE = UUID(int=7)
AT = datetime(2026, 1, 1, tzinfo=UTC)
LOST = None
WHOLE, CUT = "completed", "incomplete"


@pytest.mark.parametrize(
    ("said", "result", "items"),
    [
        (["one ", LOST, "one ", "two"], "one two", [(WHOLE, "one two")]),
        (["one ", LOST, "one two"], "one two", [(WHOLE, "one two")]),
        (["one two", LOST, "o", "ne two three"], "one two three", [(WHOLE, "one two three")]),
        (["one two", LOST, "one ", LOST, "one two", " three"], "one two three", [(WHOLE, "one two three")]),
        (["one", LOST, "two"], "two", [(CUT, "one"), (WHOLE, "two")]),
        (["one two", LOST, "one three"], "one three", [(CUT, "one two"), (WHOLE, "one three")]),
        (["one two", LOST, "one"], "one", [(CUT, "one two"), (WHOLE, "one")]),
        (["one", LOST], "one two", [(WHOLE, "one two")]),
        (["one", LOST], {"a": 1}, [(CUT, "one"), (WHOLE, '{"a":1}')]),
        (["one", LOST, "one"], "another", [(CUT, "one"), (WHOLE, "another")]),
        (["one", LOST], "", [(CUT, "one")]),
        (["one", LOST, "two"], RuntimeError(), [(CUT, "one"), (CUT, "two")]),
        (["one", LOST], RuntimeError(), [(CUT, "one")]),
    ],
)
def test_an_attempt_that_says_the_same_again_goes_on(said: list[Any], result: Any, items: list[Any]) -> None:
    response = Response(id="r", created_at=0, status="queued", metadata={}, model="m", output=[], text={}, tools=[])
    translation = Translation(ResponseId(MESSAGE), response)
    rows: list[tuple[str, Any]] = [("queued", {}), ("started", {})]
    for text in said:
        rows += [("retry", {}), ("started", {})] if text is LOST else [("chunk", {"chunk": text})]
    failed = isinstance(result, Exception)
    rows.append(("error", {"error": "It fails."}) if failed else ("done", {"result": result}))
    events: list[dict[str, Any]] = []
    for seq, (type, data) in enumerate(rows, 1):
        events += translation.translate(entry(seq, type, data, last=seq == len(rows)))
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [(item["status"], item["content"][0]["text"]) for item in done] == items
    for number, item in enumerate(done):
        deltas = [event["delta"] for event in events if "delta" in event and event["output_index"] == number]
        assert "".join(deltas) == item["content"][0]["text"]
        assert all(deltas)
    numbers = [event["sequence_number"] for event in events]
    assert numbers == sorted(set(numbers))
    assert translation.response.output == [item for item in done if item["status"] == WHOLE]
    assert events[-1]["type"] == ("response.failed" if failed else "response.completed")


def entry(seq: int, type: str, data: Any, *, last: bool) -> Entry:
    return Entry(cursor=seq, message_id=MESSAGE, seq=seq, type=type, data=json.dumps(data), created_at=AT, last=last)
