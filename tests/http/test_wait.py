"""Waiting for the end of a message in one request, and what a thread knows of its agent."""

import asyncio
from typing import Any

from service.agents.builtin.echo import echo
from tests.support.access import CLOSED, ROOT_KEY, bearer, create_key
from tests.support.agents import HoldingAgent, double
from tests.support.api_answers import UNKNOWN_ID, problem
from tests.support.fixture_types import RegisterAgents, StartApi, StartWorker
from treadle import Agent, Context, agent


def asking() -> Agent:
    @agent("asking")
    async def ask(context: Context, text: str) -> str:
        """Asks a question."""
        return str(await context.input("Which?"))

    return ask


async def test_a_submit_waits_for_the_end(start_api: StartApi, start_worker: StartWorker) -> None:
    holding = HoldingAgent()
    await start_worker(echo, asking(), holding.agent)
    api = await start_api()
    ended = await api.post("/messages?wait=20", json={"message": "a"})
    assert (ended.status_code, ended.json()["state"], ended.json()["result"]) == (200, "completed", "a")
    preferred = await api.post("/messages", json={"message": "b"}, headers={"Prefer": "respond-async, wait=20"})
    assert (preferred.status_code, preferred.headers["preference-applied"]) == (200, "wait=20")
    asks = await api.post("/messages?wait=20", json={"message": "c", "agent": "asking"})
    assert (asks.status_code, asks.json()["state"]) == (202, "queued")  # it does not wait for a person
    late = await api.post("/messages?wait=0.05", json={"message": "d", "agent": "holding"})
    assert late.status_code == 202
    message_id = late.json()["message_id"]
    await holding.holds(message_id)
    assert (await api.get(f"/messages/{message_id}?wait=0.05")).json()["status"]["state"] == "processing"
    waiting = asyncio.create_task(api.get(f"/messages/{message_id}/status?wait=20"))
    holding.release.set()
    assert (await waiting).json()["state"] == "completed"
    assert (await waiting).json()["result"] == "d"
    problem(await api.get(f"/messages/{UNKNOWN_ID}?wait=1"), 404, "no message")
    problem(await api.post("/messages?wait=61", json={"message": "x"}), 400, "wait must be a number of seconds")


async def test_waiting_needs_the_scope_read_and_counts_as_a_stream(
    start_api: StartApi, register_agents: RegisterAgents
) -> None:
    await register_agents()
    api = await start_api(**CLOSED, client_open_streams=1)
    key = (await create_key(api, "submit"))["key"]
    problem(await api.post("/messages?wait=1", json={"message": "x"}, headers=bearer(key)), 403, "read")
    queued = await api.post("/messages", json={"message": "x"}, headers=bearer(key))
    path = f"/messages/{queued.json()['message_id']}"
    waiting = [asyncio.create_task(api.get(f"{path}?wait=20", headers=bearer(ROOT_KEY))) for _ in range(2)]
    [refused], [open_one] = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    problem(refused.result(), 429, "CLIENT_OPEN_STREAMS")
    assert (await api.get(path, headers=bearer(ROOT_KEY))).status_code == 200
    open_one.cancel()
    await asyncio.gather(open_one, return_exceptions=True)


async def test_a_thread_remembers_its_agent(start_api: StartApi, register_agents: RegisterAgents) -> None:
    await register_agents(echo, double)
    api = await start_api()

    async def agent_of(**fields: Any) -> str:
        return str((await api.status(await api.submit("x", **fields)))["agent"])

    assert await agent_of(thread_id="t") == "echo"
    assert await agent_of(thread_id="t", agent="double") == "double"
    assert await agent_of(session_id="t") == "double"
    assert await agent_of(thread_id="t", aside=True) == "echo"
    assert await agent_of(thread_id="t") == "double"
    assert await agent_of(thread_id="other") == await agent_of() == "echo"
    both = await api.post("/messages", json={"message": "x", "thread_id": "t", "session_id": "u"})
    problem(both, 422, "session_id is another name of thread_id")


async def test_an_agent_is_steered(start_api: StartApi, start_worker: StartWorker) -> None:
    said, heard = asyncio.Event(), asyncio.Event()

    @agent("guided")
    async def guided(context: Context, text: str) -> str:
        """Listens until a client has said something."""
        wishes = [text, *await context.incoming()]
        heard.set()
        await said.wait()
        while len(wishes) < 2:
            wishes += await context.incoming()
        return " ".join([*wishes, *await context.incoming()])

    await start_worker(guided)
    api = await start_api()
    first = await api.submit("go", thread_id="t", agent="guided")
    await heard.wait()
    second = await api.submit("left", thread_id="t", on_busy="steer")
    said.set()
    assert (await api.settled(first))["result"] == "go left"
    assert (await api.settled(second))["result"] == {"steered_into": first}


async def test_double_texting_over_http(start_api: StartApi, start_worker: StartWorker) -> None:
    holding = HoldingAgent()
    await start_worker(echo, holding.agent)
    api = await start_api()
    first = await api.submit("a", thread_id="t", agent="holding")
    await holding.holds(first)
    body = {"message": "b", "thread_id": "t", "agent": "echo"}
    problem(await api.post("/messages", json={**body, "on_busy": "reject"}), 409, "The thread 't' is busy")
    for fields, words in (
        ({"message": "b", "on_busy": "reject"}, "needs a thread_id"),
        ({**body, "on_busy": "rollback", "aside": True}, "takes its turn at once"),
        ({**body, "on_busy": "wait"}, "on_busy must be enqueue"),
    ):
        problem(await api.post("/messages", json=fields), 422, words)
    batch = await api.post("/messages/batch", json={"messages": [{**body, "on_busy": "interrupt"}]})
    problem(batch, 422, "submitted alone")
    key = {"Idempotency-Key": "k"}
    done = await api.post("/messages?wait=20", json={**body, "on_busy": "interrupt"}, headers=key)
    assert (done.status_code, done.json()["result"]) == (200, "b")
    assert (await api.status(first))["state"] == "cancelled"
    again = await api.post("/messages", json={**body, "on_busy": "interrupt"}, headers=key)
    assert again.json()["message_id"] == done.json()["message_id"]
