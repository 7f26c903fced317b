"""Agents that ask a model call the tools of MCP servers: of one over HTTP, and of a program."""

import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from service.agents.builtin.echo import echo
from service.agents.claude.api import Api
from service.agents.rounds import mcp_bodies, mcp_lines
from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.claude_runs import event_data, tool_results
from tests.support.fake_anthropic import Answer, FakeAnthropic, tool_calls
from tests.support.fake_mcp import FakeMcp, Refusal
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.messages import run
from tests.support.ports import free_port
from tests.support.repository import ROOT
from treadle import Agent, Rejected, agent
from treadle.adapters import claude_agent, openai_agent

PROGRAM: dict[str, Any] = {
    "name": "program",
    "command": sys.executable,
    "args": [str(ROOT / "tests/support/stdio_mcp_server.py")],
    "env": {"GIVEN": "a word", "LONG": "x" * 20_000},
}


async def test_a_model_calls_the_tools_of_mcp_servers(
    sql: Connection, start_api: StartApi, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("WORKERS_SECRET", "x")
    monkeypatch.setattr(mcp_lines, "MAX_LINE_BYTES", 10_000)
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
        long = claude_agent("long", mcp_servers=[{**PROGRAM, "name": "x" * 60, "tools": ["variable"]}]).connect(
            Api("sk", fake.url, "m")
        )
        await start_worker(echo, fails, desk, away, wrong, long, max_attempts=1, overload_patience=0.1)
        asked = [
            ("a", "echo", {"message": "hi"}),
            ("b", "fails", {"message": "hi"}),
            ("c", "program__variable", {"name": "GIVEN"}),
            ("d", "program__variable", {"name": "WORKERS_SECRET"}),
            ("e", "program__variable", {"name": "LONG"}),
            ("f", "program__variable", {"name": "GIVEN"}),
        ]
        fake.script += [tool_calls(*asked), Answer(("cut",), ends="early"), Answer(("Done.",))]
        row = await run(sql, "Hi", agent="desk")
        assert (row["result"], row["attempt"]) == ("Done.", 2), row["error"]
        assert {tool["name"] for tool in fake.requests[0].body["tools"]} == {"echo", "fails", "program__variable"}
        results = {result["tool_use_id"]: result for result in tool_results(fake, 2)}
        assert (results["a"]["content"], results["c"]["content"]) == ("hi", "a word")
        assert results["b"]["is_error"]
        assert results["d"]["is_error"]  # the worker's variables are not handed on
        assert (results["e"]["is_error"], "more than 10000 bytes" in results["e"]["content"]) == (True, True)
        assert results["f"]["content"] == "a word"  # the connection goes on
        assert await sql.fetchval("select count(*) from treadle.messages where agent = 'echo'") == 1
        outputs = [data["output"] for data in await event_data(sql, row, "tool") if "output" in data]
        assert outputs.count("a word") == 4  # the second attempt tells it again

        row = await run(sql, "Hi", agent="away")
        assert row["state"] == "failed"
        assert f"The MCP server {gone} cannot be used" in row["error"]
        row = await run(sql, "Hi", agent="wrong")
        assert "has no tool 'other'" in row["error"]
        row = await run(sql, "Hi", agent="long")
        assert "The tool 'variable' of the MCP server" in row["error"]
        assert "its name, with that of the server before it, must have at most 64" in row["error"]


@pytest.mark.parametrize(
    ("method", "refusal", "attempt", "failures", "told"),
    [
        ("tools/call", Refusal(503, retry_after="1"), 2, 0, "seen"),
        ("tools/call", Refusal(429, error="busy"), 2, 0, "seen"),
        ("tools/call", Refusal(502), 2, 1, "seen"),
        ("tools/call", Refusal(502, is_json=True), 2, 1, "seen"),  # of a gateway
        ("tools/call", Refusal(404), 2, 1, "seen"),  # a new release of the server does not know the session
        ("tools/call", Refusal(500, error="The tool is broken."), 1, 0, "The tool is broken."),
        ("tools/call", Refusal(403), 1, 0, "Server returned an error response"),
        ("initialize", Refusal(429), 2, 0, "seen"),
        ("tools/list", Refusal(503), 2, 0, "seen"),
    ],
)
async def test_a_server_that_is_overloaded_or_away_is_no_failure_of_its_tool(
    method: str,
    refusal: Refusal,
    attempt: int,
    failures: int,
    told: str,
    sql: Connection,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with FakeAnthropic().running() as fake, FakeMcp().running() as server:
        desk: Agent = claude_agent("desk", mcp_servers=[server.url], max_attempts=2).connect(Api("sk", fake.url, "m"))
        await start_worker(desk)
        server.script[method].append(refusal)
        fake.script += [tool_calls(("a", "look", {})), Answer(("Done.",))]
        row = await run(sql, "Hi", agent="desk")
        assert (row["result"], row["attempt"], row["failures"]) == ("Done.", attempt, failures), row["error"]
        assert told in tool_results(fake, 1)[0]["content"]


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


async def test_an_answer_of_an_mcp_server_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a stream, the SDK bounds each event."""
    monkeypatch.setattr(mcp_bodies, "MAX_ANSWER_BYTES", 1_000)

    async def body(size: int) -> AsyncIterator[bytes]:
        yield b"x" * (size // 2)
        yield b"x" * (size - size // 2)

    def answer(request: httpx2.Request) -> httpx2.Response:
        size, kind, encoding = (request.url.params[name] for name in ("size", "type", "encoding"))
        headers = {"Content-Type": kind, "Content-Encoding": encoding}
        return httpx2.Response(200, content=body(int(size)), headers=headers)

    hooks: Any = {"response": [mcp_bodies.bound_answer]}
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer), event_hooks=hooks) as client:

        async def ask(size: int, kind: str, encoding: str = "identity") -> int:
            asked: Any = {"size": size, "type": kind, "encoding": encoding}
            return len((await client.post("http://mcp/", params=asked)).content)

        assert await ask(1_000, "application/json") == 1_000
        assert await ask(5_000, "text/event-stream") == 5_000
        with pytest.raises(httpx2.StreamError, match="more than 1000 bytes"):
            await ask(1_001, "application/json")
        with pytest.raises(Rejected, match="compressed"):
            await ask(0, "application/json", "gzip")


def test_a_line_of_a_program_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is too long becomes the failed answer to its call, whose id stands at its begin or at its end."""
    monkeypatch.setattr(mcp_lines, "MAX_LINE_BYTES", 100)
    text = "é" * 60
    calls = [{"jsonrpc": "2.0", "id": 7, "result": text}, {"result": text, "id": "a"}, {"result": text}]
    lines = ["short é", *(json.dumps(call, ensure_ascii=False) for call in calls), "end"]
    data = "".join(f"{line}\n" for line in lines).encode()
    for size in (1, 7, 1_000):
        decoder = mcp_lines.LineDecoder()
        said = "".join(decoder.decode(data[at : at + size]) for at in range(0, len(data), size)).split("\n")
        failed = [json.loads(line)["id"] for line in said if "more than 100 bytes" in line]
        assert (said[0], failed, said[-2:]) == ("short é", [7, "a"], ["end", ""])
        assert max(len(line.encode()) for line in said) < 150
