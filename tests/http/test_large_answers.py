"""Answers are bounded in bytes, and pass on stored JSON that Python could not read."""

from typing import Any

import pytest

from service.agents.builtin.echo import echo
from service.db.pool import Connection
from service.limits import JSON_PAGE_BYTES, MAX_FILTER_BYTES, MAX_FILTER_VALUES
from service.protocols.langgraph.lookup.store import MAX_SEARCH_BYTES
from tests.support.agents import reject
from tests.support.api_answers import get
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.randomness import incompressible
from tests.support.remote_worker import RemoteWorker
from tests.support.scripted_agent import ScriptedAgent

LARGE = 300_000
ITEMS = 10
PAGE = JSON_PAGE_BYTES + 50_000  # names, times and ids are not counted


async def pages(api: Client, path: str, items: str, cursor: str, answer: str) -> list[Any]:
    """The items of all pages; each page has at least one, and none is much larger than the limit."""
    found: list[Any] = []
    after: Any = None
    while True:
        got = await api.get(path, params={"limit": 1000, **({} if after is None else {cursor: after})})
        assert got.status_code == 200
        assert len(got.content) < PAGE
        page = got.json()
        found += page[items]
        if page.get(answer) in (None, after) or page.get("over"):
            return found
        assert page[items]
        after = page[answer]


async def test_the_messages_of_a_thread_are_paged_by_bytes(api: Client) -> None:
    texts = [incompressible(LARGE) for _ in range(ITEMS)]
    sent = [await api.submit(str(n), thread_id="t", metadata={"x": text}) for n, text in enumerate(texts)]
    found = await pages(api, "/threads/t/messages", "messages", "cursor", "next_cursor")
    assert [message["message_id"] for message in found] == sent
    assert [message["metadata"]["x"] for message in found] == texts
    assert [message["queue_position"] for message in found] == list(range(ITEMS))
    one = await get(api, "/threads/t/messages", limit=1)
    assert (len(one["messages"]), one["next_cursor"]) == (1, "1")


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_the_items_of_a_conversation_are_paged_by_bytes(api: Client, order: str) -> None:
    texts = [incompressible(90_000) for _ in range(25)]
    for text in texts:
        await api.submit(text, thread_id="t")
    found: list[str] = []
    page: dict[str, Any] = {"has_more": True, "last_id": ""}
    while page["has_more"]:
        after = {"after": page["last_id"]} if page["last_id"] else {}
        got = await api.get("/v1/conversations/t/items", params={"limit": 1000, "order": order, **after})
        assert len(got.content) < PAGE
        page = got.json()
        found += [item["content"][0]["text"] for item in page["data"]]
    assert found == (texts if order == "asc" else texts[::-1])


async def test_an_item_larger_than_a_page_is_a_page(api: Client) -> None:
    large = incompressible(2 * JSON_PAGE_BYTES)
    for metadata in ({}, {"x": large}, {}):
        await api.submit("x", thread_id="t", metadata=metadata)
    counts, cursor = [], ""
    while cursor is not None:
        page = await get(api, "/threads/t/messages", **({"cursor": cursor} if cursor else {}))
        counts.append(len(page["messages"]))
        cursor = page["next_cursor"]
    assert counts == [1, 1, 1]


async def test_the_events_of_a_message_are_paged_by_bytes(scripted_api: Client, script: ScriptedAgent) -> None:
    message_id = await scripted_api.submit("x", agent="script")
    script.say(message_id, *(("blob", incompressible(LARGE)) for _ in range(ITEMS)), None)
    await scripted_api.settled(message_id)
    found = await pages(scripted_api, f"/messages/{message_id}/events", "events", "after", "next_after")
    assert [event["seq"] for event in found] == list(range(1, ITEMS + 4))


async def test_dead_letters_are_paged_by_bytes(start_api: StartApi, start_worker: StartWorker) -> None:
    await start_worker(reject)
    api = await start_api(max_message_chars=LARGE)
    sent = [await api.submit(incompressible(LARGE), agent="reject") for _ in range(ITEMS)]
    for message_id in sent:
        await api.settled(message_id)
    found = await pages(api, "/queues/default/dead-letters", "dead_letters", "cursor", "next_cursor")
    assert sorted(letter["message_id"] for letter in found) == sorted(sent)
    dead_at = [letter["dead_at"] for letter in found]
    assert dead_at == sorted(dead_at, reverse=True)
    assert all(len(letter["user_message"]) == LARGE for letter in found)
    answer = await api.get("/queues/default/dead-letters", params={"cursor": "x"})
    assert answer.status_code == 400


