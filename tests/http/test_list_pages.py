"""Lists of what clients and operators create come in pages: bounded in number and in bytes, whatever there is."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from service.access.store import KEY_PAGE
from service.db.pages import FIRST_ROWS, READ_ROWS, read_page
from service.db.pool import Connection
from service.limits import JSON_PAGE_BYTES, PAGE_ITEMS
from service.queues.store import AGENT_PAGE
from service.subscriptions.store import SUBSCRIPTION_PAGE
from service.tenants.store import TENANT_PAGE
from service.topics.store import TOPIC_PAGE
from tests.support.api_answers import problem
from tests.support.api_client import Client
from treadle.client import AsyncClient

ROWS = 1_500
LISTS = {  # of each route: its table, the name of its items, and the columns of one row and of the others
    "/topics": ("topics", "topic", "tenant, topic, max_record_bytes, created_at", "'default', name, 1, now()"),
    "/subscriptions": (
        "subscriptions",
        "subscription",
        "tenant, subscription, topics, agent, delivery, max_in_flight, created_at",
        "'default', name, '{none}', 'echo', 'at_least_once', 1, now()",
    ),
    "/tenants": ("tenants", "tenant", "tenant, created_at", "name, now()"),
    "/agents": (
        "agents",
        "agent",
        "agent, queue, timeout_seconds, max_attempts, description, registered_at",
        "name, 'default', 1, 1, '', now()",
    ),
    "/keys": (
        "keys",
        "key_id",
        "key_id, tenant, secret_hash, scopes, created_at, created_by",
        "lpad(name, 12, 'k'), 'default', sha256(name::bytea), '{read}', now() - n / 3 * interval '1 second', 'a test'",
    ),
}
STATEMENTS: dict[str, tuple[Any, ...]] = {  # with arguments of a page in the middle of the list
    "/topics": (TOPIC_PAGE, "default", None, "n00700", READ_ROWS),
    "/subscriptions": (SUBSCRIPTION_PAGE, "default", None, "n00700", READ_ROWS),
    "/tenants": (TENANT_PAGE, "n00700", READ_ROWS),
    "/agents": (AGENT_PAGE, None, "n00700", READ_ROWS),
    "/keys": (KEY_PAGE, None, READ_ROWS, datetime.now(UTC) - timedelta(seconds=100), "k"),
}


async def fill(sql: Connection, path: str, rows: int = ROWS) -> None:
    table, _, columns, values = LISTS[path]
    await sql.execute(
        f"insert into treadle.{table} ({columns}) select {values} from (select n, 'n' || lpad(n::text, 5, '0') as name"
        f" from generate_series(1, {rows}) n) s; analyze treadle.{table}"
    )
    if path == "/topics":
        await sql.execute("insert into treadle.topic_ends (topic, tenant) select id, tenant from treadle.topics")


async def pages(api: Client, path: str, **query: Any) -> AsyncIterator[httpx.Response]:
    link: str | None = path
    while link is not None:
        answer = await api.get(link, params=query if link == path else None)
        assert answer.status_code == 200, answer.text
        yield answer
        link = answer.links["next"]["url"] if "next" in answer.links else None


@pytest.mark.parametrize("path", LISTS)
async def test_each_item_stands_on_one_page(api: Client, sql: Connection, path: str) -> None:
    name = LISTS[path][1]
    [few] = [answer async for answer in pages(api, path)]
    assert isinstance(few.json(), list)
    await fill(sql, path)
    whole = [[item[name] for item in page.json()] async for page in pages(api, path)]
    total = ROWS + len(few.json())
    assert [len(page) for page in whole] == [PAGE_ITEMS] * (total // PAGE_ITEMS) + [total % PAGE_ITEMS] * (
        total % PAGE_ITEMS > 0
    )
    found = [item for page in whole for item in page]
    assert len(set(found)) == total
    if path != "/keys":
        assert found == sorted(found)
    long = [[item[name] for item in page.json()] async for page in pages(api, path, limit=700)]
    assert [item for page in long for item in page] == found
    assert len(long) == 3
    for cursor in ("x", "AAAA", "w6k=!"):
        problem(await api.get(path, params={"cursor": cursor}), 400, "cursor must be one")
    problem(await api.get(path, params={"limit": 1001}), 400, "limit must be a whole number from 1 to 1000")


@pytest.mark.parametrize("path", LISTS)
async def test_a_statement_reads_no_more_rows_than_it_returns(sql: Connection, path: str) -> None:
    table, (statement, *arguments) = LISTS[path][0], STATEMENTS[path]
    await fill(sql, path, 20_000)  # a small table is read as a whole, because that is faster
    read = "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = $1"
    for _ in range(7):  # with a plan of its own, and with the one that is kept
        async with sql.transaction():
            before = await sql.fetchval(read, table) or 0
            assert len(await sql.fetch(statement, *arguments)) == READ_ROWS
            assert await sql.fetchval(read, table) - before <= 4 * READ_ROWS


async def test_a_page_is_bounded_in_bytes(api: Client, sql: Connection) -> None:
    await sql.execute(
        "select treadle.create_topic('wide'); select treadle.create_subscription('s', '{none}', 'echo');"
        "insert into treadle.subscriptions (tenant, subscription, topics, agent, delivery, max_in_flight, created_at)"
        " select 'default', 's' || n, array_fill(repeat('t', 240), array[100]), 'echo', 'at_least_once', 1, now()"
        " from generate_series(1, 200) n"
    )
    sizes = [len(page.content) async for page in pages(api, "/subscriptions", limit=1000)]
    assert sum(sizes) > 4 * JSON_PAGE_BYTES
    assert max(sizes) < 1.1 * JSON_PAGE_BYTES


@pytest.mark.parametrize(("size", "fitting"), [(100, 100), (40_000, 24), (200_000, 4), (2_000_000, 1)])
async def test_large_rows_are_not_read_in_vain(sql: Connection, size: int, fitting: int) -> None:
    calls: list[range] = []

    async def read(after: int | None, quantity: int) -> Any:
        first = (after or 0) + 1
        calls.append(range(first, first + quantity))
        return await sql.fetch(
            "select n, repeat('x', $3) as text from generate_series($1::integer, $1 + $2 - 1) n", first, quantity, size
        )

    page, following = await read_page(read, lambda row: int(row["n"]), after=None, limit=PAGE_ITEMS)
    assert (len(page), following) == (fitting, fitting)
    assert [n for call in calls for n in call] == list(range(1, max(fitting + 1, FIRST_ROWS) + 1))
    assert len(calls) <= 2


async def test_the_python_client_lists_all(api: Client, sql: Connection) -> None:
    for path in ("/topics", "/subscriptions", "/agents"):
        await fill(sql, path)
    async with AsyncClient(str(api.base_url)) as client:
        assert len(await client.topics()) == len(await client.subscriptions()) == ROWS
        assert len(await client.agents()) == ROWS + 1
