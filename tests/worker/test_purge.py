"""The purge continues where it stopped, and starts again from the beginning once an hour."""

from collections import deque
from typing import Any
from uuid import UUID

import pytest

from service.config import Settings
from service.db.pool import Connection
from service.maintenance.purge import Purge
from tests.support.fixture_types import StartWorker
from tests.support.sql_client import SqlClient
from tests.support.waiting import until

A, B, C = (UUID(int=n) for n in (1, 2, 3))


class Store:
    """Returns prepared answers, and records where each call was asked to continue."""

    def __init__(self, *answers: tuple[UUID | None, int]) -> None:
        self._answers = deque(answers)
        self.asked: list[UUID | None] = []

    async def purge(
        self, *, retention_hours: float, dead_letter_hours: float, after: UUID | None
    ) -> tuple[UUID | None, int]:
        self.asked.append(after)
        return self._answers.popleft()


async def test_kept_messages_are_checked_once_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    store: Any = Store((A, 7), (B, 0), (None, 5), (None, 0), (C, 1), (None, 0), (None, 0), (None, 0))
    purge = Purge(Settings(), store)
    await purge.run()
    assert store.asked == [None, A, B, B]  # also after the end, until nothing more is deleted
    await purge.run()
    await purge.run()
    assert store.asked[4:] == [B, C, C]
    monkeypatch.setattr(purge, "_from_start_at", 0.0)
    await purge.run()
    assert store.asked[7:] == [None]


async def test_the_trash_is_emptied(sql_client: SqlClient, sql: Connection, start_worker: StartWorker) -> None:
    for _ in range(3):
        await sql_client.submit(thread_id="t")
        await sql_client.run()
    await sql.execute("select treadle._forget(array(select message_id from treadle.messages), 0)")
    await sql.execute("delete from treadle.thread_log; delete from treadle.thread_turns; delete from treadle.threads")
    assert await sql.fetchval("select count(*) from treadle.trash") == 3
    await start_worker(all_chores=True)
    await until(lambda: sql.fetchval("select count(*) from treadle.trash"), lambda count: count == 0)
    assert await sql.fetchval("select count(*) from treadle.events") == 0
