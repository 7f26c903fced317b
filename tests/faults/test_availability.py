"""PostgreSQL is away: a process says so once, however many it holds up, and once that it is back."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import pytest

from faults.proxy import Proxy
from service.db import availability
from service.db.availability import Availability
from service.db.pool import Connection, Database
from service.errors import NotConnected, TooSlow, Unavailable
from tests.support.api_answers import UNKNOWN_ID
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.messages import settled, submit
from tests.support.waiting import until


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[int], list[str]]:
    """What was logged at that level or above."""
    caplog.set_level("DEBUG", "service")
    return lambda level: [record.getMessage() for record in caplog.records if record.levelno >= level]


Said = Callable[[int], list[str]]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(availability, "time", clock)
    return clock


def test_an_outage_is_told_once_and_remembered_now_and_then(said: Said, clock: Clock) -> None:
    seen = Availability()
    seen.report_answer()
    assert said(logging.DEBUG) == []
    for clock.now in (100.0, 100.5, 129.9, 130.0, 145.0, 160.5):
        seen.report_away(NotConnected("PostgreSQL cannot be reached: Connection refused."))
    away, still = "PostgreSQL is away: Connection refused.", "PostgreSQL is still away: Connection refused."
    assert said(logging.INFO) == [away, still, still]
    for clock.now in (161.0, 161.5):
        seen.report_answer()
    assert len(said(logging.INFO)) == 3  # it may be gone again at once
    clock.now = 161.6
    seen.report_away(NotConnected("PostgreSQL cannot be reached: Connection refused."))
    for clock.now in (162.0, 163.0, 164.0):
        seen.report_answer()
    assert said(logging.INFO)[3:] == ["PostgreSQL is back after 62.0 s"]
    clock.now = 200.0
    seen.report_away(NotConnected("PostgreSQL closed the connection."))
    assert said(logging.INFO)[4:] == ["PostgreSQL is away: PostgreSQL closed the connection."]


def test_how_much_it_held_up_is_said(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    seen = Availability()
    for clock.now in (100.0, 110.0, 140.0):
        seen.report_away(NotConnected("x"))
    assert [vars(record).get("calls_held_up") for record in caplog.records] == [None, 3]


async def test_what_is_only_slow_is_not_away(dsn: str, said: Said) -> None:
    database = Database(dsn, name="test", size=1, availability=Availability())
    with pytest.raises(TooSlow):
        await database.fetchval("select pg_sleep(9)", timeout=0.05)
    with pytest.raises(Unavailable) as cancelled:
        await database.fetchval("select pg_cancel_backend(pg_backend_pid()), pg_sleep(1)")
    assert not isinstance(cancelled.value, NotConnected)
    assert said(logging.INFO) == []
    await database.close()


@pytest.fixture
async def way(dsn: str) -> AsyncIterator[Proxy]:
    """To the server."""
    proxy = Proxy(int(dsn.rpartition(":")[2].partition("/")[0]), postgres=True)
    await proxy.start()
    yield proxy
    await proxy.close()


async def test_a_worker_and_an_api_say_it_once_each(
    dsn: str,
    way: Proxy,
    sql: Connection,
    start_worker: StartWorker,
    start_api: StartApi,
    said: Said,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Readers, a heartbeat, claims and chores are held up, and all come back."""
    monkeypatch.setattr(availability, "STEADY_SECONDS", 0.2)
    user, _, rest = dsn.partition("@")
    by_proxy = f"{user}@127.0.0.1:{way.port}/{rest.partition('/')[2]}?sslmode=disable"
    await start_worker(database_url=by_proxy)
    api = await start_api(database_url=by_proxy)
    port, way.target = way.target, 1
    way.cut()
    held_up = {"heartbeat failed", "claim failed", "a chore failed, trying again later", "stream cannot be opened"}

    async def not_said() -> set[str]:
        answers = await asyncio.gather(*(api.get(f"/messages/{UNKNOWN_ID}/stream") for _ in range(5)))
        assert {answer.content for answer in answers} == {b"retry: 1000\n\n"}
        return held_up.difference(said(logging.DEBUG))

    await until(not_said, lambda missing: not missing)
    assert [line.partition(":")[0] for line in said(logging.WARNING)] == ["PostgreSQL is away"] * 2
    way.target = port

    async def back() -> int:
        await api.get("/health")
        return sum(line.startswith("PostgreSQL is back after ") for line in said(logging.INFO))

    await until(back, lambda count: count == 2)
    await settled(sql, await submit(sql, "x"))
    assert len(said(logging.WARNING)) == 2
