"""How an attempt can end, each way walked through a real worker: what the message, its log and the dead letters say."""

import asyncio
import contextlib
import enum
import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest
from conftest import StartWorker, until
from workshop import (
    closed_port,
    happens,
    log,
    look,
    run,
    settled,
    submit,
    submit_many,
    text,
    types,
    workers,
    working,
    working_apart,
)

from service.agents.contract import Context, Rejected, RetryAfter, agent
from service.agents.echo import echo
from service.config import Settings
from service.db.pool import Connection
from service.queues.leases import LeaseStore
from service.worker.outcome import backoff, clean, encode


async def dead_letter(sql: Connection, message_id: Any) -> Any:
    return await sql.fetchrow("select * from treadle.dead_letters where message_id = $1", message_id)


# Completed


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


async def test_numbers_can_be_keys_of_the_input(sql: Connection, start_worker: StartWorker) -> None:
    @agent("sum")
    async def sum_up(context: Context, request: dict[int, float]) -> float:
        return sum(key * value for key, value in request.items())

    await start_worker(sum_up)
    message = await run(sql, {"2": 1.5, "3": 1}, agent="sum")
    assert message["result"] == 6.0


async def test_an_agent_may_answer_nothing(sql: Connection, start_worker: StartWorker) -> None:
    @agent("silent")
    async def silent(context: Context, request: str) -> None:
        return None

    await start_worker(silent)
    message = await run(sql, "x", agent="silent")
    assert (message["state"], message["result"]) == ("completed", None)
    assert await types(sql, message["message_id"]) == ["queued", "started", "done"]


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
    message = await run(sql, "x", agent="counting", max_attempts=1)
    assert message["state"] == "failed"
    assert "TypeError" in message["error"]


# Failed: again


async def test_a_failed_attempt_is_tried_again_after_a_backoff(sql: Connection, start_worker: StartWorker) -> None:
    @agent("moody")
    async def moody(context: Context, request: str) -> str:
        await context.emit(f"attempt {context.attempt}")
        if context.attempt < 3:
            raise ValueError("not yet")
        return "at last"

    await start_worker(moody)
    message = await run(sql, "x", agent="moody")
    assert (message["state"], message["attempt"], message["failures"]) == ("completed", 3, 2)
    assert message["error"] is None
    entries = await log(sql, message["message_id"])
    assert [entry.type for entry in entries] == [
        "queued",
        *["started", "chunk", "retry"] * 2,
        "started",
        "chunk",
        "done",
    ]
    assert [entry.data["attempt"] for entry in entries if entry.type == "started"] == [1, 2, 3]
    assert [entry.data["index"] for entry in entries if entry.type == "chunk"] == [0, 0, 0]
    for attempt, entry in enumerate((entry for entry in entries if entry.type == "retry"), 1):
        assert entry.data["attempt"] == attempt
        assert entry.data["error"] == "ValueError: not yet"
        delay = datetime.fromisoformat(entry.data["retry_at"]) - entry.created_at
        assert timedelta(0) <= delay <= timedelta(seconds=0.05 * 2**attempt)


async def test_the_backoff_is_as_long_as_the_settings_say(sql: Connection, start_worker: StartWorker) -> None:
    @agent("broken")
    async def broken(context: Context, request: str) -> str:
        raise ValueError

    await start_worker(broken, retry_base_seconds=1_000_000, retry_max_seconds=1_000_000)
    message_id = await submit(sql, "x", agent="broken")
    await until(lambda: types(sql, message_id), lambda found: "retry" in found)
    entry = (await log(sql, message_id))[-1]
    delay = datetime.fromisoformat(entry.data["retry_at"]) - entry.created_at
    assert timedelta(seconds=1) < delay < timedelta(seconds=1_000_000)  # less than a second: once in a million


def test_the_backoff_doubles_up_to_its_limit_with_full_jitter() -> None:
    settings = Settings(retry_base_seconds=1, retry_max_seconds=10)
    for failures, most in ((0, 1), (1, 2), (3, 8), (4, 10), (5000, 10)):
        delays = [backoff(failures, settings) for _ in range(2000)]
        assert 0 <= min(delays) < most * 0.1
        assert most * 0.9 < max(delays) <= most


