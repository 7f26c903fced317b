"""Queues, dead letters, agents, workers and health."""

import json
from typing import Any

import msgspec
import pytest

from service.agents.builtin.echo import echo
from service.db.pool import Connection
from service.queues import store
from tests.support.agents import HoldingAgent, reject
from tests.support.api_answers import OVERVIEW_FIELDS, QUEUE_FIELDS, get, totals
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.messages import submit_many
from tests.support.waiting import until
from treadle import Context, agent


async def test_an_idle_service_reports_zeros(api: Client) -> None:
    overview = await get(api, "/queue")
    assert overview.keys() == OVERVIEW_FIELDS
    assert totals(overview) == [0, 0, 0, 0, 0]
    assert (overview["queued_messages"], overview["current_processing"], overview["processing"]) == ([], None, [])
    [queue] = await get(api, "/queues")
    assert queue.keys() == QUEUE_FIELDS
    assert (queue["name"], queue["paused"], queue["depth"], queue["visible"]) == ("default", False, 0, 0)
    assert (queue["oldest_age_seconds"], queue["mean_processing_seconds"]) == (None, None)
    assert await get(api, "/workers") == []


@pytest.mark.new_database
@pytest.mark.parametrize("statement", [store.QUEUED, store.PROCESSING], ids=["queued", "processing"])
async def test_the_overview_keeps_an_index_plan_when_tables_grow(
    statement: str, sql: Connection, register_agents: Any
) -> None:
    """A session keeps its cached plan while the table grows, until autoanalyze runs."""
    await register_agents()
    await submit_many(sql, [{"message": "x"}] * 1000)
    await sql.execute("analyze treadle.messages")
    rows = await sql.fetch(f"explain (costs off) {statement}", store.OVERVIEW_MESSAGES, "default", None)
    plan = "\n".join(row[0] for row in rows)
    assert "Index Scan using messages_pkey" in plan
    assert "Seq Scan on messages" not in plan, plan


async def test_counts_are_exact_under_a_mixed_load(start_api: StartApi, start_worker: StartWorker) -> None:
    holding = HoldingAgent()
    await start_worker(echo, holding.agent, reject)
    api = await start_api()
    running = [await api.submit(f"run {n}", agent="holding", thread_id=f"t{n}") for n in range(2)]
    await holding.holds(*running)
    for _ in range(3):
        await api.settled(await api.submit("done"))
    await api.settled(await api.submit("this", agent="reject"))
    late = await api.submit("late", delay_seconds=600, priority="high")
    behind = [await api.submit(f"behind {n}", thread_id="t0") for n in range(2)]
    for message_id in (await api.submit("x", delay_seconds=600), await api.submit("y", thread_id="t1")):
        assert (await api.delete(f"/messages/{message_id}")).status_code == 200

    overview = await get(api, "/queue")
    assert totals(overview) == [3, 2, 3, 1, 2]
    waiting = overview["queued_messages"]
    assert all(one.keys() == {"id", "priority", "created_at", "user_message"} for one in waiting)
    assert {one["id"] for one in waiting} == {late, *behind}
    assert {(one["priority"], one["user_message"]) for one in waiting} == {
        *(("high", "late"), ("normal", "behind 0"), ("normal", "behind 1"))
    }
    assert [one["id"] for one in overview["processing"]] == running
    assert overview["current_processing"] == overview["processing"][0]
    current = overview["current_processing"]
    assert (current["user_message"], current["thread_id"], current["agent"]) == ("run 0", "t0", "holding")
    assert (current["attempt"], current["priority"]) == (1, "normal")
    [worker] = await get(api, "/workers")
    assert current["worker_id"] == worker["worker_id"]
    assert current["started_at"] is not None

    queue = await get(api, "/queues/default")
    [listed] = await get(api, "/queues")
    for found in (queue, listed):  # a sum of floats depends on the order of its parts
        found["mean_processing_seconds"] = round(found["mean_processing_seconds"], 9)
    assert queue == {**listed, "oldest_age_seconds": queue["oldest_age_seconds"]}
    assert [queue[name] for name in ("depth", "visible", "in_flight", "completed", "failed", "cancelled")] == [
        *(3, 0, 2, 3, 1, 2)
    ]
    assert queue["mean_processing_seconds"] > 0

    holding.release.set()
    for message_id in (*running, *behind):
        await api.settled(message_id)
    overview = await until(lambda: get(api, "/queue"), lambda found: found["total_processing"] == 0)
    assert totals(overview) == [1, 0, 7, 1, 2]
    assert [one["id"] for one in overview["queued_messages"]] == [late]
    assert overview["current_processing"] is None


