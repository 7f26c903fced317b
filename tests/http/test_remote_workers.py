"""Remote workers: the lease protocol over HTTP."""

import asyncio
from typing import Any

import pytest

from service.db.pool import Connection
from service.protocols.leases import claims
from service.protocols.leases.claims import MAX_CLAIM_BYTES, PORTION_MESSAGES
from tests.support.access import CLOSED, ROOT_KEY, bearer, create_key
from tests.support.api_answers import problem
from tests.support.fixture_types import RegisterAgents, StartApi, StartWorker
from tests.support.invariants import assert_consistent
from tests.support.remote_worker import RemoteWorker
from tests.support.waiting import until
from tests.support.workers import lose_worker

LOST = "does not hold this lease"


@pytest.fixture
async def remote(start_api: StartApi) -> RemoteWorker:
    """A remote worker with the agent shout; no other worker runs."""
    worker = RemoteWorker(await start_api())
    await worker.register("shout")
    return worker


async def test_a_message_goes_out_and_its_answer_comes_back(remote: RemoteWorker, sql: Connection) -> None:
    api = remote.api
    assert remote.queues == ["remote"]
    waiting = asyncio.create_task(remote.claim(quantity=2))
    message_id = await api.submit("hello", agent="shout", thread_id="t", metadata={"a": 1})
    second = await api.submit("again", agent="shout", thread_id="t")
    [claimed] = await waiting  # the second one waits for its turn in the thread
    fields = ("message_id", "message", "metadata", "thread_id", "attempt", "agent", "queue")
    assert [claimed[name] for name in fields] == [message_id, "hello", {"a": 1}, "t", 1, "shout", "remote"]
    reading = asyncio.create_task(api.events(message_id))
    assert (await remote.append(message_id, "HEL", "LO")).json() == {"last_seq": 4, "cancel_requested": False}
    repeated = {**claimed, "last_seq": 2}
    remote.claimed[message_id] = dict(repeated)
    assert (await remote.append(message_id, "HEL", "LO")).json()["last_seq"] == 4  # a repeat writes nothing
    note = [{"type": "note", "data": {"n": 1}}]
    for _ in range(2):  # the repeat finds its own end
        answer = await remote.finish(message_id, result={"text": "HELLO"}, events=note, usage={"tokens": 2})
        assert (answer.status_code, answer.json()["state"]) == (200, "completed"), answer.text
    events = [event for event in await reading if event.id is not None]
    assert [event.type for event in events] == ["queued", "started", "chunk", "chunk", "note", "done"]
    assert "".join(event.data["chunk"] for event in events if event.type == "chunk") == "HELLO"
    status = await api.status(message_id)
    assert (status["result"], status["usage"], status["worker_id"]) == (
        {"text": "HELLO"},
        {"tokens": 2},
        remote.worker_id,
    )
    assert [message["message_id"] for message in await remote.claim()] == [second]
    assert (await remote.finish(second, result=None)).json()["state"] == "completed"
    assert (await remote.claim(wait=0)) == []
    await assert_consistent(sql)


