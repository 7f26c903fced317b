"""A later attempt repeats what the earlier ones sent and asked: in any order, and nothing else in its place."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from service.agents.builtin.echo import echo
from service.db.pool import Connection
from tests.support.fixture_types import StartWorker
from tests.support.messages import overview, run, settled, submit
from tests.support.waiting import until
from treadle import Context, agent


def in_turn(context: Context, words: list[str]) -> list[str]:
    """The words, in another order in each attempt."""
    return words if context.attempt % 2 else words[::-1]


async def test_unnamed_sends_get_their_own_results_in_any_order(sql: Connection, start_worker: StartWorker) -> None:
    @agent("fan")
    async def fan(context: Context, text: str) -> dict[str, Any]:
        sent = {word: await context.send(word, agent="echo") for word in in_turn(context, text.split())}
        return dict(zip(sent, await context.gather(*sent.values()), strict=True))

    await start_worker(fan, echo)
    row = await run(sql, "a b b2 c d", agent="fan")
    assert row["result"] == {word: word for word in ("a", "b", "b2", "c", "d")}
    assert await sql.fetchval("select count(*) from treadle.messages") == 6


async def test_equal_sends_are_sent_once_each(sql: Connection, start_worker: StartWorker) -> None:
    @agent("twice")
    async def twice(context: Context, text: str) -> list[Any]:
        return await context.gather(*[await context.send("same", agent="echo") for _ in range(3)])

    await start_worker(twice, echo)
    assert (await run(sql, "x", agent="twice"))["result"] == ["same"] * 3
    assert await sql.fetchval("select count(*) from treadle.messages") == 4


async def send_text(context: Context) -> Any:
    return await context.send(f"plan {context.attempt}", agent="echo")


async def send_metadata(context: Context) -> Any:
    return await context.send("x", agent="echo", metadata={"attempt": context.attempt}, name="named")


async def send_elsewhere(context: Context) -> Any:
    return await context.send("x", agent="echo", thread_id=f"t{context.attempt}")


async def send_in_another_place(context: Context) -> Any:
    words = ["a", "b"] if context.attempt == 1 else ["new", "a", "b"]
    return [await context.send(word, agent="echo") for word in words][-1]


@pytest.mark.parametrize("send", [send_text, send_metadata, send_elsewhere, send_in_another_place])
async def test_a_send_that_differs_from_an_earlier_one_is_refused(
    send: Callable[[Context], Awaitable[Any]], sql: Connection, start_worker: StartWorker
) -> None:
    @agent("drifts", max_attempts=3)
    async def drifts(context: Context, text: str) -> list[Any]:
        return await context.gather(await send(context))

    await start_worker(drifts, echo)
    row = await run(sql, "x", agent="drifts")
    assert (row["state"], row["attempt"]) == ("failed", 2)
    assert "sends another message as " in row["error"]
    sent = await sql.fetchval("select count(*) from treadle.messages where parent is not null")
    assert sent == (2 if send is send_in_another_place else 1)


async def test_a_send_may_change_its_priority_and_delay(sql: Connection, start_worker: StartWorker) -> None:
    @agent("hurries")
    async def hurries(context: Context, text: str) -> list[Any]:
        priority = "low" if context.attempt == 1 else "high"
        sent = await context.send("x", agent="echo", priority=priority, delay=0.01 * context.attempt)
        return await context.gather(sent)

    await start_worker(hurries, echo)
    assert (await run(sql, "x", agent="hurries"))["result"] == ["x"]


async def answer(sql: Connection, message_id: Any, reply: Callable[[Any], str]) -> dict[str, Any]:
    """Answer each question of the message until it is over."""
    while True:
        row: dict[str, Any] = await until(
            lambda: overview(sql, message_id),
            lambda row: row["hold"] == "input" or row["state"] in {"completed", "failed"},
        )
        if row["hold"] != "input":
            return row
        asked = await sql.fetchval(
            "select data from treadle.events where message_id = $1 and type = 'parked' order by seq desc limit 1",
            message_id,
        )
        given = f'"{reply(asked["question"])}"'
        await sql.fetchval("select treadle.input($1, $2::jsonb, $3)", message_id, given, asked["name"])


async def test_questions_that_are_answered_in_turn_keep_their_answers(
    sql: Connection, start_worker: StartWorker
) -> None:
    @agent("asks")
    async def asks(context: Context, text: str) -> dict[str, Any]:
        answers = await asyncio.gather(*(context.input({"what": word, "n": 1.0}) for word in text.split()))
        return dict(zip(text.split(), answers, strict=True))

    await start_worker(asks)
    row = await answer(sql, await submit(sql, "a b c", agent="asks"), lambda question: str(question["what"]).upper())
    assert row["result"] == {"a": "A", "b": "B", "c": "C"}


@pytest.mark.parametrize("name", [None, "approve"])
async def test_an_answer_is_not_given_to_another_question(
    name: str | None, sql: Connection, start_worker: StartWorker
) -> None:
    @agent("asks", max_attempts=3)
    async def asks(context: Context, text: str) -> Any:
        return await context.input(f"Delete {context.attempt} files?", name=name)

    await start_worker(asks)
    row = await answer(sql, await submit(sql, "x", agent="asks"), lambda _: "yes")
    assert (row["state"], row["attempt"]) == ("failed", 2)
    assert "asks another question as " in row["error"]


async def test_sends_within_a_step_are_numbered_within_it(sql: Connection, start_worker: StartWorker) -> None:
    @agent("steps")
    async def steps(context: Context, text: str) -> list[Any]:
        async def send_one() -> str:
            return await context.send("inside", agent="echo")

        inside = await context.step("step", send_one)
        return await context.gather(inside, await context.send("outside", agent="echo"))

    await start_worker(steps, echo)
    row = await settled(sql, await submit(sql, "x", agent="steps"))
    assert row["result"] == ["inside", "outside"]
