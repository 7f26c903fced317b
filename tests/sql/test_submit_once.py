"""Submits repeated: by their ids, and under an Idempotency-Key."""

import asyncio
import json
from typing import Any

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from tests.support.sql_calls import persist
from tests.support.sql_client import SqlClient
from tests.support.sql_rows import fetch_row

# Repetition


async def test_a_repeated_submit_writes_nothing_and_answers_with_the_present_state(sql_client: SqlClient) -> None:
    ids = [str(uuid7()) for _ in range(3)]
    threads = ("t", "t", None)
    messages = [{"message_id": id, "thread_id": thread} for id, thread in zip(ids, threads, strict=True)]
    rows = await sql_client.submit_many(*messages)
    assert [str(row["message_id"]) for row in rows] == ids
    for claim in await sql_client.claim(1):
        await sql_client.finish(claim)
    before = await sql_client.all_rows()
    again = await sql_client.submit_many(*messages)
    assert await sql_client.all_rows() == before
    assert [row["state"] for row in again] == ["completed", "queued", "queued"]
    assert [row["queue_position"] for row in again] == [None, 1, 0]
    for name in ("message_id", "queue", "created_at", "thread_id", "thread"):
        assert [row[name] for row in again] == [row[name] for row in rows]


async def test_a_batch_half_of_which_is_there(sql_client: SqlClient) -> None:
    known = str(await sql_client.submit(thread_id="t"))
    rows = await sql_client.submit_many({"thread_id": "t"}, {"message_id": known, "thread_id": "t"}, {"thread_id": "t"})
    assert [(await sql_client.message(row["message_id"]))["ord"] for row in rows] == [2, 1, 3]


async def test_ids_are_made_where_there_are_none(sql_client: SqlClient) -> None:
    given = str(uuid7())
    rows = await sql_client.submit_many({"message_id": given}, {}, {"message_id": None})
    ids = [row["message_id"] for row in rows]
    assert str(ids[0]) == given
    assert [id.version for id in ids[1:]] == [7, 7]
    assert len(set(ids)) == 3


async def test_the_same_submit_at_once_from_two_is_written_once(sql_client: SqlClient) -> None:
    one, two = await sql_client.connect(), await sql_client.connect()
    message = {"message_id": str(uuid7()), "thread_id": "t"}
    async with one.sql.transaction():
        await one.submit_many(message)
        second = asyncio.create_task(two.submit_many(message))
        await sql_client.until_blocked(two)
    with pytest.raises(asyncpg.UniqueViolationError):  # the pool tries again on this
        await second
    assert (await two.submit_many(message))[0]["state"] == "queued"
    assert (await sql_client.thread("t"))["last_ord"] == 1


async def test_a_repeat_is_known_however_full_the_queue_is(sql_client: SqlClient) -> None:
    message = {"message_id": str(uuid7())}
    await sql_client.submit_many(message, max_queue_size=1)
    assert [row["state"] for row in await sql_client.submit_many(message, max_queue_size=1)] == ["queued"]


async def test_of_a_batch_half_of_which_is_there_the_other_half_must_fit(sql_client: SqlClient) -> None:
    known, new = [{"message_id": str(uuid7())} for _ in range(2)]
    await sql_client.submit_many(known)
    before = await sql_client.all_rows()
    with pytest.raises(asyncpg.PostgresError, match="The queue 'default' is full"):
        await sql_client.submit_many(known, new, max_queue_size=1)
    assert await sql_client.all_rows() == before
    rows = await sql_client.submit_many(known, new, max_queue_size=2)
    assert [str(row["message_id"]) for row in rows] == [known["message_id"], new["message_id"]]
    assert len(await sql_client.claim(10)) == 2


# Under an Idempotency-Key


async def once(sql_client: SqlClient, *messages: Any, key: str = "k", digest: bytes = b"1") -> tuple[Any, bool]:
    row = await fetch_row(
        sql_client.sql,
        "select * from treadle.submit_once($1, $2, $3)",
        key,
        digest,
        json.dumps(messages or [{"message": "hello"}]),
    )
    return row["answer"], row["repeated"]


async def test_submit_once_answers_a_repeat_with_the_first_answer(sql_client: SqlClient) -> None:
    answer, repeated = await once(sql_client)
    assert not repeated
    assert [(row["state"], row["queue_position"]) for row in answer] == [("queued", 0)]
    await sql_client.run()
    before = await sql_client.all_rows()
    assert await once(sql_client) == (answer, True)
    assert await sql_client.all_rows() == before
    other, repeated = await once(sql_client, key="l")
    assert not repeated
    assert other[0]["message_id"] != answer[0]["message_id"]


async def test_submit_once_refuses_another_body_under_the_key(sql_client: SqlClient) -> None:
    await once(sql_client)
    before = await sql_client.all_rows()
    with pytest.raises(asyncpg.PostgresError, match="This Idempotency-Key was used with another body") as raised:
        await once(sql_client, digest=b"2")
    assert raised.value.sqlstate == "TR422"
    assert await sql_client.all_rows() == before


async def test_a_refused_submit_keeps_no_key(sql_client: SqlClient) -> None:
    with pytest.raises(asyncpg.PostgresError):
        await once(sql_client, {"message": ""})
    assert not (await once(sql_client, digest=b"2"))[1]


async def test_a_key_is_forgotten_after_a_day(sql_client: SqlClient) -> None:
    first, _ = await once(sql_client)
    await sql_client.shift_clock(23 * 3600)
    assert (await once(sql_client))[1]
    await sql_client.shift_clock(25 * 3600)
    second, repeated = await once(sql_client, digest=b"2")
    assert not repeated
    assert second[0]["message_id"] != first[0]["message_id"]
    assert (await once(sql_client, digest=b"2")) == (second, True)


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_a_concurrent_repeat_waits_for_the_first(sql_client: SqlClient, ending: str) -> None:
    one, two = await sql_client.connect(), await sql_client.connect()
    transaction = one.sql.transaction()
    await transaction.start()
    answer, _ = await once(one)
    second = asyncio.create_task(persist(lambda: once(two)))
    await sql_client.until_blocked(two)
    await getattr(transaction, ending)()
    if ending == "commit":
        assert await second == (answer, True)
    else:
        assert not (await second)[1]
    assert await sql_client.sql.fetchval("select count(*) from treadle.messages") == 1


async def test_a_concurrent_repeat_does_not_wait_for_ever(sql_client: SqlClient) -> None:
    one, two = await sql_client.connect(), await sql_client.connect()
    async with one.sql.transaction():
        await once(one)
        with pytest.raises(asyncpg.LockNotAvailableError):
            await once(two)


async def test_a_key_with_nothing_under_it_has_an_answer(sql_client: SqlClient) -> None:
    call = "select answer, repeated from treadle.submit_once('k', '1', '[]')"
    assert [tuple(await fetch_row(sql_client.sql, call)) for _ in range(2)] == [([], False), ([], True)]
