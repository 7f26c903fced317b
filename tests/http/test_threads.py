"""Threads: list, pages, states, deletion, unusual ids."""

from urllib.parse import quote

from service.agents.builtin.echo import echo
from service.db.pool import Connection
from tests.support.agents import HoldingAgent, reject
from tests.support.api_answers import get, totals
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.waiting import until


async def test_threads_are_listed_newest_first(api_with_worker: Client) -> None:
    assert await get(api_with_worker, "/threads") == []
    for thread_id in ("a", "b", "c"):
        await api_with_worker.settled(await api_with_worker.submit(f"Hello {thread_id}", thread_id=thread_id))
    await api_with_worker.submit("standalone")
    await api_with_worker.settled(await api_with_worker.submit("again " * 100, thread_id="a"))
    listed = await get(api_with_worker, "/threads")
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


async def test_threads_are_paged_by_the_link_header(api: Client, sql: Connection) -> None:
    messages = [{"message": str(n), "thread_id": f"t{n:02}"} for n in range(23)]
    assert (await api.post("/messages/batch", json={"messages": messages})).status_code == 202
    # Twelve threads have the same time of last activity.
    await sql.execute("update treadle.thread_turns set last_activity = now() where thread % 2 = 0")
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


async def test_a_thread_counts_its_messages_by_state(start_api: StartApi, start_worker: StartWorker) -> None:
    holding = HoldingAgent()
    await start_worker(echo, holding.agent, reject)
    api = await start_api()
    for fields in ({"message": "1"}, {"message": "2"}, {"message": "3", "agent": "reject"}):
        await api.settled(await api.submit(thread_id="t", **fields))
    running = await api.submit("4", agent="holding", thread_id="t")
    await holding.holds(running)
    waiting, cancelled = [await api.submit(str(n), thread_id="t") for n in (5, 6)]
    await api.submit("7", thread_id="t", delay_seconds=600)
    await api.delete(f"/messages/{cancelled}")
    thread = await get(api, "/threads/t")
    assert thread.keys() == {
        "thread_id",
        "message_count",
        "created_at",
        "last_activity",
        "phase",
        "states",
        "metadata",
        "memory",
    }
    assert (thread["thread_id"], thread["message_count"], thread["metadata"]) == ("t", 7, {})
    assert thread["states"] == {"queued": 2, "processing": 1, "completed": 2, "failed": 1, "cancelled": 1}
    assert thread["phase"] == "executing"
    holding.release.set()
    await api.settled(waiting)
    states = (await get(api, "/threads/t"))["states"]
    assert states == {"queued": 1, "processing": 0, "completed": 4, "failed": 1, "cancelled": 1}


async def test_the_messages_of_a_thread_are_paged(api_with_worker: Client) -> None:
    ids = [await api_with_worker.submit(str(n), thread_id="t") for n in range(7)]
    await api_with_worker.settled(ids[-1])
    whole = await get(api_with_worker, "/threads/t/messages")
    assert whole.keys() == {"thread_id", "total_messages", "messages", "next_cursor"}
    assert (whole["thread_id"], whole["total_messages"], whole["next_cursor"]) == ("t", 7, None)
    assert [message["message_id"] for message in whole["messages"]] == ids
    assert whole["messages"][0] == await api_with_worker.status(ids[0])
    collected, cursor = [], None
    for size in (3, 3, 1):
        params = {"limit": 3} | ({} if cursor is None else {"cursor": cursor})
        page = await get(api_with_worker, "/threads/t/messages", **params)
        assert (len(page["messages"]), page["total_messages"]) == (size, 7)
        collected += page["messages"]
        cursor = page["next_cursor"]
    assert cursor is None
    assert collected == whole["messages"]
    page = await get(api_with_worker, "/threads/t/messages", limit=7)
    assert (len(page["messages"]), page["next_cursor"]) == (7, None)


async def test_deleting_a_thread_removes_its_rows_and_stops_its_agent(
    start_api: StartApi, start_worker: StartWorker, sql: Connection
) -> None:
    holding = HoldingAgent()
    await start_worker(echo, holding.agent, reject)
    api = await start_api()
    failed = await api.submit("1", thread_id="t", agent="reject")
    await api.settled(failed)
    running = await api.submit("2", thread_id="t", agent="holding")
    await holding.holds(running)
    waiting, late = await api.submit("3", thread_id="t"), await api.submit("4", thread_id="t", delay_seconds=60)
    kept = await api.submit("5", thread_id="u")
    await api.settled(kept)

    answer = await api.delete("/threads/t")
    assert (answer.status_code, answer.content) == (204, b"")

    async def interrupted() -> set[str]:
        return holding.interrupted

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
    for table in ("messages", "threads", "thread_turns", "thread_log"):
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
    "...",
    ".a",
    "a+b",
    "'; drop",
    "a\\b",
    "{x}",
]


async def test_unusual_thread_ids_work_in_every_route(api_with_worker: Client) -> None:
    for thread_id in ODD_IDS:
        message_id = await api_with_worker.submit("x", thread_id=thread_id)
        assert (await api_with_worker.settled(message_id))["thread_id"] == thread_id
        path = f"/threads/{quote(thread_id, safe='')}"
        assert (await get(api_with_worker, path))["thread_id"] == thread_id, path
        assert (await get(api_with_worker, f"{path}/messages"))["messages"][0]["message_id"] == message_id
        async with api_with_worker.stream("GET", f"{path}/stream") as answer:
            assert answer.status_code == 200
    assert {thread["thread_id"] for thread in await get(api_with_worker, "/threads")} == set(ODD_IDS)
    for thread_id in ODD_IDS:
        path = f"/threads/{quote(thread_id, safe='')}"
        assert (await api_with_worker.delete(path)).status_code == 204
    assert await get(api_with_worker, "/threads") == []


async def test_a_thread_id_may_equal_a_route_segment(api: Client) -> None:
    for thread_id in ("health", "messages", "stream", "null", "batch"):
        await api.submit("x", thread_id=thread_id)
        assert (await get(api, f"/threads/{thread_id}"))["thread_id"] == thread_id


async def test_threads_are_searched_by_id_metadata_and_last_message(api: Client) -> None:
    for thread_id, text in (("order-7", "the red bicycle"), ("order-8", "a kettle"), ("note", "nothing")):
        await api.submit(text, thread_id=thread_id, thread_metadata={"number": text[-1]})
    await api.submit("nothing new", thread_id="note", thread_metadata={"number": 2})  # it has begun already
    assert (await get(api, "/threads/note"))["metadata"] == {"number": "g"}
    await api.patch("/threads/note", json={"metadata": {"customer": "Red Ltd"}})
    assert [thread["thread_id"] for thread in await get(api, "/threads", q="RED")] == ["note", "order-7"]
    first = await api.get("/threads", params={"q": "order", "limit": 1})
    assert [thread["thread_id"] for thread in first.json()] == ["order-8"]
    following = await api.get(first.links["next"]["url"])
    assert [thread["thread_id"] for thread in following.json()] == ["order-7"]
    assert "next" not in following.links
    assert await get(api, "/threads", q="no such thread") == []
    assert "Searched-Until" in first.headers
    assert "Searched-Until" not in following.headers
    assert (await api.get("/threads", params={"q": ""})).status_code == 400
    alone = await api.post("/messages", json={"message": "x", "thread_metadata": {"a": 1}})
    assert (alone.status_code, alone.json()["detail"]) == (422, "thread_metadata needs a thread_id.")
