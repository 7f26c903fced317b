"""a2a_agent: an agent of another system, here the same API, over A2A."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from a2a.types import Artifact, Part

from service.agents.adapters.a2a import connection, remote, shown
from service.agents.adapters.a2a.remote import Remote
from service.agents.adapters.a2a.shown import Shown
from service.agents.builtin.echo import echo
from service.db.pool import Connection
from service.limits import MAX_ERROR_CHARS
from tests.support.api_client import Client
from tests.support.dialect_agents import scene_agent
from tests.support.documents import DOCS, blocks
from tests.support.fake_a2a import FakeA2A, task
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.messages import text
from tests.support.scripted_agent import ScriptedAgent
from tests.support.waiting import until, wait_for
from tests.support.worker_processes import lose_lease
from treadle import Rejected
from treadle.adapters import a2a_agent
from treadle.testing import FakeContext


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


async def test_a_host_that_the_client_cannot_read_ends_the_message() -> None:
    with pytest.raises(Rejected, match="The agent URL is invalid"):
        await a2a_agent("away", "http://xn--ls8h.la/")(FakeContext(), "x")


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


async def test_a_cancel_reaches_the_other_system_although_its_client_hides_the_reason(
    api: Client, script: ScriptedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def until_settled(*_: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise asyncio.CancelledError("Cancelled via cancel scope") from None  # as anyio does while it connects

    monkeypatch.setattr(remote.Remote, "_until_settled", until_settled)
    message_id = await api.submit("go", agent="a2a_script")
    await until(lambda: tasks(api, "script"), lambda found: found and found[0]["state"] == "processing")
    await api.delete(f"/messages/{message_id}")
    assert (await api.settled(message_id))["state"] == "cancelled"
    await until(lambda: tasks(api, "script"), lambda found: found[0]["state"] == "cancelled")


async def test_a_redrive_begins_another_task(api: Client, script: ScriptedAgent) -> None:
    """The one before would stay as it is."""
    message_id = await api.submit("trouble", agent="a2a_scene")
    for count in (1, 2):
        found = await api.settled(message_id)
        assert (found["state"], "ended as failed: No trouble" in found["error"]) == ("failed", True)
        assert len(await tasks(api, "scene")) == count
        if count == 1:
            await api.post(f"/messages/{message_id}/redrive")


async def test_a_task_that_was_forgotten_is_begun_again_by_a_redrive(fake: FakeA2A) -> None:
    fake.answers["GetTask"] += [
        {"error": {"code": -32001, "message": "Task not found"}},
        {**task("COMPLETED", "Well.")},
    ]
    context = FakeContext()
    partner = Remote("p", fake.url, {})
    with pytest.raises(Rejected, match="not found"):
        await run(partner, context)
    assert await run(partner, FakeContext(steps=context.steps, attempt=2)) == "Well."
    assert fake.methods == ["SendStreamingMessage", "GetTask"] * 2


async def test_a_question_of_a_second_task_has_an_answer_of_its_own(
    fake: FakeA2A, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where both ask under the same id."""
    monkeypatch.setattr(remote, "AGAIN_SECONDS", 0)
    asks: dict[str, Any] = {**task("INPUT_REQUIRED"), "id": "t"}
    asks["status"]["message"] = {"messageId": "q", "role": "ROLE_AGENT", "parts": [{"text": "Which?"}]}
    failed: dict[str, Any] = task("FAILED")
    failed["status"]["message"] = {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": "x" * 5_000}]}
    fake.answers["SendStreamingMessage"].clear()
    fake.answers["SendStreamingMessage"] += [[{"task": {**task("WORKING"), "id": id}}] for id in ("t", "t", "t2", "t2")]
    fake.answers["GetTask"] += [asks, failed]
    context = FakeContext(inputs={"a2a question q": "one"})
    partner = Remote("p", fake.url, {})
    with pytest.raises(Rejected, match="ended as failed") as raised:
        await run(partner, context)
    assert len(str(raised.value)) == MAX_ERROR_CHARS
    fake.answers["GetTask"] += [asks, task("COMPLETED", "Well.")]
    answers = {"a2a question q": "one", "a2a question t2 q": "two"}
    again = FakeContext(steps=context.steps, attempt=2, inputs=answers)
    assert await run(partner, again) == "Well."
    assert "a2a answer t2 q" in again.steps
    assert len(fake.answers["SendStreamingMessage"]) == 0


async def test_errors_say_whether_another_attempt_may_help(api: Client) -> None:
    rejected = await api.settled(await api.submit("x", agent="a2a_missing"))
    assert (rejected["state"], rejected["attempt"], "404" in rejected["error"]) == ("failed", 1, True)
    away = await api.submit("x", agent="away")
    found = await until(lambda: api.status(away), lambda status: status["attempt"] > 1)
    assert (found["state"] in ("queued", "processing"), "cannot be reached" in found["error"]) == (True, True)


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeA2A]:
    monkeypatch.setenv("NO_PROXY", "*")
    async with FakeA2A().running() as fake:
        fake.answers["SendStreamingMessage"] += [[{"task": task("SUBMITTED")}] for _ in range(9)]
        yield fake


async def run(partner: Remote, given: FakeContext | None = None) -> Any:
    context: Any = given or FakeContext()
    return await partner.run(context, "How is it?")


