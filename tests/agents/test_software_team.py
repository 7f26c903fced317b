"""The example of a software team: the whole chain, its saga and its dead letter."""

import re

import pytest

from examples.software_team import agents, claude, story
from service.db.pool import Connection
from tests.support.fake_anthropic import Answer, FakeAnthropic, Request, Status, tool_calls
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.invariants import assert_consistent
from treadle import Agent
from treadle.client import AsyncClient

TOLD = """
orchestrator     login: a login page (trace ...)
orchestrator     mode: a flaky dark mode (trace ...)
orchestrator     time: an impossible time machine (trace ...)
request planner  login: 3 steps; A module, its call, and its test.
request planner  mode: 3 steps; A module, its call, and its test.
code planner     login/1: add a module for: a login page
code planner     login/2: call it where the user asks for: a login page
code planner     login/3: test: a login page
code planner     mode/1: add a module for: a flaky dark mode
code planner     mode/2: call it where the user asks for: a flaky dark mode
code planner     mode/3: test: a flaky dark mode
coding agent     login/1: build succeeded
coding agent     login/2: build succeeded
coding agent     login/3: build succeeded
coding agent     mode/1: build succeeded
coding agent     mode/2: build succeeded
coding agent     mode/3: build failed tests/mode_3.py: 1 test failed
compensator      Revert mode/3: tests/mode_3.py: 1 test failed
compensator      Revert mode/2: tests/mode_3.py: 1 test failed
compensator      Revert mode/1: tests/mode_3.py: 1 test failed
dead letter      request_planner: There is no plan for: an impossible time machine.
one trace each   ..., ...
"""


class TeamModel(FakeAnthropic):
    """Claude, who plans with the tool and writes short changes."""

    def reply(self, request: Request) -> Answer | Status:
        if "tools" in request.body:
            return tool_calls(("1", "plan", {"details": ["First.", "Then.", "Last."]}), pieces=())
        return Answer(("+++ ", "by Claude"))


@pytest.mark.parametrize("with_claude", [False, True])
async def test_the_software_team_tells_its_story(
    start_api: StartApi,
    start_worker: StartWorker,
    sql: Connection,
    monkeypatch: pytest.MonkeyPatch,
    with_claude: bool,
) -> None:
    await start_worker(*(value for value in vars(agents).values() if isinstance(value, Agent)))
    api = await start_api()
    lines: list[str] = []
    async with TeamModel().running() as fake, AsyncClient(str(api.base_url)) as client:
        if with_claude:
            monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
            monkeypatch.setenv("ANTHROPIC_BASE_URL", fake.url)
            claude._client.cache_clear()
        else:
            monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
        await story.tell(client, lines.append)
    told = re.sub(r"\b[0-9a-f]{8}\b", "...", "\n".join(lines))
    assert re.sub(r"\. (First|Then|Last)\.$", "", told, flags=re.MULTILINE) == TOLD.strip()
    assert len(fake.requests) == (8 if with_claude else 0)  # two plans and six changes, each once
    if with_claude:
        assert told.count(". Last.") == 2
        chunks = "select count(*) from treadle.events where type = 'chunk' and data ->> 'chunk' like '%Claude'"
        assert await sql.fetchval(chunks) == 6
        tokens = await sql.fetchval("select sum((usage ->> 'output_tokens')::integer) from treadle.message_overview")
        assert tokens == 8 * 22
    for topic, records in {
        "plan.in": 3,
        "plan.out": 2,
        "coding.task.in": 6,
        "build.report": 6,
        "commit.result": 9,
    }.items():
        assert await sql.fetchval("select next_offset from treadle.topic_overview where topic = $1", topic) == records
    await assert_consistent(sql)
