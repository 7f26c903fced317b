"""The SQL in the docs runs as written, in one session of psql per page."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from service.db.pool import Connection
from service.local.private_postgres import PrivatePostgres
from tests.support.documents import DOCS, README, Block, blocks
from tests.support.waiting import LIMIT_SECONDS


async def psql(dsn: str, page: Path, found: list[Block]) -> str:
    """Run blocks in one session of psql, as they are written; returns its output."""
    script = "".join(f"\\echo == {page.name}, line {block.line}\n{block.text}\n" for block in found)
    program = PrivatePostgres(Path("anywhere")).program("psql")
    process = await asyncio.create_subprocess_exec(
        *(program, "-X", "-v", "ON_ERROR_STOP=1", dsn),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(script.encode()), LIMIT_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_the_sql_tour_runs_as_written(dsn: str, register_agents: Callable[..., Awaitable[None]]) -> None:
    await register_agents()
    page = DOCS / "sql.md"
    output = await psql(dsn, page, blocks(page, "sql"))
    for part in ("cancelled", "There is no message", "I do not do urgent things.", "default_dlq"):
        assert part in output


async def test_the_sql_tour_shows_the_queues_of_an_installation(sql: Connection) -> None:
    await sql.execute("select treadle.offer_webhooks()")  # as a worker does
    rows = await sql.fetch("select queue_name from pgmq.list_queues() order by queue_name")
    [shown] = [block for block in blocks(DOCS / "sql.md", "text") if block.heading == "Lanes are PGMQ queues"]
    assert shown.text.split()[2:] == [row["queue_name"] for row in rows]


async def test_the_sql_of_the_readme_runs_as_written(dsn: str, register_agents: Callable[..., Awaitable[None]]) -> None:
    await register_agents()
    output = await psql(dsn, README, blocks(README, "sql"))
    assert '"Thank the buyer of a red bicycle."' in output


async def test_the_sql_of_the_webhooks_runs_as_written(
    dsn: str, sql: Connection, register_agents: Callable[..., Awaitable[None]]
) -> None:
    await register_agents()
    await sql.execute("select treadle.offer_webhooks()")  # as a worker does
    page = DOCS / "webhooks.md"
    await psql(dsn, page, blocks(page, "sql"))
    assert await sql.fetchval("select callback_url from treadle.message_overview") == "https://example.com/done"
