"""An idle installation costs one question in each poll interval; chores run when that question finds something."""

import asyncio
from typing import Any

import pytest

from service.db.pool import Database
from service.maintenance import lookout
from service.maintenance.chore import Periodic
from service.maintenance.lookout import Lookout
from service.maintenance.store import MaintenanceStore
from tests.support.sql_client import SqlClient
from tests.support.waiting import until


class Store:
    def __init__(self) -> None:
        self.due: set[str] | Exception = set()
        self.activity = 0

    async def chores_due(self, _: str) -> tuple[set[str], int]:
        if isinstance(self.due, Exception):
            raise self.due
        return set(self.due), self.activity


async def test_a_chore_waits_until_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookout, "ACTIVITY_SECONDS", 0.0)
    store: Any = Store()
    chore: Any = Periodic("reap", 1.0)
    looking, calls = Lookout("w", store, 1.0), 0

    def call() -> None:
        nonlocal calls
        calls += 1

    looking.watch([chore])
    looking.call("admit_due", call)
    await looking.wait(chore)  # before the first look
    await looking.run()
    waiting = asyncio.create_task(looking.wait(chore))
    await asyncio.sleep(0)
    assert (waiting.done(), calls) == (False, 0)
    store.due = {"reap", "admit_due"}
    await looking.run()
    await waiting
    assert calls == 1
    store.due = set()
    await looking.run()
    store.due = RuntimeError("away")
    with pytest.raises(RuntimeError):
        await looking.run()
    await looking.wait(chore)  # no look could say that it is not due
    assert calls == 2
    monkeypatch.setattr(lookout, "REST_SECONDS", 0.0)
    store.due = set()
    await looking.run()
    await looking.wait(chore)


async def test_folds_and_sweeps_follow_the_activity() -> None:
    store: Any = Store()
    chore: Any = Periodic("sweep", 1.0)
    looking = Lookout("w", store, 1.0)
    looking.watch([chore])
    looking._active_at -= 60
    looking._activity = 0
    await looking.run()
    waiting = asyncio.create_task(looking.wait(chore))
    await asyncio.sleep(0)
    assert not waiting.done()
    store.activity = 1
    await looking.run()
    await waiting


async def test_each_chore_is_due_when_it_has_something_to_do(sql_client: SqlClient, database: Database) -> None:
    store = MaintenanceStore(database)

    async def due() -> set[str]:
        return (await store.chores_due("w"))[0]

    assert await due() == set()
    first = (await store.chores_due("w"))[1]
    await sql_client.submit(delay_seconds=0.001)
    await until(due, lambda names: names == {"admit_due", "sweep"})
    assert (await store.chores_due("w"))[1] > first
    await sql_client.sql.execute("select treadle.admit_due()")
    assert await due() == set()
    (claim,) = await sql_client.claim()
    assert await due() == {"reap"}
    await sql_client.finish(claim)
    await sql_client.heartbeat("other")
    assert await due() == {"reap"}
    await sql_client.sql.execute("select treadle.sign_off('other'), treadle.create_tenant('acme')")
    assert await due() == {"admit_due"}  # tenants have shares
    await sql_client.sql.execute("select treadle.delete_tenant('acme')")
    assert await due() == {"delete_tenants"}
    await sql_client.sql.execute("select treadle.create_topic('t')")
    await sql_client.sql.execute("select treadle.publish('t', '1')")
    assert "route" in await due()
