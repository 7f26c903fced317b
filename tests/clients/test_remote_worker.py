"""treadle.Worker: agents in a program that reaches the API over HTTP only."""

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
import pytest

from faults.proxy import Proxy
from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.invariants import assert_consistent
from tests.support.serving import serving, url_of
from tests.support.waiting import until
from tests.support.workers import lose_worker
from treadle import ChildFailed, Context, Rejected, RetryAfter, Worker, agent
from treadle.client.errors import Conflict
from treadle.worker.session import Session

calls: list[str] = []


class Order(msgspec.Struct):
    text: str
    times: int = 1


@agent("shout")
async def shout(context: Context, order: Order) -> dict[str, Any]:
    for _ in range(order.times):
        await context.emit(order.text.upper())
    await context.event("note", {"attempt": context.attempt})
    context.usage(tokens=order.times)
    return {"text": order.text.upper() * order.times}


@agent("sync")
def sync(context: Any, text: str) -> str:
    def pay() -> int:
        calls.append(text)
        return len(calls)

    paid = context.step("pay", pay)
    context.emit(f"paid {paid}")
    if context.attempt == 1:
        raise RetryAfter(0, "once more")
    return f"{text} {threading.current_thread() is threading.main_thread()}"


@agent("refuse")
async def refuse(context: Context, text: str) -> str:
    if text == "instance":
        await context.instance(list)
    raise Rejected("never")


@agent("hang")
async def hang(context: Context, text: str) -> str:
    await context.emit("begun")
    await asyncio.Event().wait()
    return text


@agent("relay")
async def relay(context: Context, text: str) -> Any:
    """Sends, publishes and asks; its first attempt fails after its step."""
    past = [[exchange.message, exchange.result] for exchange in await context.history(limit=2)]
    first = await context.send(f"{text} 1", agent="echo")

    async def order() -> str:
        return await context.send(f"{text} 2", agent="echo", priority="high", metadata={"a": 1})

    second = await context.step("order", order)
    record = await context.publish("told", {"text": text}, key="k")
    if context.attempt == 1:
        raise RetryAfter(0, "once more")
    said = await context.input({"send": text})
    third = await context.send(f"{text} {said}", agent="echo")
    results = await context.gather(first, second, third)
    return {"past": past, "sent": [first, second, third], "record": record, "said": said, "results": results}


@agent("relay-sync")
def relay_sync(context: Any, text: str) -> Any:
    sent = [context.step("order", lambda: context.send(text, agent="echo")), context.send(text, agent="echo")]
    return {"sent": sent, "said": context.input("Well?", name="well"), "past": len(context.history())}


@agent("gathers")
def gathers(context: Any, text: str) -> Any:
    """Waits for a message that fails."""
    bad = context.send("x", agent="refuse")
    [failed] = context.gather(bad, return_exceptions=True)
    with pytest.raises(ChildFailed, match="never"):
        context.gather(bad)
    return [type(failed).__name__, failed.state]


@agent("counts", client_state=["unit"])
async def counts(context: Context, text: str) -> Any:
    """Remembers how often it was asked."""
    context.memory["asked"] = context.memory.get("asked", 0) + 1
    if text == "fail":
        raise Rejected("never")
    return dict(context.memory)


@agent("counts-sync")
def counts_sync(context: Any, text: str) -> None:
    context.memory = {**context.memory, "sync": text}


@agent("fickle")
async def fickle(context: Context, text: str) -> None:
    """Sends something else in each attempt."""
    await context.send(f"{text} {context.attempt}", agent="echo")
    await context.step("order", lambda: None)
    raise RetryAfter(0, "once more")


async def test_agents_run_in_a_program_of_their_own(api_with_worker: Client, sql: Connection) -> None:
    api = api_with_worker
    calls.clear()
    async with serving(Worker(shout, sync, refuse, url=url_of(api))):
        message_id = await api.submit({"text": "hey", "times": 3}, agent="shout", thread_id="t")
        events = await api.events(message_id)
        assert "".join(event.data["chunk"] for event in events if event.type == "chunk") == "HEY" * 3
        status = await api.settled(message_id)
        assert (status["result"], status["usage"]) == ({"text": "HEYHEYHEY"}, {"tokens": 3})
        assert (await api.post("/messages", json={"message": "text", "agent": "shout"})).status_code == 422
        twice = await api.submit("order", agent="sync")
        assert (await api.settled(twice))["result"] == "order False"
        assert calls == ["order"]  # the step ran once
        for text, reason in [
            ("x", "never"),
            ("instance", "works only in a worker of the installation"),
        ]:
            failed = await api.settled(await api.submit(text, agent="refuse"))
            assert (failed["state"], failed["attempt"]) == ("failed", 1)
            assert reason in failed["error"]
    assert (await api.get("/workers")).json()[1:] == []
    await assert_consistent(sql)


