"""Inputs and results: own types, no result, usage, and values that are not plain JSON."""

import enum
import gc
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from service.agents.texts import clean
from service.db.pool import Connection
from service.worker.attempt import Attempt
from service.worker.event_buffer import EventBuffer
from service.worker.outcome import encode
from tests.support.fixture_types import StartWorker
from tests.support.messages import log, run, settled, submit_many, text, types
from tests.support.waiting import until
from treadle import Context, agent


async def test_a_completed_message_has_its_result_and_a_whole_log(sql: Connection, start_worker: StartWorker) -> None:
    @agent("shout")
    async def shout(context: Context, request: str) -> str:
        for word in request.upper().split():
            await context.emit(word)
        await context.event("progress", {"percent": 100})
        return request.upper()

    await start_worker(shout)
    message = await run(sql, "one two", agent="shout")
    assert (message["state"], message["result"], message["attempt"]) == ("completed", "ONE TWO", 1)
    assert message["error"] is None
    entries = await log(sql, message["message_id"])
    assert [entry.type for entry in entries] == ["queued", "started", "chunk", "chunk", "progress", "done"]
    assert entries[1].data == {"attempt": 1}
    assert entries[2].data == {"type": "content", "chunk": "ONE", "index": 0}
    assert entries[3].data == {"type": "content", "chunk": "TWO", "index": 1}
    assert entries[4].data == {"percent": 100}
    assert entries[5].data["state"] == "completed"
    assert entries[5].data["result"] == "ONE TWO"
    assert await sql.fetchval("select count(*) from treadle.leases") == 0
    assert await sql.fetchval("select count(*) from pgmq.q_default_normal") == 0


class Order(msgspec.Struct):
    item: str
    count: int = 1


class Receipt(msgspec.Struct):
    item: str
    total: float
    at: datetime


async def test_input_and_output_can_be_structs(sql: Connection, start_worker: StartWorker) -> None:
    at = datetime.fromisoformat("2026-01-02T03:04:05+00:00")

    @agent("sell")
    async def sell(context: Context, order: Order) -> Receipt:
        assert isinstance(order, Order)
        return Receipt(order.item, 1.5 * order.count, at)

    await start_worker(sell)
    message = await run(sql, {"item": "tea", "count": 2}, agent="sell")
    assert message["result"] == {"item": "tea", "total": 3.0, "at": "2026-01-02T03:04:05Z"}


async def test_input_that_does_not_fit_the_declared_struct_is_rejected(
    sql: Connection, start_worker: StartWorker
) -> None:
    called = False

    @agent("sell")
    async def sell(context: Context, order: Order) -> str:
        nonlocal called
        called = True
        return order.item

    await start_worker(sell)
    message = await run(sql, {"item": "tea", "count": "two"}, agent="sell")
    assert (message["state"], message["attempt"]) == ("failed", 1)
    assert message["error"] == ("The message does not fit the agent's input: Expected `int`, got `str` - at `$.count`.")
    message = await run(sql, "only a text", agent="sell")
    assert (message["state"], message["attempt"]) == ("failed", 1)
    assert not called


async def test_keys_of_the_input_can_be_numbers(sql: Connection, start_worker: StartWorker) -> None:
    @agent("sum")
    async def sum_up(context: Context, request: dict[int, float]) -> float:
        return sum(key * value for key, value in request.items())

    await start_worker(sum_up)
    message = await run(sql, {"2": 1.5, "3": 1}, agent="sum")
    assert message["result"] == 6.0


async def test_an_agent_may_return_none(sql: Connection, start_worker: StartWorker) -> None:
    @agent("silent")
    async def silent(context: Context, request: str) -> None:
        return None

    await start_worker(silent)
    message = await run(sql, "x", agent="silent")
    assert (message["state"], message["result"]) == ("completed", None)
    assert await types(sql, message["message_id"]) == ["queued", "started", "done"]


