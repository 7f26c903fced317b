"""The commands that operate a running Treadle, on the test's own database."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from service.agents.builtin.echo import echo
from service.db.pool import Connection
from tests.support.api_answers import UNKNOWN_ID
from tests.support.cli_runner import Cli, error_sentence, run_treadle
from tests.support.fixture_types import StartWorker
from tests.support.messages import run, settled, submit, submit_many
from treadle import Context, Rejected, agent


def header(result: Result) -> list[str]:
    """The headers of a table that fits an ordinary terminal."""
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80, result.stdout
    return re.split(r" {2,}", lines[0].strip())


# The database


async def test_check_before_and_after_migrate(empty_dsn: str, cli: Cli) -> None:
    for command in (
        ["check"],
        ["queues"],
        ["send", "x"],
        ["tail", UNKNOWN_ID],
        ["dead-letters", "redrive", UNKNOWN_ID],
    ):
        assert error_sentence(await cli(*command, DATABASE_URL=empty_dsn)).endswith("run treadle migrate."), command
    for _ in range(2):
        result = await cli("migrate", DATABASE_URL=empty_dsn)
        assert (result.exit_code, result.stdout) == (0, "The database is ready.\n"), result.output
    result = await cli("check", DATABASE_URL=empty_dsn)
    assert result.exit_code == 0
    assert re.search(r"^pgmq +1\.\d+", result.stdout, re.MULTILINE)
    facts = json.loads((await cli("check", "--json", DATABASE_URL=empty_dsn)).stdout)
    assert set(facts) == {"postgresql", "pgmq", "release", "workers", "queued", "processing", "health", "reasons"}
    assert (facts["workers"], facts["queued"], facts["processing"]) == (0, 0, 0)
    # Only workers register agents: a migration without their settings must not change what they declared.
    said = error_sentence(await cli("send", "x", DATABASE_URL=empty_dsn))
    assert said == "No default agent is registered: start a worker that has it, or name an agent."


async def test_check_reports_functions_of_another_version(sql: Connection, cli: Cli) -> None:
    await cli("migrate")
    assert (await cli("check")).exit_code == 0
    await sql.execute("update treadle.meta set value = 'other' where name = 'functions'")
    assert error_sentence(await cli("check")).endswith("run treadle migrate.")
    await sql.execute("update treadle.meta set value = '99' where name = 'release'")
    assert "99" in error_sentence(await cli("check"))


async def test_dsn_prints_the_connection_string(cli: Cli, dsn: str, tmp_path: Path) -> None:
    assert (await cli("dsn")).stdout == f"{dsn}\n"
    private = await cli("dsn", DATABASE_URL="", TREADLE_HOME=str(tmp_path))
    assert private.stdout.startswith("postgresql://treadle@/treadle?host=")


def test_psql_passes_arguments_and_exit_code_through(dsn: str) -> None:
    done = run_treadle(dsn, "psql", "-A", "-t", "-c", "select queue from treadle.queues")
    assert (done.returncode, done.stdout) == (0, "default\n")
    assert run_treadle(dsn, "psql", "-v", "ON_ERROR_STOP=1", "-c", "select nonsense").returncode == 1


def test_objects_created_in_psql_go_to_public(dsn: str) -> None:
    """The role treadle has our schema in its path."""
    asked = ("-A", "-t", "-c", "create table mine (); select schemaname from pg_tables where tablename = 'mine'")
    assert run_treadle(dsn, "psql", "-q", *asked).stdout == "public\n"
    kept = run_treadle(dsn, "psql", "-A", "-t", "-c", "show search_path", "-c", "show jit", PGOPTIONS="-c jit=on")
    assert kept.stdout == "public\non\n"
    theirs = run_treadle(dsn, "psql", "-A", "-t", "-c", "show search_path", PGOPTIONS="-c search_path=mine")
    assert theirs.stdout == "mine\n"


# Lists


async def test_queues_are_a_table_that_fits(sql: Connection, cli: Cli, register_agents: Any) -> None:
    @agent("other", queue="a_queue_with_a_name_that_is_quite_long")
    async def other(context: Context, request: str) -> None: ...

    await register_agents(echo, other)
    await submit_many(sql, [{"message": "x"}] * 3)
    await sql.fetchval("select treadle.pause('default')")
    result = await cli("queues")
    assert header(result) == [
        *("queue", "queued", "ready", "age (s)", "running", "failed", "per min", "workers", "paused")
    ]
    assert re.search(r"^default +3 +3 +\S+ +0 +0 +0 +0 +yes", result.stdout, re.MULTILINE)
    assert "default" in (await cli("queues", COLUMNS="0")).stdout
    rows = json.loads((await cli("queues", "--json")).stdout)
    assert [row["name"] for row in rows] == ["a_queue_with_a_name_that_is_quite_long", "default"]
    assert (rows[1]["depth"], rows[1]["visible"], rows[1]["paused"], rows[1]["cancelled"]) == (3, 3, True, 0)


async def test_threads_are_found_behind_many_that_are_not_listed(
    sql: Connection, cli: Cli, register_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call of the list looks at a thousand threads."""
    await register_agents()
    await sql.execute("select treadle.submit('x', thread_id => 'mine')")
    await sql.execute("""
        select treadle.submit_many(jsonb_agg(jsonb_build_object('message', 'x', 'thread_id', 'key ' || n)))
        from generate_series(1, 1000) n""")
    await sql.execute("update treadle.threads set thread_id = 'records/s/' || id where thread_id like 'key %'")
    found = await cli("threads", "--json")
    assert [thread["thread_id"] for thread in json.loads(found.stdout)] == ["mine"]
    assert found.stderr == ""
    monkeypatch.setattr("service.cli.operate.MOST_LOOKS", 1)
    found = await cli("threads", "--json")
    assert (json.loads(found.stdout), "There may be more" in found.stderr) == ([], True)


