"""The history of a thread, cut in SQL by the bytes that its reader has room for."""

import pytest

from tests.support.sql_client import SqlClient

EXCHANGES = "select message #>> '{}' from treadle.exchanges($1, 100, 50, $2, $3)"


@pytest.mark.parametrize("with_tools", [False, True])
async def test_the_latest_whole_exchanges_within_the_bytes(sql_client: SqlClient, with_tools: bool) -> None:
    for said in ("a", "b" * 5000, "c", "d" * 100):
        await sql_client.submit(said, thread_id="t")
        claim = await sql_client.claim_one()
        await sql_client.finish(claim, outcome="completed")
    thread = claim.thread

    async def lengths(max_bytes: int | None) -> list[int]:
        rows = await sql_client.sql.fetch(EXCHANGES, thread, with_tools, max_bytes)
        return [len(row[0]) for row in rows]

    assert await lengths(None) == await lengths(1_000_000) == [100, 1, 5000, 1]
    assert await lengths(5000) == [100, 1]  # nothing beyond the one that does not fit
    assert await lengths(110) == await lengths(0) == []
