"""a2a_agent: an agent of another system, here the same API, over A2A."""

from typing import Any
from uuid import UUID

import pytest

from service.agents.builtin.echo import echo
from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.dialect_agents import scene_agent
from tests.support.documents import DOCS, blocks
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.messages import text
from tests.support.scripted_agent import ScriptedAgent
from tests.support.waiting import until
from tests.support.worker_processes import lose_lease
from treadle.adapters import a2a_agent


@pytest.fixture
async def api(start_api: StartApi, start_worker: StartWorker, script: ScriptedAgent) -> Client:
    api = await start_api()
    base = str(api.base_url).rstrip("/")
    [shown] = blocks(DOCS / "agents" / "a2a.md", "python agent")
    names: dict[str, Any] = {}
    exec(shown.text.replace("http://localhost:8000", base), names)
    partners = [a2a_agent(f"a2a_{name}", f"{base}/a2a/{name}/") for name in ("scene", "script", "missing")]
    away = a2a_agent("away", "http://127.0.0.1:1/", max_attempts=1)
    await start_worker(echo, scene_agent(), script.agent, names["partner"], *partners, away)
    return api


async def tasks(api: Client, agent: str) -> list[dict[str, Any]]:
    """The messages of the agent of the other system, the newest first."""
    return list((await api.get("/messages", params={"agent": agent})).json()["messages"])


async def test_a_message_is_a_task_of_the_other_system(api: Client) -> None:
    for said, result in (("all", "I look. It is blue."), ("retry", "right"), ("object", {"answer": 42})):
        found = await api.settled(await api.submit(said, agent="a2a_scene", thread_id="t"))
        assert (found["state"], found["result"]) == ("completed", result)
    assert (await api.settled(await api.submit("one two", agent="partner")))["result"] == "one two"
    assert len({task["thread_id"] for task in await tasks(api, "scene")}) == 1
    failed = await api.settled(await api.submit("trouble", agent="a2a_scene"))
    assert (failed["state"], failed["attempt"], "ended as failed: No trouble" in failed["error"]) == ("failed", 1, True)

    asked = await api.submit("ask", agent="a2a_scene")
    waiting = await until(lambda: api.status(asked), lambda status: status["hold"] == "input")
    assert waiting["asks"]["question"] == "Which unit?"
    await api.post(f"/messages/{asked}/input", json={"input": "Celsius"})
    assert (await api.settled(asked))["result"] == "In Celsius."


async def test_a_lost_attempt_goes_on_with_the_same_task(api: Client, script: ScriptedAgent, sql: Connection) -> None:
    message_id = await api.submit("go", agent="a2a_script")
    [task] = await until(lambda: tasks(api, "script"), lambda found: found)
    script.say(task["message_id"], "one ")
    await until(lambda: text(sql, UUID(message_id)))
    await lose_lease(sql, UUID(message_id))
    script.say(task["message_id"], "two", None)
    found = await api.settled(message_id)
    assert (found["result"], found["attempt"], len(await tasks(api, "script"))) == ("one two", 2, 1)

    cancelled = await api.submit("go", agent="a2a_script")
    await until(lambda: tasks(api, "script"), lambda found: len(found) == 2 and found[0]["state"] == "processing")
    await api.delete(f"/messages/{cancelled}")
    assert (await api.settled(cancelled))["state"] == "cancelled"
    await until(lambda: tasks(api, "script"), lambda found: found[0]["state"] == "cancelled")


async def test_errors_say_whether_another_attempt_may_help(api: Client) -> None:
    rejected = await api.settled(await api.submit("x", agent="a2a_missing"))
    assert (rejected["state"], rejected["attempt"], "404" in rejected["error"]) == ("failed", 1, True)
    away = await api.submit("x", agent="away")
    found = await until(lambda: api.status(away), lambda status: status["attempt"] > 1)
    assert (found["state"] in ("queued", "processing"), "cannot be reached" in found["error"]) == (True, True)