async def test_threads_are_a_table_that_fits(sql: Connection, cli: Cli, register_agents: Any) -> None:
    result = await cli("threads")
    assert (result.exit_code, result.stdout) == (0, "There are no threads yet.\n")
    assert json.loads((await cli("threads", "--json")).stdout) == []
    await register_agents()
    await submit(sql, "first", thread_id="t1")
    evil = "[bold]not bold[/bold] \x1b[2J\nand a text that is much too long to fit into one line of a terminal"
    await submit(sql, evil, thread_id="a thread with a name that is quite long, too: " + "x" * 40)
    result = await cli("threads")
    assert header(result) == ["thread", "messages", "last active", "last message"]
    assert "\x1b" not in result.stdout
    assert "[bold]" in result.stdout
    assert len(json.loads((await cli("threads", "--limit", "1", "--json")).stdout)) == 1
    rows = json.loads((await cli("threads", "--json")).stdout)
    assert [row["thread_id"][:8] for row in rows] == ["a thread", "t1"]


async def test_dead_letters_are_listed_and_redriven(sql: Connection, cli: Cli, start_worker: StartWorker) -> None:
    empty = await cli("dead-letters")
    assert (empty.exit_code, empty.stdout) == (0, "There are no dead letters.\n")
    failing = True

    @agent("picky")
    async def picky(context: Context, request: str) -> str:
        if failing:
            raise Rejected("Not this one, for a reason that takes more than a line of a table to tell.")
        return request

    await start_worker(picky, echo)
    message = await run(sql, "x", agent="picky")
    message_id = str(message["message_id"])
    result = await cli("dead-letters")
    assert header(result) == ["message", "agent", "attempts", "reason"]
    assert re.search(rf"^{message_id} +picky +1 +Not this one", result.stdout, re.MULTILINE)
    (letter,) = json.loads((await cli("dead-letters", "--json")).stdout)
    assert (letter["message_id"], letter["reason"]) == (message_id, message["error"])
    assert "Rejected" in letter["traceback"]
    assert len(json.loads((await cli("dead-letters", "--queue", "default", "--json")).stdout)) == 1
    listed = await cli("messages", "--state", "failed")
    assert header(listed) == ["message", "state", "agent", "created"]
    assert re.search(r"^messages +error *\n +1 +Not this one, for a reason", listed.stdout, re.MULTILINE)
    for more in ([], ["--json"]):
        assert error_sentence(await cli("dead-letters", "--queue", "nope", *more)) == "There is no queue 'nope'."
    failing = False
    redriven = await cli("dead-letters", "redrive", message_id)
    assert (redriven.exit_code, redriven.stdout) == (0, f"{message_id} is queued again.\n")
    assert (await settled(sql, message["message_id"], "completed"))["attempt"] == 2
    assert error_sentence(await cli("dead-letters", "redrive", message_id)) == "The message is completed, not failed."
    assert error_sentence(await cli("dead-letters", "redrive", UNKNOWN_ID)) == f"There is no message {UNKNOWN_ID}."


async def test_redrive_prints_json(sql: Connection, cli: Cli, start_worker: StartWorker) -> None:
    await start_worker()
    message = await run(sql, "x", metadata={"fail_times": "no"})
    result = await cli("dead-letters", "redrive", str(message["message_id"]), "--json")
    assert json.loads(result.stdout) == {"message_id": str(message["message_id"]), "state": "queued"}