async def test_after_max_attempts_it_is_a_dead_letter_with_reason_attempts_and_traceback(
    sql: Connection, start_worker: StartWorker
) -> None:
    @agent("broken")
    async def broken(context: Context, request: str) -> str:
        raise ValueError(f"broken for the {context.attempt}. time")

    await start_worker(broken)
    message = await run(sql, "x", agent="broken", max_attempts=2)
    assert (message["state"], message["attempt"], message["failures"]) == ("failed", 2, 2)
    assert message["error"] == "ValueError: broken for the 2. time"
    entries = await log(sql, message["message_id"])
    assert [entry.type for entry in entries] == ["queued", "started", "retry", "started", "error"]
    assert entries[-1].data["state"] == "failed"
    assert entries[-1].data["error"] == message["error"]
    letter = await dead_letter(sql, message["message_id"])
    assert (letter["queue"], letter["agent"], letter["attempts"]) == ("default", "broken", 2)
    assert letter["reason"] == message["error"]
    assert "in broken\n    raise ValueError(" in letter["traceback"]


async def test_the_agents_own_max_attempts_count_where_the_message_names_none(
    sql: Connection, start_worker: StartWorker
) -> None:
    @agent("once", max_attempts=1)
    async def once(context: Context, request: str) -> str:
        raise ValueError

    await start_worker(once)
    assert (await run(sql, "x", agent="once"))["attempt"] == 1
    assert (await run(sql, "x", agent="once", max_attempts=2))["attempt"] == 2


async def test_retry_after_sets_the_delay(sql: Connection, start_worker: StartWorker) -> None:
    @agent("later")
    async def later(context: Context, request: str) -> str:
        if context.attempt == 1:
            raise RetryAfter(0.25)
        return "now"

    await start_worker(later)
    message = await run(sql, "x", agent="later")
    entry = (await log(sql, message["message_id"]))[2]
    assert datetime.fromisoformat(entry.data["retry_at"]) - entry.created_at == timedelta(seconds=0.25)
    assert entry.data["error"] == "Asked to be retried after 0.25 seconds."
    assert message["started_at"] >= entry.created_at + timedelta(seconds=0.25)
    assert message["result"] == "now"


@pytest.mark.parametrize("seconds", [1e300, float("inf"), float("nan"), -1.0])
async def test_retry_after_nonsense_is_still_a_retry(
    seconds: float, sql: Connection, start_worker: StartWorker
) -> None:
    @agent("later")
    async def later(context: Context, request: str) -> str:
        raise RetryAfter(seconds, "the reason")

    await start_worker(later)
    message_id = await submit(sql, "x", agent="later", max_attempts=2)
    await until(lambda: types(sql, message_id), lambda found: "retry" in found)
    assert (await log(sql, message_id))[2].data["error"] == "the reason"


@pytest.mark.parametrize("limit", ["message", "agent", "settings"])
async def test_an_attempt_that_takes_too_long_is_a_failure_that_names_the_time(
    limit: str, sql: Connection, start_worker: StartWorker
) -> None:
    ended = asyncio.Event()

    @agent("slow", timeout=0.2 if limit == "agent" else None)
    async def slow(context: Context, request: str) -> str:
        await context.emit("partial")
        if context.attempt > 1:
            return "quick"
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return "never"

    await start_worker(slow, **({"processing_timeout": 0.2} if limit == "settings" else {}))
    message = await run(sql, "x", agent="slow", **({"timeout_seconds": 0.2} if limit == "message" else {}))
    assert (message["state"], message["result"], message["failures"]) == ("completed", "quick", 1)
    entries = await log(sql, message["message_id"])
    assert [entry.type for entry in entries] == ["queued", "started", "chunk", "retry", "started", "chunk", "done"]
    assert entries[3].data["error"] == "TimeoutError: the attempt took longer than 0.2 seconds"
    assert ended.is_set()


async def test_a_timeout_of_the_agents_own_is_an_error_like_any(sql: Connection, start_worker: StartWorker) -> None:
    @agent("impatient")
    async def impatient(context: Context, request: str) -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    await start_worker(impatient)
    assert (await run(sql, "x", agent="impatient", max_attempts=1))["error"] == "TimeoutError"


# Failed: for good


async def test_rejected_fails_at_once(sql: Connection, start_worker: StartWorker) -> None:
    @agent("picky")
    async def picky(context: Context, request: str) -> str:
        raise Rejected("Not this one.")

    await start_worker(picky)
    message = await run(sql, "x", agent="picky")
    assert (message["state"], message["attempt"], message["error"]) == ("failed", 1, "Not this one.")
    assert await types(sql, message["message_id"]) == ["queued", "started", "error"]
    assert (await dead_letter(sql, message["message_id"]))["reason"] == "Not this one."


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


