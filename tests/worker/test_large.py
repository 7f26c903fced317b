"""Large or slow messages do not block others: results have a maximum size, and a call's timeout grows with its size."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from service.db.connection import COMMAND_TIMEOUT_SECONDS
from service.db.pool import Connection, Database
from service.errors import TooSlow
from service.leases import store as leases
from service.leases.model import Append, EventToAppend
from tests.support.databases import patient
from tests.support.fixture_types import StartWorker
from tests.support.messages import run, settled, submit_many
from treadle import Context, agent


@agent("large", max_attempts=3)
async def large(context: Context, text: str) -> str:
    """Returns so many characters."""
    return "x" * int(text)


async def test_a_result_has_a_maximum_size(sql: Connection, start_worker: StartWorker) -> None:
    await start_worker(large, max_result_bytes=1_000)
    row = await run(sql, "999", agent="large")  # plus two quotes
    assert (row["state"], row["attempt"]) == ("failed", 1)
    assert row["error"] == "A result has at most 1000 bytes (MAX_RESULT_BYTES); this one has 1001."
    assert (await run(sql, "998", agent="large"))["state"] == "completed"


async def test_a_call_that_takes_too_long_raises_too_slow(dsn: str) -> None:
    database = Database(patient(dsn), name="test", size=1)
    try:
        with pytest.raises(TooSlow, match="did not answer in time"):
            await database.fetchval("select pg_sleep(5)", timeout=0.05)
        assert await database.fetchval("select 1") == 1
    finally:
        await database.close()


async def test_a_batch_that_takes_too_long_is_split(
    sql: Connection, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message delays every batch that contains it: the others finish without it."""
    stuck = asyncio.Event()
    calls: list[int] = []
    whole = leases.LeaseStore.finish

    async def finish(self: Any, finishes: Any, *rest: Any) -> Any:
        calls.append(len(finishes))
        if any(len(one.outcome.result or "") > 1_000 for one in finishes) and not stuck.is_set():
            raise TooSlow("It takes too long.")
        return await whole(self, finishes, *rest)

    monkeypatch.setattr(leases.LeaseStore, "finish", finish)
    await start_worker(large)
    ids = await submit_many(sql, [{"message": f"{n}", "agent": "large"} for n in (1, 2, 3, 2_000, 4, 5, 6, 7)])
    one, *others = ids[3], *ids[:3]
    for message_id in others:
        assert (await settled(sql, message_id))["state"] == "completed"
    stuck.set()
    assert (await settled(sql, one))["state"] == "completed"
    assert max(calls) > 1


def test_the_timeout_of_a_call_grows_with_its_size() -> None:
    small, big = (Append(UUID(int=0), UUID(int=0), 1, [EventToAppend("part", "x" * size)]) for size in (0, 1_000_000))
    assert leases.call_timeout([small]) == COMMAND_TIMEOUT_SECONDS
    assert leases.call_timeout([big, small, big]) == COMMAND_TIMEOUT_SECONDS + 10
