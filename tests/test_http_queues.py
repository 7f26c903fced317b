"""Queues, agents, workers and threads as people look at them and switch them; and the API's description of itself."""

import asyncio
import json
import re
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from conftest import Client, StartApi, StartWorker, until

from service.agents.contract import Context, Rejected, agent
from service.agents.echo import echo
from service.db.pool import Connection

OVERVIEW = {
    *("total_queued", "total_processing", "total_completed", "total_failed", "total_cancelled"),
    *("queued_messages", "current_processing", "processing"),
}
QUEUE = {
    *("name", "paused", "depth", "visible", "in_flight", "completed", "failed", "cancelled", "oldest_age_seconds"),
    *("throughput_per_minute", "mean_processing_seconds", "created_at"),
}


class Hall:
    """An agent whose messages stay in it until the doors open; `interrupted` counts those that were thrown out."""

    def __init__(self, queue: str = "default") -> None:
        self.inside: set[str] = set()
        self.interrupted: set[str] = set()
        self.doors = asyncio.Event()

        @agent("hall", queue=queue, max_attempts=1)
        async def hall(context: Context, text: str) -> str:
            """Holds messages."""
            self.inside.add(context.message_id)
            try:
                await self.doors.wait()
            except asyncio.CancelledError:
                self.interrupted.add(context.message_id)
                raise
            return text

        self.agent = hall

    async def holds(self, *ids: str) -> None:
        async def inside() -> set[str]:
            return self.inside

        await until(inside, lambda found: found >= set(ids))


@agent("reject")
async def reject(_: Context, text: str) -> str:
    """Rejects everything."""
    raise Rejected(f"No {text}.")


async def get(api: Client, path: str, **params: Any) -> Any:
    answer = await api.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def totals(overview: dict[str, Any]) -> list[int]:
    return [overview[f"total_{state}"] for state in ("queued", "processing", "completed", "failed", "cancelled")]


# /queue and /queues


async def test_an_idle_service(api: Client) -> None:
    overview = await get(api, "/queue")
    assert overview.keys() == OVERVIEW
    assert totals(overview) == [0, 0, 0, 0, 0]
    assert (overview["queued_messages"], overview["current_processing"], overview["processing"]) == ([], None, [])
    [queue] = await get(api, "/queues")
    assert queue.keys() == QUEUE
    assert (queue["name"], queue["paused"], queue["depth"], queue["visible"]) == ("default", False, 0, 0)
    assert (queue["oldest_age_seconds"], queue["mean_processing_seconds"]) == (None, None)
    assert await get(api, "/workers") == []


async def test_a_mixed_load_is_counted_right(start_api: StartApi, start_worker: StartWorker) -> None:
    hall = Hall()
    await start_worker(echo, hall.agent, reject)
    api = await start_api()
    running = [await api.submit(f"run {n}", agent="hall", thread_id=f"t{n}") for n in range(2)]
    await hall.holds(*running)
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
    assert (current["user_message"], current["thread_id"], current["agent"]) == ("run 0", "t0", "hall")
    assert (current["attempt"], current["priority"]) == (1, "normal")
    [worker] = await get(api, "/workers")
    assert current["worker_id"] == worker["worker_id"]
    assert current["started_at"] is not None

    queue = await get(api, "/queues/default")
    assert queue == {**(await get(api, "/queues"))[0], "oldest_age_seconds": queue["oldest_age_seconds"]}
    assert [queue[name] for name in ("depth", "visible", "in_flight", "completed", "failed", "cancelled")] == [
        *(3, 0, 2, 3, 1, 2)
    ]
    assert queue["mean_processing_seconds"] > 0

    hall.doors.set()
    for message_id in (*running, *behind):
        await api.settled(message_id)
    overview = await until(lambda: get(api, "/queue"), lambda found: found["total_processing"] == 0)
    assert totals(overview) == [1, 0, 7, 1, 2]
    assert [one["id"] for one in overview["queued_messages"]] == [late]
    assert overview["current_processing"] is None


async def test_the_lists_are_bounded_and_the_counts_are_not(api: Client) -> None:
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


async def test_each_queue_has_its_own_figures(start_api: StartApi, agents: Any) -> None:
    await agents(echo, Hall("other").agent)
    api = await start_api()
    await api.submit("1")
    await api.submit("2", agent="hall")
    await api.submit("3", agent="hall", delay_seconds=60)
    queues = await get(api, "/queues")
    assert [(queue["name"], queue["depth"], queue["visible"]) for queue in queues] == [
        ("default", 1, 1),
        ("other", 2, 1),
    ]
    assert (await get(api, "/queues/other"))["oldest_age_seconds"] >= 0
    assert totals(await get(api, "/queue"))[0] == 3


