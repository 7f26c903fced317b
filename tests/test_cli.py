"""The command `treadle`, as a person types it, on the test's own database."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import msgspec
import pytest
from click.testing import CliRunner, Result
from conftest import StartWorker, until
from workshop import closed_port, look, run, settled, submit, submit_many, workers

from service import logs
from service.agents.contract import Context, Rejected, agent
from service.agents.echo import echo
from service.cli import main
from service.config import Settings
from service.db.pool import Connection

ROOT = Path(__file__).resolve().parents[1]
NOWHERE = "01890a5d-ac96-774b-bcce-b302099a8057"

Cli = Callable[..., Awaitable[Result]]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command beside the test's loop; settings by name are its environment."""
    monkeypatch.setattr(logs, "configure", lambda *_: None)  # pytest has its own

    async def call(*arguments: str, **settings: str) -> Result:
        environ = {field.name.upper(): None for field in msgspec.structs.fields(Settings)}
        environ |= {"TREADLE_CONFIG": None, "POLL_INTERVAL": "0.2", **settings}
        return await asyncio.to_thread(CliRunner().invoke, main, list(arguments), env=environ)

    return call


@pytest.fixture
def cli(bare: Cli, dsn: str) -> Cli:
    """The same, on the test's database."""
    return lambda *arguments, **settings: bare(*arguments, **{"DATABASE_URL": dsn, **settings})


def sentence(result: Result) -> str:
    """What a failed command said: one sentence on stderr, nothing else, and exit code 1."""
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    said = result.stderr.removeprefix("Error: ").removesuffix("\n")
    assert "\n" not in said
    assert said.endswith(".")
    return said


def commands(group: click.Group, *above: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*above, name)
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)


def header(result: Result) -> list[str]:
    """The headers of a table that fits an ordinary terminal."""
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80, result.stdout
    return re.split(r" {2,}", lines[0].strip())


# Help


@pytest.mark.parametrize("command", [(), *commands(main)], ids=" ".join)
async def test_every_command_explains_itself_with_an_example(command: tuple[str, ...], bare: Cli) -> None:
    result = await bare(*command, "--help")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    said = " ".join(result.stdout.split())
    name = " ".join(("treadle", *command))
    assert re.search(rf"^Usage: {name} (\[?[A-Z_]+\]?(\.\.\.)? )+[A-Z][a-z ]+", said), "no explanation"
    assert re.search(rf"Examples?: .*{name}", said), "no example"


