"""Hand requests to the team, and tell what happens, from the records of its topics."""

import asyncio
from collections.abc import Callable
from typing import Any

from examples.software_team.agents import SUBSCRIPTIONS, TOPICS
from treadle.client import AsyncClient, TopicRecord

TASKS = 3  # of each plan
PATIENCE_SECONDS = 900  # Claude writes the three changes of a plan one after the other
REQUESTS = (
    ("login", "a login page"),  # all goes well
    ("mode", "a flaky dark mode"),  # its last build fails: the commits are taken back
    ("time", "an impossible time machine"),  # it cannot be planned: a dead letter
)


async def declare(client: AsyncClient) -> None:
    """The topics and subscriptions of the team. A repeat changes nothing."""
    for topic in TOPICS:
        await client.declare_topic(topic)
    for name, fields in SUBSCRIPTIONS.items():
        options: dict[str, Any] = {"start": "earliest", "delivery": "exactly_once", **fields}
        await client.subscribe(name, options.pop("topics"), options.pop("agent"), **options)


async def tell(client: AsyncClient, say: Callable[[str], None]) -> None:
    """Submit the requests, and say what each agent makes of them, until the last outcome is there. Records of earlier
    stories are passed over."""
    await declare(client)
    start = {topic.topic: topic.next_offset for topic in await client.topics()}
    traces: dict[str, str] = {}
    for request_id, title in REQUESTS:
        started = await client.run({"requestId": request_id, "title": title}, agent="orchestrator")
        traces[request_id] = started["traceparent"].split("-")[1]
        say(f"orchestrator     {request_id}: {title} (trace {traces[request_id][:8]})")
    for record in await read(client, "plan.out", start, 2):
        say(f"request planner  {record.key}: {len(record.value['steps'])} steps; {record.value['rationale']}")
    for record in await read(client, "coding.task.in", start, 2 * TASKS):
        say(f"code planner     {record.value['taskId']}: {record.value['goal']}")
    for record in await read(client, "build.report", start, 2 * TASKS):
        ended = record.value["status"].removeprefix("BUILD_STATUS_").lower()
        say(f"coding agent     {record.value['taskId']}: build {ended} {' '.join(record.value['errors'])}".rstrip())
    commits = await read(client, "commit.result", start, 3 * TASKS)
    for record in commits:
        if record.value["message"].startswith("Revert"):
            say(f"compensator      {record.value['message']}")
    letter = await newest_dead_letter(client)
    say(f"dead letter      {letter}")
    seen = {record.value["trace"]["traceparent"].split("-")[1] for record in commits}
    assert seen == {traces["login"], traces["mode"]}
    say(f"one trace each   {', '.join(sorted(trace[:8] for trace in seen))}")


async def read(client: AsyncClient, topic: str, start: dict[str, int], count: int) -> list[TopicRecord]:
    """The next records of a topic, as soon as there are so many; those of a request in its order."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            page = await client.records(topic, offset=start[topic], limit=1000)
            if len(page.records) >= count:
                return sorted(page.records, key=lambda record: (record.key or "", record.offset))
            await client.records(topic, offset=page.next_offset, wait=5)


async def newest_dead_letter(client: AsyncClient) -> str:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            if letters := (await client.dead_letters("default")).items:
                return f"{letters[0].agent}: {letters[0].reason}"
            await asyncio.sleep(0.1)