async def test_agents_send_publish_ask_and_read_their_thread(api_with_worker: Client, sql: Connection) -> None:
    api = api_with_worker
    assert (await api.put("/topics/told", json={})).status_code in {200, 201}
    sent_by = (
        "select user_message #>> '{}' as text, message_id::text as id from treadle.message_overview where parent = $1"
    )
    async with serving(Worker(relay, relay_sync, fickle, gathers, refuse, url=url_of(api))):
        before = await api.submit("before", agent="echo", thread_id="t")
        await api.settled(before)
        message_id = await api.submit("go", agent="relay", thread_id="t")
        asked = await until(lambda: api.status(message_id), lambda status: status["hold"] == "input")
        assert (asked["asks"]["question"], asked["asks"]["name"]) == ({"send": "go"}, "input 1")
        # A message sent before the question is committed with the step, and with the end of the attempt that asked.
        assert sorted(row["text"] for row in await sql.fetch(sent_by, UUID(message_id))) == ["go 1", "go 2"]
        await api.post(f"/messages/{message_id}/input", json={"input": "yes"})
        result = (await api.settled(message_id))["result"]
        assert (result["said"], result["past"]) == ("yes", [["before", "before"]])
        assert result["results"] == ["go 1", "go 2", "go yes"]
        ids = {row["text"]: row["id"] for row in await sql.fetch(sent_by, UUID(message_id))}
        assert result["sent"] == [ids["go 1"], ids["go 2"], ids["go yes"]]
        assert len(ids) == 3  # none is sent twice
        page = await until(  # a record gets its offset a moment after its message has sent it
            lambda: api.get("/topics/told/records"), lambda answer: answer.json()["records"]
        )
        records = page.json()["records"]
        assert [(one["record_id"], one["value"], one["key"]) for one in records] == [
            (result["record"], {"text": "go"}, "k")
        ]
        other = await api.submit("x", agent="relay-sync", thread_id="u")
        asked = await until(lambda: api.status(other), lambda status: status["hold"] == "input")
        await api.post(f"/messages/{other}/input", json={"input": 7, "name": "well"})
        result = (await api.settled(other))["result"]
        assert (result["said"], result["past"]) == (7, 0)
        assert sorted(result["sent"]) == sorted(row["id"] for row in await sql.fetch(sent_by, UUID(other)))
        waited = await api.settled(await api.submit("z", agent="gathers"))
        assert (waited["result"], waited["attempt"]) == (["ChildFailed", "failed"], 2)
        refused = await api.settled(await api.submit("y", agent="fickle"))
        assert (refused["state"], refused["attempt"]) == ("failed", 2)
        assert "another message as 'send 1' than an earlier attempt" in refused["error"]
    await assert_consistent(sql)


async def test_the_memory_of_the_thread_is_saved_with_the_end(api_with_worker: Client) -> None:
    api = api_with_worker
    async with serving(Worker(counts, counts_sync, url=url_of(api))):
        for text, result in (("x", {"asked": 1}), ("fail", None), ("x", {"asked": 2})):
            assert (await api.settled(await api.submit(text, agent="counts", thread_id="t")))["result"] == result
        await api.settled(await api.submit("y", agent="counts-sync", thread_id="t"))
        said = {"threadId": "t", "runId": "r", "messages": [{"id": "u", "role": "user", "content": "x"}]}
        state = {"unit": "C", "asked": 70}  # the agent takes the unit from clients, and nothing else
        ran = await api.post("/agui/counts", json=said | {"state": state})
        assert '"RUN_FINISHED"' in ran.text
        memory = {"asked": 3, "sync": "y", "unit": "C"}
        assert (await api.get("/threads/t")).json()["memory"] == memory
        assert (await api.settled(await api.submit("x", agent="counts")))["result"] == {"asked": 1}


async def test_a_cancel_and_a_stop_end_what_runs(start_api: StartApi, start_worker: StartWorker) -> None:
    await start_worker()
    api = await start_api()
    worker = Worker(hang, url=url_of(api), concurrency=2)
    async with serving(worker):
        cancelled, left = [await api.submit("x", agent="hang", timeout_seconds=600) for _ in range(2)]
        for message_id in (cancelled, left):
            await api.settled(message_id, "processing")
        assert (await api.delete(f"/messages/{cancelled}")).status_code == 202
        assert (await api.settled(cancelled))["state"] == "cancelled"
        slow = await api.submit("x", agent="hang", timeout_seconds=0.05, max_attempts=1)
        assert (await api.settled(slow))["error"] == "The attempt took longer than 0.05 seconds."
    status = await api.status(left)  # the worker was stopped, and gave it back
    assert status["state"] == "queued"
    assert status["attempt"] <= 2  # a claim that the API has not seen end may take it once more, and gives it back too