async def test_the_commands_are_listed_in_the_order_in_which_one_needs_them(bare: Cli) -> None:
    listed = re.findall(r"^  ([a-z-]+)  ", (await bare("--help")).stdout.partition("Commands:")[2], re.MULTILINE)
    assert listed == list(main.commands)
    assert listed[0] == "up"


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["send"],
        ["send", "x", "--priority", "urgent"],
        ["send", "x", "--metadata", "{"],
        ["send", "x", "--metadata", "[1]"],
        ["send", "x", "--no-such-option"],
        ["tail", "no-uuid"],
        ["threads", "--limit", "0"],
        ["dead-letters", "redrive"],
        ["dead-letters", "redrive", "no-uuid"],
    ],
    ids=" ".join,
)
async def test_what_cannot_be_meant_is_a_usage_error(arguments: list[str], bare: Cli) -> None:
    result = await bare(*arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


# The database


async def test_check_before_and_after_migrate(empty_dsn: str, cli: Cli) -> None:
    for command in (["check"], ["queues"], ["send", "x"], ["tail", NOWHERE], ["dead-letters", "redrive", NOWHERE]):
        assert sentence(await cli(*command, DATABASE_URL=empty_dsn)).endswith("run treadle migrate."), command
    for _ in range(2):
        result = await cli("migrate", DATABASE_URL=empty_dsn)
        assert (result.exit_code, result.stdout) == (0, "The database is ready.\n"), result.output
    result = await cli("check", DATABASE_URL=empty_dsn)
    assert result.exit_code == 0
    assert re.search(r"^pgmq +1\.\d+", result.stdout, re.MULTILINE)
    facts = json.loads((await cli("check", "--json", DATABASE_URL=empty_dsn)).stdout)
    assert set(facts) == {"postgresql", "pgmq", "release", "workers", "queued", "processing"}
    assert (facts["workers"], facts["queued"], facts["processing"]) == (0, 0, 0)
    # It has registered the agents: a message can be sent before the first worker starts.
    assert (await cli("send", "x", DATABASE_URL=empty_dsn)).exit_code == 0


async def test_check_sees_functions_of_another_checkout(sql: Connection, cli: Cli) -> None:
    await cli("migrate")
    assert (await cli("check")).exit_code == 0
    await sql.execute("update treadle.meta set value = 'other' where name = 'functions'")
    assert sentence(await cli("check")).endswith("run treadle migrate.")
    await sql.execute("update treadle.meta set value = '99' where name = 'release'")
    assert "99" in sentence(await cli("check"))


@pytest.mark.parametrize(
    "arguments", [["check"], ["migrate"], ["send", "x"], ["queues"], ["tail", NOWHERE]], ids=lambda value: value[0]
)
async def test_a_database_that_is_not_there_is_one_sentence(arguments: list[str], cli: Cli, dsn: str) -> None:
    assert sentence(await cli(*arguments, DATABASE_URL=closed_port(dsn))).startswith("PostgreSQL cannot be reached: ")


async def test_a_wrong_setting_is_one_sentence(bare: Cli) -> None:
    assert sentence(await bare("check", PORT="http")) == "PORT: Expected `int`, got `str`."


async def test_dsn_prints_the_connection_string(cli: Cli, dsn: str, tmp_path: Path) -> None:
    assert (await cli("dsn")).stdout == f"{dsn}\n"
    private = await cli("dsn", DATABASE_URL="", TREADLE_HOME=str(tmp_path))
    assert private.stdout.startswith("postgresql://treadle@/treadle?host=")


def treadle(dsn: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: what its children print is seen only there."""
    environ = {"PATH": os.environ["PATH"], "DATABASE_URL": dsn}
    command = [sys.executable, "-m", "service.cli", *arguments]
    return subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)


def test_psql_takes_psqls_own_arguments_and_gives_its_exit_code(dsn: str) -> None:
    done = treadle(dsn, "psql", "-A", "-t", "-c", "select queue from treadle.queues")
    assert (done.returncode, done.stdout) == (0, "default\n")
    assert treadle(dsn, "psql", "-v", "ON_ERROR_STOP=1", "-c", "select nonsense").returncode == 1


# Messages


async def test_send_prints_the_messages_id(sql: Connection, cli: Cli, agents: Any) -> None:
    await agents()
    result = await cli(
        "send", "Grüße\n😀", "--thread", "t", "--agent", "echo", "--priority", "high", "--metadata", '{"a": 1}'
    )
    assert result.exit_code == 0, result.output
    message = await look(sql, UUID(result.stdout.strip()))
    assert (message["user_message"], message["thread_id"], message["priority"]) == ("Grüße\n😀", "t", "high")
    assert (message["agent"], message["metadata"], message["state"]) == ("echo", {"a": 1}, "queued")
    accepted = json.loads((await cli("send", "x", "--json")).stdout)
    assert (accepted["state"], accepted["queue_position"], accepted["thread_id"]) == ("queued", 1, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["send", ""], "The text must have 1 to 100000 characters."),
        (["send", "x" * 100_001], "The text must have 1 to 100000 characters."),
        (["send", "x", "--agent", "nobody"], "There is no agent 'nobody'."),
        (["send", "x", "--thread", "a/b"], "thread_id must have 1 to 255 characters"),
        (["send", "not UTF-8: \udcff"], "The arguments must be valid UTF-8."),
        (["send", "x", "--thread", "\udcff"], "The arguments must be valid UTF-8."),
    ],
    ids=range(6),
)
async def test_a_message_that_is_refused_is_one_sentence(
    arguments: list[str], said: str, sql: Connection, cli: Cli, agents: Any
) -> None:
    await agents()
    assert sentence(await cli(*arguments)).startswith(said)
    assert await sql.fetchval("select count(*) from treadle.messages") == 0


async def test_follow_prints_the_answer_as_it_comes(cli: Cli, start_worker: StartWorker) -> None:
    await start_worker()
    result = await cli("send", "one two  three", "--follow")
    assert (result.exit_code, result.stdout) == (0, "one two  three\n"), result.output
    message_id = result.stderr.removeprefix("message ").strip()
    tailed = await cli("tail", message_id)
    assert (tailed.exit_code, tailed.stdout, tailed.stderr) == (0, "one two  three\n", "")
    lines = [json.loads(line) for line in (await cli("tail", message_id, "--json")).stdout.splitlines()]
    assert [line["seq"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["type"] for line in lines] == ["queued", "started", "chunk", "chunk", "chunk", "done"]
    assert lines[-1]["data"]["result"] == "one two  three"


async def test_follow_tells_of_retries_and_of_the_end(cli: Cli, start_worker: StartWorker) -> None:
    await start_worker()
    result = await cli("send", "x", "--follow", "--metadata", '{"fail_times": 1}')
    assert (result.exit_code, result.stdout) == (0, "x\n")
    assert "[retry] Failing attempt 1, as metadata.fail_times asks." in result.stderr
    result = await cli("send", "x", "--follow", "--metadata", '{"fail_times": "no"}')
    assert (result.exit_code, result.stdout) == (1, "")
    assert "[error] metadata.fail_times must be a number, 0 or more." in result.stderr
    result = await cli("send", "x", "--follow", "--json", "--metadata", '{"fail_times": "no"}')
    assert result.exit_code == 1
    assert [json.loads(line)["type"] for line in result.stdout.splitlines()] == ["queued", "started", "error"]


async def test_follow_shows_a_result_that_was_not_streamed(cli: Cli, start_worker: StartWorker) -> None:
    @agent("silent")
    async def silent(context: Context, request: str) -> Any:
        if context.attempt == 1:
            await context.emit("dropped")
            raise ValueError("again")
        return {"text": None, "object": {"ü": [1]}, "nothing": None}[request] if request != "text" else "the text"

    await start_worker(silent)
    outputs = {
        request: (await cli("send", request, "--agent", "silent", "--follow")).stdout
        for request in ("text", "object", "nothing")
    }
    assert outputs == {"text": "dropped" + "the text\n", "object": 'dropped{"ü": [1]}\n', "nothing": "dropped\n"}


async def test_tail_follows_a_message_that_is_still_running(
    sql: Connection, cli: Cli, start_worker: StartWorker
) -> None:
    release = asyncio.Event()

    @agent("slow")
    async def slow(context: Context, request: str) -> None:
        await context.emit("before ")
        await release.wait()
        await context.emit("after")

    await start_worker(slow)
    message_id = await submit(sql, "x", agent="slow")
    tailing = asyncio.create_task(cli("tail", str(message_id)))
    listening = (
        "select count(*) from pg_stat_activity where application_name = 'treadle listener'"
        " and datname = current_database()"
    )
    await until(lambda: sql.fetchval(listening), lambda count: count == 2)  # the worker's and ours
    release.set()
    result = await tailing
    assert (result.exit_code, result.stdout) == (0, "before after\n")


async def test_tail_of_a_cancelled_message_fails(sql: Connection, cli: Cli, agents: Any) -> None:
    await agents()
    message_id = await submit(sql, "x")
    await sql.fetchval("select treadle.cancel($1)", message_id)
    result = await cli("tail", str(message_id))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "\n[cancelled]\n"
    assert sentence(await cli("tail", NOWHERE)) == f"There is no message {NOWHERE}."


# Lists


async def test_queues_are_a_table_that_fits(sql: Connection, cli: Cli, agents: Any) -> None:
    @agent("other", queue="a_queue_with_a_name_that_is_quite_long")
    async def other(context: Context, request: str) -> None: ...

    await agents(echo, other)
    await submit_many(sql, [{"message": "x"}] * 3)
    await sql.fetchval("select treadle.pause('default')")
    result = await cli("queues")
    assert header(result) == ["queue", "queued", "ready", "running", "completed", "failed", "per minute", "paused"]
    assert re.search(r"^default +3 +3 +0 +0 +0 +0 +yes", result.stdout, re.MULTILINE)
    rows = json.loads((await cli("queues", "--json")).stdout)
    assert [row["name"] for row in rows] == ["a_queue_with_a_name_that_is_quite_long", "default"]
    assert (rows[1]["depth"], rows[1]["visible"], rows[1]["paused"], rows[1]["cancelled"]) == (3, 3, True, 0)


async def test_threads_are_a_table_that_fits(sql: Connection, cli: Cli, agents: Any) -> None:
    result = await cli("threads")
    assert (result.exit_code, result.stdout) == (0, "There are no threads yet.\n")
    assert json.loads((await cli("threads", "--json")).stdout) == []
    await agents()
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
    assert json.loads((await cli("dead-letters", "--queue", "elsewhere", "--json")).stdout) == []
    failing = False
    redriven = await cli("dead-letters", "redrive", message_id)
    assert (redriven.exit_code, redriven.stdout) == (0, f"{message_id} is queued again.\n")
    assert (await settled(sql, message["message_id"], "completed"))["attempt"] == 2
    assert sentence(await cli("dead-letters", "redrive", message_id)) == "The message is completed, not failed."
    assert sentence(await cli("dead-letters", "redrive", NOWHERE)) == f"There is no message {NOWHERE}."


async def test_redrive_speaks_json(sql: Connection, cli: Cli, start_worker: StartWorker) -> None:
    await start_worker()
    message = await run(sql, "x", metadata={"fail_times": "no"})
    result = await cli("dead-letters", "redrive", str(message["message_id"]), "--json")
    assert json.loads(result.stdout) == {"message_id": str(message["message_id"]), "state": "queued"}


# Processes


STUBBORN = """
import asyncio
from service.agents.contract import Context, agent

@agent("stubborn")
async def stubborn(context: Context, request: str) -> str:
    await context.emit("running")
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

@agent("deaf")
def deaf(context, request: str) -> str:
    import threading
    context.emit("running")
    threading.Event().wait()
"""


async def test_work_ends_on_sigterm_whatever_its_agents_do(sql: Connection, dsn: str, tmp_path: Path) -> None:
    (tmp_path / "stubborn_agents.py").write_text(STUBBORN)
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": dsn,
        "AGENTS": "stubborn_agents",
        "SHUTDOWN_GRACE": "1000",
        "POLL_INTERVAL": "0.2",
    }
    command = [sys.executable, "-m", "service.cli", "work"]
    process = await asyncio.create_subprocess_exec(*command, env=environ, cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        await until(lambda: workers(sql))
        ids = await submit_many(sql, [{"message": "x", "agent": name} for name in ("stubborn", "deaf")])
        chunks = "select count(*) from treadle.events where type = 'chunk'"
        await until(lambda: sql.fetchval(chunks), lambda count: count == 2)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        await asyncio.wait_for(process.stderr.readuntil(b"ending what runs"), 20)
        stopping = "select count(*) from treadle.messages where state = 'processing'"
        assert await sql.fetchval(stopping) == 2  # the first signal lets them end
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(process.communicate(), 20)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors
    assert b"Traceback" not in errors
    for message_id in ids:
        message = await look(sql, message_id)
        assert (message["state"], message["failures"], message["losses"]) == ("queued", 0, 0)
    assert await workers(sql) == []


def test_work_needs_a_migrated_database(empty_dsn: str) -> None:
    done = treadle(empty_dsn, "work")
    assert done.returncode == 1
    assert done.stderr == ("Error: The database has no Treadle schema of this release: run treadle migrate.\n")


def test_work_says_in_one_sentence_what_is_wrong_with_the_agents(dsn: str) -> None:
    environ = {"PATH": os.environ["PATH"], "DATABASE_URL": dsn, "AGENTS": "no_such_module"}
    command = [sys.executable, "-m", "service.cli", "work"]
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: AGENTS: the module no_such_module cannot be imported: No module named 'no_such_module'.\n"
    )
