"""The lists of queues, workers and warm instances come in pages, as those of what clients create do."""

from typing import Any

import pytest

from service.db.pages import READ_ROWS
from service.db.pool import Connection
from service.limits import PAGE_ITEMS
from service.queues.store import WORKER_PAGE
from tests.support.api_answers import problem
from tests.support.api_client import Client
from treadle.client import AsyncClient

WORKERS = 250
# Three started at the same time, and each keeps two instances, all of the same age.
WORKER_ROWS = """
    insert into treadle.workers (worker_id, host, pid, queues, concurrency, started_at, heartbeat_at, reported_at,
        beating_since)
    select 'host:' || n || ' of ' || $1, 'host', n, '{default}', 1, now() + n / 3 * interval '1 second', now(), now(),
        now()
    from generate_series(1, $1) n"""
THREAD_ROWS = """
    insert into treadle.threads (tenant, thread_id, created_at)
    select 'default', 'thread ' || n, now() from generate_series(1, 2) n"""
INSTANCE_ROWS = """
    insert into treadle.instances (worker_id, thread, agent, tenant, made_at)
    select w.worker_id, t.id, 'planner', 'default', w.started_at - interval '1 day'
    from treadle.workers w, treadle.threads t"""


async def fill(sql: Connection, workers: int = WORKERS) -> None:
    await sql.execute(WORKER_ROWS, workers)
    await sql.execute(THREAD_ROWS)
    await sql.execute(INSTANCE_ROWS)
    await sql.execute("analyze treadle.workers; analyze treadle.instances; analyze treadle.threads")


async def read_pages(api: Client, path: str, **query: Any) -> list[list[dict[str, Any]]]:
    found = []
    link: str | None = path
    while link is not None:
        answer = await api.get(link, params=query if link == path else None)
        assert answer.status_code == 200, answer.text
        found.append(answer.json())
        link = answer.links["next"]["url"] if "next" in answer.links else None
    return found


async def test_each_worker_stands_on_one_page(api: Client, sql: Connection) -> None:
    assert await read_pages(api, "/workers") == [[]]
    await fill(sql)
    pages = await read_pages(api, "/workers")
    assert [len(page) for page in pages] == [PAGE_ITEMS, PAGE_ITEMS, WORKERS - 2 * PAGE_ITEMS]
    found = [(worker["started_at"], worker["worker_id"]) for page in pages for worker in page]
    assert len(set(found)) == WORKERS
    assert [at for at, _ in found] == sorted(at for at, _ in found)


async def test_each_warm_instance_stands_on_one_page(api: Client, sql: Connection) -> None:
    assert await read_pages(api, "/instances") == [[]]
    await fill(sql)
    pages = await read_pages(api, "/instances")
    assert [len(page) for page in pages] == [PAGE_ITEMS] * 5
    found = [(one["made_at"], one["worker_id"], one["thread_id"]) for page in pages for one in page]
    assert len(set(found)) == 2 * WORKERS
    assert [at for at, *_ in found] == sorted((at for at, *_ in found), reverse=True)
    some = await read_pages(api, "/instances", thread_id="thread 2", agent="planner", limit=200)
    assert [len(page) for page in some] == [200, 50]
    assert {one["thread_id"] for page in some for one in page} == {"thread 2"}
    assert await read_pages(api, "/instances", agent="none") == [[]]


async def test_each_queue_stands_on_one_page(api: Client, sql: Connection) -> None:
    [[default]] = await read_pages(api, "/queues")
    for name in ("b", "e", "a"):
        await sql.execute("select treadle.create_queue($1)", name)
    pages = await read_pages(api, "/queues", limit=2)
    assert [[queue["name"] for queue in page] for page in pages] == [["a", "b"], ["default", "e"]]
    assert pages[1][0] == default


@pytest.mark.parametrize("path", ["/queues", "/workers", "/instances"])
async def test_an_unknown_cursor_is_refused(api: Client, path: str) -> None:
    for cursor in ("x", "AAAA", "w6k=!"):
        problem(await api.get(path, params={"cursor": cursor}), 400, "cursor must be one")
    problem(await api.get(path, params={"limit": 1001}), 400, "limit must be a whole number from 1 to 1000")


async def test_the_python_client_lists_all(api: Client, sql: Connection) -> None:
    await fill(sql, 600)
    async with AsyncClient(str(api.base_url)) as client:
        assert len(await client.workers()) == 600
        assert len(await client.queues()) == 1
        assert len(await client.instances()) == 100
        assert len(await client.instances(limit=1_100, agent="planner")) == 1_100
        assert len(await client.instances(limit=5_000)) == 1_200


async def test_a_page_of_workers_counts_the_messages_of_its_own_only(sql: Connection) -> None:
    await fill(sql)
    plan = await sql.fetch(
        f"explain (analyze, costs off, timing off, summary off) {WORKER_PAGE}", None, None, READ_ROWS
    )
    counted = [row[0] for row in plan if "on leases" in row[0]]
    assert counted
    assert all(f"loops={READ_ROWS}" in line for line in counted)
