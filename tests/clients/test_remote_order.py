"""What agents of a remote worker send without names, side by side, in another order than an earlier attempt."""

import asyncio
from typing import Any
from uuid import UUID

from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.inputs import asked_input, give_input
from tests.support.invariants import assert_consistent
from tests.support.serving import serving, url_of
from tests.support.waiting import until
from treadle import Context, RetryAfter, Worker, agent

CONTENTS = ["a", "b", "c", "b", "d"]


@agent("turns")
async def turns(context: Context, how: str) -> Any:
    """Sends and publishes each content; its attempts do so in other orders, and the first two fail."""

    async def put(content: str) -> tuple[str, str, str]:
        message = await context.send(content, agent="echo")
        return content, message, await context.publish("told", content)

    shift = context.attempt - 1
    contents = CONTENTS[shift:] + CONTENTS[:shift]
    if how == "changed" and context.attempt > 1:
        contents[0] = "another"
    if shift % 2:
        contents.reverse()
    put_ones = await asyncio.gather(*map(put, contents))
    await context.step(f"commits {context.attempt}", lambda: None)
    if context.attempt < 3:
        raise RetryAfter(0, "once more")
    return sorted(put_ones)


@agent("asks")
async def asks(context: Context, text: str) -> Any:
    given = [await context.input({"n": 1e23}), await context.input("Sure?", name="sure\ud800\x00")]
    return [*given, await context.step("step\ud800", lambda: context.input("Again?"))]


async def test_a_question_and_its_name_are_found_as_they_are_stored(api_with_worker: Client, sql: Connection) -> None:
    async with serving(Worker(asks, url=url_of(api_with_worker))):
        message_id = UUID(await api_with_worker.submit("x", agent="asks"))
        for count, name in ((1, "input 1"), (2, "sure\ufffd\ufffd"), (3, "step\ufffd: input 1")):
            assert (await asked_input(sql, message_id, count))["name"] == name
            await give_input(sql, message_id, count)
        status = await api_with_worker.settled(str(message_id))
        assert (status["state"], status["result"]) == ("completed", [1, 2, 3]), status["error"]


async def test_they_are_found_by_their_content(api_with_worker: Client, sql: Connection) -> None:
    api = api_with_worker
    await api.put("/topics/told", json={})
    async with serving(Worker(turns, url=url_of(api))):
        message_id = await api.submit("same", agent="turns")
        status = await api.settled(message_id)
        assert (status["state"], status["attempt"]) == ("completed", 3)
        sent = "select message_id::text, user_message #>> '{}' as text from treadle.message_overview where parent = $1"
        texts = {row["message_id"]: row["text"] for row in await sql.fetch(sent, UUID(message_id))}
        page = await until(  # they get their offsets a moment after the end of the message
            lambda: api.get("/topics/told/records"), lambda answer: len(answer.json()["records"]) >= len(CONTENTS)
        )
        records = {one["record_id"]: one["value"] for one in page.json()["records"]}
        assert sorted(texts.values()) == sorted(records.values()) == sorted(CONTENTS)  # none is sent twice
        found = [(texts[message], records[record]) for _, message, record in status["result"]]
        assert found == [(content, content) for content in sorted(CONTENTS)]
        assert len({message for _, message, _ in status["result"]}) == len(CONTENTS)
        changed = await api.settled(await api.submit("changed", agent="turns"))
        assert (changed["state"], changed["attempt"]) == ("failed", 2)
        assert "than an earlier attempt did" in changed["error"]
    await assert_consistent(sql)
