"""Why a message has not finished: over HTTP, at the command line, and in short in its stream."""

import json

from service.db.pool import Connection
from tests.support.api_answers import UNKNOWN_ID, get, problem
from tests.support.api_client import Client, read_events
from tests.support.cli_runner import Cli
from tests.support.fixture_types import RegisterAgents, StartApi, StartWorker
from treadle import Context, agent


async def test_the_api_and_the_command_line_say_the_same(api: Client, sql: Connection, cli: Cli) -> None:
    first, second = await api.submit("a", thread_id="t"), await api.submit("b", thread_id="t")
    found = await get(api, f"/messages/{second}/explain")
    assert found["message_id"] == second
    assert [reason["cause"] for reason in found["reasons"]] == ["thread", "no_worker"]
    assert first in found["reasons"][0]["sentence"]
    said = await cli("explain", second)
    assert said.exit_code == 0
    lines = said.stdout.splitlines()
    assert lines[1::2] == [f"  {reason['advice']}" for reason in found["reasons"]]
    assert lines[2] == "No living worker claims from the queue default."
    as_json = json.loads((await cli("explain", second, "--json")).stdout)
    assert [reason["cause"] for reason in as_json["reasons"]] == ["thread", "no_worker"]
    problem(await api.get(f"/messages/{UNKNOWN_ID}/explain"), 404, UNKNOWN_ID)
    assert (await cli("explain", UNKNOWN_ID)).exit_code == 1


@agent("elsewhere")
async def elsewhere(context: Context, text: str) -> str:
    return text


async def test_the_stream_says_it_in_short(
    start_api: StartApi, start_worker: StartWorker, register_agents: RegisterAgents
) -> None:
    await start_worker()
    await register_agents(elsewhere)
    api = await start_api()
    delayed = await api.submit("x", delay_seconds=1000)
    async with api.stream("GET", f"/messages/{delayed}/stream") as answer:
        async for event in read_events(answer):
            if event.type == "waiting":
                assert event.data["message"] == "Waiting until it is due."
                break


async def test_an_agent_that_no_worker_has_is_said_in_the_stream(api: Client, sql: Connection) -> None:
    """A worker that has the agent not, and claims nothing: the queue's only message stays where it is. Its heartbeat
    counts for 19 seconds."""
    await sql.execute(
        "insert into treadle.workers (worker_id, host, pid, queues, agents, concurrency, started_at, heartbeat_at,"
        " reported_at, beating_since) select 'w', 'h', 1, '{default}', '{other}', 1, t, t + interval '9 seconds', t, t"
        " from treadle.clock() t"
    )
    message_id = await api.submit("x")
    async with api.stream("GET", f"/messages/{message_id}/stream") as answer:
        async for event in read_events(answer):
            if event.type == "waiting":
                assert event.data["message"] == "No worker of this queue has its agent."
                break
