"""The limit of a tenant's running messages: exact for all workers together, and felt by that tenant only."""

import asyncio
import json
from collections.abc import Sequence

import pytest

from service.access.principal import COMMAND_LINE
from service.db.notifier import Notifier
from service.db.pool import Connection, Database
from service.messages.model import NewMessage
from service.messages.store import MessageStore
from tests.support.fixture_types import StartWorker
from tests.support.sql_client import SqlClient
from tests.support.waiting import until
from treadle import Context, agent

RUNNING = "select count(*) from treadle.leases where tenant = 'default'"


async def limit(sql: Connection, running: int) -> None:
    await sql.execute("select treadle.limit_tenant('default', $1)", json.dumps({"running": running}))


async def tenants_of_claim(client: SqlClient, quantity: int) -> Sequence[str]:
    rows = await client.sql.fetch("select tenant from treadle.claim('w', '{default}', $1, 60)", quantity)
    return sorted(row["tenant"] for row in rows)


async def test_concurrent_claims_never_exceed_the_limit(sql_client: SqlClient) -> None:
    limit_of_all, messages = 7, 60
    await limit(sql_client.sql, limit_of_all)
    await sql_client.submit_many(*({} for _ in range(messages)))
    workers = [await sql_client.connect() for _ in range(5)]
    ended = 0
    most = 0

    async def work(client: SqlClient, number: int) -> None:
        nonlocal ended, most
        while ended < messages:
            claims = await client.claim(1 + number, worker=f"w{number}")
            most = max(most, await client.sql.fetchval(RUNNING))
            for claim in claims:
                ended += 1
                await client.finish(claim)

    await asyncio.gather(*(work(client, number) for number, client in enumerate(workers)))
    assert 1 < most <= limit_of_all


async def test_a_tenant_at_its_limit_delays_no_other_tenant(sql_client: SqlClient) -> None:
    await sql_client.sql.execute("select treadle.create_tenant('quiet')")
    await limit(sql_client.sql, 3)
    await sql_client.submit_many(*({} for _ in range(50)))
    await sql_client.submit_many(*({} for _ in range(20)), tenant="quiet")
    assert await tenants_of_claim(sql_client, 30) == ["default"] * 3 + ["quiet"] * 20
    await sql_client.submit_many({}, tenant="quiet")
    assert await tenants_of_claim(sql_client, 1) == ["quiet"]
    assert await tenants_of_claim(sql_client, 1) == []
    in_lane = await sql_client.sql.fetchval("select count(*) from pgmq.q_default_normal where vt = enqueued_at")
    assert in_lane == 3  # no more than the limit: a claim passes over few rows
    row = await sql_client.sql.fetchrow("select running, max_running from treadle.limits_of()")
    assert row is not None
    assert tuple(row) == (3, 3)


async def test_the_limit_is_one_for_all_lanes_and_queues(sql_client: SqlClient) -> None:
    await sql_client.register({}, {"agent": "other", "queue": "other"})
    await limit(sql_client.sql, 2)
    for priority in ("high", "low"):
        await sql_client.submit_many({"priority": priority}, {"priority": priority, "agent": "other"})
    claims = await sql_client.claim(10, queues=("default", "other"))
    assert [claim.priority for claim in claims] == ["high", "high"]
    hints: list[str] = []
    await sql_client.sql.add_listener("treadle_work", lambda *hint: hints.append(str(hint[3])))
    await sql_client.finish(*claims)
    await sql_client.sql.execute("select")
    assert {queue for hint in hints for queue in hint.split(",")} == {"default", "other"}
    assert len(await sql_client.claim(10, queues=("other",))) == 1


async def test_a_claim_that_finds_another_one_counting_passes_over_and_tells_workers(sql_client: SqlClient) -> None:
    await limit(sql_client.sql, 3)
    await sql_client.submit_many({}, {}, {})
    other = await sql_client.connect()
    hints: list[str] = []
    await sql_client.sql.add_listener("treadle_work", lambda *hint: hints.append(str(hint[3])))
    async with other.sql.transaction():
        assert len(await other.claim(1)) == 1
        assert await sql_client.claim(5) == []
    await until(lambda: hints == ["default"])
    assert len(await sql_client.claim(5)) == 2


async def test_without_the_limit_nothing_is_asked(sql_client: SqlClient) -> None:
    asked = "select treadle._limiting() or treadle._sharing()"
    await sql_client.sql.execute("select treadle.limit_tenant('default', '{\"queued\": 100}')")
    assert await sql_client.sql.fetchval(asked) is False
    await limit(sql_client.sql, 3)
    assert await sql_client.sql.fetchval(asked) is True
    await sql_client.sql.execute("select treadle.limit_tenant('default', null)")
    assert await sql_client.sql.fetchval(asked) is False


@agent("first", queue="one")
async def first(context: Context, text: str) -> str:
    return "ok"


@agent("second", queue="two")
async def second(context: Context, text: str) -> str:
    return "ok"


@pytest.mark.parametrize("running", [1, 4])
async def test_the_next_messages_go_on_at_once_in_all_queues(
    running: int, database: Database, sql: Connection, start_worker: StartWorker
) -> None:
    """Without the hints it would take minutes: one poll for each message."""
    for one, queue in ((first, "one"), (second, "two")):
        await start_worker(one, poll_interval=60.0, queues=(queue,))
    await limit(sql, running)
    store = MessageStore(database, Notifier(database), max_queue_size=1000)
    news = [NewMessage("x", agent=name) for name in ("first", "second") for _ in range(15)]
    await asyncio.gather(*(store.submit(COMMAND_LINE, new) for new in news))
    done = "select coalesce(sum(completed), 0)::integer from treadle.queue_counts"
    await until(lambda: sql.fetchval(done), lambda completed: completed == 30)
