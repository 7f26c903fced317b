"""What submit refuses, in one sentence, and what it just accepts."""

import json
from typing import Any

import asyncpg
import pytest

from tests.support.cli_runner import Cli
from tests.support.messages import id_of
from tests.support.sql_client import SqlClient
from tests.support.sql_rows import fetch_row


async def refused(sql_client: SqlClient, *messages: Any, state: str = "TR422", **arguments: Any) -> str:
    """The whole batch is refused and nothing changes; returns the sentence."""
    before = await sql_client.all_rows()
    with pytest.raises(asyncpg.PostgresError) as raised:
        await sql_client.submit_many(*messages, **arguments)
    assert raised.value.sqlstate == state
    assert await sql_client.all_rows() == before
    return str(raised.value)


# Refusals


THREAD_ID = (
    'thread_id must have 1 to 255 characters, none of them a control character or a slash, and be neither "." nor "..".'
)


NONSENSE: list[tuple[dict[str, Any], str]] = [
    ({"message": None}, "message must be a text or an object."),
    ({"message": 7}, "message must be a text or an object."),
    ({"message": ["a"]}, "message must be a text or an object."),
    ({"message": ""}, "message must not be empty."),
    ({"priority": "urgent"}, "priority must be high, normal or low, not 'urgent'."),
    ({"thread_id": ""}, THREAD_ID),
    ({"thread_id": "x" * 256}, THREAD_ID),
    ({"thread_id": "a/b"}, THREAD_ID),
    ({"thread_id": "a\nb"}, THREAD_ID),
    ({"thread_id": "."}, THREAD_ID),
    ({"thread_id": ".."}, THREAD_ID),
    ({"metadata": []}, "metadata must be an object."),
    ({"metadata": "x"}, "metadata must be an object."),
    ({"delay_seconds": -1}, "delay_seconds must be between 0 and 31622400 (366 days)."),
    ({"delay_seconds": 31622401}, "delay_seconds must be between 0 and 31622400 (366 days)."),
    ({"delay_seconds": "NaN"}, "delay_seconds must be between 0 and 31622400 (366 days)."),
    ({"max_attempts": 0}, "max_attempts must be between 1 and 1000."),
    ({"max_attempts": 1001}, "max_attempts must be between 1 and 1000."),
    ({"max_losses": 0}, "max_losses must be between 1 and 1000."),
    ({"timeout_seconds": 0}, "timeout_seconds must be above 0 and at most 604800 (7 days)."),
    ({"timeout_seconds": 604801}, "timeout_seconds must be above 0 and at most 604800 (7 days)."),
    ({"agent": "nobody"}, "There is no agent 'nobody'."),
    ({"message": {"x": 1}}, "The agent 'echo' takes text, not an object."),
]


async def test_nonsense_is_refused_in_one_sentence(sql_client: SqlClient) -> None:
    for message, sentence in NONSENSE:
        assert await refused(sql_client, {"thread_id": "t", **message}) == sentence, message


async def test_an_id_that_would_never_be_purged_is_refused(sql_client: SqlClient) -> None:
    """Ids sort by their time, and retention searches expired messages by their id."""
    for odd in (id_of(0, version=4), id_of(90_000), "ffffffff-ffff-7fff-bfff-ffffffffffff"):
        sentence = f"A message_id must be a UUIDv7 of a time at most a day ahead; {odd} is not."
        assert await refused(sql_client, {"thread_id": "t", "message_id": odd}) == sentence
    fine = [id_of(80_000), id_of(-1e9), id_of(0).upper().replace("-", "")]
    await sql_client.submit_many(*[{"message_id": message_id} for message_id in fine])


async def test_values_at_the_limits_are_accepted(sql_client: SqlClient) -> None:
    await sql_client.submit_many(
        {"message": "x", "priority": None, "thread_id": None, "metadata": None, "delay_seconds": None},
        {
            "thread_id": "x" * 255,
            "max_attempts": 1000,
            "max_losses": 1000,
            "timeout_seconds": 604800,
            "delay_seconds": 31622400,
        },
        {"thread_id": " ä?#", "max_attempts": 1, "timeout_seconds": 0.001},
    )


async def test_the_first_fault_of_a_batch_is_named(sql_client: SqlClient) -> None:
    sentence = await refused(sql_client, {}, {"message": ""}, {"priority": "x"})
    assert sentence == "messages[1]: message must not be empty."
    assert (await refused(sql_client, {}, {}, {"agent": "a"})).startswith("messages[2]: There is no agent 'a'")


async def test_messages_must_be_an_array(sql_client: SqlClient) -> None:
    for messages in ('{"message": "x"}', '"x"', "null"):
        with pytest.raises(asyncpg.PostgresError, match="messages must be an array"):
            await sql_client.sql.execute("select treadle.submit_many($1)", messages)
    with pytest.raises(asyncpg.PostgresError, match="the element must be an object"):
        await sql_client.sql.execute("select treadle.submit_many($1)", '["x"]')


NO_DEFAULT = "No default agent is registered: start a worker that has it, or name an agent."


