"""Messages that wait for a person: parked until the answer arrives, then attempted again."""

import asyncio
import functools
from typing import Any

import pytest

from service.db.pool import Connection
from service.json_input import same_json
from tests.support.fixture_types import StartWorker
from tests.support.inputs import asked_input, give_input
from tests.support.invariants import assert_consistent
from tests.support.messages import log, overview, settled, submit
from tests.support.waiting import until
from treadle import Context, Rejected, agent


@agent("double")
async def double(context: Context, text: str) -> str:
    """Returns the text twice."""
    if text == "bad":
        raise Rejected("Not that.")
    return text * 2


async def test_a_sync_agent_is_parked_too(sql: Connection, start_worker: StartWorker) -> None:
    @agent("parent")
    def parent(context: Any, text: str) -> list[Any]:
        context.memory["asked"] = True
        try:
            return [*context.gather(context.send("x", agent="double")), context.input({"sure": True})]
        except Exception:  # parking raises no Exception
            return ["caught"]

    await start_worker(parent, double)
    message_id = await submit(sql, "x", agent="parent", thread_id="t")
    await until(lambda: overview(sql, message_id), lambda row: row["hold"] == "input")
    assert await sql.fetchval("select treadle.input($1, '\"yes\"')", message_id) == "queued"
    row = await settled(sql, message_id)
    assert (row["result"], row["attempt"]) == (["xx", "yes"], 3)
    assert await sql.fetchval("select memory from treadle.threads") == {"asked": True}


QUESTIONS: dict[str, Any] = {
    "1e23": {"n": 1e23},  # PostgreSQL writes all digits, which are another number in Python
    "1e300": [1e300, -1e-300, 2**70],
    "half a pair": "x\ud800",
    "numbers as names": {"a": {1: True}},
}


@pytest.mark.parametrize("name", QUESTIONS)
async def test_a_later_attempt_knows_its_question(sql: Connection, start_worker: StartWorker, name: str) -> None:
    @agent("asks")
    async def asks(context: Context, text: str) -> Any:
        return await context.input(QUESTIONS[name])

    await start_worker(asks)
    message_id = await submit(sql, "x", agent="asks")
    await asked_input(sql, message_id)
    await give_input(sql, message_id, "yes")
    row = await settled(sql, message_id)
    assert (row["state"], row["result"]) == ("completed", "yes"), row["error"]


def test_json_that_is_nested_deeply_is_compared() -> None:
    def nested(inner: Any) -> Any:
        for _ in range(600):
            inner = {"a": inner}
        return inner

    assert same_json(nested(1), nested(1))
    assert not same_json(nested(1), nested(2))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1e23, 10**23, True),
        (10**23, 10**23 + 1, False),
        (1.0, 1, True),
        (True, 1, False),
        ({"a": [True]}, {"a": [1]}, False),
        (1e308, 9 * 10**308, False),
        ("1", 1, False),
        (None, {}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ([1, 2], [1], False),
    ],
)
def test_equal_json_is_the_same(one: Any, other: Any, same: bool) -> None:
    assert (same_json(one, other), same_json(other, one)) == (same, same)


async def test_an_answer_resumes_the_message(sql: Connection, start_worker: StartWorker) -> None:
    @agent("asks")
    async def asks(context: Context, text: str) -> list[Any]:
        await context.emit("Let me ask. ")
        name = await context.input("Your name?", name="name")
        age = await context.input({"how": "old"})
        return [name, age]

    await start_worker(asks)
    message_id = await submit(sql, "x", agent="asks", thread_id="t")
    await until(lambda: overview(sql, message_id), lambda row: row["hold"] == "input")
    await assert_consistent(sql)
    with pytest.raises(Exception, match="asks 'name' now, not 'age'"):
        await sql.fetchval("select treadle.input($1, '1', 'age')", message_id)
    await sql.fetchval("select treadle.input($1, '\"Ada\"', 'name')", message_id)
    await until(lambda: overview(sql, message_id), lambda row: row["hold"] == "input" and row["attempt"] == 2)
    with pytest.raises(Exception, match="asks 'input 1' now, not 'name'"):  # a repeat of the first answer
        await sql.fetchval("select treadle.input($1, '\"Ada\"', 'name')", message_id)
    await sql.fetchval("select treadle.input($1, 'null')", message_id)
    row = await settled(sql, message_id)
    assert row["result"] == ["Ada", None]
    with pytest.raises(Exception, match="does not wait for input: it is completed"):
        await sql.fetchval("select treadle.input($1, '1')", message_id)
    events = [(entry.type, entry.data) for entry in await log(sql, message_id) if entry.type in ("parked", "input")]
    assert events == [
        ("parked", {"attempt": 1, "hold": "input", "name": "name", "question": "Your name?"}),
        ("input", {"name": "name", "input": "Ada"}),
        ("parked", {"attempt": 2, "hold": "input", "name": "input 1", "question": {"how": "old"}}),
        ("input", {"name": "input 1", "input": None}),
    ]
    await assert_consistent(sql)


async def test_an_agent_that_ignores_its_cancellation_is_parked_nevertheless(
    sql: Connection, start_worker: StartWorker
) -> None:
    @agent("stubborn")
    async def stubborn(context: Context, text: str) -> str:
        try:
            return str(await context.input("?"))
        except asyncio.CancelledError:
            return "no"

    await start_worker(stubborn)
    message_id = await submit(sql, "x", agent="stubborn")
    await until(lambda: overview(sql, message_id), lambda row: row["hold"] == "input")
    await sql.fetchval("select treadle.input($1, '\"yes\"')", message_id)
    assert (await settled(sql, message_id))["result"] == "yes"


def asks_in_attempt(attempt: int, row: dict[str, Any]) -> bool:
    return (row["hold"], row["attempt"]) == ("input", attempt)


@pytest.mark.parametrize("sync", [False, True])
async def test_a_question_inside_a_step_does_not_renumber_later_questions(
    sync: bool, sql: Connection, start_worker: StartWorker
) -> None:
    """The second attempt does not run the step and does not ask its question; the next question keeps its name."""
    asked: list[Any] = []

    @agent("asks in a step")
    async def asks(context: Context, text: str) -> list[Any]:
        first = await context.step("first", lambda: context.input("within"))
        return [first, await context.input("after")]

    @agent("asks in a sync step")
    def asks_sync(context: Any, text: str) -> list[Any]:
        first = context.step("first", lambda: context.input("within"))
        return [first, context.input("after")]

    await start_worker(asks, asks_sync)
    message_id = await submit(sql, "x", agent="asks in a sync step" if sync else "asks in a step")
    for answer in (1, 2):
        row = await until(lambda: overview(sql, message_id), functools.partial(asks_in_attempt, answer))
        asked.append((await log(sql, message_id))[-1].data["name"])
        await sql.fetchval("select treadle.input($1, $2::jsonb)", message_id, str(answer))
        del row
    assert (await settled(sql, message_id))["result"] == [1, 2]
    assert asked == ["first: input 1", "input 1"]