async def test_pause_stops_claims_and_not_submits(start_api: StartApi, start_worker: StartWorker) -> None:
    hall = Hall("other")
    await start_worker(echo, hall.agent, queues=("default", "other"))
    api = await start_api()
    answer = await api.post("/queues/default/pause")
    assert answer.status_code == 200
    assert answer.json().keys() == QUEUE
    assert answer.json()["paused"] is True
    assert (await api.post("/queues/default/pause")).status_code == 200  # again: the same
    waiting = [await api.submit(str(n)) for n in range(3)]
    # The worker takes this one later than it could have taken those: one claim goes through all of its queues.
    other = await api.submit("x", agent="hall", priority="low")
    await hall.holds(other)
    assert {(await api.status(message_id))["state"] for message_id in waiting} == {"queued"}
    queue = await get(api, "/queues/default")
    assert (queue["paused"], queue["depth"], queue["in_flight"]) == (True, 3, 0)
    answer = await api.post("/queues/default/resume")
    assert (answer.status_code, answer.json()["paused"]) == (200, False)
    for message_id in waiting:
        assert (await api.settled(message_id))["state"] == "completed"
    hall.doors.set()


async def test_a_pause_lets_what_runs_go_on(start_api: StartApi, start_worker: StartWorker) -> None:
    hall = Hall()
    await start_worker(echo, hall.agent)
    api = await start_api()
    message_id = await api.submit("x", agent="hall")
    await hall.holds(message_id)
    assert (await api.post("/queues/default/pause")).json()["in_flight"] == 1
    hall.doors.set()
    assert (await api.settled(message_id))["state"] == "completed"


async def test_dead_letters(start_api: StartApi, start_worker: StartWorker) -> None:
    await start_worker(echo, reject)
    api = await start_api()
    assert await get(api, "/queues/default/dead-letters") == {"queue": "default", "dead_letters": []}
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


async def test_foreign_rows_of_the_dead_letter_queue_are_shown(running: Client, sql: Connection) -> None:
    """What a plain PGMQ client sent into a lane fails nobody and is not lost."""
    await sql.execute("select pgmq.send('default_normal', '{\"hello\": 1}')")
    mine = await running.submit("x")
    assert (await running.settled(mine))["state"] == "completed"
    found = await until(
        lambda: get(running, "/queues/default/dead-letters"), lambda page: len(page["dead_letters"]) == 1
    )
    [letter] = found["dead_letters"]
    assert (letter["message_id"], letter["reason"], letter["user_message"]) == (None, "foreign", None)


async def test_agents(start_api: StartApi, agents: Any) -> None:
    class Question(msgspec.Struct):
        text: str

    @agent("asker", queue="questions", timeout=12.5, max_attempts=7, description="Answers questions.")
    async def asker(_: Context, question: Question) -> str:
        return question.text

    await agents(echo, asker)
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
    }
    asked = found["asker"]
    assert (asked["queue"], asked["timeout_seconds"], asked["max_attempts"]) == ("questions", 12.5, 7)
    assert (asked["is_default"], asked["description"]) == (False, "Answers questions.")
    assert "text" in json.dumps(asked["input"])


async def test_workers(start_api: StartApi, start_worker: StartWorker) -> None:
    hall = Hall()
    api = await start_api()
    first = await start_worker(echo, hall.agent, worker_concurrency=3)
    [shown] = await until(lambda: get(api, "/workers"), lambda found: len(found) == 1)
    assert shown.keys() == {
        *("worker_id", "host", "pid", "queues", "concurrency", "in_flight", "started_at", "heartbeat_at")
    }
    assert (shown["worker_id"], shown["queues"], shown["concurrency"]) == (first.worker_id, ["default"], 3)
    ids = [await api.submit("x", agent="hall") for _ in range(2)]
    await hall.holds(*ids)
    assert [worker["in_flight"] for worker in await get(api, "/workers")] == [2]
    second = await start_worker(echo)
    found = await until(lambda: get(api, "/workers"), lambda found: len(found) == 2)
    assert [worker["worker_id"] for worker in found] == [first.worker_id, second.worker_id]
    assert (await get(api, "/health"))["workers"] == 2
    second.stop()
    await until(lambda: get(api, "/workers"), lambda found: [w["worker_id"] for w in found] == [first.worker_id])
    hall.doors.set()


