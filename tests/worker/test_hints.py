"""Hints name what has changed, so that a retry wakes no stream of another message."""

from typing import Any
from uuid import UUID

import pytest

from service.db.notifier import EVENTS, WORK, Notifier
from service.db.pool import Connection, Database
from service.errors import Unavailable
from service.maintenance.store import MaintenanceStore
from tests.support.fixture_types import StartWorker
from tests.support.messages import log, overview, settled, submit
from tests.support.sql_client import SqlClient
from tests.support.waiting import until
from treadle import Context, RetryAfter, agent


@pytest.fixture
async def heard(sql: Connection) -> list[tuple[str, str]]:
    """The hints (channel, item) that other processes receive."""
    items: list[tuple[str, str]] = []

    def receive(_connection: Any, _pid: int, channel: str, payload: Any) -> None:
        items.extend((channel, item) for item in payload.split(","))

    for channel in (EVENTS, WORK):
        await sql.add_listener(channel, receive)
    return items


@agent("once")
async def once(context: Context, text: str) -> str:
    if context.attempt == 1:
        raise RetryAfter(0.05)
    return text


@agent("slow", queue="slow")
async def slow(context: Context, text: str) -> str:
    return text


@agent("family")
async def family(context: Context, text: str) -> Any:
    return await context.gather(await context.send("child", agent="once"))


async def ended(sql: Connection, message_id: UUID, heard: list[tuple[str, str]]) -> int:
    """Wait for the hint of the last event; returns how many events the log has."""
    await settled(sql, message_id)
    entries = await log(sql, message_id)
    await until(lambda: sum(item.startswith(str(message_id)) for _, item in heard) >= 2)
    return len(entries)


@pytest.mark.parametrize("name", ["once", "family"])
async def test_retries_delays_and_parents_name_their_message(
    name: str, sql: Connection, start_worker: StartWorker, heard: list[tuple[str, str]]
) -> None:
    await start_worker(once, family, poll_interval=60.0)
    await submit(sql, "later", agent="once", delay_seconds=0.01, thread_id="t")
    message_id = await submit(sql, "x", agent=name)
    await ended(sql, message_id, heard)
    assert (EVENTS, "*") not in heard
    assert (WORK, "*") not in heard
    assert (WORK, "default") in heard


async def test_a_message_that_is_admitted_hints_work_and_no_event(
    sql: Connection, start_worker: StartWorker, heard: list[tuple[str, str]]
) -> None:
    """The end of a delay writes no event."""
    await start_worker(once)
    await sql.execute("select treadle.pause('default')")
    message_id = await submit(sql, "x", agent="once", delay_seconds=0.01)
    await until(lambda: overview(sql, message_id), lambda found: found["hold"] is None)
    await until(lambda: heard.count((WORK, "default")) == 2)  # of the submit and of the admission
    assert [item for channel, item in heard if channel == EVENTS] == [str(message_id)]  # of the submit


async def test_reaped_messages_are_named(sql_client: SqlClient, database: Any) -> None:
    message_id = await sql_client.submit(thread_id="t")
    await sql_client.claim(worker="dead")
    await sql_client.heartbeat("janitor")
    await sql_client.sql.execute("update treadle.workers set beating_since = beating_since - interval '1 hour'")
    await sql_client.sql.execute("update treadle.leases set claimed_at = claimed_at - interval '1 hour'")
    (reaped,) = await MaintenanceStore(database).reap(
        janitor="janitor", heartbeat_interval=2, worker_timeout=10, max_losses=3
    )
    assert (reaped.message_id, reaped.queue) == (message_id, "default")
    assert reaped.thread == await sql_client.sql.fetchval("select id from treadle.threads")


@pytest.mark.parametrize("tenants", [1, 2])  # with a second one, claims share the lanes
async def test_the_next_message_of_a_thread_is_hinted_in_its_own_queue(
    tenants: int, sql: Connection, sql_client: SqlClient, start_worker: StartWorker
) -> None:
    await start_worker(once, poll_interval=600.0, queues=("default",))
    await start_worker(slow, poll_interval=600.0, queues=("slow",))
    if tenants == 2:
        await sql.execute("select treadle.create_tenant('acme')")
        await sql_client.submit(agent="slow", tenant="acme")
    await sql.execute("select treadle.pause('default')")
    await submit(sql, "x", agent="once", thread_id="t")
    message_id = await submit(sql, "y", agent="slow", thread_id="t")
    await sql.execute("select treadle.pause('default', paused => false)")
    await settled(sql, message_id)


async def test_a_hint_that_comes_while_another_one_is_lost_is_sent(
    database: Database, heard: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    notifier = Notifier(database)

    async def fail(*_: Any) -> None:
        monkeypatch.undo()
        notifier.hint(WORK, "second")
        raise Unavailable("PostgreSQL is away.")

    monkeypatch.setattr(database, "fetchval", fail)
    notifier.hint(WORK, "first")
    await notifier.flush()
    await until(lambda: (WORK, "second") in heard)
