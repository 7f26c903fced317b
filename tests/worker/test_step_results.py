"""The result of a step: its type in every attempt, and the results that are refused before they are stored."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from service.agents.builtin.echo import echo
from service.db.pool import Connection
from tests.support.fixture_types import StartWorker
from tests.support.messages import log, run
from treadle import Context, agent

Calls = list[str]


def counted(calls: Calls, name: str, answer: Any = None) -> Callable[[], Awaitable[Any]]:
    """A step that records that it ran."""

    async def step() -> Any:
        calls.append(name)
        return name if answer is None else answer

    return step


class Plan(msgspec.Struct):
    goals: list[str]


async def test_a_result_comes_back_as_its_type_in_every_attempt(sql: Connection, start_worker: StartWorker) -> None:
    got: list[Any] = []

    @agent("typed")
    async def typed(context: Context, text: str) -> None:
        async def plan() -> Plan:
            return Plan(["a"])

        got.append(await context.step("plan", plan))
        got.append(await context.step("nothing", counted([], "", answer=[])))
        got.append(await context.step("tuple", lambda: (1, "two")))
        if context.attempt == 1:
            raise RuntimeError("again")

    await start_worker(typed)
    assert (await run(sql, "x", agent="typed"))["state"] == "completed"
    assert got == [Plan(["a"]), [], [1, "two"]] * 2


async def test_numbers_are_the_same_in_every_attempt(sql: Connection, start_worker: StartWorker) -> None:
    """Also where jsonb writes them otherwise: each attempt sends the same with them."""
    numbers: list[Any] = [1e23, -0.0, 1e16, 1.2345678901234568e17, -1e308, 5e-324, 1e-7, 1.0, 2**70, True, "1e23,-0.0"]
    got: list[str] = []

    @agent("counts")
    async def counts(context: Context, text: str) -> None:
        found = await context.step("numbers", lambda: {"deep": numbers})
        got.append(repr(found))
        await context.send("x", agent="echo", metadata=found, name="numbers")
        await context.step("sends", lambda: None)
        if context.attempt == 1:
            raise RuntimeError("again")

    await start_worker(counts, echo)
    row = await run(sql, "x", agent="counts")
    assert (row["state"], row["attempt"]) == ("completed", 2), row["error"]
    assert got[0] == got[1]


async def test_none_is_a_result_too(sql: Connection, start_worker: StartWorker) -> None:
    calls: Calls = []

    @agent("nothing")
    async def nothing(context: Context, text: str) -> None:
        async def step() -> None:
            calls.append("x")

        assert await context.step("nothing", step) is None
        if context.attempt == 1:
            raise RuntimeError("again")

    await start_worker(nothing)
    assert (await run(sql, "x", agent="nothing"))["state"] == "completed"
    assert calls == ["x"]


async def test_a_result_that_is_too_large_is_refused(sql: Connection, start_worker: StartWorker) -> None:
    @agent("large", max_attempts=1)
    async def large(context: Context, text: str) -> None:
        await context.step("large", counted([], "", answer="x" * 2000))

    await start_worker(large, max_event_bytes=1000)
    row = await run(sql, "x", agent="large")
    assert "a step has at most 1000 bytes (MAX_EVENT_BYTES)" in row["error"]


async def test_a_result_that_does_not_fit_its_annotation_is_not_stored(
    sql: Connection, start_worker: StartWorker
) -> None:
    """Else no later attempt could read it."""
    answers: list[Any] = ["many", 5]

    async def count() -> int:
        return answers.pop(0)  # type: ignore[no-any-return]

    def count_in_thread() -> int:
        return answers.pop(0)  # type: ignore[no-any-return]

    @agent("counts")
    async def counts(context: Context, text: str) -> Any:
        return await context.step("count", count if text == "async" else count_in_thread)

    @agent("counts_sync")
    def counts_sync(context: Any, text: str) -> Any:
        return context.step("count", count_in_thread)

    await start_worker(counts, counts_sync)
    for text, name in (("async", "counts"), ("sync", "counts"), ("sync", "counts_sync")):
        answers[:] = ["many", 5]
        row = await run(sql, text, agent=name)
        assert (row["result"], row["attempt"]) == (5, 2)
        entries = await log(sql, row["message_id"])
        assert [entry.data["result"] for entry in entries if entry.type == "step"] == [5]
        [error] = [entry.data["error"] for entry in entries if entry.type == "retry"]
        assert "the step 'count' returned what its annotation does not allow" in error


class Frame:
    """A class that has no JSON form."""


async def test_a_result_that_cannot_be_stored_is_paid_for_once(sql: Connection, start_worker: StartWorker) -> None:
    calls: Calls = []

    def declared() -> list[Frame]:
        calls.append("declared")
        return []

    def undeclared() -> Any:
        calls.append("undeclared")
        return [Frame()]

    def large() -> str:
        calls.append("large")
        return "x" * 2000

    steps = {"declared": declared, "undeclared": undeclared, "large": large}

    @agent("pays", max_attempts=3)
    async def pays(context: Context, text: str) -> Any:
        return await context.step(text, steps[text])

    @agent("pays_sync", max_attempts=3)
    def pays_sync(context: Any, text: str) -> Any:
        return context.step(text, steps[text])

    await start_worker(pays, pays_sync, max_event_bytes=1000)
    for name in ("pays", "pays_sync"):
        calls.clear()
        errors = []
        for text in steps:
            row = await run(sql, text, agent=name)
            assert (row["state"], row["attempt"]) == ("failed", 1)
            errors.append(row["error"])
        assert calls == ["undeclared", "large"]  # the other one is known to be in vain before it runs
        assert (
            errors[0]
            == "The step 'declared' cannot be stored: its function's annotation says that Frame has no JSON form."
        )
        assert errors[1].startswith("The result of the step 'undeclared' is not JSON: ")
        assert "a step has at most 1000 bytes (MAX_EVENT_BYTES)" in errors[2]


async def test_annotations_that_promise_nothing_are_accepted(sql: Connection, start_worker: StartWorker) -> None:
    def unresolvable() -> "Nowhere":  # type: ignore[name-defined] # noqa: F821
        return [1]

    def anything() -> object:
        return [2]

    def awaitable() -> Awaitable[list[int]]:
        async def later() -> list[int]:
            return [3]

        return later()

    @agent("any")
    async def any_(context: Context, text: str) -> list[Any]:
        return [await context.step(f.__name__, f) for f in (unresolvable, anything, awaitable)]

    await start_worker(any_)
    assert (await run(sql, "x", agent="any"))["result"] == [[1], [2], [3]]
