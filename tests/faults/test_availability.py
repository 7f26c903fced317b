"""When PostgreSQL is away a process logs it once, however many calls wait, and logs once that it is back."""

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
from tests.support.proxies import database_proxy, dsn_through
from tests.support.waiting import until


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[int], list[str]]:
    """The messages that were logged at this level or above."""
    caplog.set_level("DEBUG", "service")
    return lambda level: [record.getMessage() for record in caplog.records if record.levelno >= level]


Logged = Callable[[int], list[str]]


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


def test_an_outage_is_logged_once_and_again_every_half_minute(logged: Logged, clock: Clock) -> None:
    seen = Availability()
    seen.report_answer()
    assert logged(logging.DEBUG) == []
    for clock.now in (100.0, 100.5, 129.9, 130.0, 145.0, 160.5):
        seen.report_away(NotConnected("PostgreSQL cannot be reached: Connection refused."))
    away, still = "PostgreSQL is away: Connection refused.", "PostgreSQL is still away: Connection refused."
    assert logged(logging.INFO) == [away, still, still]
    for clock.now in (161.0, 161.5):
        seen.report_answer()
    assert len(logged(logging.INFO)) == 3  # it may be gone again at once
    clock.now = 161.6
    seen.report_away(NotConnected("PostgreSQL cannot be reached: Connection refused."))
    for clock.now in (162.0, 163.0, 164.0):
        seen.report_answer()
    assert logged(logging.INFO)[3:] == ["PostgreSQL is back after 62.0 s"]
    clock.now = 200.0
    seen.report_away(NotConnected("PostgreSQL closed the connection."))
    assert logged(logging.INFO)[4:] == ["PostgreSQL is away: PostgreSQL closed the connection."]


def test_the_log_has_the_number_of_calls_that_waited(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    seen = Availability()
    for clock.now in (100.0, 110.0, 140.0):
        seen.report_away(NotConnected("x"))
    assert [vars(record).get("calls_held_up") for record in caplog.records] == [None, 3]


async def test_a_slow_database_is_not_logged_as_away(dsn: str, logged: Logged) -> None:
    database = Database(dsn, name="test", size=1, availability=Availability())
    with pytest.raises(TooSlow):
        await database.fetchval("select pg_sleep(9)", timeout=0.05)
    with pytest.raises(Unavailable) as cancelled:
        await database.fetchval("select pg_cancel_backend(pg_backend_pid()), pg_sleep(1)")
    assert not isinstance(cancelled.value, NotConnected)
    assert logged(logging.INFO) == []
    await database.close()


@pytest.fixture
async def proxy(dsn: str) -> AsyncIterator[Proxy]:
    """A proxy in front of the server."""
    async with database_proxy(dsn) as proxy:
        yield proxy


async def test_a_worker_and_an_api_log_an_outage_once_each(
    dsn: str,
    proxy: Proxy,
    sql: Connection,
    start_worker: StartWorker,
    start_api: StartApi,
    logged: Logged,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Readers, a heartbeat, claims and chores wait for PostgreSQL, and all recover."""
    monkeypatch.setattr(availability, "STEADY_SECONDS", 0.2)
    monkeypatch.setattr(availability, "REMINDER_SECONDS", 600.0)  # on a busy machine an outage may take a while
    by_proxy = dsn_through(dsn, proxy)
    # With a long timeout no heartbeat is late on a busy machine, which would be a warning of its own.
    await start_worker(database_url=by_proxy, worker_timeout=60.0)
    api = await start_api(database_url=by_proxy)
    port, proxy.target = proxy.target, 1
    proxy.cut()
    expected = {"heartbeat failed", "claim failed", "a chore failed, trying again later", "stream cannot be opened"}

    async def not_logged() -> set[str]:
        answers = await asyncio.gather(*(api.get(f"/messages/{UNKNOWN_ID}/stream") for _ in range(5)))
        assert {answer.content for answer in answers} == {b"retry: 1000\n\n"}
        return expected.difference(logged(logging.DEBUG))

    await until(not_logged, lambda missing: not missing)
    assert [line.partition(":")[0] for line in logged(logging.WARNING)] == ["PostgreSQL is away"] * 2
    proxy.target = port

    async def back() -> int:
        await api.get("/health")
        return sum(line.startswith("PostgreSQL is back after ") for line in logged(logging.INFO))

    await until(back, lambda count: count == 2)
    await settled(sql, await submit(sql, "x"))
    assert len(logged(logging.WARNING)) == 2
