"""Health: degraded where something keeps messages waiting or slows the service down, with the reason."""

import json
from typing import Any

import pytest

from service.agents.builtin.echo import echo
from service.api.health import FOR_OPERATORS, HealthChecks
from service.db.pool import Connection
from service.installation import model
from service.installation.store import InstallationStore
from tests.support.access import CLOSED, ROOT_KEY, bearer
from tests.support.api_answers import get
from tests.support.api_client import Client
from tests.support.cli_runner import Cli
from tests.support.fixture_types import RegisterAgents, StartApi, StartWorker
from tests.support.ports import with_closed_port
from tests.support.shared_queries import SharedQuery
from tests.support.waiting import until
from treadle import Context, agent


@agent("report", queue="reports")
async def report(context: Context, text: str) -> str:
    return text


@agent("elsewhere")
async def elsewhere(context: Context, text: str) -> str:
    return text


@agent("far", queue="remote")
async def far(context: Context, text: str) -> str:
    return text


async def test_messages_that_no_worker_can_run_degrade_it(
    start_api: StartApi, start_worker: StartWorker, register_agents: RegisterAgents, cli: Cli
) -> None:
    await start_worker(echo)
    await register_agents(report, elsewhere, far)
    api = await start_api()
    assert (await get(api, "/health"))["status"] == "healthy"
    await api.submit("x", agent="report")
    await api.submit("x", agent="elsewhere")
    await api.submit("x", agent="far")
    health = await until(lambda: get(api, "/health"), lambda found: len(found["reasons"]) == 3)
    assert (health["status"], health["workers"]) == ("degraded", 1)
    assert health["reasons"] == [
        "No living worker claims from the queue remote, where 1 message waits: start its remote worker or consumer.",
        "No living worker claims from the queue reports, where 1 message waits: name it in QUEUES.",
        "No living worker of the queue default has the agent elsewhere, for which messages wait: name its module in"
        " AGENTS.",
    ]
    assert await until(lambda: get(api, "/health/ready"), lambda found: len(found["reasons"]) == 3) == health
    # For some milliseconds a second, the worker has the message of the agent that it lacks, and puts it off.
    checked = await until(lambda: cli("check", "--json"), lambda said: "elsewhere" in said.stdout)
    found = json.loads(checked.stdout)
    assert (checked.exit_code, found["health"], found["reasons"]) == (0, "degraded", health["reasons"])
    said = await until(lambda: cli("check"), lambda said: "elsewhere" in said.stdout)
    assert said.stdout.splitlines()[-3:] == health["reasons"]


async def test_no_worker_at_all_is_one_reason(api: Client, register_agents: RegisterAgents) -> None:
    await register_agents(report, echo)
    for name in ("report", "echo"):
        await api.submit("x", agent=name)
    health = await until(lambda: get(api, "/health"), lambda found: "2 messages" in found["reasons"][0])
    assert health["reasons"] == [
        "No worker is alive, and 2 messages wait: start one, or see why the workers have ended."
    ]


async def test_the_reasons_are_for_operators(start_api: StartApi, register_agents: RegisterAgents, dsn: str) -> None:
    """A check needs no key: a stranger learns of no queue, no agent and no address."""

    async def health_with(key: str, path: str = "/health") -> dict[str, Any]:
        return dict((await api.get(path, headers=bearer(key))).json())

    await register_agents(report)
    api = await start_api(**CLOSED)
    await api.post("/messages", json={"message": "x", "agent": "report"}, headers=bearer(ROOT_KEY))
    told = await until(lambda: health_with(ROOT_KEY), lambda found: found["reasons"])
    assert told["reasons"] == ["No worker is alive, and 1 message waits: start one, or see why the workers have ended."]
    hidden = {**told, "reasons": [FOR_OPERATORS]}
    assert await get(api, "/health") == hidden
    for fields in ({"scopes": ["submit"]}, {"scopes": ["read"], "agents": ["report"]}):
        made = await api.post("/keys", json=fields, headers=bearer(ROOT_KEY))
        assert await health_with(made.json()["key"]) == await health_with("nonsense", "/health/ready") == hidden

    away = await start_api(**CLOSED, database_url=with_closed_port(dsn))
    key = bearer(f"trd_{'0' * 12}_{'0' * 48}")
    for path, headers in (("/health", key), ("/threads", key), ("/queues", bearer(ROOT_KEY))):
        answer = await away.get(path, headers=headers)
        assert (answer.status_code, "127.0.0.1" in answer.text) == (503, False)
    assert "127.0.0.1" in (await away.get("/health", headers=bearer(ROOT_KEY))).json()["reasons"][0]


async def test_an_old_snapshot_and_a_filling_queue_of_notifications_degrade_it(
    api: Client, sql: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await get(api, "/health"))["reasons"] == []
    await sql.execute("set application_name = 'report'; begin isolation level repeatable read; select 1")
    monkeypatch.setattr(model, "SNAPSHOT_WARNING_SECONDS", -1.0)
    monkeypatch.setattr(model, "NOTIFY_WARNING_USAGE", -1.0)
    health = await get(api, "/health")
    await sql.execute("commit")
    assert health["status"] == "degraded"
    [snapshot, filling] = health["reasons"]
    assert snapshot.startswith("Dead rows are kept by an old snapshot: end the transaction of process ")
    assert "(report)" in snapshot
    assert filling.startswith("PostgreSQL's queue of notifications fills up (0%)")
    probe = model.HealthProbe("4", True, 1, True, 0.0, None, dead_rows=300_000, table_name="treadle.leases")
    monkeypatch.undo()
    assert probe.reasons() == ["Vacuum does not keep up with treadle.leases, which has 300000 dead rows."]


async def test_checks_at_the_same_time_share_a_query(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedQuery(monkeypatch, asked=(HealthChecks, "check"), query=(InstallationStore, "health"))
    answers = await shared.ask(20, lambda: get(api, "/health/ready"))
    assert {answer["status"] for answer in answers} == {"healthy"}
    assert shared.queries <= 2  # of the first check and those at its side, and of those that came meanwhile
