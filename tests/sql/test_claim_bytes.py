"""A claim ends when the bytes that its worker has room for are used up; the rest stays in the lanes."""

import asyncio
import json
import secrets
from uuid import UUID

import pytest

from service.db.notifier import WORK
from tests.support.invariants import assert_consistent
from tests.support.sql_client import SqlClient

LARGE = 100_000
ROOM = 250_000  # for two large messages, and a part of a third


def text() -> str:
    """It cannot be compressed, so that its size is known exactly."""
    return secrets.token_hex(LARGE // 2)


async def submit(client: SqlClient, *sizes: str, **fields: str) -> list[UUID]:
    rows = await client.submit_many(*({"message": text() if size == "large" else size, **fields} for size in sizes))
    return [row["message_id"] for row in rows]


async def taken(client: SqlClient, room_bytes: int | None = ROOM, quantity: int = 100) -> list[UUID]:
    return [claim.message_id for claim in await client.claim(quantity, room_bytes=room_bytes)]


async def is_filled(client: SqlClient, room_bytes: int) -> bool:
    """Whether a claim says that its bytes are used up."""
    async with client.sql.transaction():
        await taken(client, room_bytes)
        return bool(await client.sql.fetchval("select treadle._claim_is_filled()"))


async def test_the_rest_stays_in_its_order_for_the_next_claims(sql_client: SqlClient) -> None:
    ids = await submit(sql_client, "x", "large", "large", "x", "large", "x", "large", "large")
    assert await taken(sql_client) == ids[:5]  # the third large one exceeds the room
    assert await taken(sql_client, quantity=2) == ids[5:7]
    assert await taken(sql_client) == ids[7:]
    assert await taken(sql_client) == []
    await assert_consistent(sql_client.sql)


async def test_a_message_beyond_the_room_is_taken_alone(sql_client: SqlClient) -> None:
    ids = await submit(sql_client, "large", "large", "x")
    assert await taken(sql_client, 1) == ids[:1]
    assert await taken(sql_client, 1) == ids[1:2]
    assert await taken(sql_client, 1) == ids[2:]


async def test_a_claim_without_such_a_room_takes_all(sql_client: SqlClient) -> None:
    ids = await submit(sql_client, *["large"] * 10)
    assert await taken(sql_client, None) == ids


async def test_lanes_and_queues_use_up_one_room(sql_client: SqlClient) -> None:
    await sql_client.register({"agent": "a", "queue": "qa"})
    low, normal, high = [(await submit(sql_client, "large", priority=each))[0] for each in ("low", "normal", "high")]
    (other,) = await submit(sql_client, "large", agent="a", priority="high")

    async def claim() -> list[UUID]:
        claims = await sql_client.claim(100, queues=["default", "qa"], room_bytes=150_000)
        return [claim.message_id for claim in claims]

    assert [await claim() for _ in "123"] == [[high, other], [normal, low], []]


async def test_metadata_and_the_memory_of_a_thread_count(sql_client: SqlClient) -> None:
    rows = await sql_client.submit_many(*({"metadata": {"x": text()}} for _ in range(4)))
    assert await taken(sql_client, 150_000) == [row["message_id"] for row in rows[:2]]
    assert len(await taken(sql_client)) == 2
    ids = []
    for name in "abcd":
        ids += await submit(sql_client, "x", thread_id=name)
    memory = json.dumps({"x": text()})
    await sql_client.sql.execute("update treadle.threads set memory = $1", memory)
    assert await taken(sql_client) == ids[:3]
    assert await taken(sql_client) == ids[3:]


async def test_asides_of_a_thread_with_a_large_memory(sql_client: SqlClient) -> None:
    """Each of them receives it."""
    rows = await sql_client.submit_many(*({"thread_id": "t", "aside": True} for _ in range(5)))
    await sql_client.sql.execute("update treadle.threads set memory = $1", json.dumps({"x": text()}))
    assert await taken(sql_client) == [row["message_id"] for row in rows[:3]]


async def test_others_are_told_of_the_rest(sql_client: SqlClient) -> None:
    """A claim of theirs may have found it locked."""
    await submit(sql_client, *["large"] * 5)
    told: asyncio.Queue[str] = asyncio.Queue()
    other = await sql_client.connect()
    await other.sql.add_listener(WORK, lambda *hint: told.put_nowait(str(hint[3])))
    await taken(sql_client)
    assert await told.get() == "default"


@pytest.mark.parametrize(("sizes", "expected"), [(["x"] * 100, False), (["large"] * 2, False), (["large"] * 3, True)])
async def test_a_claim_says_that_there_may_be_more(sql_client: SqlClient, sizes: list[str], expected: bool) -> None:
    await submit(sql_client, *sizes)
    assert await is_filled(sql_client, ROOM) is expected
    assert not await is_filled(sql_client, ROOM)  # the next claim has room


async def test_the_limit_of_running_messages_holds(sql_client: SqlClient) -> None:
    await sql_client.sql.execute("select treadle.create_tenant('acme')")
    await sql_client.sql.execute("select treadle.limit_tenant('default', '{\"running\": 4}')")
    ids = await submit(sql_client, *["large"] * 6)
    other = (await sql_client.submit_many({}, tenant="acme"))[0]["message_id"]
    assert await taken(sql_client) == ids[:3]
    assert await taken(sql_client) == [ids[3], other]  # the rest of its limit, and no further one


async def test_the_concurrency_of_a_queue_holds(sql_client: SqlClient) -> None:
    await sql_client.sql.execute("update treadle.queues set concurrency = 4 where queue = 'default'")
    ids = await submit(sql_client, *["large"] * 6)
    assert await taken(sql_client) == ids[:3]
    assert await taken(sql_client) == ids[3:4]
    assert await taken(sql_client) == []
