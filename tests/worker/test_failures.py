"""Any exception of an agent fails its attempt, not its worker."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from service.agents.builtin.echo import echo
from service.db.pool import Connection
from tests.support.fixture_types import RegisterAgents, StartWorker
from tests.support.messages import dead_letter, overview, run, submit, types
from tests.support.waiting import until
from treadle import Context, Overloaded, Rejected, RetryAfter, agent


async def test_rejected_fails_at_once(sql: Connection, start_worker: StartWorker) -> None:
    @agent("picky")
    async def picky(context: Context, request: str) -> str:
        raise Rejected("Not this one.")

    await start_worker(picky)
    message = await run(sql, "x", agent="picky")
    assert (message["state"], message["attempt"], message["error"]) == ("failed", 1, "Not this one.")
    assert await types(sql, message["message_id"]) == ["queued", "started", "error"]
    assert (await dead_letter(sql, message["message_id"]))["reason"] == "Not this one."


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
    "group": (ExceptionGroup("two", [ValueError(), KeyError()]), "ValueError (and 1 more)"),
    "group of one": (ExceptionGroup("one", [ExceptionGroup("one", [KeyError("x")])]), "KeyError: 'x'"),
    "exit": (SystemExit(3), "SystemExit: 3"),
    "interrupt": (KeyboardInterrupt(), "KeyboardInterrupt"),
    "generator": (GeneratorExit(), "GeneratorExit"),
    "cancelled": (asyncio.CancelledError(), "The agent cancelled itself."),
}


@pytest.mark.parametrize("way", ["async", "sync"])
async def test_any_exception_of_an_agent_fails_its_attempt_and_not_the_worker(
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
async def test_stop_iteration_is_an_ordinary_failure(way: str, sql: Connection, start_worker: StartWorker) -> None:
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
    sql: Connection, start_worker: StartWorker, register_agents: RegisterAgents
) -> None:
    """Metadata that an earlier release has accepted."""
    await register_agents()
    message_id = await submit(sql, "x")
    await sql.execute("update treadle.messages set metadata = '{\"n\": 1e5000}'")
    await start_worker()
    state = "select state from treadle.messages where message_id = $1"
    await until(lambda: sql.fetchval(state, message_id), lambda found: found == "failed")
    assert (await run(sql, "still there"))["result"] == "still there"


@agent("grouped", max_attempts=3)
async def grouped(context: Context, request: str) -> str:
    """Raises in a task group inside of a task group."""

    async def fail() -> None:
        async with asyncio.TaskGroup() as inner:
            inner.create_task(wait_for_ever())
            inner.create_task(raise_what(request))

    async with asyncio.TaskGroup() as outer:
        outer.create_task(wait_for_ever())
        outer.create_task(fail())
    return "never"


async def wait_for_ever() -> None:
    await asyncio.Event().wait()


async def raise_what(request: str) -> None:
    if request == "reject":
        raise Rejected("There is no order 4711.")
    if request == "several":
        raise ExceptionGroup("several", [ValueError("x"), RetryAfter(5, "Soon."), RetryAfter(900, "Closed.")])
    if request == "several rejected":
        raise ExceptionGroup("several", [ValueError("x"), RetryAfter(5, "Soon."), Rejected("No.")])
    raise ValueError("the price is negative")


@pytest.mark.parametrize(
    ("cause", "state", "attempt", "error"),
    [
        ("reject", "failed", 1, "There is no order 4711."),
        ("several rejected", "failed", 1, "No."),
        ("several", "queued", 1, "Closed."),
        ("any", "failed", 3, "ValueError: the price is negative"),
    ],
)
async def test_an_exception_in_a_task_group_means_what_it_means_outside_of_one(
    cause: str, state: str, attempt: int, error: str, sql: Connection, start_worker: StartWorker
) -> None:
    await start_worker(grouped)
    message_id = await submit(sql, cause, agent="grouped")
    await until(lambda: overview(sql, message_id), lambda row: row["failures"] == attempt)
    message = await overview(sql, message_id)
    assert (message["state"], message["attempt"], message["error"]) == (state, attempt, error)
    if state == "queued":
        assert (message["run_at"] - message["created_at"]).total_seconds() > 800


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        *((5, 5.0), (timedelta(minutes=1), 60.0), (Decimal("1.5"), 1.5), ("30", 30.0), (-1, 0.0)),
        *((10**400, 366 * 86_400), (-(10**400), 0.0), (float("inf"), 366 * 86_400), (float("nan"), 0.0)),
        *((timedelta.max, 366 * 86_400), (timedelta(days=-1), 0.0)),
    ],
)
def test_the_delay_of_a_retry_is_bounded_at_both_ends(asked: Any, seconds: float) -> None:
    assert RetryAfter(asked, "Why.").seconds == seconds
    assert Overloaded("Why.", asked).seconds == seconds
    assert str(RetryAfter(asked)).startswith("Asked to be retried after ")


@pytest.mark.parametrize("asked", ["x", None, [1], object()])
def test_a_delay_of_another_type_says_so_and_keeps_the_reason(asked: Any) -> None:
    for make in (RetryAfter, lambda seconds, reason: Overloaded(reason, seconds)):
        with pytest.raises(TypeError, match=r"a delay is a number .*\(Its reason: The limit is reached\.\)"):
            make(asked, "The limit is reached.")