async def test_a_message_for_an_agent_unknown_to_this_worker_is_put_off_without_a_failure(
    sql: Connection, start_worker: StartWorker, agents: Any
) -> None:
    @agent("elsewhere")
    async def elsewhere(context: Context, request: str) -> str:
        return "found"

    await agents(elsewhere)
    ignorant = await start_worker()
    message_id = await submit(sql, "x", agent="elsewhere", max_attempts=1)
    await until(lambda: types(sql, message_id), lambda found: "retry" in found)
    assert (await log(sql, message_id))[2].data["error"] == "This worker has no agent 'elsewhere'."
    await start_worker(elsewhere)
    ignorant.stop()
    assert (await settled(sql, message_id))["result"] == "found"


# Results and texts that are not plain


async def test_a_result_that_is_not_json_fails_the_attempt(sql: Connection, start_worker: StartWorker) -> None:
    @agent("odd")
    async def odd(context: Context, request: str) -> Any:
        return {"object": object()}

    await start_worker(odd)
    message = await run(sql, "x", agent="odd", max_attempts=1)
    assert message["state"] == "failed"
    assert message["error"].startswith("TypeError: ")


async def test_a_result_that_postgres_does_not_take_fails_its_attempt_alone(
    sql: Connection, start_worker: StartWorker, agents: Any
) -> None:
    @agent("numbers")
    async def numbers(context: Context, request: str) -> Any:
        await context.emit("some text")
        return msgspec.Raw(b"1e999999999") if request == "bad" else 1

    # Waiting together, they are finished together.
    await agents(numbers)
    bad, *good = await submit_many(
        sql, [{"message": m, "agent": "numbers", "max_attempts": 1} for m in ("bad", *["good"] * 20)]
    )
    await start_worker(numbers)
    message = await settled(sql, bad)
    assert message["state"] == "failed"
    assert message["error"].startswith("Unprocessable: PostgreSQL does not take this")
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


def test_cleaning_leaves_all_other_text_alone() -> None:
    assert clean("plain") == "plain"
    assert clean("Grüße 😀 \ufffd\n\t\x7f") == "Grüße 😀 \ufffd\n\t\x7f"
    assert encode({"a": "Grüße 😀", "b": [1.5, None]}) == '{"a":"Grüße 😀","b":[1.5,null]}'


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


class MuteRejection(Rejected):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


RAISED: dict[str, tuple[BaseException, str]] = {
    "nul": (ValueError("nul \x00 and \ud800"), "ValueError: nul \ufffd and \ufffd"),
    "mum": (ValueError(), "ValueError"),
    "long": (ValueError("x" * 1_000_000), ("ValueError: " + "x" * 1_000_000)[:2000]),
    "mute": (Mute(), "Mute"),
    "mute rejection": (MuteRejection(), "MuteRejection"),
    "rejection": (Rejected(), "Rejected"),
    "retry": (RetryAfter(0, "\x00"), "\ufffd"),
    "group": (ExceptionGroup("two", [ValueError(), KeyError()]), "ExceptionGroup: two (2 sub-exceptions)"),
    "exit": (SystemExit(3), "SystemExit: 3"),
    "interrupt": (KeyboardInterrupt(), "KeyboardInterrupt"),
    "generator": (GeneratorExit(), "GeneratorExit"),
    "cancelled": (asyncio.CancelledError(), "The agent cancelled itself."),
}


@pytest.mark.parametrize("way", ["async", "sync"])
async def test_whatever_an_agent_raises_fails_its_attempt_and_not_the_worker(
    way: str, sql: Connection, start_worker: StartWorker
) -> None:
    @agent("raising")
    async def raising(context: Context, request: str) -> str:
        raise RAISED[request][0]

    @agent("raising")
    def raising_sync(context: Context, request: str) -> str:
        raise RAISED[request][0]

    await start_worker(raising if way == "async" else raising_sync, echo)
    for request, (_, said) in RAISED.items():
        message = await run(sql, request, agent="raising", max_attempts=1)
        assert (message["state"], message["attempt"], message["error"]) == ("failed", 1, said), request
        letter = await dead_letter(sql, message["message_id"])
        assert letter["reason"] == said, request
        assert 0 < len(letter["traceback"]) <= 20_000, request
    assert (await run(sql, "still there", agent="echo"))["result"] == "still there"


