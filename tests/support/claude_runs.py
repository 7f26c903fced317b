"""Run the agent `desk`, a claude_agent that asks a fake API, and read what it did."""

from collections.abc import Awaitable, Callable
from typing import Any

from service.agents.claude.api import Api
from service.db.pool import Connection
from tests.support.fake_anthropic import FakeAnthropic
from tests.support.fixture_types import StartWorker
from tests.support.messages import log, run
from treadle.adapters import ClaudeAgent, claude_agent

StartClaudeAgent = Callable[..., Awaitable[ClaudeAgent]]


def claude_agent_starter(fake: FakeAnthropic, start_worker: StartWorker) -> StartClaudeAgent:
    """Start a worker with an agent `desk` that has these tools and asks the fake API."""

    async def start(*tools: Any, **options: Any) -> ClaudeAgent:
        made = claude_agent("desk", tools=tools, **options)
        await start_worker(made.connect(Api("sk-test", fake.url, "claude-test")))
        return made

    return start


async def ask_claude(sql: Connection, message: Any = "Hi", **fields: Any) -> dict[str, Any]:
    return await run(sql, message, agent="desk", **fields)


async def event_data(sql: Connection, message: dict[str, Any], type: str) -> list[Any]:
    """The data of a message's events of a type."""
    return [entry.data for entry in await log(sql, message["message_id"]) if entry.type == type]


def tool_results(fake: FakeAnthropic, request: int) -> Any:
    """The tool results at the end of a request."""
    last = fake.requests[request].body["messages"][-1]
    assert last["role"] == "user"
    return last["content"]