async def test_overview_lists_have_at_most_100_messages_and_counts_are_exact(api: Client) -> None:
    for _ in range(2):
        messages = [{"message": str(n)} for n in range(500)]
        assert (await api.post("/messages/batch", json={"messages": messages})).status_code == 202
    first = await api.submit("first", priority="high")
    overview = await get(api, "/queue")
    assert overview["total_queued"] == 1001
    shown = overview["queued_messages"]
    assert len(shown) == 100
    assert shown[0]["id"] == first
    assert [one["user_message"] for one in shown[1:]] == [str(n) for n in range(99)]
    assert (await get(api, "/queues/default"))["visible"] == 1001


async def test_each_queue_has_its_own_figures(start_api: StartApi, register_agents: Any) -> None:
    await register_agents(echo, HoldingAgent("other").agent)
    api = await start_api()
    await api.submit("1")
    await api.submit("2", agent="holding")
    await api.submit("3", agent="holding", delay_seconds=60)
    queues = await get(api, "/queues")
    assert [(queue["name"], queue["depth"], queue["visible"]) for queue in queues] == [
        ("default", 1, 1),
        ("other", 2, 1),
    ]
    assert (await get(api, "/queues/other"))["oldest_age_seconds"] >= 0
    assert totals(await get(api, "/queue"))[0] == 3


async def test_pause_stops_claims_and_not_submits(start_api: StartApi, start_worker: StartWorker) -> None:
    holding = HoldingAgent("other")
    await start_worker(echo, holding.agent, queues=("default", "other"))
    api = await start_api()
    answer = await api.post("/queues/default/pause")
    assert answer.status_code == 200
    assert answer.json().keys() == QUEUE_FIELDS
    assert answer.json()["paused"] is True
    assert (await api.post("/queues/default/pause")).status_code == 200  # repeating it changes nothing
    waiting = [await api.submit(str(n)) for n in range(3)]
    # One claim looks at all queues of a worker, so a claim that took this message has skipped the paused queue.
    other = await api.submit("x", agent="holding", priority="low")
    await holding.holds(other)
    assert {(await api.status(message_id))["state"] for message_id in waiting} == {"queued"}
    queue = await get(api, "/queues/default")
    assert (queue["paused"], queue["depth"], queue["in_flight"]) == (True, 3, 0)
    answer = await api.post("/queues/default/resume")
    assert (answer.status_code, answer.json()["paused"]) == (200, False)
    for message_id in waiting:
        assert (await api.settled(message_id))["state"] == "completed"
    holding.release.set()


async def test_a_pause_does_not_stop_running_messages(start_api: StartApi, start_worker: StartWorker) -> None:
    holding = HoldingAgent()
    await start_worker(echo, holding.agent)
    api = await start_api()
    message_id = await api.submit("x", agent="holding")
    await holding.holds(message_id)
    assert (await api.post("/queues/default/pause")).json()["in_flight"] == 1
    holding.release.set()
    assert (await api.settled(message_id))["state"] == "completed"


async def test_dead_letters_are_listed_newest_first(start_api: StartApi, start_worker: StartWorker) -> None:
    await start_worker(echo, reject)
    api = await start_api()
    assert await get(api, "/queues/default/dead-letters") == {
        "queue": "default",
        "dead_letters": [],
        "next_cursor": None,
    }
    rejected = await api.submit("this", agent="reject", thread_id="t")
    await api.settled(rejected)
    failed = await api.submit("x", metadata={"fail_times": 9}, max_attempts=2)
    await api.settled(failed)
    found = await get(api, "/queues/default/dead-letters")
    newest, oldest = found["dead_letters"]
    assert oldest.keys() == {
        *("message_id", "queue", "reason", "attempts", "dead_at", "thread_id", "agent", "user_message", "traceback")
    }
    assert (newest["message_id"], newest["attempts"], newest["agent"]) == (failed, 2, "echo")
    assert (newest["thread_id"], newest["user_message"], newest["queue"]) == (None, "x", "default")
    assert "Failing attempt 2" in newest["reason"]
    assert (oldest["message_id"], oldest["attempts"], oldest["thread_id"]) == (rejected, 1, "t")
    assert oldest["reason"] == (await api.status(rejected))["error"]
    assert "Rejected" in oldest["traceback"]
    assert (await get(api, "/queues/default/dead-letters", limit=1))["dead_letters"] == [newest]
    assert (await api.post(f"/messages/{failed}/redrive")).status_code == 202
    await api.settled(failed, "failed")
    assert (await get(api, "/queues/default"))["failed"] == 2


