"""`treadle` as a process: exit codes, closed and full outputs, and what reaches the terminal."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from service.cli.address import split_password
from service.db.pool import Connection
from tests.support.api_answers import UNKNOWN_ID
from tests.support.cli_runner import Cli, error_sentence, run_treadle
from tests.support.databases import patient
from tests.support.fixture_types import StartWorker
from tests.support.messages import overview, submit
from tests.support.repository import ROOT
from tests.support.waiting import LIMIT_SECONDS, until
from treadle import Context, agent

SEQUENCES = "\x1b[31mred\x1b]0;title\x07 \x9b2J \u202ehidden\r\nnext\tline"
SHOWN_TEXT = "\\u001b[31mred\\u001b]0;title\\u0007 \\u009b2J \\u202ehidden\nnext\tline\n"


def shell(dsn: str, line: str, *, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which $treadle is the command."""
    environ = {"PATH": os.environ["PATH"], "DATABASE_URL": patient(dsn), "treadle": f"{sys.executable} -m service.cli"}
    command = ["bash", "-c", line]
    return subprocess.run(
        command,
        env=environ,
        cwd=ROOT,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
    )


# Exit codes


@pytest.mark.parametrize("command", ["check", "send x", "queues", "threads --json", "dead-letters", "--help"])
async def test_a_full_output_is_one_sentence(command: str, dsn: str, register_agents: Any) -> None:
    await register_agents()
    done = await asyncio.to_thread(shell, dsn, f"$treadle {command} > /dev/full")
    assert done.stderr == "Error: The output cannot be written: No space left on device.\n"
    assert done.returncode == 74


UNKNOWN = "01890000-0000-7000-8000-000000000000"


@pytest.mark.parametrize(("command", "code"), [("queues", 74), ("--help", 74), (f"cancel {UNKNOWN}", 1), ("nosuch", 2)])
async def test_where_both_outputs_are_full_the_exit_code_stays(
    command: str, code: int, dsn: str, register_agents: Any
) -> None:
    await register_agents()
    done = await asyncio.to_thread(shell, dsn, f"$treadle {command} > /dev/full 2> /dev/full")
    assert done.returncode == code


@pytest.mark.parametrize("closing", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
async def test_a_closed_stream_aborts_nothing(closing: str, sql: Connection, dsn: str, register_agents: Any) -> None:
    await register_agents()
    done = await asyncio.to_thread(shell, dsn, f"$treadle send x {closing}")
    assert done.returncode == (74 if ">&-" in closing.replace("2>&-", "") else 0), done.stderr
    assert "Traceback" not in done.stderr
    assert await sql.fetchval("select count(*) from treadle.messages") == 1


async def test_a_broken_pipe_is_silent(dsn: str, register_agents: Any) -> None:
    await register_agents()
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = await asyncio.to_thread(shell, dsn, "$treadle queues; echo $? >&2", stdout=writer)
    finally:
        os.close(writer)
    assert done.stderr == "141\n"


async def test_an_interrupt_has_its_exit_code(sql: Connection, dsn: str, register_agents: Any) -> None:
    await register_agents()
    message_id = await submit(sql, "x")
    command = [sys.executable, "-m", "service.cli", "tail", str(message_id)]
    environ = {"PATH": os.environ["PATH"], "DATABASE_URL": patient(dsn)}
    process = await asyncio.create_subprocess_exec(*command, env=environ, cwd=ROOT, stdout=-1, stderr=-1)
    listening = "select count(*) from pg_stat_activity where application_name = 'treadle listener'"
    await until(lambda: sql.fetchval(f"{listening} and datname = current_database()"), bool)
    process.send_signal(signal.SIGINT)
    _, said = await asyncio.wait_for(process.communicate(), LIMIT_SECONDS)
    assert (process.returncode, said) == (130, b"\n")


# What reaches the terminal


async def test_control_characters_of_an_answer_are_written_out(cli: Cli, start_worker: StartWorker) -> None:
    @agent("painter")
    async def painter(context: Context, request: str) -> Any:
        if request == "chunk":
            await context.emit(SEQUENCES)
            return None
        if request == "fail":
            raise ValueError(SEQUENCES)
        return SEQUENCES if request == "text" else {"text": SEQUENCES}

    await start_worker(painter)

    async def send(request: str, *more: str) -> Any:
        return await cli("send", request, "--agent", "painter", "--follow", "--metadata", "{}", *more)

    assert [(await send("chunk")).stdout, (await send("text")).stdout] == [SHOWN_TEXT, SHOWN_TEXT]
    failed = await send("fail")
    assert SHOWN_TEXT in failed.stderr
    for asked in (await send("object"), await send("text", "--json"), failed):
        assert not {"\x1b", "\x07", "\x9b", "\u202e", "\r"} & set(asked.output)
    assert json.loads((await send("text", "--json")).stdout.splitlines()[-1])["data"]["result"] == SEQUENCES
    assert "\x1b" not in (await cli("send", "x", "--agent", "\x1b[31m")).stderr


# Values


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ('{"a": NaN}', "not valid JSON"),
        ('{"a": Infinity}', "not valid JSON"),
        ('{"a": 1e999}', "out of range"),
        ('{"a": ' + "[" * 5000 + "]" * 5000 + "}", "nested too deeply"),
        ("[1]", "must be an object"),
        ("null", "must be an object"),
    ],
)
async def test_bad_metadata_is_a_usage_error(
    metadata: str, said: str, sql: Connection, cli: Cli, register_agents: Any
) -> None:
    await register_agents()
    done = await cli("send", "x", "--metadata", metadata)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert await sql.fetchval("select count(*) from treadle.messages") == 0