async def test_streams_that_end_early_are_followed_after_a_pause(
    fake: FakeA2A, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", note)
    over = {"statusUpdate": {"taskId": "t", "contextId": "c", "status": task("COMPLETED")["status"]}}
    fake.answers["GetTask"] += [task("WORKING")] * 4 + [task("COMPLETED", "It ", "rains.")]
    fake.answers["SubscribeToTask"] += [[{"task": task("WORKING", "It ")}], [], [over], [over]]
    context = FakeContext()
    assert await run(Remote("x", fake.url, {}), context) == "It rains."
    assert context.text == "It rains."
    assert pauses == [remote.AGAIN_SECONDS] * 4

    pauses.clear()
    fake.answers["GetTask"] += [task("WORKING"), task("COMPLETED", "ok")]
    fake.answers["SubscribeToTask"].append([over])
    assert await run(Remote("x", fake.url, {})) == "ok"
    assert pauses == []


async def test_what_the_other_system_sends_is_bounded(fake: FakeA2A, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_ANSWER_BYTES", 200_000)
    monkeypatch.setattr(shown, "MAX_PARTS_BYTES", 5_000)
    chunk = {"artifactUpdate": {"taskId": "t", "artifact": {"artifactId": "a", "parts": [{"text": "x" * 1_000}]}}}
    data = {"artifactUpdate": {"artifact": {"artifactId": "b", "parts": [{"data": ["x" * 1_000]}]}, "append": True}}
    partner = Remote("x", fake.url, {})

    fake.answers["GetTask"] += [task("WORKING"), task("COMPLETED", "whole")]
    fake.answers["SubscribeToTask"].append([chunk] * 300)  # each event is small, and replaces the one before
    monkeypatch.setattr(remote, "AGAIN_SECONDS", 0)
    assert await run(partner) == "whole"

    fake.answers["GetTask"] += [task("COMPLETED", "x" * 300_000)]
    with pytest.raises(Rejected, match="answer of the agent has more than 200000 bytes"):
        await run(partner)
    fake.answers["GetTask"] += [task("WORKING")] * 2
    fake.answers["SubscribeToTask"] += [[{"task": task("WORKING", "x" * 300_000)}], [data] * 9]
    with pytest.raises(Rejected, match="An event of the agent has more than 200000 bytes"):
        await run(partner)
    context = FakeContext()
    with pytest.raises(Rejected, match="answer of the agent has more than 5000 bytes"):
        await run(partner, context)
    assert [type for type, _ in context.events] == ["artifact"]  # the same data are told once

    assert all("accept-encoding: identity" in head.lower() for head in fake.heads)
    fake.encoding = "gzip"
    with pytest.raises(Rejected, match="compressed"):
        await run(partner)


async def test_a_long_answer_is_joined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    joined = 0
    join = shown._text

    def count(parts: list[Any]) -> str:
        nonlocal joined
        joined += len(parts)
        return join(parts)

    monkeypatch.setattr(shown, "_text", count)
    context: Any = FakeContext()
    shows = Shown(context)
    for _ in range(1_000):
        await shows.update(Artifact(artifact_id="a", parts=[Part(text="x")]), append=True)
    assert shows.result([]) == context.text == "x" * 1_000
    assert joined == 1_000


async def test_headers_go_only_to_the_origin_of_the_url(fake: FakeA2A) -> None:
    fake.card_url = fake.url.replace("127.0.0.1", "localhost")
    with pytest.raises(Rejected, match="another origin"):
        await run(Remote("x", fake.url, {"Authorization": "Bearer secret"}))
    assert fake.methods == []
    fake.card_url = f"{fake.url}/a2a"
    fake.answers["GetTask"].append(task("COMPLETED", "ok"))
    assert await run(Remote("x", f"{fake.url}/", {"Authorization": "Bearer secret"})) == "ok"
    assert "authorization: bearer secret" in fake.heads[-1].lower()


async def test_no_call_outlives_its_attempt(fake: FakeA2A, monkeypatch: pytest.MonkeyPatch) -> None:
    partner = Remote("x", fake.url, {})
    fake.answers["SendStreamingMessage"] = deque([None])
    attempt = asyncio.create_task(run(partner))
    await wait_for(fake.asked)
    attempt.cancel("the lease is lost")
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert not [task for task in asyncio.all_tasks() if "_begin" in repr(task.get_coro())]

    for name in ("asked", "hung_up"):
        getattr(fake, name).clear()
    monkeypatch.setattr(remote, "MAX_CANCEL_SECONDS", 1.0)
    monkeypatch.setattr(remote, "CANCEL_SECONDS", 0)
    fake.answers["SendStreamingMessage"].append([{"task": task("SUBMITTED")}])
    fake.answers["GetTask"].append(None)
    fake.answers["CancelTask"].append(None)
    attempt = asyncio.create_task(run(partner))
    await wait_for(fake.asked)
    attempt.cancel("cancelled")
    with pytest.raises(asyncio.CancelledError):
        await attempt
    await until(lambda: not partner._cancels)
    assert fake.methods[-1] in ("GetTask", "CancelTask")


async def test_a_cancel_that_fails_is_repeated_until_the_task_is_over(
    fake: FakeA2A, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "AGAIN_SECONDS", 0)
    partner = Remote("x", fake.url, {})
    fake.answers["SendStreamingMessage"].append([{"task": task("SUBMITTED")}])
    fake.answers["GetTask"].append(None)
    errors = [{"error": {"code": code, "message": "No."}} for code in (-32603, -32603, -32002)]
    fake.answers["CancelTask"].extend(errors)
    attempt = asyncio.create_task(run(partner))
    await wait_for(fake.asked)
    attempt.cancel("cancelled")
    with pytest.raises(asyncio.CancelledError):
        await attempt
    await until(lambda: not partner._cancels)
    assert fake.methods.count("CancelTask") == len(errors)
