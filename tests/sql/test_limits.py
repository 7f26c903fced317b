"""The SQL functions keep the limits of service/limits.py: exactly at a limit they accept, one beyond they refuse."""

import json
import re
from typing import Any

import asyncpg
import pytest

from service import limits
from service.db.pool import Connection
from tests.support.randomness import incompressible


@pytest.fixture
async def session(sql: Connection, register_agents: Any) -> Connection:
    """A connection to a database where the agent echo is registered."""
    await register_agents()
    return sql


async def accepts(session: Connection, statement: str, *arguments: Any) -> bool:
    """Whether the statement succeeds; False where it raises a refusal or breaks a constraint of a table."""
    transaction = session.transaction()
    await transaction.start()
    try:
        await session.execute(statement, *arguments)
    except asyncpg.PostgresError as error:
        if error.sqlstate not in {"TR422", "23514"}:  # the second is a CHECK
            raise
        return False
    finally:
        await transaction.rollback()
    return True


@pytest.mark.parametrize(
    ("field", "largest"),
    [
        ("delay_seconds", limits.MAX_DELAY_SECONDS),
        ("timeout_seconds", limits.MAX_TIMEOUT_SECONDS),
        ("max_attempts", limits.MAX_ATTEMPTS),
    ],
)
async def test_submit_keeps_the_largest_numbers(session: Connection, field: str, largest: int) -> None:
    submit = f"select treadle.submit('x', {field} => $1)"
    assert await accepts(session, submit, largest)
    assert not await accepts(session, submit, largest + 1)


async def test_submit_keeps_the_rule_of_thread_ids(session: Connection) -> None:
    texts = ["", "x" * limits.MAX_THREAD_ID_CHARS, "x" * (limits.MAX_THREAD_ID_CHARS + 1), "\u00df" * 255, "a\n"]
    texts += [".", "..", "...", ".a", "a.", "..a", ". "]
    texts += [f"a{chr(code)}b" for code in range(1, 0x180)]  # PostgreSQL's texts hold no NUL
    differing = [
        text
        for text in texts
        if await accepts(session, "select treadle.submit('x', thread_id => $1)", text) != limits.is_thread_id(text)
    ]
    assert differing == []


async def test_names_keep_their_lengths(session: Connection) -> None:
    for length, accepted in ((limits.MAX_QUEUE_NAME_CHARS, True), (limits.MAX_QUEUE_NAME_CHARS + 1, False)):
        assert await accepts(session, "select treadle.create_queue($1)", "q" * length) is accepted
    for length, accepted in ((limits.MAX_AGENT_NAME_CHARS, True), (limits.MAX_AGENT_NAME_CHARS + 1, False)):
        agents = [{"agent": "a" * length, "queue": "default", "timeout_seconds": 60, "max_attempts": 3}]
        assert await accepts(session, "select treadle.register_agents($1::jsonb)", json.dumps(agents)) is accepted
    for length, accepted in ((limits.MAX_KEY_CHARS, True), (limits.MAX_KEY_CHARS + 1, False)):
        submit = "select (treadle.submit_once($1, '', '[{\"message\": \"x\"}]')).repeated"
        assert await accepts(session, submit, "k" * length) is accepted


async def test_new_agents_keep_the_rule_of_names_and_others_keep_theirs(session: Connection) -> None:
    register = "select treadle.register_agents($1::jsonb)"

    def agents(name: str) -> str:
        return json.dumps([{"agent": name, "queue": "default", "timeout_seconds": 60, "max_attempts": 3}])

    texts = ["", ".", "..", "...", "a.b", "a b", "a/b", "a\n", "\u00df" * 100, "x" * 101]
    texts += [f"a{chr(code)}b" for code in range(1, 0x180)]  # PostgreSQL's texts hold no NUL
    differing = [text for text in texts if await accepts(session, register, agents(text)) != limits.is_agent_name(text)]
    assert differing == []
    await session.execute("update treadle.agents set agent = 'a/b' where agent = 'echo'")  # by an earlier release
    assert await accepts(session, register, agents("a/b"))
    assert await accepts(session, "select treadle.submit('x', agent => 'a/b')")
    with pytest.raises(asyncpg.PostgresError, match=re.escape(f"An agent's name must be {limits.AGENT_NAME_RULE}; ")):
        await session.execute(register, agents(".."))


def nested(levels: int, opening: str, closing: str) -> str:
    return opening * levels + "1" + closing * levels