async def test_deep_data_of_an_event_is_shown_or_named(sql: Connection, cli: Cli, start_worker: StartWorker) -> None:
    await start_worker()
    message_id = await submit(sql, "hello")
    await until(lambda: overview(sql, message_id), lambda message: message["state"] == "completed")
    deep = "[" * 900 + "]" * 900
    await sql.execute("update treadle.messages set result = $2::text::jsonb where message_id = $1", message_id, deep)
    shown = await cli("tail", str(message_id))
    assert (shown.exit_code, shown.stdout) == (0, "hello\n")
    assert deep in (await cli("tail", str(message_id), "--json")).stdout


# The address


@pytest.mark.parametrize(
    ("dsn", "address", "password"),
    [
        ("postgresql://me:p%40ss@db:5432/x?sslmode=require", "postgresql://me@db:5432/x?sslmode=require", "p@ss"),
        ("postgresql://me@a:1,b:2/x?password=pw&port=5", "postgresql://me@a:1,b:2/x?port=5", "pw"),
        ("postgres://me:pw@[::1]/x", "postgres://me@[::1]/x", "pw"),
        (
            "postgresql://treadle@/treadle?host=/run/pg&port=7",
            "postgresql://treadle@/treadle?host=/run/pg&port=7",
            None,
        ),
    ],
)
def test_the_password_is_taken_out_of_the_address(dsn: str, address: str, password: str | None) -> None:
    assert split_password(dsn) == (address, password)


def test_psql_gets_the_password_in_its_environment(dsn: str) -> None:
    with_password = dsn.replace("@", ":geheim@", 1)
    asked = r"\! tr '\0' ' ' < /proc/$PPID/cmdline; echo; echo $PGPASSWORD"
    shown = run_treadle(with_password, "psql", "-A", "-t", "-c", asked)
    assert shown.returncode == 0, shown.stderr
    [arguments, password] = shown.stdout.splitlines()
    assert ("geheim" in arguments, password) == (False, "geheim")


async def test_unknown_messages_are_named(cli: Cli) -> None:
    assert error_sentence(await cli("tail", UNKNOWN_ID)) == f"There is no message {UNKNOWN_ID}."
