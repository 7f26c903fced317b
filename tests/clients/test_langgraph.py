"""The API of a LangGraph server under /langgraph, with the unmodified package `langgraph-sdk` as the client."""

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from httpx import HTTPStatusError
from langgraph_sdk import get_client
from langgraph_sdk.errors import (
    AuthenticationError,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
    UnprocessableEntityError,
)

from faults.proxy import Proxy
from service.agents.builtin.echo import echo
from service.db.pool import Connection
from tests.support.access import CLOSED, ROOT_KEY, bearer, create_key
from tests.support.api_client import Client
from tests.support.fixture_types import RegisterAgents, StartApi, StartWorker
from tests.support.invariants import assert_consistent
from tests.support.langgraph_clients import HI, connect, contents, stream
from tests.support.messages import text
from tests.support.node_client import play
from tests.support.openai_agents import openai_agents
from tests.support.scripted_agent import ScriptedAgent
from tests.support.waiting import until
from tests.support.worker_processes import lose_lease


@pytest.fixture
async def apis(start_api: StartApi, start_worker: StartWorker, script: ScriptedAgent) -> list[Client]:
    """Two replicas, and a worker with agents."""
    await start_worker(echo, script.agent, *openai_agents())
    return [await start_api(), await start_api()]


@pytest.fixture
async def client(apis: list[Client]) -> AsyncIterator[Any]:
    async with connect(apis[0]) as found:
        yield found


@pytest.fixture
async def replica(apis: list[Client]) -> AsyncIterator[Any]:
    async with connect(apis[1]) as found:
        yield found


async def test_agents_of_every_kind_are_assistants(client: Any, apis: list[Client]) -> None:
    found = await client.assistants.search()
    assert [assistant["name"] for assistant in found] == ["echo", "recall", "script", "structured", "weather"]
    assert await client.assistants.get(found[0]["assistant_id"]) == await client.assistants.get("echo") == found[0]
    assert (await client.assistants.get_schemas("echo"))["graph_id"] == "echo"
    assert await client.assistants.count(name="we") == 1
    assert (await apis[0].get("/langgraph/ok")).json() == {"ok": True}
    values = await client.runs.wait(None, "echo", input="three")
    assert contents(values) == [("human", "three"), ("ai", "three")]
    await client.runs.wait("repeated", "echo", input="a", if_not_exists="create")
    last = (await client.threads.get_state("repeated"))["checkpoint"]
    once = {"input": "b", "checkpoint": last, "headers": {"Idempotency-Key": "once"}}
    assert len({(await client.runs.create("repeated", "echo", **once))["run_id"] for _ in range(2)}) == 1
    refused = await apis[0].post("/langgraph/runs/crons", json={})
    assert (refused.status_code, "not supported yet" in refused.json()["detail"]) == (501, True)


