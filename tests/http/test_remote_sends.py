"""What attempts of remote workers send, publish, ask and read over HTTP, under their leases."""

from typing import Any

import pytest

from service.db.pool import Connection
from service.limits import MAX_SEND_DEPTH
from tests.support.api_answers import problem
from tests.support.fixture_types import RegisterAgents, StartApi
from tests.support.invariants import assert_consistent
from tests.support.remote_worker import RemoteWorker
from tests.support.worker_processes import lose_lease

SEND = {"name": "order", "message": "go", "agent": "echo"}
RECORD = {"name": "tell", "topic": "told", "value": 1}
STEP = {"type": "step", "data": {"name": "s", "result": None}}
CHUNK = {"type": "chunk", "data": {"chunk": "x", "index": 0}}
SENT = "select message_id::text from treadle.message_overview where agent = 'echo'"


@pytest.fixture
async def remote(start_api: StartApi, register_agents: RegisterAgents) -> RemoteWorker:
    """A remote worker with the agent shout; echo is registered, and a topic is there."""
    await register_agents()
    worker = RemoteWorker(await start_api())
    await worker.register("shout")
    await worker.api.put("/topics/told", json={})
    return worker


def lease_of(claimed: dict[str, Any]) -> dict[str, Any]:
    return {name: claimed[name] for name in ("message_id", "lease")}


async def test_sends_are_committed_once_with_a_step_and_with_the_end(remote: RemoteWorker, sql: Connection) -> None:
    api = remote.api
    message_id = await api.submit("x", agent="shout")
    [claimed] = await remote.claim()
    lease = lease_of(claimed)
    placed = [(await remote.call("send", **lease, send=SEND)).json() for _ in range(2)]
    assert placed[0] == placed[1]
    assert placed[0]["is_new"]
    told = (await remote.call("publish", **lease, record=RECORD)).json()
    assert await sql.fetch(SENT) == []
    body = {**lease, "first_seq": 3, "events": [STEP], "sends": [SEND], "records": [RECORD]}
    for _ in range(2):  # a repeat sends nothing twice
        assert (await remote.call("append", **body)).json()["last_seq"] == 3
    assert [row[0] for row in await sql.fetch(SENT)] == [placed[0]["message_id"]]
    assert await sql.fetchval("select array_agg(record_id::text) from treadle.records") == [told["record_id"]]
    step = await sql.fetchval("select data from treadle.events where type = 'step'")
    assert step["sent"] == [placed[0]["message_id"], told["record_id"]]
    claimed["last_seq"] = 3
    question = {"name": "q", "question": {"sure?": True}}
    answer = await remote.finish(message_id, "input", question=question, sends=[{**SEND, "name": "other"}])
    assert answer.json()["state"] == "queued"
    assert (await api.status(message_id))["asks"]["question"] == {"sure?": True}
    assert len(await sql.fetch(SENT)) == 2
    await api.post(f"/messages/{message_id}/input", json={"input": {"yes": 1}})
    [again] = await remote.claim()
    assert (again["inputs"], again["questions"]) == ({"q": {"yes": 1}}, {"q": {"sure?": True}})
    assert again["steps"] == {"s": None}
    lease = lease_of(again)
    for name in ("order", "other"):
        assert not (await remote.call("send", **lease, send={**SEND, "name": name})).json()["is_new"]
    assert not (await remote.call("publish", **lease, record=RECORD)).json()["is_new"]
    problem(await remote.call("send", **lease, send={**SEND, "message": "another"}), 422, "than an earlier attempt did")
    problem(await remote.call("publish", **lease, record={**RECORD, "value": 2}), 422, "than an earlier attempt did")
    for _ in range(2):  # the repeat finds its own end
        assert (await remote.finish(message_id, result="r", sends=[SEND])).json()["state"] == "completed"
    assert len(await sql.fetch(SENT)) == 2
    await assert_consistent(sql)