@pytest.mark.parametrize("way", ["async", "sync"])
async def test_stop_iteration_is_an_error_like_any(way: str, sql: Connection, start_worker: StartWorker) -> None:
    @agent("first")
    async def first(context: Context, request: str) -> str:
        return str(next(iter(())))

    @agent("first")
    def first_sync(context: Context, request: str) -> str:
        return str(next(iter(())))

    await start_worker(first if way == "async" else first_sync)
    message = await run(sql, "x", agent="first", max_attempts=1)
    assert message["state"] == "failed"
    assert "StopIteration" in message["error"]


async def test_an_agent_that_cancels_its_own_task_has_failed(sql: Connection, start_worker: StartWorker) -> None:
    @agent("suicidal")
    async def suicidal(context: Context, request: str) -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        if request == "and waits":
            await asyncio.sleep(0)
        return "never told"

    await start_worker(suicidal)
    for request in ("and waits", "and returns"):
        message = await run(sql, request, agent="suicidal", max_attempts=1)
        assert (message["state"], message["error"]) == ("failed", "The agent cancelled itself."), request


async def test_metadata_that_python_cannot_read_fails_the_message_and_not_the_worker(
    sql: Connection, start_worker: StartWorker
) -> None:
    await start_worker()
    message_id = await sql.fetchval("select treadle.submit('x', metadata => '{\"n\": 1e5000}', notify => true)")
    state = "select state from treadle.messages where message_id = $1"
    await until(lambda: sql.fetchval(state, message_id), lambda found: found == "failed")
    assert (await run(sql, "still there"))["result"] == "still there"


# Cancelled


async def test_a_running_agent_is_cancelled_and_cleans_up(sql: Connection, start_worker: StartWorker) -> None:
    running, cleaned = asyncio.Event(), asyncio.Event()

    @agent("endless")
    async def endless(context: Context, request: str) -> str:
        await context.emit("before")
        running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert context.cancelled
            await context.emit("last words")
            cleaned.set()
            raise
        return "never"

    await start_worker(endless)
    message_id = await submit(sql, "x", agent="endless")
    await happens(running)
    assert await sql.fetchval("select treadle.cancel($1)", message_id) == "requested"
    message = await settled(sql, message_id)
    assert cleaned.is_set()
    assert (message["state"], message["result"], message["error"], message["failures"]) == ("cancelled", None, None, 0)
    assert await types(sql, message_id) == ["queued", "started", "chunk", "chunk", "cancelled"]
    assert await text(sql, message_id) == "beforelast words"


async def test_an_agent_that_swallows_its_cancellation_is_left_behind(
    sql: Connection, start_worker: StartWorker
) -> None:
    running, release = asyncio.Event(), asyncio.Event()
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @agent("stubborn")
    async def stubborn(context: Context, request: str) -> str:
        running.set()
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        try:
            await context.emit("too late")
        except BaseException as error:
            ended.set_result(type(error).__name__)
            raise
        return "too late"

    await start_worker(stubborn, echo)
    message_id = await submit(sql, "x", agent="stubborn")
    await happens(running)
    await sql.fetchval("select treadle.cancel($1)", message_id)
    assert (await settled(sql, message_id))["state"] == "cancelled"
    release.set()
    assert await ended == "CancelledError"
    assert (await run(sql, "next", agent="echo"))["result"] == "next"
    assert await types(sql, message_id) == ["queued", "started", "cancelled"]
    assert (await look(sql, message_id))["state"] == "cancelled"


async def test_an_agent_that_only_emits_and_swallows_cannot_hang_its_worker(
    sql: Connection, settings: Settings
) -> None:
    running, release = threading.Event(), threading.Event()

    @agent("babbling")
    async def babbling(context: Context, request: str) -> str:
        running.set()
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await context.emit("x" * 1000)
        return "done"

    with working_apart(settings, babbling, echo) as worker:
        await until(lambda: workers(sql), lambda found: worker.worker_id in found)
        message_id = await submit(sql, "x", agent="babbling")
        await happens(running)
        await sql.fetchval("select treadle.cancel($1)", message_id)
        assert (await settled(sql, message_id))["state"] == "cancelled"
        assert (await run(sql, "next", agent="echo"))["result"] == "next"
        release.set()


