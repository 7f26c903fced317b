"""The agent `desk`, for tests of claude_agent: to start it, to ask it, and to look at what came of it."""

from collections.abc import Awaitable, Callable
from typing import Any

from service.agents.claude.agent import ClaudeAgent, claude_agent
from service.agents.claude.api import Api
from service.db.pool import Connection
from tests.conftest import StartWorker
from tests.support.fake_anthropic import FakeAnthropic
from tests.support.harness import log, run

StartDesk = Callable[..., Awaitable[ClaudeAgent]]


def starting(fake: FakeAnthropic, start_worker: StartWorker) -> StartDesk:
    """Starts a worker whose desk has these tools and asks the fake."""

    async def start(*tools: Any, **options: Any) -> ClaudeAgent:
        desk = claude_agent("desk", tools=tools, **options)
        await start_worker(desk.connect(Api("sk-test", fake.url, "claude-test")))
        return desk

    return start


async def ask(sql: Connection, message: Any = "Hi", **fields: Any) -> dict[str, Any]:
    return await run(sql, message, agent="desk", **fields)


async def data(sql: Connection, message: dict[str, Any], type: str) -> list[Any]:
    """The data of a message's events of a type."""
    return [entry.data for entry in await log(sql, message["message_id"]) if entry.type == type]


def results(fake: FakeAnthropic, request: int) -> Any:
    """The results of tools that a request ends with."""
    last = fake.requests[request].body["messages"][-1]
    assert last["role"] == "user"
    return last["content"]