async def test_without_agents_nothing_can_be_submitted(sql_client: SqlClient) -> None:
    await sql_client.sql.execute("delete from treadle.agents")
    assert await refused(sql_client, {}) == NO_DEFAULT
    await sql_client.register({"agent": "some"})
    assert await refused(sql_client, {}) == NO_DEFAULT
    await sql_client.submit(agent="some")


async def test_an_object_goes_to_an_agent_that_declares_its_input(sql_client: SqlClient) -> None:
    await sql_client.register({"agent": "typed", "input": {"type": "object"}})
    rows = await sql_client.submit_many({"message": {"x": 1}, "agent": "typed"}, {"message": "text", "agent": "typed"})
    assert [(await sql_client.message(row["message_id"]))["body"] for row in rows] == [{"x": 1}, "text"]
    assert json.loads((await sql_client.claim(1))[0].body) == {"x": 1}


@pytest.mark.parametrize("order", [("claude", "other"), ("other", "claude"), ("claude", "echo")])
async def test_the_order_of_registrations_does_not_choose_the_default_agent(
    sql_client: SqlClient, order: tuple[str, ...]
) -> None:
    for agent in order:
        await sql_client.register({"agent": agent})
    assert (await sql_client.message(await sql_client.submit()))["agent"] == "claude"
    assert await sql_client.sql.fetchval("select count(*) from treadle.agents where is_default") == 1


async def test_the_declared_default_agent_stays_the_default(sql_client: SqlClient) -> None:
    declare = "select treadle.register_agents('[]', default_agent => $1)"
    assert await sql_client.sql.fetchval(declare, "poet") is None
    assert await refused(sql_client, {}) == NO_DEFAULT  # echo does not stand in
    for agent in ("poet", "claude", "echo"):
        await sql_client.register({"agent": agent})
    assert (await sql_client.message(await sql_client.submit()))["agent"] == "poet"
    assert await sql_client.sql.fetchval(declare, "echo") == "poet"
    assert (await sql_client.message(await sql_client.submit()))["agent"] == "echo"


@pytest.mark.parametrize("settings", [{}, {"ANTHROPIC_API_KEY": "k"}, {"DEFAULT_AGENT": "echo"}])
async def test_a_migration_leaves_the_agents_and_the_default_agent_alone(
    sql_client: SqlClient, cli: Cli, settings: dict[str, str]
) -> None:
    await sql_client.sql.execute("select treadle.register_agents('[]', default_agent => 'poet')")
    for agent in ("poet", "echo"):
        await sql_client.register({"agent": agent})
    agents = "select (select jsonb_agg(to_jsonb(a) order by a.agent) from treadle.agents a), value from treadle.meta m"
    before = await fetch_row(sql_client.sql, f"{agents} where m.name = 'default_agent'")
    migrated = await cli("migrate", **settings)
    assert migrated.exit_code == 0, migrated.output
    assert await fetch_row(sql_client.sql, f"{agents} where m.name = 'default_agent'") == before
    assert (await sql_client.message(await sql_client.submit()))["agent"] == "poet"


async def test_a_queues_concurrency_follows_all_its_agents(sql_client: SqlClient) -> None:
    async def concurrency(*agents: dict[str, Any]) -> Any:
        await sql_client.register(*({"queue": "own", **agent} for agent in agents))
        return await sql_client.sql.fetchval("select concurrency from treadle.queues where queue = 'own'")

    assert await concurrency({"agent": "a", "settings": {"concurrency": 3}}) == 3
    assert await concurrency({"agent": "b"}) == 3
    assert await concurrency({"agent": "c", "settings": {"concurrency": 2}}) == 2
    assert await concurrency({"agent": "c", "queue": "elsewhere"}) == 3
    assert await concurrency({"agent": "a"}) is None


async def test_a_full_queue_takes_no_more(sql_client: SqlClient) -> None:
    await sql_client.register({"agent": "other", "queue": "side"})
    await sql_client.submit_many({}, {"thread_id": "t"}, {"thread_id": "t"}, {"delay_seconds": 9}, max_queue_size=4)
    sentence = await refused(sql_client, {}, {"agent": "other"}, state="TR429", max_queue_size=4)
    assert sentence == "messages[0]: The queue 'default' is full: it holds at most 4 messages."
    await sql_client.submit_many({"agent": "other"}, max_queue_size=4)
    await sql_client.claim(1)  # what runs does not count
    await sql_client.submit_many({}, max_queue_size=4)
    await refused(sql_client, {}, {}, state="TR429", max_queue_size=5)
    await sql_client.sql.fetchval("select treadle.fold_counters()")
    await sql_client.submit_many({}, max_queue_size=5)


async def test_a_queue_s_name_must_be_one(sql_client: SqlClient) -> None:
    for name in ("", "Default", "1a", "a-b", "a" * 41, "a b", None):
        with pytest.raises(asyncpg.PostgresError, match="A queue's name is 1 to 40 of a-z") as raised:
            await sql_client.sql.execute("select treadle.create_queue($1)", name)
        assert raised.value.sqlstate == "TR422"


async def test_the_longest_queue_name_works(sql_client: SqlClient) -> None:
    await sql_client.register({"agent": "long", "queue": "q" * 40})
    message_id = await sql_client.submit(agent="long", priority="normal")
    assert (await sql_client.claim_one(queues=["q" * 40])).message_id == message_id
