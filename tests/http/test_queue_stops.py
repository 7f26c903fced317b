"""A message whose queue is paused, or from which no worker claims, is not said to be the next."""

import logging

import pytest

from service.db.pool import Connection, Database
from service.maintenance.store import MaintenanceStore
from service.maintenance.watch_queues import WatchQueues
from tests.support.api_client import Client, read_events
from tests.support.fixture_types import RegisterAgents, StartApi, StartWorker
from tests.support.waiting import until
from treadle import Context, agent


@agent("report", queue="reports")
async def report(context: Context, text: str) -> str:
    return text


async def first_waiting(api: Client, message_id: str) -> str:
    async with api.stream("GET", f"/messages/{message_id}/stream") as answer:
        async for event in read_events(answer):
            if event.type == "waiting":
                return str(event.data["message"])
    raise AssertionError("The stream ended.")


async def test_a_queue_from_which_no_worker_claims_says_so(
    start_api: StartApi,
    start_worker: StartWorker,
    register_agents: RegisterAgents,
    database: Database,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await start_worker()
    await register_agents(report)
    api = await start_api()
    assert await first_waiting(api, await api.submit("x", agent="report")) == "No worker claims from this queue."

    async def workers() -> dict[str, int]:
        return {queue["name"]: queue["workers"] for queue in (await api.get("/queues")).json()}

    await until(workers, lambda found: found == {"default": 1, "reports": 0})  # with its first heartbeat
    await WatchQueues(MaintenanceStore(database)).run()
    warnings = [vars(record) for record in caplog.records if record.levelno == logging.WARNING]
    assert {(record["queue"], record["queued"]) for record in warnings if "queued" in record} == {("reports", 1)}


async def test_a_paused_queue_says_so(api_with_worker: Client, sql: Connection) -> None:
    await sql.execute("select treadle.pause('default')")
    assert await first_waiting(api_with_worker, await api_with_worker.submit("x")) == "The queue is paused."