async def test_a_cancellation_that_meets_a_successful_end_is_still_a_cancellation(
    sql: Connection, start_worker: StartWorker
) -> None:
    running, release = asyncio.Event(), asyncio.Event()

    @agent("quick")
    async def quick(context: Context, request: str) -> str:
        running.set()
        await release.wait()
        return "done"

    await start_worker(quick)
    message_id = await submit(sql, "x", agent="quick")
    await happens(running)
    await sql.execute("update treadle.leases set cancel_requested = true")
    release.set()
    message = await settled(sql, message_id)
    assert (message["state"], message["result"]) == ("cancelled", None)
    assert (await types(sql, message_id))[-1] == "cancelled"


async def test_a_failing_agent_that_is_cancelled_is_cancelled_not_retried(
    sql: Connection, start_worker: StartWorker
) -> None:
    running = asyncio.Event()

    @agent("clumsy")
    async def clumsy(context: Context, request: str) -> str:
        running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("while cleaning up") from None
        return "never"

    await start_worker(clumsy)
    message_id = await submit(sql, "x", agent="clumsy")
    await happens(running)
    await sql.fetchval("select treadle.cancel($1)", message_id)
    message = await settled(sql, message_id)
    assert (message["state"], message["attempt"], message["failures"]) == ("cancelled", 1, 0)


async def test_a_cancellation_whose_hint_is_lost_is_learned_from_the_heartbeat(
    sql: Connection, settings: Settings
) -> None:
    running = asyncio.Event()

    @agent("endless")
    async def endless(context: Context, request: str) -> str:
        running.set()
        await asyncio.Event().wait()
        return "never"

    deaf = closed_port(str(settings.database_url))
    async with working(sql, settings, endless, listen_database_url=deaf) as worker:
        message_id = await submit(sql, "x", agent="endless")
        await happens(running)
        assert await sql.fetchval("select treadle.cancel($1)", message_id) == "requested"
        assert (await settled(sql, message_id))["state"] == "cancelled"
        assert not worker.ready


async def test_a_thread_that_is_deleted_stops_its_running_agent(sql: Connection, start_worker: StartWorker) -> None:
    running, stopped = asyncio.Event(), asyncio.Event()

    @agent("endless")
    async def endless(context: Context, request: str) -> str:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return "never"

    await start_worker(endless, echo)
    await submit(sql, "x", agent="endless", thread_id="t")
    await happens(running)
    await sql.fetchval("select treadle.delete_thread('t')")
    await happens(stopped)
    assert (await run(sql, "anew", agent="echo", thread_id="t"))["result"] == "anew"


# Sync agents


async def test_sync_agents_run_in_threads_and_can_do_what_async_ones_can(
    sql: Connection, start_worker: StartWorker
) -> None:
    threads: list[threading.Thread] = []

    @agent("sync")
    def sync(context: Any, request: str) -> Any:
        threads.append(threading.current_thread())
        context.emit(f"{request} ")
        context.event("progress", {"percent": 50})
        context.emit("end")
        context.usage(tokens=7)
        context.log.debug("a line")
        turns = [[turn.message, turn.result] for turn in context.history()]
        return {"turns": turns, "attempt": context.attempt, "thread": context.thread_id, "metadata": context.metadata}

    await start_worker(sync)
    first = await run(sql, "one", agent="sync", thread_id="t")
    second = await run(sql, "two", agent="sync", thread_id="t", metadata={"a": 1})
    assert second["result"] == {
        "turns": [["one", first["result"]]],
        "attempt": 1,
        "thread": "t",
        "metadata": {"a": 1},
    }
    assert await types(sql, second["message_id"]) == ["queued", "started", "chunk", "progress", "chunk", "done"]
    assert await text(sql, second["message_id"]) == "two end"
    assert second["usage"] == {"tokens": 7}
    assert threading.main_thread() not in threads


async def test_a_sync_agent_blocks_nobody(sql: Connection, start_worker: StartWorker) -> None:
    running, release = threading.Event(), threading.Event()

    @agent("blocking")
    def blocking(context: Any, request: str) -> str:
        running.set()
        assert release.wait(20)
        return "free"

    await start_worker(blocking, echo)
    message_id = await submit(sql, "x", agent="blocking")
    await happens(running)
    assert (await run(sql, "beside it", agent="echo"))["result"] == "beside it"
    release.set()
    assert (await settled(sql, message_id))["result"] == "free"