async def test_health(api: Client) -> None:
    for path in ("/health", "/health/ready"):
        assert await get(api, path) == {"status": "ok", "queue_initialized": True, "workers": 0, "detail": None}
    assert await get(api, "/health/live") == {"status": "ok"}


async def test_health_without_a_queue(start_api: StartApi, sql: Connection) -> None:
    await sql.execute("delete from treadle.queues")
    assert (await get(await start_api(), "/health"))["queue_initialized"] is False


# Threads


async def test_threads_are_listed_newest_first(running: Client) -> None:
    assert await get(running, "/threads") == []
    for thread_id in ("a", "b", "c"):
        await running.settled(await running.submit(f"Hello {thread_id}", thread_id=thread_id))
    await running.submit("standalone")
    await running.settled(await running.submit("again " * 100, thread_id="a"))
    listed = await get(running, "/threads")
    assert [thread["thread_id"] for thread in listed] == ["a", "c", "b"]
    assert all(
        thread.keys() == {"thread_id", "message_count", "created_at", "last_activity", "last_message_preview"}
        for thread in listed
    )
    assert [thread["message_count"] for thread in listed] == [2, 1, 1]
    assert listed[1]["last_message_preview"] == "Hello c"
    assert ("again " * 100).startswith(listed[0]["last_message_preview"])
    assert len(listed[0]["last_message_preview"]) == 200
    assert listed[0]["created_at"] < listed[2]["created_at"] < listed[1]["last_activity"] < listed[0]["last_activity"]


async def test_threads_are_paged_by_link_to_the_end(api: Client, sql: Connection) -> None:
    messages = [{"message": str(n), "thread_id": f"t{n:02}"} for n in range(23)]
    assert (await api.post("/messages/batch", json={"messages": messages})).status_code == 202
    # As many as twelve have one and the same time of last activity.
    await sql.execute("update treadle.threads set last_activity = now() where id % 2 = 0")
    whole = [thread["thread_id"] for thread in await get(api, "/threads")]
    assert sorted(whole) == [f"t{n:02}" for n in range(23)]
    pages, path = [], "/threads?limit=5"
    while path:
        answer = await api.get(path)
        assert answer.status_code == 200
        pages.append([thread["thread_id"] for thread in answer.json()])
        path = answer.links["next"]["url"] if "next" in answer.links else ""
    assert [len(page) for page in pages] == [5, 5, 5, 5, 3]
    assert [thread_id for page in pages for thread_id in page] == whole
    answer = await api.get("/threads", params={"limit": 23})
    assert len(answer.json()) == 23
    assert "link" not in answer.headers


async def test_a_thread_and_its_states(start_api: StartApi, start_worker: StartWorker) -> None:
    hall = Hall()
    await start_worker(echo, hall.agent, reject)
    api = await start_api()
    for fields in ({"message": "1"}, {"message": "2"}, {"message": "3", "agent": "reject"}):
        await api.settled(await api.submit(thread_id="t", **fields))
    running = await api.submit("4", agent="hall", thread_id="t")
    await hall.holds(running)
    waiting, cancelled = [await api.submit(str(n), thread_id="t") for n in (5, 6)]
    await api.submit("7", thread_id="t", delay_seconds=600)
    await api.delete(f"/messages/{cancelled}")
    thread = await get(api, "/threads/t")
    assert thread.keys() == {"thread_id", "message_count", "created_at", "last_activity", "states", "metadata"}
    assert (thread["thread_id"], thread["message_count"], thread["metadata"]) == ("t", 7, {})
    assert thread["states"] == {"queued": 2, "processing": 1, "completed": 2, "failed": 1, "cancelled": 1}
    hall.doors.set()
    await api.settled(waiting)
    states = (await get(api, "/threads/t"))["states"]
    assert states == {"queued": 1, "processing": 0, "completed": 4, "failed": 1, "cancelled": 1}