@pytest.mark.parametrize("character", ["x", "\u8a9e"])
async def test_a_claim_takes_no_more_large_messages_than_fit_an_answer(remote: RemoteWorker, character: str) -> None:
    large = {"x": character * (MAX_CLAIM_BYTES // PORTION_MESSAGES // len(character.encode()) + 1)}
    for metadata in [large] * (PORTION_MESSAGES + 2) + [{}] * PORTION_MESSAGES:
        await remote.api.submit("x", agent="shout", metadata=metadata)
    assert len(await remote.claim(quantity=100)) == PORTION_MESSAGES
    assert len(await remote.claim(quantity=100)) == PORTION_MESSAGES + 2


async def test_the_results_of_earlier_attempts_fill_a_claim(
    remote: RemoteWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "MAX_CLAIM_BYTES", 1_000)
    count = PORTION_MESSAGES + 2
    ids = [await remote.api.submit("x", agent="shout") for _ in range(count)]
    assert len(await remote.claim(quantity=100)) == count
    step = {"type": "step", "data": {"name": "made", "result": "x" * 500}}
    for message_id in ids:
        assert (await remote.finish(message_id, "released", events=[step])).json()["state"] == "queued"
    first = await remote.claim(quantity=100)
    assert (len(first), first[0]["steps"]) == (PORTION_MESSAGES, {"made": "x" * 500})
    assert len(await remote.claim(quantity=100)) == 2


async def test_each_way_to_end_an_attempt(remote: RemoteWorker, sql: Connection) -> None:
    api = remote.api
    endings: list[tuple[str, dict[str, Any], str]] = [
        ("retry", {"error": "Try again.", "retry_after": 0}, "queued"),
        ("retry", {"error": "Try again, with backoff."}, "queued"),
        ("released", {}, "queued"),
        ("failed", {"error": "Not possible."}, "failed"),
    ]
    for outcome, fields, state in endings:
        message_id = await api.submit("x", agent="shout", max_attempts=9)
        await remote.claim()
        answer = await remote.finish(message_id, outcome, **fields)
        assert (answer.status_code, answer.json()["state"]) == (200, state), answer.text
        problem(await remote.append(message_id, "z"), 409, LOST)
        status = await api.status(message_id)
        assert status["error"] == (fields.get("error") or "The worker gave the message back.")
        if outcome == "released":
            [again] = await remote.claim()
            assert (again["message_id"], again["attempt"], again["failures"]) == (message_id, 2, 0)
            assert (await remote.finish(message_id, result=1)).json()["state"] == "completed"
        elif state == "queued":
            assert status["hold"] == "backoff"
            assert (await api.delete(f"/messages/{message_id}")).status_code == 200
    await remote.sign_off()
    await remote.sign_off()
    problem(await remote.call("claim"), 404, "register again")
    await assert_consistent(sql)


async def test_a_cancel_reaches_the_worker(remote: RemoteWorker) -> None:
    api = remote.api
    message_id, other = [await api.submit("x", agent="shout") for _ in range(2)]
    assert len(await remote.claim(quantity=2)) == 2
    assert await remote.beat(message_id, other) == {}
    assert (await api.delete(f"/messages/{message_id}")).status_code == 202
    assert await remote.beat(message_id, other) == {message_id: "cancelled"}
    assert (await remote.append(message_id, "a")).json()["cancel_requested"]
    assert (await remote.finish(message_id, "failed", error="Cancelled.")).json()["state"] == "cancelled"
    assert await remote.beat(message_id, other) == {message_id: "lost"}
    await remote.sign_off()  # the other one is given back, without a loss
    assert (await api.status(other))["state"] == "queued"
    worker = RemoteWorker(api)
    await worker.register("shout")
    [again] = await worker.claim()
    assert (again["message_id"], again["losses"], again["attempt"]) == (other, 0, 2)


async def test_a_silent_worker_is_replaced_and_can_write_nothing(
    start_api: StartApi, start_worker: StartWorker, sql: Connection
) -> None:
    """The client's stream goes on with the other worker's answer."""
    patient = {"worker_timeout": 600.0}  # the heir sends no heartbeats while the test does other things
    await start_worker(**patient)  # its janitor notices the silence
    api = await start_api(**patient)
    gone, heir = RemoteWorker(api), RemoteWorker(api)
    await gone.register("shout")
    await heir.register("shout")
    message_id = await api.submit("x", agent="shout", thread_id="t")
    reading = asyncio.create_task(api.events(message_id))
    await gone.claim()
    await gone.append(message_id, "half an ans")
    step = [{"type": "step", "data": {"name": "paid", "result": {"n": 1}}}]
    lease = {name: gone.claimed[message_id][name] for name in ("message_id", "lease")}
    assert (await gone.call("append", **lease, first_seq=4, events=step)).json()["last_seq"] == 4

    async def live() -> list[dict[str, Any]]:
        await heir.beat(*heir.claimed)
        return await heir.claim(wait=0.3)

    await lose_worker(sql, gone.worker_id)
    [taken] = await until(live, bool)
    assert (taken["message_id"], taken["attempt"], taken["losses"]) == (message_id, 2, 1)
    assert taken["steps"] == {"paid": {"n": 1}}
    problem(await gone.append(message_id, "wer"), 409, LOST)
    problem(await gone.finish(message_id, result="zombie"), 409, LOST)
    problem(await gone.call("heartbeat", leases=[]), 404, "register again")
    await heir.append(message_id, "whole ", "answer")
    assert (await heir.finish(message_id, result="whole answer")).status_code == 200
    problem(await gone.finish(message_id, result="zombie"), 409, LOST)
    events = [event for event in await reading if event.id is not None]
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert [event.type for event in events] == [
        *("queued", "started", "chunk", "step", "retry", "started", "chunk", "chunk", "done")
    ]
    assert events[-1].data["result"] == "whole answer"
    await assert_consistent(sql)


async def test_a_claim_whose_answer_was_lost_is_given_back(start_api: StartApi, sql: Connection) -> None:
    api = await start_api(worker_timeout=0.2, heartbeat_interval=0.1)
    worker = RemoteWorker(api)
    await worker.register("shout")
    message_id = await api.submit("x", agent="shout")
    await worker.claim()
    worker.claimed.clear()  # the worker never saw it

    async def released() -> bool:
        await worker.beat()
        return bool((await api.status(message_id))["state"] == "queued")

    await until(released)
    [again] = await worker.claim()
    assert (again["message_id"], again["losses"], again["failures"]) == (message_id, 0, 0)


async def test_a_worker_belongs_to_the_tenant_of_its_key(
    start_api: StartApi, register_agents: RegisterAgents, sql: Connection
) -> None:
    api = await start_api(**CLOSED)
    ours = RemoteWorker(api, bearer(ROOT_KEY))
    await ours.register("shout", "whisper")
    await sql.execute("select treadle.create_tenant('acme'), treadle.create_tenant('globex')")
    keys = {name: (await create_key(api, "work", "submit", "read", tenant=name))["key"] for name in ("acme", "globex")}
    acme, globex = (RemoteWorker(api, bearer(key)) for key in keys.values())
    refused = await acme.register("shout", "poet", status=403)
    assert "no agent 'poet'" in refused["detail"]
    await acme.register("shout", queue="stolen", timeout_seconds=1)  # an agent keeps what the installation declares
    await globex.register("whisper")
    assert acme.queues == globex.queues == ["remote"]
    message_id = (
        await api.post("/messages", json={"message": "x", "agent": "shout"}, headers=bearer(keys["acme"]))
    ).json()["message_id"]
    assert await globex.claim(wait=0) == await ours.claim(wait=0) == []  # of another tenant
    [claimed] = await acme.claim()
    assert (claimed["message_id"], claimed["timeout_seconds"]) == (message_id, 60.0)
    whisper = RemoteWorker(api, bearer(keys["acme"]))
    await whisper.register("whisper")
    assert await whisper.claim(wait=0) == []  # for another agent
    for stranger in (globex, ours, whisper):
        stranger.claimed = acme.claimed
        problem(await stranger.append(message_id, "y"), 409, LOST)
        problem(await stranger.finish(message_id, result="y"), 409, LOST)
    globex.worker_id = acme.worker_id
    problem(await globex.call("claim"), 404, "register again")
    problem(await globex.call("heartbeat", leases=[]), 404, "register again")
    problem(await globex.append(message_id, "y"), 409, LOST)
    await globex.sign_off()
    assert (await acme.finish(message_id, result="z")).json()["state"] == "completed"
    restricted = (await create_key(api, "work", agents=["shout"]))["key"]
    await RemoteWorker(api, bearer(restricted)).register("shout", status=403)


async def test_a_call_that_does_not_fit_is_refused(remote: RemoteWorker) -> None:
    api = remote.api
    for body, reason in [
        ({"agents": []}, "agents must be a list of 1 to 100 agents"),
        ({"agents": [{"agent": "x", "queue": "A"}]}, "queue must be"),
        ({"agents": [{"agent": "x", "queue": "webhooks"}]}, "for deliveries only"),
        ({"agents": [{"agent": "webhook"}]}, "the agent that makes deliveries"),
        *(({"agents": [{"agent": name}]}, "An agent's name must be a text of") for name in ("..", "a/b", "a\n")),
        ({"agents": [{"agent": "x", "function": "y"}]}, "'function'"),
        ({"agents": [{"agent": "x"}, {"agent": "x"}]}, "agents[1] has the name of an agent before it"),
        ({"agents": [{"agent": "x"}], "concurrency": 0}, "concurrency must be a whole number from 1 to 1000"),
    ]:
        problem(await api.post("/workers", json=body), 422, reason)
    message_id = await api.submit("x", agent="shout")
    [claimed] = await remote.claim()
    lease = {"message_id": message_id, "lease": claimed["lease"], "first_seq": 3}
    ending = {**lease, "attempt": 1}
    own_step = {"type": "step", "data": {"name": "treadle/state 1", "result": []}}
    for name, body, reason in [
        ("claim", {"quantity": 101}, "quantity must be a whole number from 1 to 100"),
        ("claim", {"wait": 61}, "wait must be a number of seconds, 0 to 60"),
        ("append", {**lease, "events": []}, "events must be a list of 1 to 500 events"),
        ("append", {**lease, "events": [{"type": "done"}]}, "events[0]: workers cannot write events of the type"),
        ("append", {**lease, "events": [{"type": "chunk", "data": "a"}]}, "events[0]: the data of a chunk is"),
        ("append", {**lease, "events": [{"type": "x", "data": "a" * 1_000_001}]}, "events[0] has 1000003 bytes"),
        ("append", {**lease, "events": [{"type": "x", "data": 10**400}]}, "events[0] holds a number beyond 1.8e308"),
        ("append", {**lease, "events": [{"type": "x", "data": "\0"}]}, "NUL"),
        ("append", {**lease, "events": [own_step]}, "events[0]: the names of steps that begin with treadle/"),
        ("finish", {**ending, "outcome": "done"}, "completed, failed, retry, overloaded, released, input or children"),
        ("finish", {**ending, "outcome": "completed"}, "result is missing"),
        ("finish", {**ending, "outcome": "failed"}, "error is missing"),
        ("finish", {**ending, "outcome": "failed", "error": "x", "result": 1}, "Only a completed attempt"),
        ("finish", {**ending, "outcome": "failed", "error": "x", "retry_after": 1}, "Only the outcomes retry"),
        ("heartbeat", {"leases": [{"message_id": message_id}]}, "lease"),
    ]:
        problem(await remote.call(name, **body), 422, reason)
    problem(await remote.call("append", **{**lease, "first_seq": 9}, events=[{"type": "x"}]), 409, "Events before")
    assert [event["type"] for event in (await api.get(f"/messages/{message_id}/events")).json()["events"]] == [
        *("queued", "started")
    ]
