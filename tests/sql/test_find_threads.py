"""treadle.find_threads: threads, all or by a text, in calls that look at a bounded number of threads and bytes."""

import json
from typing import Any

import asyncpg
import pytest

from tests.support.low_water import buffers
from tests.support.sql_client import SqlClient

FIND = """
    select thread, thread_id, last_activity
    from treadle.find_threads($1, before => $2, before_thread => $3, quantity => $4, tenant => $5, reach => $6,
        rows => $7, bytes => $8)"""
FILL_THREADS = """
    with made as (
        insert into treadle.threads (tenant, thread_id, created_at)
            select 'default', 'fill' || n, treadle.clock() from generate_series($1::integer, $2) n
            returning id
    ), turns as (
        insert into treadle.thread_turns (tenant, thread, last_ord, completed, last_activity)
            select 'default', id, 1, 1, treadle.clock() - id * interval '1 ms' from made
    )
    insert into treadle.messages (tenant, message_id, thread, ord, queue, agent, priority, rank, state, attempt,
            max_attempts, timeout_seconds, last_seq, created_at, run_at, started_at, completed_at, worker_id, body,
            result)
        select 'default', treadle.uuid7(), id, 1, 'default', 'echo', 'normal', 1, 'completed', 1, 3, 60, 3, now(),
            now(), now(), now(), 'fill', '"x"', '"y"'
        from made"""


class Search:
    """Reads page after page."""

    def __init__(self, client: SqlClient) -> None:
        self._client = client
        self.at: tuple[Any, Any] = (None, None)  # where the next page begins

    async def page(
        self,
        q: str | None,
        *,
        quantity: int = 100,
        tenant: str = "default",
        reach: Any = None,
        rows: int = 1000,
        size: int = 4_000_000,
    ) -> list[str]:
        reach = None if reach is None else json.dumps(reach)
        found = await self._client.sql.fetch(FIND, q, *self.at, quantity, tenant, reach, rows, size)
        self.at = (None, None)
        if found and found[-1]["thread_id"] is None:
            self.at = (found[-1]["last_activity"], found[-1]["thread"])
            found = found[:-1]
        return [row["thread_id"] for row in found]


async def test_a_search_goes_on_where_the_call_before_has_stopped(sql_client: SqlClient) -> None:
    for number in range(6):
        await sql_client.submit(f"number {number}", thread_id=f"t{number}")
    search = Search(sql_client)
    for rows, quantity, pages in [
        (2, 9, [["t5"], ["t3"], ["t1"]]),  # two threads in a call
        (9, 2, [["t5", "t3"], ["t1"]]),
        (9, 9, [["t5", "t3", "t1"]]),
    ]:
        await sql_client.sql.execute("update treadle.threads set metadata = '{\"odd\": true}' where id % 2 = 0")
        found = [await search.page("ODD", rows=rows, quantity=quantity)]
        odd = found[0][0]
        while search.at != (None, None):
            found.append(await search.page("ODD", rows=rows, quantity=quantity))
        expected = pages if odd == "t5" else [[f"t{int(one[1]) - 1}" for one in page] for page in pages]
        assert [page for page in found if page] == [page for page in expected if page]
    assert await search.page("number 4") == ["t4"]
    assert await search.page("number 4", reach={"owner": "someone"}) == []
    assert await search.page("number 4", tenant="acme") == []


async def test_a_call_stops_at_its_bytes(sql_client: SqlClient) -> None:
    for number in range(4):
        await sql_client.submit("x" * 100_000, thread_id=f"t{number}")
    search = Search(sql_client)
    assert await search.page("t", size=1) == ["t3"]
    assert search.at != (None, None)
    assert await search.page("t") == ["t2", "t1", "t0"]
    assert search.at == (None, None)


async def test_threads_of_records_are_looked_at_and_not_shown(sql_client: SqlClient) -> None:
    await sql_client.submit("mine", thread_id="t")
    await sql_client.submit("mine", thread_id="record")
    rename = "update treadle.threads set thread_id = $2 where thread_id = $1"
    await sql_client.sql.execute(rename, "record", "records/s/t")
    search = Search(sql_client)
    for q in ("mine", None):
        assert await search.page(q, rows=1) == []
        assert await search.page(q, rows=1) == ["t"]
        assert search.at == (None, None)
    await sql_client.sql.execute(rename, "records/s/t", "record")


@pytest.mark.new_database
@pytest.mark.parametrize("call", ["'no such text', rows => 100", "quantity => 100"])
async def test_a_call_reads_as_much_beside_many_threads_as_beside_few(sql_client: SqlClient, call: str) -> None:
    call = f"select * from treadle.find_threads({call})"
    await sql_client.sql.execute(FILL_THREADS, 1, 1000)
    await sql_client.sql.execute("analyze")
    before = await buffers(sql_client, call)
    assert 100 < before < 100 * 10
    await sql_client.sql.execute(FILL_THREADS, 1001, 20_000)
    await sql_client.sql.execute("analyze")
    assert await buffers(sql_client, call) <= 1.3 * before
    await sql_client.sql.execute("""
        delete from treadle.messages where worker_id = 'fill';
        delete from treadle.thread_turns;
        delete from treadle.threads""")


@pytest.mark.parametrize("reach", ['{"owner": 7}', "[]"])
async def test_a_reach_of_another_shape_is_refused(sql_client: SqlClient, reach: str) -> None:
    with pytest.raises(asyncpg.PostgresError):
        await sql_client.sql.fetch("select * from treadle.find_threads('x', reach => $1)", reach)