@pytest.mark.parametrize("call", ["search", "count"])
async def test_what_a_search_of_threads_compares_is_bounded(api: Client, call: str) -> None:
    """Each value of an array is compared with each of an array of each thread: 300,000 took five seconds."""
    values = [*range(MAX_FILTER_VALUES)]
    text = "x" * (MAX_FILTER_BYTES - len('{"x":""}'))
    for metadata, status in (
        *(({"x": values}, 200), ({"x": [*values, 1]}, 422), ({"x": {"y": [values[1:], [1]]}}, 422)),
        *(({"x": text}, 200), ({"x": text + "x"}, 422)),
    ):
        answer = await api.post(f"/langgraph/threads/{call}", json={"metadata": metadata})
        assert answer.status_code == status, answer.text


async def test_a_search_of_threads_is_refused_beyond_its_bytes(api: Client) -> None:
    """One tenant's threads would fill the memory of an API that serves all."""
    large = {"metadata": {"x": incompressible(MAX_SEARCH_BYTES // 2)}}
    for metadata in (large, {}, large):
        assert (await api.post("/langgraph/threads", json=metadata)).status_code == 200
    for select in (["thread_id"], None):
        answers = [
            await api.post("/langgraph/threads/search", json={"limit": limit, "select": select}) for limit in (1, 2, 3)
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 422]
        assert [len(answer.json()) for answer in answers[:2]] == [1, 2]
        assert "ask for fewer" in answers[2].json()["detail"]


async def test_the_overview_shows_the_beginning_of_a_large_message(start_api: StartApi, register_agents: Any) -> None:
    await register_agents()
    api = await start_api()
    text = "An ordinary text. " * 5000
    for message in ("short", text):
        await api.submit(message)
    short, cut = [message["user_message"] for message in (await get(api, "/queue"))["queued_messages"]]
    assert short == "short"
    assert cut == text[:500] + "…"


@pytest.mark.parametrize(
    "value",
    ['{"a": ' * 970 + "1" + "}" * 970, '{"n": ' + "9" * 5000 + "}", '{"n": 1e131071, "m": -1e-16000}'],
    ids=["deep", "digits", "range"],
)
async def test_json_that_python_cannot_read_is_passed_on(
    value: str, start_api: StartApi, start_worker: StartWorker, sql: Connection
) -> None:
    await start_worker(reject)
    api = await start_api()
    dead = await api.submit("x", agent="reject", thread_id="t")
    await api.settled(dead)
    await sql.execute(
        "update treadle.messages set metadata = $1::jsonb, result = $1::jsonb, usage = $1::jsonb, body = $1::jsonb",
        value,
    )
    await sql.execute("update treadle.threads set metadata = $1::jsonb, memory = $1::jsonb", value)
    await sql.execute("update treadle.agents set input = $1::jsonb, settings = $1::jsonb", value)
    for path in (
        f"/messages/{dead}/status",
        f"/messages/{dead}/events",
        "/threads",
        "/threads/t",
        "/threads/t/messages",
        "/queues/default/dead-letters",
        "/queue",
        "/agents",
    ):
        answer = await api.get(path)
        assert answer.status_code == 200, (path, answer.text[:300])
        await sql.execute("select $1::jsonb is null", answer.text)  # it is JSON
    printed = await sql.fetchval("select $1::jsonb::text", value)
    assert printed.encode() in (await api.get(f"/messages/{dead}/status")).content


@pytest.mark.parametrize(
    "memory",
    [f'{{"a": {"[" * 970}{"]" * 970}}}', f'{{"n": {"9" * 5000}}}', "[1]", f'{{"a": "{"x" * 2_000_000}"}}'],
    ids=["deep", "digits", "list", "large"],
)
async def test_a_memory_that_is_there_already_fails_no_answer_and_no_message(
    memory: str, start_api: StartApi, start_worker: StartWorker, sql: Connection
) -> None:
    """The database took such a memory from logins once."""
    await start_worker(echo)
    api = await start_api()
    remote = RemoteWorker(api)
    await remote.register("shout")
    await api.submit("x", agent="shout", thread_id="t")
    await sql.execute("update treadle.threads set memory = $1::jsonb", memory)
    [claimed] = await remote.claim()
    assert await remote.finish(claimed["message_id"], result="X")
    for method, path in (("GET", "t"), ("GET", "t/state"), ("POST", "search")):
        answer = await api.request(method, f"/langgraph/threads/{path}", json={} if method == "POST" else None)
        assert answer.status_code == 200, (path, answer.text[:300])
    assert (await api.settled(await api.submit("x", agent="echo", thread_id="t")))["state"] == "completed"