async def test_a_sync_agent_sees_that_it_is_cancelled(sql: Connection, start_worker: StartWorker) -> None:
    running, saw = threading.Event(), threading.Event()

    @agent("watchful")
    def watchful(context: Any, request: str) -> str:
        assert not context.cancelled
        running.set()
        while not context.cancelled:
            threading.Event().wait(0.01)
        saw.set()
        return "stopped"

    await start_worker(watchful)
    message_id = await submit(sql, "x", agent="watchful")
    await happens(running)
    await sql.fetchval("select treadle.cancel($1)", message_id)
    assert (await settled(sql, message_id))["state"] == "cancelled"
    await happens(saw)


async def test_a_sync_agent_that_only_emits_ends_when_it_is_cancelled(
    sql: Connection, start_worker: StartWorker
) -> None:
    running, ended = threading.Event(), threading.Event()

    @agent("babbling")
    def babbling(context: Any, request: str) -> str:
        try:
            while True:
                context.emit("x")
                running.set()
        finally:
            ended.set()

    await start_worker(babbling)
    message_id = await submit(sql, "x", agent="babbling")
    await happens(running)
    await sql.fetchval("select treadle.cancel($1)", message_id)
    assert (await settled(sql, message_id))["state"] == "cancelled"
    await happens(ended)


async def test_a_partial_of_a_coroutine_function_is_async(sql: Connection, start_worker: StartWorker) -> None:
    async def greet(greeting: str, context: Context, name: str) -> str:
        await context.emit(greeting)
        return f"{greeting}, {name}"

    await start_worker(agent("greet", description="Greets.")(functools.partial(greet, "Hello")))
    assert (await run(sql, "Ada", agent="greet"))["result"] == "Hello, Ada"


def test_a_generator_is_no_agent() -> None:
    async def stream(context: Context, request: str) -> Any:
        yield request

    def walk(context: Context, request: str) -> Iterator[str]:
        yield request

    for function in (stream, walk):
        with pytest.raises(TypeError, match="generator"):
            agent("stream")(function)


# What an agent emits


async def test_huge_text_is_split_into_events_of_the_allowed_size(sql: Connection, start_worker: StartWorker) -> None:
    huge = "".join(("plain ", "ünïcödé ", "😀😀 ", '\x01\x1f"\\\n '))[:25] * 200

    @agent("huge")
    async def huge_agent(context: Context, request: str) -> None:
        await context.emit(huge)
        await context.emit("")
        await context.emit("end")

    await start_worker(huge_agent, max_event_bytes=1000)
    message = await run(sql, "x", agent="huge")
    sizes = [
        len(msgspec.json.encode(entry.data)) for entry in await log(sql, message["message_id"]) if entry.type == "chunk"
    ]
    assert len(sizes) > 10
    assert max(sizes) <= 1000
    assert await text(sql, message["message_id"]) == huge + "end"


async def test_events_must_be_small_and_of_a_free_type(sql: Connection, start_worker: StartWorker) -> None:
    refused: dict[str, str] = {}

    @agent("naughty")
    async def naughty(context: Context, request: str) -> None:
        tries: list[tuple[str, Any]] = [
            ("big", "x" * 1000),
            ("wide", "😀" * 300),  # few characters, many bytes
            ("", 1),
            ("two\nlines", 1),
            ("x" * 101, 1),
            *(
                (name, {})
                for name in ("queued", "waiting", "started", "retry", "done", "error", "cancelled", "gap", "chunk")
            ),
        ]
        for name, data in tries:
            try:
                await context.event(name, data)
            except ValueError as error:
                refused[name] = str(error)
        await context.event("fits", "x" * 900)
        with contextlib.suppress(TypeError):
            await context.emit(b"bytes")  # type: ignore[arg-type]
        with contextlib.suppress(TypeError):
            await context.event("odd", object())

    await start_worker(naughty, max_event_bytes=1000)
    message = await run(sql, "x", agent="naughty")
    assert message["error"] is None
    assert len(refused) == 14
    assert "at most 1000 bytes (MAX_EVENT_BYTES)" in refused["big"]
    assert await types(sql, message["message_id"]) == ["queued", "started", "fits", "done"]


