"""A submit that is not strict refuses each message by itself, and writes the others in the same transaction."""

import asyncio
import time
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from service import errors
from service.access.principal import COMMAND_LINE
from service.db.notifier import Notifier
from service.db.pool import Connection, Database
from service.errors import QueueFull, Refused, Unprocessable
from service.messages.model import NewMessage
from service.messages.store import MessageStore
from tests.support.sql_client import SqlClient

Refusal = tuple[str, str | None, str | None]  # state, refusal_code, refusal
WRITTEN: Refusal = ("queued", None, None)


async def outcomes(sql_client: SqlClient, *messages: dict[str, Any], **arguments: Any) -> list[Refusal]:
    rows = await sql_client.submit_many(*messages, strict=False, **arguments)
    for row in rows:
        assert (row["message_id"] is None) == (row["state"] in ("refused", "busy"))
    return [(row["state"], row["refusal_code"], row["refusal"]) for row in rows]


async def bodies(sql_client: SqlClient) -> set[str]:
    return {row["body"] for row in await sql_client.sql.fetch("select body from treadle.messages")}


async def delete_with_a_rest_in_the_trash(sql_client: SqlClient, message_id: UUID) -> None:
    await sql_client.sql.execute("insert into treadle.trash values ($1, 'default', 7)", message_id)


async def test_each_kind_of_refusal_refuses_its_message_only(sql_client: SqlClient) -> None:
    odd, deleted = f"{int(time.time() * 1000):012x}", uuid7()
    odd = f"{odd[:8]}-{odd[8:]}-4000-8000-000000000000"
    await delete_with_a_rest_in_the_trash(sql_client, deleted)
    refused = await outcomes(
        sql_client,
        {"message": "first", "thread_id": "t"},
        {"message": "a", "priority": "urgent"},
        {"message": "b", "agent": "missing"},
        {"message": {"x": 1}, "thread_id": "t"},
        {"message": "c", "message_id": odd},
        {"message": "d", "message_id": str(deleted), "thread_id": "u"},
        {"message": "last", "thread_id": "t"},
    )
    assert refused == [
        WRITTEN,
        ("refused", "TR422", "priority must be high, normal or low, not 'urgent'."),
        ("refused", "TR422", "There is no agent 'missing'."),
        ("refused", "TR422", "The agent 'echo' takes text, not an object."),
        ("refused", "TR422", f"A message_id must be a UUIDv7 of a time at most a day ahead; {odd} is not."),
        ("refused", "TR409", f"The message_id {deleted} was used before: choose another one."),
        WRITTEN,
    ]
    assert await bodies(sql_client) == {"first", "last"}
    assert (await sql_client.thread("t"))["last_ord"] == 2
    assert await sql_client.sql.fetchval("select count(*) from treadle.threads") == 1
    assert await sql_client.sql.fetchval("select count(distinct xmin::text) from treadle.messages") == 1
    await sql_client.sql.execute("delete from treadle.trash")  # it had no events


async def test_an_id_that_stands_twice_is_refused_the_second_time(sql_client: SqlClient) -> None:
    known, twice, faulty = str(await sql_client.submit("known")), str(uuid7()), str(uuid7())
    messages = [
        {"message": "first", "message_id": twice, "thread_id": "t"},
        {"message": "", "message_id": faulty},
        {"message": "second", "message_id": twice},
        {"message": "again", "message_id": known},
        {"message": "third", "message_id": twice, "thread_id": "t"},
        {"message": "again", "message_id": known},
        {"message": "mended", "message_id": faulty},
    ]
    sentence = f"The message_id {twice} belongs to an earlier message of this call: choose another one."
    repeated = ("refused", "TR409", sentence)
    with pytest.raises(asyncpg.PostgresError) as raised:
        await sql_client.submit_many(*messages[:1], *messages[2:])
    assert (raised.value.sqlstate, str(raised.value)) == ("TR409", f"messages[1]: {sentence}")
    assert await bodies(sql_client) == {"known"}
    empty = ("refused", "TR422", "message must not be empty.")
    assert await outcomes(sql_client, *messages) == [WRITTEN, empty, repeated, WRITTEN, repeated, WRITTEN, WRITTEN]
    assert await bodies(sql_client) == {"known", "first", "mended"}
    assert (await sql_client.thread("t"))["last_ord"] == 1


async def test_what_cannot_be_decoded_is_refused_by_itself(sql_client: SqlClient) -> None:
    """An element that is no object, and fields of another type."""
    faulty = {
        '"x"': "the element must be an object with the field message.",
        "null": "the element must be an object with the field message.",
        "[]": "the element must be an object with the field message.",
        '{"message": "a", "max_attempts": "many"}': 'Invalid input syntax for type integer: "many".',
        '{"message": "a", "message_id": "7"}': 'Invalid input syntax for type uuid: "7".',
        '{"message": "a", "delay_seconds": 1e999}': "is out of range",
    }
    messages = ['{"message": "first"}', *faulty, '{"message": "last"}']
    rows = await sql_client.sql.fetch(
        "select * from treadle.submit_many($1, strict => false)", f"[{', '.join(messages)}]"
    )
    assert [row["state"] for row in rows] == ["queued", *["refused"] * len(faulty), "queued"]
    for row, sentence in zip(rows[1:], faulty.values(), strict=False):
        assert (row["refusal_code"], sentence in row["refusal"]) == ("TR422", True), row["refusal"]
    assert await bodies(sql_client) == {"first", "last"}
    with pytest.raises(asyncpg.PostgresError, match=r"messages\[1\]: the element must be an object"):
        await sql_client.sql.execute("select treadle.submit_many($1)", '[{"message": "a"}, "x"]')