async def test_json_is_limited_in_depth_and_in_the_size_of_numbers(session: Connection) -> None:
    submit = "select treadle.submit('x', metadata => $1::jsonb)"
    for opening, closing, levels in (('{"a":', "}", 1), ('{"a":1,"b":[', "]}", 2)):
        for repeated in (1, 100 // levels, 100 // levels + 1, 970, 3000):
            deep = nested(repeated, opening, closing)
            assert await accepts(session, submit, deep) is (repeated * levels <= limits.MAX_NESTING_LEVELS), deep[:100]
    for number, accepted in (
        ("1.7976931348623157e308", True),
        ("-1.7976931348623157e308", True),
        ("1e309", False),
        ("-1e309", False),
        ("1e131071", False),
        ("9" * 300, True),
        ("9" * 5000, False),
        ("1e-300", True),
    ):
        assert await accepts(session, submit, f'{{"a": [{{"n": {number}}}]}}') is accepted, number
    assert await accepts(session, submit, json.dumps({"text": "[" * 2000 + "9" * 5000}))
    for what in ("message", "metadata"):
        deep = '[{"message": "x", "' + what + '": ' + nested(101, '{"a":', "}") + "}]"
        with pytest.raises(asyncpg.PostgresError, match=f"^{what} must not be nested more than 100 levels deep"):
            await session.execute("select treadle.submit_many($1::jsonb)", deep)


async def test_a_page_of_a_stream_ends_at_the_limit_of_bytes(session: Connection) -> None:
    message_id = await session.fetchval("select treadle.submit('x')")

    async def read_two(first_chars: int) -> tuple[int, int]:
        """The bytes of two events, and how many of them are read."""
        await session.execute("delete from treadle.events where message_id = $1", message_id)
        await session.execute(
            "insert into treadle.events (tenant, message_id, seq, type, data, created_at)"
            " values ('default', $1, 1, 'part', to_jsonb($2::text), now()), ('default', $1, 2, 'part', '0', now())",
            message_id,
            incompressible(first_chars),
        )
        rows = await session.fetch("select * from treadle.read_events(array[$1::uuid], array[0], 10)", message_id)
        return await session.fetchval("select sum(treadle._bytes(data))::bigint from treadle.events"), len(rows)

    begun = limits.STREAM_PAGE_BYTES - 1000
    chars = begun + limits.STREAM_PAGE_BYTES - (await read_two(begun))[0]
    assert await read_two(chars) == (limits.STREAM_PAGE_BYTES, 2)
    assert await read_two(chars + 1) == (limits.STREAM_PAGE_BYTES + 1, 1)


async def test_a_thread_begins_with_a_memory_that_agents_can_read(session: Connection) -> None:
    create = "select treadle.create_thread('t', memory => $1::jsonb)"
    for value in (nested(101, '{"a":', "}"), '{"a": ' + "9" * 5000 + "}", "[1]", '"x"', "null"):
        assert not await accepts(session, create, value), value[:100]
    assert await accepts(session, create, None)
    assert await accepts(session, create, nested(100, '{"a":', "}"))
    for more, accepted in ((0, True), (1, False)):
        text = json.dumps({"a": "x" * (limits.MAX_BEGUN_MEMORY_BYTES - len('{"a": ""}') + more)})
        assert await accepts(session, create, text) is accepted


async def test_the_filter_of_a_subscription_has_a_limit(session: Connection) -> None:
    create = "select treadle.create_subscription('s', array['t'], 'echo', filter => $1::jsonb)"
    for more, accepted in ((0, True), (1, False)):
        text = json.dumps({"value": ""})
        text = json.dumps({"value": "x" * (limits.MAX_FILTER_BYTES - len(text) + more)})
        assert await accepts(session, create, text) == accepted
    for more, accepted in ((0, True), (1, False)):
        values = list(range(limits.MAX_FILTER_VALUES - 1 + more))
        for value in ([*values, 1], {"a": [{"b": [*values]}]}, {"a": values, "b": [1]}):
            assert await accepts(session, create, json.dumps({"value": value})) == accepted, value


@pytest.mark.parametrize(
    ("statement", "largest"),
    [
        ("select treadle.create_topic('t', max_record_bytes => $1)", limits.MAX_RECORD_BYTES),
        ("select treadle.create_topic('t', retention_hours => $1)", limits.MAX_RETENTION_HOURS),
        ("select treadle.create_topic(repeat('t', $1))", limits.MAX_TOPIC_CHARS),
        ("select treadle.create_subscription('s', array['t'], 'echo', max_in_flight => $1)", limits.MAX_IN_FLIGHT),
        ("select treadle.create_subscription(repeat('s', $1), array['t'], 'echo')", limits.MAX_SUBSCRIPTION_CHARS),
        (
            "select treadle.create_subscription('s', array_agg('t' || i), 'echo') from generate_series(1, $1) i",
            limits.MAX_PATTERNS,
        ),
        (
            "select treadle.create_key('0123456789ab', sha256(''), 'default', repeat('k', $1), array['read'])",
            limits.MAX_KEY_NAME_CHARS,
        ),
    ],
)
async def test_topics_subscriptions_and_keys_keep_their_limits(
    session: Connection, statement: str, largest: int
) -> None:
    assert await accepts(session, statement, largest)
    assert not await accepts(session, statement, largest + 1)


async def test_a_publish_keeps_the_number_of_records_and_the_length_of_keys(session: Connection) -> None:
    await session.execute("select treadle.create_topic('t')")
    publish = "select treadle.publish_many('t', $1::jsonb)"
    for more, accepted in ((0, True), (1, False)):
        records = [{"value": 1}] * (limits.MAX_BATCH_RECORDS + more)
        assert await accepts(session, publish, json.dumps(records)) is accepted
        keyed = [{"value": 1, "key": "k" * (limits.MAX_RECORD_KEY_CHARS + more)}]
        assert await accepts(session, publish, json.dumps(keyed)) is accepted


async def test_tenants_keep_the_rule_of_their_names(session: Connection) -> None:
    for name in ("a", "acme-2_b", "0", "a" * 40, "", "A", "-a", "_a", "a b", "a\n", "a" * 41, "ä"):
        accepted = re.search(limits.TENANT_NAME_PATTERN, name) is not None
        if accepted:
            await session.execute("select treadle.create_tenant($1)", name)
        else:
            with pytest.raises(asyncpg.PostgresError, match="A tenant's name is"):
                await session.execute("select treadle.create_tenant($1)", name)
