"""Lists of messages: what each filter finds, where a call stops, and that its cost does not grow; changes of messages
that wait."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from tests.support.low_water import FILL_MESSAGES, buffers
from tests.support.messages import id_of
from tests.support.sql_client import SqlClient
from tests.support.sql_rows import fetch_row


async def find(
    client: SqlClient,
    before: UUID | None = None,
    quantity: int = 100,
    rows: int = 10000,
    reach: Any = None,
    **wanted: str,
) -> tuple[Sequence[UUID], UUID | None]:
    row = await fetch_row(
        client.sql,
        "select message_ids, next_before from treadle.find_messages($1, $2, $3, reach => $4, rows => $5)",
        msgspec.json.encode(wanted).decode(),
        before,
        quantity,
        None if reach is None else msgspec.json.encode(reach).decode(),
        rows,
    )
    return row["message_ids"], row["next_before"]


async def test_each_filter_finds_its_messages_newest_first(sql_client: SqlClient) -> None:
    """State, agent, thread, text, error and time, alone and together, on one small database."""
    await sql_client.register({"agent": "other", "queue": "default"})
    first = await sql_client.submit("the Red bicycle", metadata={"customer": "seven"}, message_id=id_of(-4))
    second = await sql_client.submit("two", thread_id="t", message_id=id_of(-3))
    third = await sql_client.submit("three", thread_id="t", priority="high", message_id=id_of(-2))
    fourth = await sql_client.submit("four", agent="other", message_id=id_of(-1))
    assert await find(sql_client) == ([fourth, third, second, first], None)
    assert await find(sql_client, state="queued", agent="other") == ([fourth], None)
    assert await find(sql_client, thread_id="t") == ([third, second], None)
    assert await find(sql_client, thread_id="t", before=third) == ([second], None)
    assert await find(sql_client, thread_id="nope") == ([], None)
    assert await find(sql_client, q="red BICYCLE") == ([first], None)
    assert await find(sql_client, q="seven") == ([first], None)
    assert await find(sql_client, agent="echo", reach={"agents": ["other"]}) == ([], None)
    assert await find(sql_client, reach={"thread_id": "t"}) == ([third, second], None)
    claims = {claim.message_id: claim for claim in await sql_client.claim(10)}
    assert await find(sql_client, state="processing") == ([fourth, third, first], None)
    assert await find(sql_client, state="open", thread_id="t") == ([third, second], None)
    await sql_client.finish(claims[first], outcome="rejected", error="Rate limit reached")
    assert await find(sql_client, state="failed", error="rate LIMIT") == ([first], None)
    assert await find(sql_client, error="nope") == ([], None)
    middle = await sql_client.sql.fetchval("select treadle._time_of($1)", third)
    assert await find(sql_client, until=middle.isoformat()) == ([second, first], None)
    assert (await find(sql_client, since=middle.isoformat()))[0] == [fourth, third]
    for wrong in (
        '{"wrong": "x"}',
        '{"parent": "x"}',
        "[]",
        '{"q": 1}',
        '{"since": "soon"}',
        '{"until": "2026-13-01"}',
    ):
        with pytest.raises(asyncpg.PostgresError) as refused:
            await sql_client.sql.fetch("select treadle.find_messages($1)", wrong)
        assert refused.value.sqlstate == "TR422"


async def test_a_call_says_where_it_stopped(sql_client: SqlClient) -> None:
    ids = sorted((row["message_id"] for row in await sql_client.submit_many(*[{}] * 10)), reverse=True)
    assert await find(sql_client, quantity=4) == (ids[:4], ids[3])
    assert await find(sql_client, quantity=4, before=ids[7]) == (ids[8:], None)
    assert await find(sql_client, agent="none", rows=6) == ([], ids[5])  # it looked at six
    assert await find(sql_client, agent="none", rows=6, before=ids[5]) == ([], None)
    found: list[UUID] = []
    following, seen = None, 0
    while True:
        page, following = await find(sql_client, before=following, quantity=3, rows=2)
        found += page
        seen += 1
        if following is None:
            break
    assert (found, seen) == (ids, 6)
    await sql_client.sql.execute("update treadle.messages set body = to_jsonb(repeat('ab', 4000))")
    row = await fetch_row(sql_client.sql, """select * from treadle.find_messages('{"q": "zz"}', bytes => 1000)""")
    assert (row["message_ids"], row["next_before"]) == ([], ids[0])  # at least one


async def test_what_did_not_complete_is_found_among_any_number(sql_client: SqlClient) -> None:
    """However few rows a call looks at: failed and cancelled messages have rows of their own, and the counters tell
    which states and queues have none."""
    failed, cancelled, completed = [row["message_id"] for row in await sql_client.submit_many(*[{}] * 3)]
    claims = {claim.message_id: claim for claim in await sql_client.claim(3)}
    await sql_client.finish(claims[failed], outcome="rejected", error="wrong")
    await sql_client.finish(claims[cancelled], outcome="cancelled")
    await sql_client.finish(claims[completed])
    for state in ("queued", "open"):
        assert await find(sql_client, rows=1, state=state) == ([], None)
    assert await find(sql_client, rows=1, queue="none") == ([], None)
    newer = await sql_client.submit()
    assert await find(sql_client, rows=1, state="queued") == ([newer], newer)  # others may follow
    assert (await find(sql_client, rows=1, state="failed"))[0] == [failed]
    assert (await find(sql_client, rows=1, state="cancelled"))[0] == [cancelled]
    assert (await find(sql_client, rows=1, state="failed", queue="none")) == ([], None)
    await sql_client.sql.execute("select treadle.redrive($1)", failed)
    assert await find(sql_client, rows=1, state="failed") == ([], None)


async def test_few_open_messages_are_found_among_any_number(sql_client: SqlClient) -> None:
    """Wherever they wait or run: each kind of hold, a lane, a lease."""
    asks, backs_off, runs, done = [row["message_id"] for row in await sql_client.submit_many(*[{}] * 4)]
    claims = {claim.message_id: claim for claim in await sql_client.claim(4)}
    await sql_client.sql.fetchval(
        "select treadle.conclude($1, $2, 'input', '{}', null, null, null, null, 3, '{}', '{}', 3, null, null, null)",
        asks,
        claims[asks].lease,
    )
    await sql_client.finish(claims[backs_off], outcome="error", delay=100)
    await sql_client.finish(claims[done])
    (delayed,) = [row["message_id"] for row in await sql_client.submit_many({"delay_seconds": 60})]
    turn, behind = [row["message_id"] for row in await sql_client.submit_many(*[{"thread_id": "t"}] * 2)]
    await sql_client.sql.execute(FILL_MESSAGES)
    waiting = sorted([behind, turn, delayed, backs_off, asks], reverse=True)
    assert await find(sql_client, state="queued", rows=10) == (waiting, None)
    assert await find(sql_client, state="open", rows=10) == (sorted([*waiting, runs], reverse=True), None)
    assert await find(sql_client, state="queued", agent="other", rows=10) == ([], None)
    assert await find(sql_client, state="queued", before=waiting[2], rows=10) == (waiting[3:], None)
    await sql_client.sql.execute("delete from treadle.messages where worker_id = 'fill'")


@pytest.mark.new_database
async def test_lists_read_no_more_pages_beside_many_messages(sql_client: SqlClient) -> None:
    """Of every way to look for messages: as many pages with 25,000 messages as with 5,000."""
    calls = {
        "all": "select * from treadle.find_messages()",
        "failed": """select * from treadle.find_messages('{"state": "failed"}')""",
        "cancelled": """select * from treadle.find_messages('{"state": "cancelled"}')""",
        "queued": """select * from treadle.find_messages('{"state": "queued"}')""",
        "queue": """select * from treadle.find_messages('{"queue": "none"}')""",
        "agent": """select * from treadle.find_messages('{"agent": "none"}', rows => 2000)""",
        "text": """select * from treadle.find_messages('{"q": "zz"}', rows => 2000)""",
        "thread": """select * from treadle.find_messages('{"thread_id": "t"}')""",
        "running": """select * from treadle.find_messages('{"state": "processing"}')""",
        "tenant": """select * from treadle.find_messages('{"state": "failed"}', tenant => 'acme', rows => 2000)""",
    }
    await sql_client.sql.execute("select treadle.create_tenant('acme')")
    await sql_client.submit_many(*[{"thread_id": "t"}] * 20)
    await sql_client.submit_many(*[{}] * 20, tenant="acme")
    await sql_client.sql.execute(FILL_MESSAGES)
    before = {name: await buffers(sql_client, call) for name, call in calls.items()}
    for _ in range(4):
        await sql_client.sql.execute(FILL_MESSAGES)
    after = {name: await buffers(sql_client, call) for name, call in calls.items()}
    assert {name: after[name] for name in calls if after[name] > before[name] * 1.3 + 20} == {}, before
    assert after["thread"] < 300
    assert {name: after[name] for name in ("failed", "cancelled", "queue", "tenant") if after[name] > 60} == {}
    await sql_client.sql.execute("delete from treadle.messages where worker_id = 'fill'")


async def change(client: SqlClient, message_id: UUID, **changes: Any) -> None:
    given = {"priority": None, "delay_seconds": None, "metadata": None} | changes
    await client.sql.execute(
        "select treadle.change_message($1, priority => $2, delay_seconds => $3, metadata => $4)",
        message_id,
        *given.values(),
    )


async def test_a_new_priority_moves_a_message_to_its_place(sql_client: SqlClient) -> None:
    """In its lane, in the line of its thread, as the head of a thread, and while it is delayed."""
    first, second = await sql_client.submit(), await sql_client.submit()
    await change(sql_client, second, priority="high", metadata='{"a": 1}')
    assert await sql_client.lanes() == [[second], [first], []]
    assert (await sql_client.message(second))["metadata"] == {"a": 1}
    head, waiting, last = [await sql_client.submit(thread_id="t") for _ in range(3)]
    await change(sql_client, last, priority="high")  # the head has not started: it gives way
    assert await sql_client.lanes() == [[second, last], [first], []]
    assert await sql_client.state(head) == ("queued", "thread")
    await change(sql_client, last, priority="low")
    assert await sql_client.lanes() == [[second], [first, head], []]
    await change(sql_client, waiting, priority="low")
    delayed = await sql_client.submit(thread_id="t", delay_seconds=60)
    await change(sql_client, delayed, priority="high", delay_seconds=0)
    await sql_client.sql.execute("select treadle.admit_due()")
    order = []
    for _ in range(10):
        claims = await sql_client.claim(1)
        if not claims:
            break
        order += [claim.message_id for claim in claims]
        await sql_client.finish(*claims)
    assert order == [second, delayed, first, head, waiting, last]


async def test_a_delay_passes_the_turn_on_and_ends(sql_client: SqlClient) -> None:
    head, waiting = [await sql_client.submit(thread_id="t") for _ in range(2)]
    alone = await sql_client.submit()
    await change(sql_client, head, delay_seconds=60)
    await change(sql_client, alone, delay_seconds=60)
    assert await sql_client.state(head) == ("queued", "delay")
    assert await sql_client.lanes() == [[], [waiting], []]
    (claim,) = await sql_client.claim(10)
    for message_id in (waiting, claim.message_id):  # it runs
        with pytest.raises(asyncpg.PostgresError) as refused:
            await change(sql_client, message_id, delay_seconds=1)
        assert refused.value.sqlstate == "TR409"
    await sql_client.finish(claim, outcome="error", delay=100)
    await change(sql_client, waiting, delay_seconds=0)  # it waits for its retry
    await sql_client.sql.execute("select treadle.admit_due()")
    (claim,) = await sql_client.claim(10)
    assert claim.message_id == waiting
    await sql_client.finish(claim)
    for wrong in ({"priority": "urgent"}, {"delay_seconds": -1.0}, {"metadata": "[]"}):
        with pytest.raises(asyncpg.PostgresError) as refused:
            await change(sql_client, head, **wrong)
        assert refused.value.sqlstate == "TR422"
    await sql_client.shift_clock(61)
    await sql_client.sql.execute("select treadle.admit_due()")
    assert {claim.message_id for claim in await sql_client.claim(10)} == {head, alone}


async def test_a_thread_takes_other_metadata(sql_client: SqlClient) -> None:
    await sql_client.submit(thread_id="t")
    await sql_client.sql.execute("""select treadle.change_thread('t', '{"customer": 7}')""")
    assert (await sql_client.thread("t"))["metadata"] == {"customer": 7}
    with pytest.raises(asyncpg.PostgresError) as refused:
        await sql_client.sql.execute("""select treadle.change_thread('nope', '{}')""")
    assert refused.value.sqlstate == "TR404"
