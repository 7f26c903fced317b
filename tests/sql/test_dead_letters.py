"""The newest dead letters of all queues."""

import json
import secrets

from service.access.principal import COMMAND_LINE
from service.db.pool import Database
from service.limits import JSON_PAGE_BYTES
from service.queues.store import QueueStore
from tests.support.sql_client import SqlClient

SEND = (
    "insert into pgmq.q_{}_dlq (vt, enqueued_at, message)"
    " values (now(), timestamptz '2026-01-01' + $1 * interval '1 second', $2::jsonb)"
)


async def fill(sql_client: SqlClient, queues: int, letters: int, traceback: str = "") -> None:
    """In the queues q0, q1, ...: the letters of all come in turns."""
    for queue in range(queues):
        await sql_client.sql.execute("select treadle.create_queue($1)", f"q{queue}")
    for number in range(letters):
        for queue in range(queues):
            at = number * queues + queue
            body = json.dumps({"reason": str(at), "traceback": traceback})
            await sql_client.sql.execute(SEND.format(f"q{queue}"), float(at), body)


async def clear(sql_client: SqlClient, queues: int) -> None:
    """The letters belong to no messages."""
    for queue in range(queues):
        await sql_client.sql.execute(f"delete from pgmq.q_q{queue}_dlq")


async def test_they_are_the_newest_of_all_queues(sql_client: SqlClient, database: Database) -> None:
    await fill(sql_client, queues=5, letters=4)
    store = QueueStore(database)
    found = await store.dead_letters(COMMAND_LINE, None, 7)
    assert [letter.reason for letter in found] == [str(at) for at in range(19, 12, -1)]
    of_one = await store.dead_letters(COMMAND_LINE, "q2", 3)
    assert [(letter.queue, letter.reason) for letter in of_one] == [("q2", "17"), ("q2", "12"), ("q2", "7")]
    assert len(await store.dead_letters(COMMAND_LINE, None, 100)) == 20
    await sql_client.sql.execute("delete from pgmq.q_q0_dlq; delete from pgmq.q_q3_dlq")
    found = await store.dead_letters(COMMAND_LINE, None, 3)
    assert [letter.reason for letter in found] == ["19", "17", "16"]
    await clear(sql_client, 5)


async def test_an_answer_is_bounded_however_many_queues_there_are(sql_client: SqlClient, database: Database) -> None:
    await fill(sql_client, queues=8, letters=2, traceback=secrets.token_hex(150_000))
    found = await QueueStore(database).dead_letters(COMMAND_LINE, None, 100)
    assert [letter.reason for letter in found] == ["15", "14", "13"]
    assert sum(len(letter.traceback or "") for letter in found) <= JSON_PAGE_BYTES
    await clear(sql_client, 8)


async def test_few_letters_are_read_of_many_queues(sql_client: SqlClient) -> None:
    await fill(sql_client, queues=12, letters=3)
    async with sql_client.sql.transaction():
        await sql_client.sql.execute("set local track_functions = 'all'")
        await sql_client.sql.fetch("select * from treadle.newest_dead_letters(2)")
        calls = await sql_client.sql.fetchval(
            "select calls from pg_stat_xact_user_functions where funcname = '_dead_letters'"
        )
    assert calls == 13 + 2 + 2  # the newest letter of each queue, the newest two of two queues, and each of the answer
    await clear(sql_client, 12)