async def test_a_thread_has_values_a_state_and_a_history(client: Any, replica: Any) -> None:
    thread = await client.threads.create(metadata={"a": "b"}, if_exists="raise")
    thread_id = thread["thread_id"]
    assert (thread["status"], thread["values"]) == ("idle", None)
    with pytest.raises(ConflictError):
        await client.threads.create(thread_id=thread_id)
    assert await client.threads.create(thread_id=thread_id, if_exists="do_nothing") == thread
    assistant = (await client.assistants.get("recall"))["assistant_id"]
    first = await client.runs.wait(thread_id, assistant, input=HI)
    answer = json.dumps([[], None, "one two"], separators=(",", ":"))
    assert contents(first) == [("human", "one two"), ("ai", answer)]
    say = {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "3"}]}
    stream = client.runs.stream(thread_id, "recall", input=say, stream_mode=["values", "messages-tuple", "updates"])
    parts = [part async for part in stream]
    assert [part.event for part in parts] == ["metadata", "values", "updates", "values"]
    assert contents(parts[-1].data)[-1] == ("ai", '[[["one two",' + json.dumps(answer) + ']],"Be kind.","3"]')
    state = await replica.threads.get_state(thread_id)
    assert (state["values"], state["next"]) == (parts[-1].data, [])
    history = await replica.threads.get_history(thread_id)
    assert [one["next"] for one in history] == [[], ["recall"], ["__start__"]] * 2
    last = [contents(one["values"])[-1:] for one in history[1:]]
    assert last == [[("human", "3")], [("ai", answer)], [("ai", answer)], [("human", "one two")], []]
    assert history[0] == state == await replica.threads.get_state(thread_id, state["checkpoint"])
    assert [one["parent_checkpoint"] for one in history] == [*(one["checkpoint"] for one in history[1:]), None]
    assert await replica.threads.get_history(thread_id, limit=1, before=history[1]["checkpoint"]) == history[2:3]
    with pytest.raises(UnprocessableEntityError, match="LangGraph graphs"):
        await client.runs.create(thread_id, "recall", input=HI, checkpoint=history[3]["checkpoint"])
    runs = await client.runs.list(thread_id)
    assert [(run["status"], run["run_id"]) for run in runs] == [
        ("success", one["metadata"]["run_id"]) for one in history[::3]
    ]
    [found] = await replica.threads.search(metadata={"a": "b"}, status="idle", select=["thread_id", "values"])
    assert found == {"thread_id": thread_id, "values": state["values"]}
    assert await replica.threads.count(metadata={"a": "c"}) == 0
    assert (await client.threads.update(thread_id, metadata={"c": 1}))["metadata"]["a"] == "b"
    copied = (await client.threads.copy(thread_id))["thread_id"]
    await client.runs.delete(thread_id, runs[0]["run_id"])
    assert len(await client.runs.list(thread_id)) == 1
    await client.threads.delete(thread_id)
    with pytest.raises(NotFoundError):
        await client.threads.get(thread_id)
    assert (await client.threads.get_state(copied))["values"] == state["values"]
    values = await client.runs.wait(copied, "recall", input="4")
    assert (len(values["messages"]), values["messages"][-1]["content"].count("one two")) == (7, 4)
    with pytest.raises(NotFoundError):
        await client.runs.create("new", "echo", input=HI)
    run = await client.runs.create("new", "echo", input=HI, if_not_exists="create", metadata={"d": 1})
    assert (run["metadata"], run["thread_id"]) == ({"d": 1}, "new")
    assert contents(await replica.runs.join("new", run["run_id"])) == [("human", "one two"), ("ai", "one two")]
    assert (await client.runs.get("new", run["run_id"]))["status"] == "success"


async def test_a_stream_that_is_cut_goes_on_at_another_replica(
    client: Any, replica: Any, script: ScriptedAgent
) -> None:
    thread = (await client.threads.create())["thread_id"]
    run = await client.runs.create(thread, "script", input=HI, stream_mode=["values", "messages-tuple"])
    run_id = run["run_id"]
    script.say(run_id, "one ", RuntimeError("The first attempt fails."))
    seen = []
    stream = client.runs.join_stream(thread, run_id)
    async for part in stream:
        seen.append(part)
        if part.event == "messages":
            await stream.aclose()
            break
    script.say(run_id, "two ", "three", None)
    seen += [part async for part in replica.runs.join_stream(thread, run_id, last_event_id=seen[-1].id)]
    whole = [part async for part in client.runs.join_stream(thread, run_id, last_event_id="-1")]
    assert seen == whole
    assert [part.data["attempt"] for part in seen if part.event == "metadata"] == [1, 2]
    assert contents(seen[-1].data) == [("human", "one two"), ("ai", "two three")]
    ids = [part.data[0]["id"] for part in seen if part.event == "messages"]
    assert ids[1:] == [seen[-1].data["messages"][-1]["id"]] * 2
    assert ids[0] != ids[1]
    only = [part.event async for part in client.runs.join_stream(thread, run_id, stream_mode="messages-tuple")]
    assert only == [part.event for part in seen if part.event != "values"]