async def test_a_worker_that_lost_its_lease_sends_asks_and_reads_nothing(remote: RemoteWorker, sql: Connection) -> None:
    message_id = await remote.api.submit("x", agent="shout", thread_id="t")
    [claimed] = await remote.claim()
    lease = lease_of(claimed)
    await lose_lease(sql, claimed["message_id"])
    for call, body in (
        ("send", {"send": SEND}),
        ("publish", {"record": RECORD}),
        ("history", {}),
        ("append", {"first_seq": 3, "events": [STEP], "sends": [SEND]}),
    ):
        problem(await remote.call(call, **lease, **body), 409, "does not hold this lease")
    for outcome, fields in (("completed", {"result": 1}), ("input", {"question": {"name": "q"}})):
        problem(await remote.finish(message_id, outcome, sends=[SEND], **fields), 409, "does not hold this lease")
    assert await sql.fetch(SENT) == []
    other = RemoteWorker(remote.api)
    await other.register("shout")
    [taken] = await other.claim()
    problem(await remote.call("history", **lease_of(taken)), 409, "does not hold this lease")  # the lease of another
    await assert_consistent(sql)


async def test_calls_that_do_not_fit_are_refused(remote: RemoteWorker, sql: Connection) -> None:
    message_id = await remote.api.submit("x", agent="shout")
    [claimed] = await remote.claim()
    lease = lease_of(claimed)
    append = {**lease, "first_seq": 3}
    for call, body, reason in (
        ("append", {**append, "events": [CHUNK], "sends": [SEND]}, "must be one step"),
        ("append", {**append, "events": [STEP, CHUNK], "sends": [SEND]}, "must be one step"),
        ("append", {**append, "events": [STEP], "sends": [SEND, SEND]}, "one name"),
        ("append", {**append, "events": [STEP], "sends": [{**SEND, "agent": "missing"}]}, "missing"),
        ("append", {**append, "events": [STEP], "records": [{**RECORD, "topic": "missing"}]}, "missing"),
        ("send", {**lease, "send": {**SEND, "aside": True}}, "needs a thread_id"),
        ("send", {**lease, "send": {**SEND, "message": "a\0"}}, "NUL"),
        ("publish", {**lease, "record": {**RECORD, "value": "\0"}}, "NUL"),
    ):
        is_unknown = body.get("records", [{}])[0].get("topic") == "missing"
        problem(await remote.call(call, **body), 404 if is_unknown else 422, reason)
    for outcome, fields, reason in (
        ("retry", {"error": "x", "sends": [SEND]}, "Only the outcomes completed, input and children"),
        ("input", {}, "question is missing"),
        ("retry", {"error": "x", "memory": {}}, "Only a completed attempt saves the memory"),
        ("completed", {"result": 1, "memory": {"a": "\0"}}, "NUL"),
        ("completed", {"result": 1, "question": {"name": "q"}}, "question is for the outcome input"),
    ):
        problem(await remote.finish(message_id, outcome, **fields), 422, reason)
    assert await sql.fetch(SENT) == []
    assert (await remote.finish(message_id, result=1)).json()["state"] == "completed"


async def test_a_chain_of_remote_workers_messages_ends(remote: RemoteWorker, sql: Connection) -> None:
    await remote.api.submit("x", agent="shout")
    await sql.execute("update treadle.messages set depth = $1", MAX_SEND_DEPTH)
    [claimed] = await remote.claim()
    step = {"first_seq": 3, "events": [STEP]}
    for call, body in (
        ("send", {"send": SEND}),
        ("publish", {"record": RECORD}),
        ("append", {**step, "sends": [SEND]}),
        ("append", {**step, "records": [RECORD]}),
    ):
        problem(await remote.call(call, **lease_of(claimed), **body), 422, "A chain of messages")


async def test_a_message_for_a_full_queue_refuses_the_call_that_sends_it(
    start_api: StartApi, register_agents: RegisterAgents, sql: Connection
) -> None:
    await register_agents()
    worker = RemoteWorker(await start_api(max_queue_size=1))
    await worker.register("shout")
    message_id = await worker.api.submit("x", agent="shout")
    [claimed] = await worker.claim()
    waiting = await worker.api.submit("y", agent="echo")
    step = {**lease_of(claimed), "first_seq": 3, "events": [STEP], "sends": [SEND]}
    problem(await worker.call("append", **step), 429)
    problem(await worker.finish(message_id, result=1, sends=[SEND]), 429)
    assert [row[0] for row in await sql.fetch(SENT)] == [waiting]
    assert (await worker.finish(message_id, result=1)).json()["state"] == "completed"