async def test_a_threads_messages_are_paged(running: Client) -> None:
    ids = [await running.submit(str(n), thread_id="t") for n in range(7)]
    await running.settled(ids[-1])
    whole = await get(running, "/threads/t/messages")
    assert whole.keys() == {"thread_id", "total_messages", "messages", "next_cursor"}
    assert (whole["thread_id"], whole["total_messages"], whole["next_cursor"]) == ("t", 7, None)
    assert [message["message_id"] for message in whole["messages"]] == ids
    assert whole["messages"][0] == await running.status(ids[0])
    collected, cursor = [], None
    for size in (3, 3, 1):
        params = {"limit": 3} | ({} if cursor is None else {"cursor": cursor})
        page = await get(running, "/threads/t/messages", **params)
        assert (len(page["messages"]), page["total_messages"]) == (size, 7)
        collected += page["messages"]
        cursor = page["next_cursor"]
    assert cursor is None
    assert collected == whole["messages"]
    page = await get(running, "/threads/t/messages", limit=7)
    assert (len(page["messages"]), page["next_cursor"]) == (7, None)


async def test_a_deleted_thread_is_gone_and_its_agent_stopped(
    start_api: StartApi, start_worker: StartWorker, sql: Connection
) -> None:
    hall = Hall()
    await start_worker(echo, hall.agent, reject)
    api = await start_api()
    failed = await api.submit("1", thread_id="t", agent="reject")
    await api.settled(failed)
    running = await api.submit("2", thread_id="t", agent="hall")
    await hall.holds(running)
    waiting, late = await api.submit("3", thread_id="t"), await api.submit("4", thread_id="t", delay_seconds=60)
    kept = await api.submit("5", thread_id="u")
    await api.settled(kept)

    answer = await api.delete("/threads/t")
    assert (answer.status_code, answer.content) == (204, b"")

    async def interrupted() -> set[str]:
        return hall.interrupted

    await until(interrupted, lambda found: found == {running})
    for path in ("/threads/t", "/threads/t/messages", "/threads/t/stream"):
        assert (await api.get(path)).status_code == 404
    assert (await api.delete("/threads/t")).status_code == 404
    for message_id in (failed, running, waiting, late):
        assert (await api.get(f"/messages/{message_id}/status")).status_code == 404
        assert (await api.delete(f"/messages/{message_id}")).status_code == 404
    assert [thread["thread_id"] for thread in await get(api, "/threads")] == ["u"]
    assert totals(await get(api, "/queue")) == [0, 0, 1, 0, 0]
    assert (await get(api, "/queues/default/dead-letters"))["dead_letters"] == []
    for table in ("messages", "threads", "thread_log"):
        assert await sql.fetchval(f"select count(*) from treadle.{table}") == 1
    assert {row["message_id"] for row in await sql.fetch("select message_id from treadle.events")} == {
        await sql.fetchval("select $1::uuid", kept)
    }
    again = await api.submit("new", thread_id="t")
    assert (await api.settled(again))["state"] == "completed"
    assert (await get(api, "/threads/t"))["message_count"] == 1


ODD_IDS = [
    "ünïcødé 線 \U0001f9f5",
    "with spaces ",
    "a?b=c&d",
    "100%",
    "%2F",
    "a#b",
    "..",
    ".",
    "a+b",
    "'; drop",
    "a\\b",
    "{x}",
]


async def test_threads_by_odd_names(running: Client) -> None:
    for thread_id in ODD_IDS:
        message_id = await running.submit("x", thread_id=thread_id)
        assert (await running.settled(message_id))["thread_id"] == thread_id
        # Written so that no client takes "." and ".." for steps of the path.
        path = f"/threads/{quote(thread_id, safe='').replace('.', '%2E')}"
        assert (await get(running, path))["thread_id"] == thread_id, path
        assert (await get(running, f"{path}/messages"))["messages"][0]["message_id"] == message_id
        async with running.stream("GET", f"{path}/stream") as answer:
            assert answer.status_code == 200
    assert {thread["thread_id"] for thread in await get(running, "/threads")} == set(ODD_IDS)
    for thread_id in ODD_IDS:
        path = f"/threads/{quote(thread_id, safe='').replace('.', '%2E')}"
        assert (await running.delete(path)).status_code == 204
    assert await get(running, "/threads") == []


async def test_a_thread_named_like_a_route(api: Client) -> None:
    for thread_id in ("health", "messages", "stream", "null", "batch"):
        await api.submit("x", thread_id=thread_id)
        assert (await get(api, f"/threads/{thread_id}"))["thread_id"] == thread_id


# The API's description of itself