async def test_an_agent_that_emits_faster_than_postgres_takes_it_waits(
    sql: Connection, dsn: str, start_worker: StartWorker
) -> None:
    ready, go = asyncio.Event(), asyncio.Event()
    emitted = 0

    @agent("flood")
    async def flood(context: Context, request: str) -> None:
        nonlocal emitted
        ready.set()
        await go.wait()
        for number in range(4000):
            await context.emit(f"{number:04}" + "x" * 996)
            emitted += 1

    await start_worker(flood)
    message_id = await submit(sql, "x", agent="flood")
    await happens(ready)
    blocker = await asyncpg.connect(dsn)
    try:
        async with blocker.transaction():
            await blocker.execute("lock table treadle.events in exclusive mode")
            go.set()
            await until(lambda: asyncio.sleep(0, emitted))
            assert emitted < 1100  # it never let go of the loop before it had to wait
    finally:
        await blocker.close()
    assert (await settled(sql, message_id))["state"] == "completed"
    streamed = await text(sql, message_id)
    assert [streamed[start : start + 4] for start in range(0, len(streamed), 1000)] == [f"{n:04}" for n in range(4000)]


async def test_many_megabytes_at_once_go_to_postgres_in_pieces_that_it_can_take(
    sql: Connection, start_worker: StartWorker, agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    finish = LeaseStore.finish

    async def measured(store: LeaseStore, batch: Any, patient: bool, max_losses: int) -> Any:
        sizes.append(sum(len(item.result or "") + sum(len(event.data) for event in item.events) for item in batch))
        return await finish(store, batch, patient, max_losses)

    @agent("large")
    async def large(context: Context, request: str) -> str:
        await context.emit("x" * 900_000)
        return "y" * 1_000_000

    monkeypatch.setattr(LeaseStore, "finish", measured)
    await agents(large)
    ids = await submit_many(sql, [{"message": str(number), "agent": "large"} for number in range(20)])
    await start_worker(large)
    for message_id in ids:
        assert (await settled(sql, message_id))["attempt"] == 1
    assert sum(sizes) > 20_000_000
    assert max(sizes) <= 8_000_000


# History


async def test_history_is_the_completed_earlier_part_of_the_own_thread(
    sql: Connection, start_worker: StartWorker
) -> None:
    histories: dict[str, list[tuple[Any, Any]]] = {}

    @agent("remember")
    async def remember(context: Context, request: str) -> str:
        if request == "bad":
            raise Rejected("No.")
        histories[request] = [(turn.message, turn.result) for turn in await context.history()]
        histories[f"{request}, last 2"] = [(turn.message, turn.result) for turn in await context.history(2)]
        return f"re: {request}"

    await start_worker(remember, echo)
    await run(sql, "elsewhere", agent="remember", thread_id="other")
    await run(sql, "alone", agent="remember")
    for request in ("one", "bad", "two", "three"):
        await run(sql, request, agent="remember", thread_id="t")
    later = await submit(sql, "never", agent="remember", thread_id="t", delay_seconds=1000)
    await run(sql, "four", agent="remember", thread_id="t")
    assert histories["alone"] == histories["one"] == histories["elsewhere"] == []
    assert histories["three"] == [("one", "re: one"), ("two", "re: two")]
    assert histories["four"] == [("one", "re: one"), ("two", "re: two"), ("three", "re: three")]
    assert histories["four, last 2"] == [("two", "re: two"), ("three", "re: three")]
    assert (await look(sql, later))["state"] == "queued"


async def test_a_context_tells_the_agent_what_it_needs_to_know(sql: Connection, start_worker: StartWorker) -> None:
    @agent("curious", timeout=30)
    async def curious(context: Context, request: str) -> Any:
        left = context.deadline - datetime.now(context.deadline.tzinfo)
        return {
            "message_id": context.message_id,
            "thread_id": context.thread_id,
            "attempt": context.attempt,
            "metadata": context.metadata,
            "left": left.total_seconds(),
            "cancelled": context.cancelled,
        }

    await start_worker(curious)
    message = await run(sql, "x", agent="curious", thread_id="t", metadata={"a": [1]})
    left = message["result"].pop("left")
    assert 0 < left <= 30
    assert message["result"] == {
        "message_id": str(message["message_id"]),
        "thread_id": "t",
        "attempt": 1,
        "metadata": {"a": [1]},
        "cancelled": False,
    }