async def test_the_smallest_numbers_are_read(sql: Connection, start_worker: StartWorker) -> None:
    """PostgreSQL writes them with more digits than the largest ones have."""
    numbers = {"n": [5e-324, -1.2345678901234567e-300]}

    @agent("remembers")
    async def remembers(context: Context, body: dict[str, Any]) -> Any:
        found = [body, context.metadata["of"], context.memory]
        context.memory = numbers
        return found

    await start_worker(remembers)
    for memory in ({}, numbers):
        row = await run(sql, numbers, agent="remembers", thread_id="t", metadata={"of": numbers})
        assert (row["state"], row["result"]) == ("completed", [numbers, numbers, memory]), row["error"]


async def test_usage_is_stored_with_the_message(sql: Connection, start_worker: StartWorker) -> None:
    @agent("counting")
    async def counting(context: Context, request: str) -> str:
        context.usage(input_tokens=3)
        context.usage(output_tokens=4, model="m\x00")
        return "ok"

    await start_worker(counting)
    message = await run(sql, "x", agent="counting")
    assert message["usage"] == {"input_tokens": 3, "output_tokens": 4, "model": "m\ufffd"}


async def test_usage_that_is_not_json_fails_the_attempt(sql: Connection, start_worker: StartWorker) -> None:
    @agent("counting")
    async def counting(context: Context, request: str) -> str:
        context.usage(tokens=object())
        return "ok"

    await start_worker(counting)
    message = await run(sql, "x", agent="counting", max_attempts=3)
    assert (message["state"], message["attempt"]) == ("failed", 1)
    assert message["error"].startswith("The usage is not JSON: ")


# Values that are not plain JSON


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


ODD_RESULTS: dict[str, tuple[Any, str]] = {
    "object": ({"object": object()}, "The agent's result is not JSON: "),
    "deep": (nested(100_000), "The agent's result is not JSON: "),
    "deep for its readers": (nested(100), "The agent's result is not JSON: it is nested more than 100 levels deep."),
    "many digits": ({"n": [10**400]}, "The agent's result is not JSON: it holds a number beyond 1.8e308."),
    "large number": (msgspec.Raw(b"1e999999999"), "PostgreSQL does not accept this value: "),
}


READABLE = ["[" * 5000 + "9" * 5000, "\\" * 999 + '"' + "{" * 999, nested(99), {"n": [10**300, 1e300]}, [{}] * 500]


async def test_brackets_and_digits_in_texts_are_no_nesting_and_no_number(
    sql: Connection, start_worker: StartWorker
) -> None:
    @agent("plain", max_attempts=1)
    async def plain(context: Context, request: str) -> Any:
        return READABLE[int(request)]

    await start_worker(plain)
    for n in range(len(READABLE)):
        message = await run(sql, str(n), agent="plain")
        assert (message["state"], message["error"]) == ("completed", None), n


async def test_a_result_that_cannot_be_stored_is_paid_for_once(sql: Connection, start_worker: StartWorker) -> None:
    @agent("odd", max_attempts=3)
    async def odd(context: Context, request: str) -> Any:
        return ODD_RESULTS[request][0]

    @agent("remembers", max_attempts=3)
    async def remembers(context: Context, request: str) -> None:
        context.memory["object"] = object()

    await start_worker(odd, remembers)
    for request, (_, error) in ODD_RESULTS.items():
        message = await run(sql, request, agent="odd")
        assert (message["state"], message["attempt"]) == ("failed", 1), request
        assert message["error"].startswith(error), request
    message = await run(sql, "x", agent="remembers", thread_id="t")
    assert (message["state"], message["attempt"]) == ("failed", 1)
    assert message["error"].startswith("The thread's memory is not JSON: ")


def test_an_agent_whose_annotation_has_no_json_form_cannot_be_made() -> None:
    class Frame:
        pass

    async def frame(context: Context, request: str) -> list[Frame]:
        return []

    with pytest.raises(TypeError, match="Frame, which has no JSON form"):
        agent("frame")(frame)