async def test_double_texting_and_cancels(client: Any, replica: Any, script: ScriptedAgent) -> None:
    thread = (await client.threads.create())["thread_id"]

    async def begin(text: str, **given: Any) -> str:
        run = await client.runs.create(thread, "script", input=text, **given)
        script.say(run["run_id"], f"half of {text}")
        return str(run["run_id"])

    async def running(run_id: str) -> None:
        await until(lambda: client.runs.get(thread, run_id), lambda run: run["status"] == "running")
        async for part in client.runs.join_stream(thread, run_id, stream_mode="messages-tuple"):
            if part.event == "messages":
                return

    first = await begin("a")
    await running(first)
    assert (await client.threads.get(thread))["status"] == "busy"
    with pytest.raises(ConflictError):
        await begin("b", multitask_strategy="reject")
    second = await begin("c", multitask_strategy="interrupt")
    assert contents(await replica.runs.join(thread, first)) == [("human", "a"), ("ai", "half of a")]
    assert (await client.runs.get(thread, first))["status"] == "interrupted"
    await running(second)
    third = await begin("d", multitask_strategy="rollback")
    await running(third)
    with pytest.raises(NotFoundError):
        await client.runs.get(thread, second)
    waiting = await begin("e", multitask_strategy="enqueue")
    assert (await client.runs.get(thread, waiting))["status"] == "pending"
    await client.runs.cancel(thread, waiting, action="rollback")
    kept = [("human", "a"), ("ai", "half of a"), ("human", "d"), ("ai", "half of d")]
    assert contents(await client.runs.cancel(thread, third, wait=True)) == kept
    with pytest.raises(NotFoundError):
        await client.runs.cancel(thread, third)
    assert contents((await replica.threads.get_state(thread))["values"]) == kept
    assert [run["run_id"] for run in await client.runs.list(thread)] == [third, first]
    left = client.runs.stream(thread, "script", input="f", stream_mode="messages-tuple", on_disconnect="cancel")
    last = (await anext(left)).data["run_id"]
    await left.aclose()
    await until(lambda: client.runs.get(thread, last), lambda run: run["status"] == "interrupted")
    failed = await begin("g", after_seconds=0)
    script.say(failed, *[RuntimeError("It fails.")] * 2)
    script.say(failed, RuntimeError("It fails."))
    assert "It fails." in (await client.runs.join(thread, failed))["__error__"]["message"]
    assert (await client.threads.get(thread))["status"] == "error"


async def test_a_link_of_another_site_cancels_no_run(client: Any, apis: list[Client]) -> None:
    thread = (await client.threads.create())["thread_id"]
    run = (await client.runs.create(thread, "echo", input=HI))["run_id"]
    await client.runs.join(thread, run)
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    for place in (f"/threads/{thread}/runs/{run}/join", f"/threads/{thread}/runs/{run}/stream"):
        cancelling = f"/langgraph{place}?cancel_on_disconnect=1"
        assert (await apis[0].get(cancelling, headers=link)).status_code == 403
        assert (await apis[0].get(cancelling, headers=link | {"Sec-Fetch-Site": "same-origin"})).status_code == 200
        assert (await apis[0].get(cancelling)).status_code == 200
        assert (await apis[0].get(f"/langgraph{place}", headers=link)).status_code == 200  # it may look