async def test_a_partitioned_worker_drops_its_work_and_registers_again(
    start_api: StartApi, start_worker: StartWorker, sql: Connection
) -> None:
    await start_worker()
    api = await start_api()
    proxy = Proxy(api.base_url.port or 0)
    await proxy.start()
    try:
        async with serving(Worker(hang, url=f"http://127.0.0.1:{proxy.port}")) as worker:
            message_id = await api.submit("x", agent="hang")
            await api.settled(message_id, "processing")
            first = await sql.fetchval("select worker_id from treadle.workers where serves = 'default'")
            proxy.refuse()
            await lose_worker(sql, first)
            await proxy.admit()
            # It claims the message again, as another worker.
            again = await until(
                lambda: api.status(message_id), lambda s: s["attempt"] == 2 and s["worker_id"] not in (None, first)
            )
            assert again["state"] == "processing"
            assert worker.registered.is_set()
    finally:
        await proxy.close()


async def test_a_heartbeat_that_finds_its_worker_signed_off_expires_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    session = Session("http://127.0.0.1:1", None, [], 1, lambda *_: pytest.fail("it holds nothing"))
    registered: Any = SimpleNamespace(worker_id="w", tenant="default")
    session._registration = registered

    async def deregister(worker_id: str) -> None:
        session.declare_lost(worker_id)  # the answer to a heartbeat that was under way

    monkeypatch.setattr(session.calls, "deregister", deregister)
    await session.close()
    assert caplog.messages == []


async def test_a_worker_whose_registration_is_refused_for_now_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tenant has as many workers as it may have: some of them may be dead."""
    session = Session("http://127.0.0.1:1", None, [], 1, lambda *_: None)
    monkeypatch.setattr("treadle.worker.session.RETRY_SECONDS", 0.0)

    async def register(*_: Any) -> None:
        raise Conflict(409, "A tenant has at most 1000 remote workers.")

    monkeypatch.setattr(session.calls, "register", register)
    assert await session.claim(1) == []
    await session.close()


PROGRAM = """
import asyncio, sys
from treadle import Context, Worker, agent

@agent("tell")
async def tell(context: Context, text: str) -> str:
    for n in range(3):
        await context.emit(f"{n} ")
    if sys.argv[2] == "hang":
        await context.step("told", lambda: sys.argv[2])
        print("half", flush=True)
        await asyncio.Event().wait()
    return await context.step("told", lambda: "again")

Worker(tell, url=sys.argv[1]).run()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_killed_worker_is_replaced_and_the_stream_goes_on(
    start_api: StartApi, start_worker: StartWorker, sql: Connection, number: signal.Signals, tmp_path: Path
) -> None:
    await start_worker()
    api = await start_api()
    (tmp_path / "worker.py").write_text(PROGRAM)

    async def start(how: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, str(tmp_path / "worker.py"), url_of(api), how),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    gone, heir = await start("hang"), None
    try:
        await until(lambda: sql.fetchval("select exists (select from treadle.agents where agent = 'tell')"))
        message_id = await api.submit("x", agent="tell", thread_id="t")
        reading = asyncio.create_task(api.events(message_id))
        assert gone.stdout is not None
        assert await gone.stdout.readline() == b"half\n"
        holder = await sql.fetchval("select worker_id from treadle.leases")
        heir = await start("end")
        gone.send_signal(number)
        if number == signal.SIGTERM:  # two signals, of which none is lost: it gives back what runs
            gone.send_signal(signal.SIGINT)
        assert await gone.wait() == (-number if number == signal.SIGKILL else 0)
        if number == signal.SIGKILL:
            await lose_worker(sql, holder)
        events = [event for event in await reading if event.id is not None]
        assert [event.id for event in events] == list(range(1, len(events) + 1))
        story = [event.type for event in events if event.type != "chunk"]
        retries = story.count("retry")  # a claim that the API has not seen end may take it once more before the heir
        assert retries in ({1} if number == signal.SIGKILL else {1, 2})
        assert story == ["queued", "started", "step", *["retry", "started"] * retries, "done"]
        assert events[-1].data["result"] == "hang"  # the step of the first attempt
        status = await api.status(message_id)
        assert status["attempt"] == 1 + retries
        losses = await sql.fetchval("select losses from treadle.messages where message_id = $1::uuid", message_id)
        assert losses == (number == signal.SIGKILL)
    finally:
        for process in (gone, heir):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()
    await assert_consistent(sql)
