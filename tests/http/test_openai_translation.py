"""The events of a response, or the parts of a chat completion, for the log of its message."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from service.events import answers
from service.events.model import Entry
from service.protocols.openai import chat
from service.protocols.openai.chat import Completion
from service.protocols.openai.errors import Failed
from service.protocols.openai.ids import ResponseId, begun_at, new_conversation
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


AGENTS_OWN = ["Reading", {"chunk": 3}, {"error": {"code": 1}}, [1], None]  # what an agent may write in its own events


@pytest.mark.parametrize("own", AGENTS_OWN)
def test_events_of_the_agent_are_no_part_of_the_answer(own: Any) -> None:
    rows = [("queued", {}), ("started", {}), ("progress", own), ("chunk", {"chunk": "one"}), ("mine", own)]
    assert completed([*rows, ("done", {"result": "one"})]) == (["one"], "one", "stop")
    response = Response(id="r", created_at=0, status="queued", metadata={}, model="m", output=[], text={}, tools=[])
    translation = Translation(ResponseId(MESSAGE), response)
    for seq, (type, data) in enumerate([*rows, ("done", {"result": "one"})], 1):
        translation.translate(entry(seq, type, data, last=type == "done"))
    assert [item["content"][0]["text"] for item in translation.response.output] == ["one"]


def test_a_chat_keeps_no_more_of_a_long_answer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_TEXT_CHARS", 6)
    begin = [("queued", {}), ("started", {}), ("chunk", {"chunk": "one "}), ("chunk", {"chunk": "two "})]
    assert completed([*begin, ("done", {})]) == (["one ", "two "], "one ", "length")
    full = (["one ", "two ", "\n\none two three"], "one two three", "stop")
    assert completed([*begin, ("done", {"result": "one two three"})]) == full
    with pytest.raises(Failed, match="too many to compare"):
        completed([*begin, ("retry", {}), ("started", {}), ("chunk", {"chunk": "one "})])


@pytest.mark.parametrize(
    ("said", "deltas"),
    [
        (["one ", LOST, "one ", "two"], ["one ", "two"]),
        (["one two", LOST, "o", "ne two three"], ["one two", " three"]),
        (["one two", LOST, "one ", LOST, "one two", " three"], ["one two", " three"]),
        (["one", LOST, "two"], None),
        (["one two", LOST, "one "], None),
    ],
)
def test_a_chat_goes_on_where_an_attempt_says_the_same_again(said: list[Any], deltas: list[str] | None) -> None:
    rows: list[tuple[str, Any]] = [("queued", {}), ("started", {})]
    for text in said:
        rows += [("retry", {}), ("started", {})] if text is LOST else [("chunk", {"chunk": text})]
    if deltas is None:
        with pytest.raises(Failed, match="differs"):
            completed([*rows, ("done", {})])
    else:
        assert completed([*rows, ("done", {})]) == (deltas, "".join(deltas), "stop")


def completed(rows: list[tuple[str, Any]]) -> tuple[list[str], str, str]:
    """The pieces of a chat completion, its whole text, and why it ends."""
    completion = Completion(ResponseId(MESSAGE))
    pieces: list[str] = []
    for seq, (type, data) in enumerate(rows, 1):
        pieces += [delta["content"] for delta in completion.translate(entry(seq, type, data, last=type == "done"))]
    [choice] = chat.whole({}, completion, None)["choices"]
    return pieces, choice["message"]["content"], choice["finish_reason"]


def test_the_id_of_a_conversation_tells_when_it_began() -> None:
    assert begun_at(new_conversation()) is not None
    assert begun_at(f"conv_{UUID(int=MESSAGE.int).hex}") is None
    assert begun_at("conv_ffffffffffff7fffbfffffffffffffff") is None  # in the year 10889


def entry(seq: int, type: str, data: Any, *, last: bool) -> Entry:
    return Entry(cursor=seq, message_id=MESSAGE, seq=seq, type=type, data=json.dumps(data), created_at=AT, last=last)