TABLE = {
    ("post", "/messages"): "Accepted",
    ("post", "/messages/batch"): "AcceptedBatch",
    ("get", "/messages/{message_id}/status"): "Status",
    ("get", "/messages/{message_id}/stream"): None,
    ("get", "/messages/{message_id}/events"): "EventPage",
    ("delete", "/messages/{message_id}"): "Cancelled",
    ("post", "/messages/{message_id}/redrive"): "Redriven",
    ("get", "/queue"): "Overview",
    ("get", "/queues"): ["Queue"],
    ("get", "/queues/{name}"): "Queue",
    ("post", "/queues/{name}/pause"): "Queue",
    ("post", "/queues/{name}/resume"): "Queue",
    ("get", "/queues/{name}/dead-letters"): "DeadLetters",
    ("get", "/threads"): ["ThreadSummary"],
    ("get", "/threads/{thread_id}"): "Thread",
    ("get", "/threads/{thread_id}/messages"): "ThreadMessages",
    ("get", "/threads/{thread_id}/stream"): None,
    ("delete", "/threads/{thread_id}"): None,
    ("get", "/agents"): ["Agent"],
    ("get", "/workers"): ["Worker"],
    ("get", "/health"): "Health",
    ("get", "/health/live"): None,
    ("get", "/health/ready"): "Health",
}


def references(value: Any) -> set[str]:
    """Every $ref in a piece of OpenAPI."""
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(inner) for inner in value.values()))
    return set().union(*(references(inner) for inner in value)) if isinstance(value, list) else set()


async def test_openapi_describes_every_call(api: Client) -> None:
    schema = await get(api, "/openapi.json")
    assert schema["openapi"].startswith("3.")
    described = {(method, path) for path, item in schema["paths"].items() for method in item}
    assert described == TABLE.keys()
    schemas = schema["components"]["schemas"]
    assert references(schema) <= {f"#/components/schemas/{name}" for name in schemas}
    operations = {}
    for (method, path), model in TABLE.items():
        operation = schema["paths"][path][method]
        operations[method, path] = operation
        assert len(operation["summary"]) > 10
        success = next(status for status in operation["responses"] if status.startswith("2"))
        content = operation["responses"][success].get("content", {})
        if isinstance(model, str):
            assert content["application/json"]["schema"] == {"$ref": f"#/components/schemas/{model}"}
        elif model is not None:
            found = content["application/json"]["schema"]
            assert (found["type"], found["items"]) == ("array", {"$ref": f"#/components/schemas/{model[0]}"})
        elif path.endswith("/stream"):
            assert content.keys() == {"text/event-stream"}
        refusal = operation["responses"]["default"]["content"]
        assert refusal == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
        assert "400" not in operation["responses"]
    assert len({operation["operationId"] for operation in operations.values()}) == len(TABLE)
    assert operations["delete", "/messages/{message_id}"]["responses"].keys() == {"200", "202", "default"}
    assert "204" in operations["get", "/messages/{message_id}/stream"]["responses"]
    for path, model in (("/messages", "NewMessage"), ("/messages/batch", "NewBatch")):
        body = operations["post", path]["requestBody"]
        assert (body["required"], body["content"].keys()) == (True, {"application/json"})
        assert body["content"]["application/json"]["schema"] == {"$ref": f"#/components/schemas/{model}"}
        names = [parameter["name"] for parameter in operations["post", path]["parameters"]]
        assert names == ["Idempotency-Key"]


async def test_openapi_has_the_fields_of_the_table(api: Client) -> None:
    schemas = (await get(api, "/openapi.json"))["components"]["schemas"]
    message = schemas["NewMessage"]
    assert message["required"] == ["message"]
    assert message["properties"].keys() == {
        *("message", "priority", "thread_id", "agent", "metadata", "delay_seconds", "max_attempts", "timeout_seconds")
    }
    assert all(field.get("description") for field in message["properties"].values())
    assert message["properties"]["priority"]["enum"] == ["high", "normal", "low"]
    status = await api.status(await api.submit("x"))
    assert schemas["Status"]["properties"].keys() == status.keys()
    assert schemas["Overview"]["properties"].keys() == OVERVIEW
    assert schemas["Queue"]["properties"].keys() == QUEUE
    problem = (await api.get("/threads/nobody")).json()
    assert schemas["Problem"]["properties"].keys() == problem.keys()


@pytest.mark.parametrize(("path", "sign"), [("/docs", "swagger-ui"), ("/redoc", "redoc"), ("/", "swagger-ui")])
async def test_the_pages_show_the_description(api: Client, path: str, sign: str) -> None:
    answer = await api.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    page = answer.text
    assert sign in page
    assert "<title>Treadle</title>" in page
    assert re.search(r"<script.*?>", page)
    assert "/messages/{message_id}/redrive" in page  # the description itself is in the page
