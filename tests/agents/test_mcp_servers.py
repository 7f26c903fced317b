"""Agents that ask a model call the tools of MCP servers: of one over HTTP, and of a program."""

import sys
from typing import Any

import pytest

from service.agents.builtin.echo import echo
from service.agents.claude.api import Api
from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.claude_runs import event_data, tool_results
from tests.support.fake_anthropic import Answer, FakeAnthropic, tool_calls
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.messages import run
from tests.support.ports import free_port
from tests.support.repository import ROOT
from treadle import Agent, agent
from treadle.adapters import claude_agent, openai_agent

PROGRAM: dict[str, Any] = {
    "name": "program",
    "command": sys.executable,
    "args": [str(ROOT / "tests/support/stdio_mcp_server.py")],
    "env": {"GIVEN": "a word"},
}


async def test_a_model_calls_the_tools_of_mcp_servers(
    sql: Connection, start_api: StartApi, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("WORKERS_SECRET", "x")
    api: Client = await start_api()  # Treadle is an MCP server, too: its agents are tools

    @agent("fails")
    async def fails(context: Any, text: str) -> str:
        raise ValueError("no")

    async with FakeAnthropic().running() as fake:
        servers: list[Any] = [{"url": f"{api.base_url}/mcp", "tools": ["echo", "fails"]}, PROGRAM]
        desk: Agent = claude_agent("desk", mcp_servers=servers, max_attempts=2).connect(Api("sk", fake.url, "m"))
        gone = f"http://127.0.0.1:{free_port()}/mcp"
        away = claude_agent("away", mcp_servers=[gone]).connect(Api("sk", fake.url, "m"))
        wrong = claude_agent("wrong", mcp_servers=[{**PROGRAM, "tools": ["other"]}]).connect(Api("sk", fake.url, "m"))
        await start_worker(echo, fails, desk, away, wrong, max_attempts=1, overload_patience=0.1)
        asked = [
            ("a", "echo", {"message": "hi"}),
            ("b", "fails", {"message": "hi"}),
            ("c", "program__variable", {"name": "GIVEN"}),
            ("d", "program__variable", {"name": "WORKERS_SECRET"}),
        ]
        fake.script += [tool_calls(*asked), Answer(("cut",), ends="early"), Answer(("Done.",))]
        row = await run(sql, "Hi", agent="desk")
        assert (row["result"], row["attempt"]) == ("Done.", 2), row["error"]
        assert {tool["name"] for tool in fake.requests[0].body["tools"]} == {"echo", "fails", "program__variable"}
        results = {result["tool_use_id"]: result for result in tool_results(fake, 2)}
        assert (results["a"]["content"], results["c"]["content"]) == ("hi", "a word")
        assert results["b"]["is_error"]
        assert results["d"]["is_error"]  # the worker's variables are not handed on
        assert await sql.fetchval("select count(*) from treadle.messages where agent = 'echo'") == 1
        outputs = [data["output"] for data in await event_data(sql, row, "tool") if "output" in data]
        assert outputs.count("a word") == 2  # the second attempt tells it again

        row = await run(sql, "Hi", agent="away")
        assert row["state"] == "failed"
        assert f"The MCP server {gone} cannot be used" in row["error"]
        row = await run(sql, "Hi", agent="wrong")
        assert "has no tool 'other'" in row["error"]


def test_wrong_servers_are_refused_when_the_agent_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    two_places, unknown = {"url": "http://x", "command": "y"}, {"uri": "x"}
    refused: list[Any] = ["http://x", [{"url": "ftp://x"}], [{}], [two_places], [unknown]]
    for wrong in refused:
        for make in (claude_agent, openai_agent):
            with pytest.raises(ValueError, match=r"MCP|mcp_servers"):
                make("x", mcp_servers=wrong)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'treadle\[mcp\]'"):
        claude_agent("x", mcp_servers=["http://x"])
