"""The concurrency of an agent: how many messages of its queue run at once, in all workers together."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from service.db.pool import Connection
from tests.support.agents import HoldingAgent
from tests.support.fixture_types import StartWorker
from tests.support.invariants import assert_consistent
from tests.support.messages import settled, submit_many
from tests.support.sql_client import SqlClient, decode_jsonb
from tests.support.waiting import until
from treadle import agent


@pytest.fixture
async def sql_client(sql: Connection, dsn: str) -> AsyncIterator[SqlClient]:
    async with contextlib.AsyncExitStack() as stack:
        await decode_jsonb(sql)
        yield SqlClient(sql, dsn, stack)


LIMITED = {"agent": "few", "queue": "few", "settings": {"concurrency": 2}}


async def test_a_queue_runs_at_most_the_concurrency_of_its_agents(sql_client: SqlClient) -> None:
    await sql_client.register({"agent": "echo"}, LIMITED)
    for _ in range(4):
        await sql_client.submit(agent="few")
    await sql_client.submit(agent="echo")
    first = await sql_client.claim(10, queues=["few", "default"])
    assert sorted(claim.agent for claim in first) == ["echo", "few", "few"]
    other = await sql_client.connect()
    assert await other.claim(10, worker="other", queues=["few", "default"]) == []
    await sql_client.finish(next(claim for claim in first if claim.agent == "few"))
    [next_one] = await other.claim(10, worker="other", queues=["few", "default"])
    assert next_one.agent == "few"
    await assert_consistent(sql_client.sql)


async def test_concurrent_claims_skip_a_limited_queue(sql_client: SqlClient) -> None:
    await sql_client.register({"agent": "echo"}, LIMITED)
    for _ in range(4):
        await sql_client.submit(agent="few")
    other = await sql_client.connect()
    async with sql_client.sql.transaction():
        assert len(await sql_client.claim(1, queues=["few"])) == 1
        assert await other.claim(10, worker="other", queues=["few"]) == []
    assert len(await other.claim(10, worker="other", queues=["few"])) == 1


async def test_the_last_registration_sets_the_concurrency(sql_client: SqlClient) -> None:
    await sql_client.register(LIMITED)
    assert await sql_client.sql.fetchval("select concurrency from treadle.queues where queue = 'few'") == 2
    await sql_client.register(LIMITED | {"settings": {"while_busy": None}})
    assert await sql_client.sql.fetchval("select concurrency from treadle.queues where queue = 'few'") is None
    assert await sql_client.sql.fetchval("select settings from treadle.agents where agent = 'few'") == {}


async def test_two_workers_share_the_concurrency(sql: Connection, start_worker: StartWorker) -> None:
    holding = HoldingAgent("few")
    holding.agent.limits = msgspec.structs.replace(holding.agent.limits, concurrency=3)
    for _ in range(2):
        await start_worker(holding.agent, queues=("few",), poll_interval=0.1)
    ids = await submit_many(sql, [{"message": "x", "agent": "holding"}] * 8)
    await until(lambda: len(holding.inside), lambda inside: inside == 3)
    assert await sql.fetchval("select count(*) from treadle.leases") == 3
    holding.release.set()
    for message_id in ids:
        assert (await settled(sql, message_id))["state"] == "completed"
    await assert_consistent(sql)


def test_an_agent_with_a_concurrency_needs_its_own_queue() -> None:
    async def nothing(context: Any, text: str) -> None: ...

    with pytest.raises(ValueError, match="queue of its own"):
        agent("few", concurrency=2)(nothing)
    assert agent("few", concurrency=2, queue="few")(nothing).limits.concurrency == 2
