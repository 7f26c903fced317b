"""`treadle topics`, `treadle subscriptions`, and the declarations in the file of TREADLE_CONFIG."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.db.pool import Connection
from tests.support.cli_runner import Cli, error_sentence
from tests.support.sql_client import SqlClient
from tests.support.topic_calls import Topics
from tests.support.waiting import until


async def said(cli: Cli, *arguments: str, **settings: str) -> str:
    """The output of a command that succeeds."""
    result = await cli(*arguments, **settings)
    assert result.exit_code == 0, result.output
    return str(result.output)


async def as_json(cli: Cli, *arguments: str) -> Any:
    return json.loads(await said(cli, *arguments, "--json"))


async def test_a_topic_from_create_to_delete(cli: Cli, sql_client: SqlClient) -> None:
    assert await said(cli, "topics", "list") == "There are no topics.\n"
    assert await said(cli, "topics", "create", "t", "--retention", "24") == "The topic t is created.\n"
    assert error_sentence(await cli("topics", "create", "t")).startswith("There is a topic 't' already")
    assert (await as_json(cli, "topics", "set", "t", "--retention", "forever"))["retention_hours"] is None
    changed = await as_json(cli, "topics", "set", "t", "--max-record-bytes", "50", "--schema", "s")
    assert (changed["retention_hours"], changed["max_record_bytes"], changed["schema_subject"]) == (None, 50, "s")
    assert (await as_json(cli, "topics", "set", "t", "--schema", ""))["schema_subject"] is None
    assert (await cli("topics", "set", "t")).exit_code == 2
    assert (await cli("topics", "set", "t", "--retention", "soon")).exit_code == 2
    assert error_sentence(await cli("topics", "set", "u", "--retention", "1")) == "There is no topic 'u'."
    assert error_sentence(await cli("topics", "create", "a/b")).startswith("A topic's name is")
    shown = await said(cli, "topics", "show", "t")
    assert "max_record_bytes    50" in shown
    assert "No subscription reads it." in shown
    assert [each["topic"] for each in await as_json(cli, "topics", "list")] == ["t"]
    assert (await cli("topics", "delete", "t")).exit_code == 1  # the answer is not yes
    assert await said(cli, "topics", "delete", "t", "--yes") == "The topic t is deleted.\n"
    assert error_sentence(await cli("topics", "delete", "t", "--yes")) == "There is no topic 't'."


async def test_records_are_published_and_printed(cli: Cli, sql_client: SqlClient) -> None:
    topics = Topics(sql_client)
    await topics.create("t")
    record_id = (await said(cli, "topics", "publish", "t", '{"a": 1}', "--key", "k", "--header", "from=ada")).strip()
    again = await as_json(cli, "topics", "publish", "t", '{"a": 1}', "--record-id", record_id)
    assert (again["record_id"], again["known"]) == (record_id, True)
    await said(cli, "topics", "publish", "t", "two\u202ewords", "--text")
    refused = await cli("topics", "publish", "t", "two words")
    assert (refused.exit_code, "--text takes it as a text" in refused.output) == (2, True)
    for wrong in (["--header", "x"], ["--record-id", "x"]):
        assert (await cli("topics", "publish", "t", "1", *wrong)).exit_code == 2
    assert (await cli("topics", "publish", "t", "-", "--record-id", record_id)).exit_code == 2
    assert error_sentence(await cli("topics", "publish", "u", "1")) == "There is no topic 'u'."
    await topics.route()
    first, second = (await said(cli, "topics", "tail", "t", "--from", "earliest", "--no-follow")).splitlines()
    assert first.startswith("0  2")
    assert first.endswith('  k  {"a": 1}')
    assert second.endswith('  -  "two\\u202ewords"')
    limited = await as_json(cli, "topics", "tail", "t", "--from", "0", "--limit", "1")
    assert (limited["offset"], limited["headers"], limited["value"]) == (0, {"from": "ada"}, {"a": 1})
    assert await said(cli, "topics", "tail", "t", "--no-follow") == ""
    assert "A start is" in error_sentence(await cli("topics", "tail", "t", "--from", "soon"))


async def test_lines_of_stdin_are_records(cli: Cli, sql_client: SqlClient) -> None:
    await Topics(sql_client).create("t")
    lines = "".join(f"{n}\n" for n in range(1500)) + "\n"
    assert await said(cli, "topics", "publish", "t", "-", stdin=lines) == "1500 records are published to t.\n"
    await Topics(sql_client).route()
    assert await Topics(sql_client).values() == [*range(1500)]
    broken = await cli("topics", "publish", "t", "-", stdin=lines + "bad\n")
    assert "line 1502" in broken.output
    assert "1000 records before it are published." in broken.output


async def test_tail_waits_for_records(cli: Cli, sql_client: SqlClient) -> None:
    topics = Topics(sql_client)
    await topics.create("t")
    tailing = asyncio.create_task(as_json(cli, "topics", "tail", "t", "--limit", "1"))
    reading = "select count(*) from pg_stat_activity where datname = current_database() and query like '%read_records%'"
    await until(lambda: sql_client.sql.fetchval(f"{reading} and pid <> pg_backend_pid()"))
    await topics.publish("t", 7)
    await topics.route()
    assert (await tailing)["value"] == 7


async def test_a_subscription_from_create_to_delete(cli: Cli, sql_client: SqlClient) -> None:
    topics = Topics(sql_client)
    await topics.create("t", "u")
    await topics.publish("t", 1, 2)
    await topics.route()
    assert await said(cli, "subscriptions", "list") == "There are no subscriptions.\n"
    create = ("subscriptions", "create", "s", "t", "u", "--agent", "echo")
    made = await as_json(cli, *create, "--from", "earliest", "--filter", '{"value": 1}', "--no-dead-letter")
    assert (made["topics"], made["filter"], made["dead_letter"], made["lag"]) == (["t", "u"], {"value": 1}, False, 2)
    assert error_sentence(await cli(*create)).startswith("There is a subscription 's' already")
    assert (await cli("subscriptions", "create", "s2", "t", "--agent", "echo", "--filter", "1")).exit_code == 2
    changed = await as_json(cli, "subscriptions", "set", "s", "--max-in-flight", "7", "--dead-letter")
    assert (changed["max_in_flight"], changed["dead_letter"], changed["filter"]) == (7, True, {"value": 1})
    assert (changed["topics"], changed["lag"]) == (["t", "u"], 2)
    assert (
        await said(cli, "subscriptions", "set", "s", "t", "u", "--filter", "{}") == "The subscription s is changed.\n"
    )
    assert (await cli("subscriptions", "set", "s", "--from", "latest")).exit_code == 2
    assert error_sentence(await cli("subscriptions", "set", "x", "t")) == "There is no subscription 'x'."
    assert (await cli("topics", "lag", "--most", "2")).exit_code == 0
    assert (await cli("topics", "lag", "t", "--most", "1")).exit_code == 1
    both = await cli("topics", "lag", "--most", "1", "--watch")
    assert (both.exit_code, "give one of them" in both.stderr) == (2, True)
    rows = await as_json(cli, "topics", "lag")
    assert [(row["topic"], row["subscription"], row["lag"]) for row in rows] == [("t", "s", 2), ("u", "s", 0)]
    assert (await as_json(cli, "subscriptions", "pause", "s"))["paused"] is True
    assert await said(cli, "subscriptions", "resume", "s") == "The subscription s goes on; 2 records wait.\n"
    assert (await as_json(cli, "subscriptions", "seek", "s", "latest", "--topic", "t"))["lag"] == 0
    assert "goes on; 2 records" in await said(cli, "subscriptions", "seek", "s", "earliest")
    assert "A start is" in error_sentence(await cli("subscriptions", "seek", "s", "soon"))
    shown = await said(cli, "subscriptions", "show", "s")
    assert "delivery       at_least_once" in shown
    assert "next offset" in shown
    assert [each["subscription"] for each in await as_json(cli, "subscriptions", "list")] == ["s"]
    assert await said(cli, "subscriptions", "delete", "s", "--yes") == "The subscription s is deleted.\n"
    assert error_sentence(await cli("subscriptions", "show", "s")) == "There is no subscription 's'."


@pytest.fixture
def declare(tmp_path: Path) -> Callable[[str], str]:
    """Writes the file of TREADLE_CONFIG; returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "treadle.yaml"
        path.write_text(text)
        return str(path)

    return write