async def test_a_refused_message_reads_as_a_strict_call_raises_it(sql_client: SqlClient) -> None:
    for message in ({"message": ""}, {"thread_id": "a/b"}, {"agent": "missing"}, {"max_attempts": 0}):
        with pytest.raises(asyncpg.PostgresError) as raised:
            await sql_client.submit_many(message)
        assert await outcomes(sql_client, message) == [("refused", raised.value.sqlstate, str(raised.value))]


async def test_a_queue_is_filled_in_the_order_of_the_messages(sql_client: SqlClient) -> None:
    await sql_client.register({"agent": "other", "queue": "side"})
    await sql_client.submit("before")
    messages = [{"message": name} for name in "abcd"]
    messages.insert(1, {"message": ""})
    messages.insert(3, {"message": "e", "agent": "other"})
    full = ("refused", "TR429", "The queue 'default' is full: it holds at most 3 messages.")
    refused = await outcomes(sql_client, *messages, max_queue_size=3)
    assert refused[0] == refused[2] == refused[3] == WRITTEN
    assert refused[1][:2] == ("refused", "TR422")
    assert refused[4:] == [full, full]
    assert await bodies(sql_client) == {"before", "a", "b", "e"}


async def test_a_known_message_takes_no_room(sql_client: SqlClient) -> None:
    known = {"message": "known", "message_id": str(uuid7())}
    await sql_client.submit_many(known)
    refused = await outcomes(sql_client, known, {"message": "new"}, max_queue_size=1)
    assert [state for state, _, _ in refused] == ["queued", "refused"]


async def test_a_busy_thread_and_a_refusal_leave_the_others_alone(sql_client: SqlClient) -> None:
    other = await sql_client.connect()
    await sql_client.submit(thread_id="t")
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads where thread_id = 't' for no key update")
        refused = await outcomes(
            sql_client, {"thread_id": "t"}, {"message": ""}, {"thread_id": "u"}, {"thread_id": "t", "message": ""},
            patient=False,
        )  # fmt: skip
    assert [state for state, _, _ in refused] == ["busy", "refused", "queued", "refused"]


async def test_a_call_whose_messages_are_all_refused_writes_nothing(sql_client: SqlClient) -> None:
    before = await sql_client.all_rows()
    refused = await outcomes(sql_client, {"message": "", "thread_id": "t"}, {"agent": "missing"})
    assert [code for _, code, _ in refused] == ["TR422", "TR422"]
    assert await sql_client.all_rows() == before


async def test_a_strict_call_writes_all_or_nothing(sql_client: SqlClient) -> None:
    before = await sql_client.all_rows()
    for strict in (True, None):
        with pytest.raises(asyncpg.PostgresError, match="message must not be empty"):
            await sql_client.submit_many({"thread_id": "t"}, {"message": ""}, {"agent": "missing"}, strict=strict)
    assert await sql_client.all_rows() == before


# The API's batches


async def test_requests_of_one_batch_are_refused_one_by_one_in_one_transaction(
    sql_client: SqlClient, database: Database, sql: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fetch = Database.fetch

    async def counted(self: Database, query: str, *args: Any, **more: Any) -> Any:
        calls.append(query)
        return await fetch(self, query, *args, **more)

    monkeypatch.setattr(Database, "fetch", counted)
    store = MessageStore(database, Notifier(database), max_queue_size=300)
    news = [NewMessage(f"{n}", agent=("missing" if n % 5 == 0 else None)) for n in range(500)]
    answers = await asyncio.gather(*(store.submit(COMMAND_LINE, new) for new in news), return_exceptions=True)
    assert len([call for call in calls if "submit_many" in call]) == 1
    assert {str(answer) for answer in answers[::5]} == {"There is no agent 'missing'."}
    assert {type(answer) for answer in answers[::5]} == {Unprocessable}
    rest = [answer for n, answer in enumerate(answers) if n % 5]
    assert {type(answer) for answer in rest[300:]} == {QueueFull}
    assert {str(answer) for answer in rest[300:]} == {"The queue 'default' is full: it holds at most 300 messages."}
    assert not [answer for answer in rest[:300] if isinstance(answer, BaseException)]
    assert await sql.fetchval("select count(*) from treadle.messages") == 300
    assert await sql.fetchval("select count(distinct xmin::text) from treadle.messages") == 1


async def test_the_batch_endpoint_stays_all_or_nothing(
    sql_client: SqlClient, database: Database, sql: Connection
) -> None:
    store = MessageStore(database, Notifier(database), max_queue_size=300)
    with pytest.raises(Unprocessable, match="There is no agent 'missing'"):
        await store.submit_batch(COMMAND_LINE, [NewMessage("x"), NewMessage("y", agent="missing")])
    with pytest.raises(QueueFull):
        await store.submit_batch(COMMAND_LINE, [NewMessage("x")] * 301)
    assert await sql.fetchval("select count(*) from treadle.messages") == 0


async def test_a_refusal_with_an_unknown_code_is_raised_as_refused(
    sql_client: SqlClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer release of the functions may use a code that an older process does not know."""
    monkeypatch.delitem(errors.BY_SQLSTATE, "TR422")
    store = MessageStore(database, Notifier(database), max_queue_size=10)
    with pytest.raises(Refused, match="There is no agent 'unknown'") as caught:
        await store.submit(COMMAND_LINE, NewMessage(message="x", agent="unknown"))
    assert type(caught.value) is Refused