async def test_a_result_that_postgresql_refuses_fails_only_its_attempt(
    sql: Connection, start_worker: StartWorker, register_agents: Any
) -> None:
    @agent("numbers")
    async def numbers(context: Context, request: str) -> Any:
        await context.emit("some text")
        return msgspec.Raw(b"1e999999999") if request == "bad" else 1

    # They end together, so one batch finishes them.
    await register_agents(numbers)
    bad, *good = await submit_many(
        sql, [{"message": m, "agent": "numbers", "max_attempts": 1} for m in ("bad", *["good"] * 20)]
    )
    await start_worker(numbers)
    message = await settled(sql, bad)
    assert message["state"] == "failed"
    assert message["error"].startswith("PostgreSQL does not accept this value")
    for message_id in good:
        assert (await settled(sql, message_id))["state"] == "completed"


class Color(enum.Enum):
    RED = "re\x00d"


@dataclass
class Note:
    text: str
    tags: frozenset[str]


class Answer(msgspec.Struct):
    notes: list[Note]
    color: Color
    by_key: dict[str, tuple[str, ...]]


DIRTY: list[tuple[Any, Any]] = [
    ("nul \x00 end", "nul \ufffd end"),
    ("high \ud83d end", "high \ufffd end"),
    ("low \ude00 end", "low \ufffd end"),
    ("a pair \ud83d\ude00", "a pair \U0001f600"),
    ("literally \\u0000, \\ud83d", "literally \\u0000, \\ud83d"),
    ({"k\x00": ["\ud800", 1, None, True]}, {"k\ufffd": ["\ufffd", 1, None, True]}),
    ({1: "\ud800"}, {"1": "\ufffd"}),
    (msgspec.Raw(b'"nul \\u0000"'), "nul \ufffd"),
    (
        Answer([Note("\udfff", frozenset({"\x00"}))], Color.RED, {"\ud800": ("\x00", "plain")}),
        {
            "notes": [{"text": "\ufffd", "tags": ["\ufffd"]}],
            "color": "re\ufffdd",
            "by_key": {"\ufffd": ["\ufffd", "plain"]},
        },
    ),
    (
        {"when": datetime.fromisoformat("2026-01-02T03:04:05+00:00"), "x": "\ud800"},
        {"when": "2026-01-02T03:04:05Z", "x": "\ufffd"},
    ),
]


async def test_nul_and_lone_surrogates_become_the_replacement_character(
    sql: Connection, start_worker: StartWorker
) -> None:
    @agent("raw")
    async def raw(context: Context, request: str) -> Any:
        value = DIRTY[int(request)][0]
        await context.event("tool", value)
        if isinstance(value, str):
            await context.emit(value)
        return value

    await start_worker(raw)
    for number, (value, stored) in enumerate(DIRTY):
        message = await run(sql, str(number), agent="raw", max_attempts=1)
        assert (message["error"], message["result"]) == (None, stored)
        assert (await log(sql, message["message_id"]))[2].data == stored
        if isinstance(value, str):
            assert await text(sql, message["message_id"]) == stored


def test_cleaning_does_not_change_other_text() -> None:
    assert clean("plain") == "plain"
    assert clean("Grüße 😀 \ufffd\n\t\x7f") == "Grüße 😀 \ufffd\n\t\x7f"
    assert encode({"a": "Grüße 😀", "b": [1.5, None]}) == '{"a":"Grüße 😀","b":[1.5,null]}'


@agent("late", timeout=1)
async def late(context: Context, text: str) -> str:
    while datetime.now(UTC) < context.deadline + timedelta(seconds=0.1):
        time.sleep(0.01)  # noqa: ASYNC251  # the loop is blocked past the deadline
    return "in time, but for the loop"


async def test_a_result_counts_even_after_the_deadline(sql: Connection, start_worker: StartWorker) -> None:
    await start_worker(late)
    row = await run(sql, "x", agent="late")
    assert (row["state"], row["attempt"], row["failures"]) == ("completed", 1, 0)


async def test_an_attempt_leaves_no_garbage(sql: Connection, start_worker: StartWorker) -> None:
    async def left() -> int:
        return sum(isinstance(thing, Attempt | EventBuffer) for thing in gc.get_objects())

    await start_worker()
    gc.collect()
    before = await left()
    gc.disable()
    try:
        for _ in range(3):
            await run(sql, "x")
        await until(left, lambda count: count == before)
    finally:
        gc.enable()