DECLARED = """
poll_interval: 0.2
topics:
  plan.in: {retention_hours: 24}
  plan.out:
subscriptions:
  planner: {topics: plan.in, agent: planner, from: 2026-01-31T12:00:00Z, filter: {value: {kind: a, n: 1.0e+23}}}
"""


async def test_migrate_creates_declared_topics(
    cli: Cli, sql: Connection, declare: Callable[[str], str], empty_dsn: str
) -> None:
    path = declare(DECLARED)
    changes = "topic plan.in: create\ntopic plan.out: create\nsubscription planner: create\n"
    empty = await said(cli, "migrate", "--dry-run", DATABASE_URL=empty_dsn, TREADLE_CONFIG=path)
    assert empty.startswith("tables: create, up to revision 0")
    assert empty.endswith(f"functions: create\n{changes}")
    assert await said(cli, "migrate", "--dry-run", TREADLE_CONFIG=path) == changes
    assert await sql.fetchval("select count(*) from treadle.topics") == 0
    assert await said(cli, "migrate", TREADLE_CONFIG=path) == f"{changes}The database is ready.\n"
    assert await said(cli, "migrate", TREADLE_CONFIG=path) == "The database is ready.\n"
    assert await said(cli, "migrate", "--dry-run", TREADLE_CONFIG=path) == "Nothing would change.\n"
    path = declare("poll_interval: 0.2\ntopics: {acme/plan.in: {}}\nsubscriptions: {acme/p: {topics: '#', agent: x}}")
    assert "treadle tenants create acme" in error_sentence(await cli("migrate", TREADLE_CONFIG=path))
    await sql.execute("select treadle.create_tenant('acme')")
    made = "topic acme/plan.in: create\nsubscription acme/p: create\nThe database is ready.\n"
    assert await said(cli, "migrate", TREADLE_CONFIG=path) == made
    assert await said(cli, "migrate", TREADLE_CONFIG=path) == "The database is ready.\n"
    assert await sql.fetchval("select topic from treadle.topics where tenant = 'acme'") == "plan.in"
    path = declare(DECLARED.replace("24", "48").replace("agent: planner", "agent: other"))
    changes = (
        'topic plan.in: change retention_hours 24.0 -> 48.0\nsubscription planner: change agent "planner" -> "other"\n'
    )
    await sql.execute("update treadle.meta set value = 'x' where name = 'functions'")
    assert await said(cli, "migrate", "--dry-run", TREADLE_CONFIG=path) == f"functions: replace\n{changes}"
    assert await said(cli, "migrate", TREADLE_CONFIG=path) == f"{changes}The database is ready.\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("topics: [a]", "topics of {path} must be a mapping of names."),
        ("\ntopics:\n  b:\n  a: {retention_hours: 0}", "the topic 'a' in line 4 of {path}: retention_hours must be a"),
        ("topics: {a: {size: 1}}", "the topic 'a' in line 1 of {path}: "),
        ("topics:\n  on:", "the topic 'True' in line 2 of {path}: a name must be a text"),
        ("topics: {a b: }", "the topic 'a b' in line 1 of {path}: a name is 1 to 249 of letters"),
        ("subscriptions: {s: {agent: x}}", "the subscription 's' in line 1 of {path}: topics is missing"),
        ("subscriptions: {a b: {topics: x, agent: x}}", "the subscription 'a b' in line 1 of {path}: a name is 1 to"),
        (
            "subscriptions: {s: {topics: 'a*', agent: x}}",
            "the subscription 's' in line 1 of {path}: a pattern of topics",
        ),
        (
            "subscriptions: {s: {topics: x, agent: x, from: soon}}",
            "the subscription 's' in line 1 of {path}: from must be",
        ),
        ("topic: {}", "{path} names the unknown setting TOPIC."),
    ],
)
async def test_a_declaration_that_does_not_fit(
    cli: Cli, declare: Callable[[str], str], text: str, sentence: str
) -> None:
    path = declare(text)
    found = error_sentence(await cli("migrate", TREADLE_CONFIG=path))
    assert found.startswith(f"TREADLE_CONFIG: {sentence.format(path=path)}")
