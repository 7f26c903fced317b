"""Topics: publish, offsets, reading."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import uuid_utils.compat as uuid

from service.db.pool import Connection
from tests.support.topic_calls import Topics, refusal


async def test_records_get_dense_offsets_in_the_order_of_their_publishing(topics: Topics) -> None:
    first = await topics.publish("t", "a", {"value": {"b": 1}, "key": "k", "headers": {"h": "x"}})
    await topics.publish("t", None, [1, 2], 3)
    assert await topics.values() == []  # until a router gives them offsets
    place = "select * from treadle.record_place($1)"
    assert tuple(await topics.row(place, first[1]["record_id"]))[:2] == ("t", None)
    await topics.route()
    assert await topics.values() == ["a", {"b": 1}, None, [1, 2], 3]
    assert tuple(await topics.row(place, first[1]["record_id"]))[:2] == ("t", 1)
    row = (await topics.read(start=1, quantity=1))[0]
    assert (row["key"], row["headers"], row["record_id"]) == ("k", {"h": "x"}, first[1]["record_id"])


async def test_a_record_that_is_there_is_known(topics: Topics) -> None:
    await topics.create("other")
    ids = [uuid.uuid7() for _ in range(3)]
    await topics.publish("t", {"value": 0, "record_id": ids[0]})
    again = await topics.publish("t", {"value": 0, "record_id": ids[0]}, {"value": 1, "record_id": ids[1]})
    assert [(row["record_id"], row["known"]) for row in again] == [(ids[0], True), (ids[1], False)]
    await topics.route()
    assert await topics.values() == [0, 1]
    await topics.publish("t", {"value": 1, "record_id": ids[1]})
    code, _ = await refusal(topics.publish("other", {"value": 1, "record_id": ids[1]}, {"value": 2}))
    assert code == "TR409"
    await topics.route()
    assert await topics.values() == [0, 1]
    assert await topics.values("other") == []
    twice = await topics.publish("other", *({"value": n, "record_id": ids[2]} for n in range(2)))
    assert [row["known"] for row in twice] == [False, True]


def id_in(hours: int) -> str:
    """A UUIDv7 of a time so many hours from now."""
    at = datetime.now(UTC) + timedelta(hours=hours)
    return str(UUID(int=int(at.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62))


REFUSED_RECORDS: list[tuple[dict[str, Any], str]] = [
    ({}, "records cannot be decoded"),
    ({"key": "k"}, "value is missing"),
    ({"value": 1, "key": ""}, "key must have"),
    ({"value": 1, "key": "k" * 256}, "key must have"),
    ({"value": 1, "headers": {"a": 1}}, "headers must be"),
    ({"value": 1, "headers": []}, "headers must be"),
    ({"value": "x" * 2000}, "at most 1000 bytes"),
    ({"value": 1, "record_id": "01a225fb-7412-4d1b-bd96-4a2edfb17213"}, "must be a UUIDv7"),
    ({"value": 1, "record_id": "a day and more ago"}, "must be a UUIDv7"),
    ({"value": 1, "record_id": "in a day and more"}, "must be a UUIDv7"),
    ({"value": 1, "record_id": "x"}, "cannot be decoded"),
    ({"value": json.loads("[" * 101 + "]" * 101)}, "nested"),
]


async def test_a_call_publishes_all_or_nothing(topics: Topics, subtests: pytest.Subtests) -> None:
    await topics.create("small", max_record_bytes=1000)
    for record, problem in REFUSED_RECORDS:
        with subtests.test(problem, record=record):
            hours = {"a day and more ago": -25, "in a day and more": 25}.get(record.get("record_id", ""))
            wrong = record if hours is None else {**record, "record_id": id_in(hours)}
            text = json.dumps([{"value": 1}, wrong or 7])
            code, message = await refusal(topics.sql.fetch("select * from treadle.publish_many('small', $1)", text))
            assert code == "TR422"
            assert problem in message
            assert "records[1]" in message or "decoded" in message
            await topics.route()
            assert await topics.values("small") == []


async def test_what_a_publish_names_must_exist(topics: Topics) -> None:
    assert (await refusal(topics.publish("none", 1)))[0] == "TR404"
    assert (await refusal(topics.publish("t", 1, tenant="none")))[0] == "TR404"
    assert (await refusal(topics.publish("t")))[0] == "TR422"
    assert (await refusal(topics.publish("t", *range(1001))))[0] == "TR422"
    assert (await refusal(topics.publish("t", 1, reach='{"thread_id": "x"}')))[0] == "TR403"
    assert (await refusal(topics.read("t", reach='{"owner": "x"}')))[0] == "TR404"


async def test_one_record_is_published_in_a_users_transaction(topics: Topics) -> None:
    async with topics.sql.transaction():
        record_id = await topics.sql.fetchval("""select treadle.publish('t', '{"a": 1}', key => 'k')""")
        await topics.sql.fetchval("select treadle.publish('t', '2', headers => '{\"h\": \"x\"}')")
    await topics.route()
    rows = await topics.read()
    assert [(r["value"], r["key"], r["headers"]) for r in rows] == [({"a": 1}, "k", {}), (2, None, {"h": "x"})]
    assert rows[0]["record_id"] == record_id


async def test_an_open_transaction_delays_its_own_records_only(topics: Topics) -> None:
    """Also after the low-water mark of the inbox has passed its row."""
    other = Topics(await topics.client.connect())
    await topics.subscribe()
    transaction = other.sql.transaction()
    await transaction.start()
    await other.publish("t", "late 1", "late 2")
    for n in range(1100):
        await topics.sql.execute("select treadle.publish('t', to_jsonb($1::integer))", n)
    for _ in range(4):
        await topics.route(late=True)
    low = "select low from treadle.low_water where name = 'inbox'"
    assert await topics.sql.fetchval(low) > 1000
    assert await topics.values() == list(range(1100))
    await transaction.commit()
    await topics.route(late=True)
    assert (await topics.values())[-2:] == ["late 1", "late 2"]
    bodies = await topics.drain()
    assert bodies == [*range(1100), "late 1", "late 2"]


async def test_two_routers_give_each_record_one_offset(topics: Topics) -> None:
    other = Topics(await topics.client.connect())
    await topics.publish("t", 1)
    async with topics.sql.transaction():
        assert await topics.sql.fetchval("select topics from treadle.sequence_records()") != []
        row = await other.row("select * from treadle.sequence_records()")
        assert tuple(row) == ([], True)  # another one is at it
    assert tuple(await other.row("select * from treadle.sequence_records()")) == ([], False)
    assert await topics.values() == [1]


async def test_rows_of_others_in_the_inbox_stop_nothing(topics: Topics) -> None:
    for body in ('{"topic": "x"}', "{}", '{"topic": 1, "bytes": 1, "record_ids": {}}', "[]"):
        await topics.sql.execute("select pgmq.send('treadle_inbox', $1::jsonb)", body)
    await topics.publish("t", 1)
    await topics.route()
    assert await topics.values() == [1]
    assert await topics.sql.fetchval("select count(*) from pgmq.q_treadle_inbox") == 0


async def test_a_page_of_records_is_bounded_in_bytes(topics: Topics) -> None:
    await topics.publish("t", *("x" * 1000 for _ in range(10)))
    await topics.route()
    assert len(await topics.read(max_bytes=3500)) == 4
    assert len(await topics.read(max_bytes=1)) == 1
    assert [row["offset"] for row in await topics.read(start=8)] == [8, 9]
    assert await topics.read(start=10) == []
    assert tuple(await topics.row("select first_offset, next_offset from treadle.topic_bounds('t')")) == (
        0,
        10,
    )


async def test_an_offset_is_found_by_time(topics: Topics) -> None:
    for hours in (1, 2, 3):
        await topics.client.shift_clock(hours * 3600)
        await topics.publish("t", *range(10))
        await topics.route()
    now = await topics.sql.fetchval("select treadle.clock()")
    offset = "select treadle.topic_offset('t', $1)"
    assert await topics.sql.fetchval(offset, (now - timedelta(minutes=90)).isoformat()) == 10
    assert await topics.sql.fetchval(offset, (now + timedelta(minutes=1)).isoformat()) == 30
    assert await topics.sql.fetchval(offset, "2001-01-01T00:00:00Z") == 0
    for start, found in (("earliest", 0), ("latest", 30), ("17", 17)):
        assert await topics.sql.fetchval(offset, start) == found
    assert (await refusal(topics.sql.fetchval(offset, "yesterday-ish")))[0] == "TR422"


async def test_a_topic_is_declared_once(topics: Topics) -> None:
    declare = "select treadle.create_topic('u', retention_hours => $1)"
    assert [await topics.sql.fetchval(declare, hours) for hours in (1, 1, None, None)] == [
        "created",
        "unchanged",
        "changed",
        "unchanged",
    ]
    for name in ("", ".", "..", "a b", "a/b", "x" * 250, "ä"):
        assert (await refusal(topics.create(name)))[0] == "TR422"
    await topics.create("x" * 249, "a.b-c_D")


async def test_an_idempotency_key_repeats_the_first_answer(topics: Topics) -> None:
    once = "select treadle.publish_once('key', $1, $2, '[{\"value\": 1}]')"
    first = await topics.sql.fetchval(once, b"a", "t")
    assert await topics.sql.fetchval(once, b"a", "t") == first
    await topics.create("u")
    for request, topic in ((b"b", "t"), (b"a", "u")):
        assert (await refusal(topics.sql.fetchval(once, request, topic)))[0] == "TR422"
    await topics.route()
    assert await topics.values() == [1]


PATTERNS = [
    ("plan.in", ["plan.in"], ["plan", "plan.in.x", "planxin"]),
    ("plan.*", ["plan.in", "plan.out"], ["plan", "plan.in.x", "a.plan.in"]),
    ("*.in", ["plan.in"], ["in", "code.plan.in"]),
    ("#", ["a", "a.b.c"], []),
    ("plan.#", ["plan", "plan.in", "plan.in.x"], ["planx", "a.plan"]),
    ("#.in", ["in", "a.in", "a.b.in"], ["a.inn", "in.a"]),
    ("a.#.b.*.c", ["a.b.x.c", "a.x.b.b.x.c"], ["a.b.c", "a.x.b.c.x"]),
    ("#.#.a.#.#.b", ["a.b", "x.a.y.b"], ["b.a", "a.b.c"]),
    ("*", ["a", "a-b_c"], ["a.b", ".a"]),
    ("a.*.b", ["a.x.b", "a..b"], ["a.b", "a.x.y.b"]),
    ("a..b", ["a..b"], ["a.b", "a.x.b", "axxb"]),
    ("a-b_1.#", ["a-b_1", "a-b_1.", "a-b_1..x"], ["a.b_1", "a-b_1x"]),
    ("#.*.#", ["a", "a.b"], []),
    ("#.a.b.c", ["a.b.c", "a.b.a.b.c"], ["a.b.c.a", "xa.b.c"]),
]


async def test_patterns_match_words(sql: Connection, subtests: pytest.Subtests) -> None:
    for pattern, matching, others in PATTERNS:
        for name in matching + others:
            with subtests.test(pattern, name=name):
                found = await sql.fetchval("select treadle._topic_matches($1, $2)", pattern, name)
                assert found is (name in matching)
    hostile = ".".join(["#.a"] * 100), ".".join(["a"] * 124) + ".b"
    assert await sql.fetchval("select treadle._topic_matches($1, $2)", *hostile) is False


async def test_a_subscription_joins_many_topics_at_once(sql: Connection) -> None:
    """No function is called for each topic, or for each topic and pattern."""
    await sql.execute(
        "insert into treadle.topics (tenant, topic, max_record_bytes, created_at)"
        " select 'default', 'n.' || n, 1, now() from generate_series(1, 1000) n;"
        "insert into treadle.topic_ends (topic, tenant, next_offset) select id, tenant, id from treadle.topics"
    )
    calls = "select coalesce(sum(calls), 0) from pg_stat_xact_user_functions where schemaname = 'treadle'"
    async with sql.transaction():
        await sql.execute("set local track_functions = 'all'")
        await sql.execute("select treadle.create_subscription('all', '{#}', 'echo')")
        named = "array(select 'n.' || n from generate_series(401, 500) n)"
        await sql.execute(f"select treadle.create_subscription('all', {named}, 'echo')")
        assert await sql.fetchval(calls) < 100
    assert await sql.fetchval("select count(*) from treadle.subscription_topics") == 100
    positions = "select count(*) from treadle.subscription_positions where next_offset = topic and fresh_offset = topic"
    assert await sql.fetchval(positions) == 1_000


async def test_records_past_the_retention_of_their_topic_go(topics: Topics) -> None:
    """A reader and a subscription go on at the first that is kept."""
    await topics.create("short", retention_hours=2)
    await topics.create("kept", retention_hours=None)
    await topics.subscribe("s", "#")
    for hours in (0, 1, 2):
        await topics.client.shift_clock(hours * 3600)
        for topic in ("short", "kept", "t"):
            await topics.publish(topic, *range(hours * 10, hours * 10 + 10))
        await topics.sql.execute("select treadle.sequence_records()")
    await topics.client.shift_clock(3.5 * 3600)
    chunks = [await topics.sql.fetchval("select treadle.purge_records(8)") for _ in range(4)]
    assert chunks == [8, 8, 4, 0]
    assert tuple(await topics.row("select first_offset, next_offset from treadle.topic_bounds('short')")) == (20, 30)
    assert [row["offset"] for row in await topics.read("short", quantity=3)] == [20, 21, 22]
    assert len(await topics.read("kept")) == len(await topics.read("t")) == 30
    row = await topics.row("select records, bytes > 0 as some from treadle.topic_overview where topic = 'short'")
    assert tuple(row) == (10, True)
    bodies = await topics.drain()
    assert sorted(bodies) == sorted([*range(20, 30), *range(30), *range(30)])
    assert (await topics.overview())["expired"] == 20
    await topics.client.shift_clock(30 * 3600)
    await topics.sql.execute("select treadle.seek_subscription('s', 'earliest', topic => 'short')")
    while await topics.sql.fetchval("select treadle.purge_records()"):
        pass
    assert await topics.drain() == []
    assert (await topics.row("select bytes from treadle.topic_overview where topic = 'short'"))["bytes"] == 0


async def test_a_deleted_topic_is_unknown_at_once(topics: Topics) -> None:
    await topics.subscribe()
    await topics.publish("t", *range(5))
    await topics.route()
    other = Topics(await topics.client.connect())
    transaction = other.sql.transaction()
    await transaction.start()
    await other.publish("t", "late")
    await topics.publish("t", "not sequenced")
    await topics.sql.execute("select treadle.delete_topic('t')")
    assert (await refusal(topics.publish("t", 1)))[0] == "TR404"
    await topics.create("t")  # another topic of the same name
    await topics.publish("t", "new")
    await topics.route()
    await transaction.commit()
    await topics.route()
    while await topics.sql.fetchval("select treadle.purge_records(2)"):
        pass
    assert await topics.sql.fetchval("select count(*) from treadle.records") == 1
    assert await topics.values() == ["new"]
    assert sorted(map(str, await topics.drain())) == ["0", "1", "2", "3", "4", "new"]
    for table in ("topics", "topic_ends", "subscription_topics", "subscription_positions"):
        assert await topics.sql.fetchval(f"select count(*) from treadle.{table}") == 1, table
