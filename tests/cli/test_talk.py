"""`treadle send` and `treadle tail`, on the test's own database."""

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest

from service.db.pool import Connection
from tests.support.api_answers import UNKNOWN_ID
from tests.support.cli_runner import Cli, error_sentence
from tests.support.fixture_types import StartWorker
from tests.support.inputs import give_input
from tests.support.messages import overview, submit
from tests.support.waiting import until
from treadle import Context, Rejected, agent


async def test_send_prints_the_messages_id(sql: Connection, cli: Cli, register_agents: Any) -> None:
    await register_agents()
    result = await cli(
        "send", "Grüße\n😀", "--thread", "t", "--agent", "echo", "--priority", "high", "--metadata", '{"a": 1}'
    )
    assert result.exit_code == 0, result.output
    message = await overview(sql, UUID(result.stdout.strip()))
    assert (message["user_message"], message["thread_id"], message["priority"]) == ("Grüße\n😀", "t", "high")
    assert (message["agent"], message["metadata"], message["state"]) == ("echo", {"a": 1}, "queued")
    await sql.execute("select treadle.offer_webhooks()")  # as a worker does
    url = "https://example.com/done"
    accepted = json.loads((await cli("send", "x", "--json", "--callback-url", url)).stdout)
    assert await sql.fetchval("select callback_url from treadle.messages order by message_id desc limit 1") == url
    assert (accepted["state"], accepted["queue_position"], accepted["thread_id"]) == ("queued", 1, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["send", ""], "The text must have 1 to 100000 characters."),
        (["send", "x" * 100_001], "The text must have 1 to 100000 characters."),
        (["send", "x", "--agent", "nobody"], "There is no agent 'nobody'."),
        (["send", "x", "--callback-url", "http://example.com"], "callback_url is refused: The address must begin with"),
        (["send", "x", "--thread", "a/b"], "thread_id must have 1 to 255 characters"),
        (["send", "not UTF-8: \udcff"], "The arguments must be valid UTF-8."),
        (["send", "x", "--thread", "\udcff"], "The arguments must be valid UTF-8."),
    ],
    ids=range(7),
)
async def test_a_message_that_is_refused_is_one_sentence(
    arguments: list[str], said: str, sql: Connection, cli: Cli, register_agents: Any
) -> None:
    await register_agents()
    assert error_sentence(await cli(*arguments)).startswith(said)
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
    assert result.stderr.splitlines()[1:] == ["[retry] Failing attempt 1, as metadata.fail_times asks."]
    result = await cli("send", "x", "--follow", "--metadata", '{"fail_times": "no"}')
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[1:] == ["[error] metadata.fail_times must be a number, 0 or more."]
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
    assert outputs == {"text": "dropped\nthe text\n", "object": 'dropped\n{"ü": [1]}\n', "nothing": "dropped\n"}


async def test_follow_shows_a_result_that_says_something_else_than_the_chunks(
    cli: Cli, start_worker: StartWorker
) -> None:
    @agent("count")
    async def count(context: Context, request: str) -> Any:
        for number in ("1 ", "2 ", "", "3 "):
            await context.emit(number)
        if request == "failing":
            raise Rejected("I lost count.")
        return {"other": "I counted to 3.", "same": "1 2 3", "object": {"to": 3}, "nothing": None}[request]

    await start_worker(count)
    outputs = {
        request: (await cli("send", request, "--agent", "count", "--follow")).stdout
        for request in ("other", "same", "object", "nothing")
    }
    shown = "1 2 3 \n"
    assert outputs == {"other": f"{shown}I counted to 3.\n", "same": shown, "object": shown, "nothing": shown}
    failing = await cli("send", "failing", "--agent", "count", "--follow")
    assert (failing.exit_code, failing.stdout) == (1, shown)
    assert failing.stderr.splitlines()[1:] == ["[error] I lost count."]  # after the line with the message's id


async def test_follow_ends_no_line_that_has_its_end(cli: Cli, start_worker: StartWorker) -> None:
    @agent("lines")
    async def lines(context: Context, request: str) -> str:
        await context.emit("one\n")
        await context.emit("two\n")
        return "one\ntwo\n"

    await start_worker(lines)
    assert (await cli("send", "x", "--agent", "lines", "--follow")).stdout == "one\ntwo\n"


async def test_follow_shows_a_question_and_how_to_answer_it(
    cli: Cli, sql: Connection, start_worker: StartWorker
) -> None:
    @agent("asks")
    async def asks(context: Context, text: str) -> str:
        await context.emit("Well: ")
        return f"You said {await context.input({'may I': text})}."

    await start_worker(asks)
    following = asyncio.create_task(cli("send", "go", "--agent", "asks", "--follow"))
    row = await until(lambda: sql.fetchrow("select message_id from treadle.messages where hold = 'input'"))
    await give_input(sql, row["message_id"], "yes")
    result = await following
    assert result.stdout == "Well: \nWell: \nYou said yes.\n"
    command = f"Answer with: treadle input {row['message_id']} ANSWER"
    assert result.stderr.splitlines()[1:] == ['[question] {"may I": "go"}', command]


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


async def test_tail_of_a_cancelled_message_fails(sql: Connection, cli: Cli, register_agents: Any) -> None:
    await register_agents()
    message_id = await submit(sql, "x")
    await sql.fetchval("select treadle.cancel($1)", message_id)
    result = await cli("tail", str(message_id))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "[cancelled]\n"
    assert error_sentence(await cli("tail", UNKNOWN_ID)) == f"There is no message {UNKNOWN_ID}."