@pytest.mark.filterwarnings("ignore:Request failed")
async def test_streams_survive_cuts_lost_workers_and_dead_replicas(
    apis: list[Client], client: Any, script: ScriptedAgent, sql: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """With both SDKs at once. All connections of the clients are cut, and the replica is gone for them."""
    proxy = Proxy(apis[0].base_url.port or 0)
    await proxy.start()
    url = f"http://127.0.0.1:{proxy.port}/langgraph"
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(proxy.close)
        python = await stack.enter_async_context(get_client(url=url, api_key=None))
        scenes = [("plain", "echo", False), ("cut", "script", False), ("lost", "script", False)]
        scenes.append(("cancel", "script", True))
        names = [name for name, _, _ in scenes]
        program = play("langgraph", url=url)
        played = [
            asyncio.ensure_future(stream(python, f"py-{name}", agent, cancels=cancels))
            for name, agent, cancels in scenes
        ]
        told = asyncio.gather(program, *played)

        async def begun(thread: str) -> UUID:
            await until(lambda: client.threads.search(ids=[thread]), bool)
            [run] = await until(lambda: client.runs.list(thread), bool)
            return UUID(run["run_id"])

        kinds = ("js", "py")
        waiting = {(kind, name): await begun(f"{kind}-{name}") for kind in kinds for name in ("cut", "lost", "cancel")}
        running = {place: run_id for place, run_id in waiting.items() if place[1] != "cancel"}
        for run_id in running.values():
            script.say(str(run_id), "one ")
            await until(functools.partial(text, sql, run_id), bool)
        # The SDKs come back to streams that have begun, and that of Python repeats no other request.
        await until(lambda: played[0].done() and proxy.has_answered_all)
        proxy.target = apis[1].base_url.port or 0
        proxy.cut()
        for kind in kinds:
            await lose_lease(sql, waiting[kind, "lost"])
        await until(lambda: caplog.text.count("the lease was not held"), lambda ended: ended == 2)
        for run_id in running.values():
            script.say(str(run_id), "two", None)
        for kind in kinds:
            script.say(str(waiting[kind, "cancel"]), "half")
        js, *found = await told
    item = [["js", "b"], {"n": 1}, None, [["js", "a"]]]
    assert js["extra"] == {"assistants": ["echo", "recall"], "threads": 6, "item": item, "wait": "go"}
    for kind, results in (("js", js), ("py", dict(zip(names, found, strict=True)))):
        for name, texts in (("plain", "go"), ("cut", "one two"), ("lost", "two"), ("cancel", "half")):
            result = results[name]
            assert result["texts"] == ["go", texts], (kind, name)
            assert result["status"] == ("interrupted" if name == "cancel" else "success")
            assert result["seen"] == result["again"], (kind, name)
    assert proxy.cuts >= 6
    await assert_consistent(sql)


async def test_errors_and_access(start_api: StartApi, register_agents: RegisterAgents, sql: Connection) -> None:
    await register_agents()
    api = await start_api(**CLOSED)
    await sql.execute("select treadle.create_tenant('acme')")
    foreign = (await create_key(api, "read", "submit", "operate", tenant="acme"))["key"]
    reader = (await create_key(api, "read"))["key"]
    made = await api.post("/tokens", json={"scopes": ["read", "submit"], "subject": "eve"}, headers=bearer(ROOT_KEY))
    async with connect(api, ROOT_KEY) as client:
        thread = (await client.threads.create())["thread_id"]
        run = (await client.runs.create(thread, "echo", input=HI))["run_id"]
        for text in ("x", "01a22812-045a-750f-b9af-06e00bb56306", f"{run}-1"):
            with pytest.raises(NotFoundError):
                await client.runs.get(thread, text)
        with pytest.raises(NotFoundError):
            await client.runs.get("other", run)
        with pytest.raises(NotFoundError):
            await client.runs.create(thread, "missing", input=HI)
        wrong: Any = [{"input": {}}, {"input": 1}, {"input": {"messages": []}}, {"input": HI, "stream_mode": "x"}]
        for given in wrong:
            with pytest.raises(UnprocessableEntityError):
                await client.runs.create(thread, "echo", **given)
    for key in (foreign, made.json()["token"]):
        async with connect(api, key) as stranger:
            assert await stranger.threads.search() == []
            for call in (
                stranger.threads.get(thread),
                stranger.threads.get_state(thread),
                stranger.threads.get_history(thread),
                stranger.threads.copy(thread),
                stranger.threads.update(thread, metadata={"a": 1}),
                stranger.runs.list(thread),
                stranger.runs.get(thread, run),
                stranger.runs.join(thread, run),
                stranger.runs.cancel(thread, run),
                stranger.runs.create(thread, "echo", input=HI),
                anext(stranger.runs.join_stream(thread, run)),
            ):
                with pytest.raises(HTTPStatusError, match=r"404|no thread|no run"):
                    await call
    async with connect(api, made.json()["token"]) as eve:
        with pytest.raises(NotFoundError):
            await eve.threads.create(thread_id=thread)
        own = await eve.threads.create()
        assert [one["thread_id"] for one in await eve.threads.search()] == [own["thread_id"]]
    async with connect(api, reader) as client:
        with pytest.raises(PermissionDeniedError, match="scope submit"):
            await client.runs.create(thread, "echo", input=HI)
        with pytest.raises(PermissionDeniedError):
            await client.threads.delete(thread)
    async with connect(api, (await create_key(api, "submit"))["key"]) as client:
        for call in (client.threads.copy(thread), client.threads.update(thread, metadata={"a": 1})):
            with pytest.raises(PermissionDeniedError, match="scope read"):
                await call
    async with connect(api, "nonsense") as client:
        with pytest.raises(AuthenticationError):
            await client.threads.get(thread)
    unknown = await api.get("/langgraph/threads/x/commands", headers=bearer(ROOT_KEY))
    assert (unknown.status_code, "detail" in unknown.json()) == (404, True)