async def test_rows_of_plain_pgmq_clients_become_dead_letters(api_with_worker: Client, sql: Connection) -> None:
    """A row that a plain PGMQ client sends to a lane becomes a dead letter and disturbs no message."""
    await sql.execute("select pgmq.send('default_normal', '{\"hello\": 1}')")
    mine = await api_with_worker.submit("x")
    assert (await api_with_worker.settled(mine))["state"] == "completed"
    found = await until(
        lambda: get(api_with_worker, "/queues/default/dead-letters"), lambda page: len(page["dead_letters"]) == 1
    )
    [letter] = found["dead_letters"]
    assert (letter["message_id"], letter["reason"], letter["user_message"]) == (None, "foreign", None)


async def test_agents_are_listed_with_their_settings(start_api: StartApi, register_agents: Any) -> None:
    class Question(msgspec.Struct):
        text: str

    @agent("asker", queue="questions", timeout=12.5, max_attempts=7, description="Answers questions.")
    async def asker(_: Context, question: Question) -> str:
        return question.text

    await register_agents(echo, asker)
    found = {one["agent"]: one for one in await get(await start_api(), "/agents")}
    assert found.keys() == {"asker", "echo"}
    assert found["echo"] | {"registered_at": ""} == {
        "agent": "echo",
        "queue": "default",
        "timeout_seconds": 60.0,
        "max_attempts": 3,
        "is_default": True,
        "input": None,
        "description": "Streams its input back word by word.",
        "registered_at": "",
        "settings": {"run_in": "worker", "idle_timeout": 7200.0},
    }
    asked = found["asker"]
    assert (asked["queue"], asked["timeout_seconds"], asked["max_attempts"]) == ("questions", 12.5, 7)
    assert (asked["is_default"], asked["description"]) == (False, "Answers questions.")
    assert "text" in json.dumps(asked["input"])


async def test_workers_are_listed_until_they_stop(start_api: StartApi, start_worker: StartWorker) -> None:
    holding = HoldingAgent()
    api = await start_api()
    first = await start_worker(echo, holding.agent, worker_concurrency=3)
    [shown] = await until(lambda: get(api, "/workers"), lambda found: len(found) == 1)
    assert shown.keys() == {
        *("worker_id", "host", "pid", "queues", "concurrency", "in_flight", "started_at", "heartbeat_at"),
        "memory_bytes",
    }
    assert shown["memory_bytes"] > 10_000_000
    assert (shown["worker_id"], shown["queues"], shown["concurrency"]) == (first.worker_id, ["default"], 3)
    ids = [await api.submit("x", agent="holding") for _ in range(2)]
    await holding.holds(*ids)
    assert [worker["in_flight"] for worker in await get(api, "/workers")] == [2]
    second = await start_worker(echo)
    found = await until(lambda: get(api, "/workers"), lambda found: len(found) == 2)
    assert [worker["worker_id"] for worker in found] == [first.worker_id, second.worker_id]
    assert (await get(api, "/health"))["workers"] == 2
    second.stop()
    await until(lambda: get(api, "/workers"), lambda found: [w["worker_id"] for w in found] == [first.worker_id])
    holding.release.set()


async def test_health_of_a_working_service(api: Client) -> None:
    for path in ("/health", "/health/ready"):
        assert await get(api, path) == {"status": "healthy", "queue_initialized": True, "workers": 0, "reasons": []}
    assert await get(api, "/health/live") == {"status": "ok"}


async def test_health_without_a_queue(start_api: StartApi, sql: Connection) -> None:
    await sql.execute("delete from treadle.queues")
    assert (await get(await start_api(), "/health"))["queue_initialized"] is False
