"""The example of a software team: the whole chain, its saga and its dead letter."""

import re

from examples.software_team import agents, story
from service.db.pool import Connection
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


async def test_the_software_team_tells_its_story(
    start_api: StartApi, start_worker: StartWorker, sql: Connection
) -> None:
    await start_worker(*(value for value in vars(agents).values() if isinstance(value, Agent)))
    api = await start_api()
    lines: list[str] = []
    async with AsyncClient(str(api.base_url)) as client:
        await story.tell(client, lines.append)
    assert re.sub(r"\b[0-9a-f]{8}\b", "...", "\n".join(lines)) == TOLD.strip()
    for topic, records in {
        "plan.in": 3,
        "plan.out": 2,
        "coding.task.in": 6,
        "build.report": 6,
        "commit.result": 9,
    }.items():
        assert await sql.fetchval("select next_offset from treadle.topic_overview where topic = $1", topic) == records
    await assert_consistent(sql)
