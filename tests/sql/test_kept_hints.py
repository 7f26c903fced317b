"""Hints that a call of a worker keeps: the process sends them after the commit, because one transaction of the cluster
at a time commits a NOTIFY."""

import json
from typing import Any, NamedTuple

import pytest
import uuid_utils.compat as uuid

from service.db.notifier import EVENTS, RECORDS, WORK, Notifier
from service.db.pool import Database
from service.leases.model import Append, EventToAppend, Finish, Outcome
from service.leases.store import LeaseStore
from service.protocols.leases.store import RemoteAppend, RemoteFinish, RemoteLeaseStore
from tests.support.sql_client import SqlClient
from tests.support.waiting import until

CREATE = "select treadle.create_webhook('https://example.com', '{message.completed}')"
AGENT = {"agent": "echo", "queue": "default", "timeout_seconds": 60, "max_attempts": 3}
DONE = Outcome("completed", result='"ok"')


class Recorder(Notifier):
    """Records hints, and sends none."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.hints: set[tuple[str, str]] = set()

    def hint(self, channel: str, item: str) -> None:
        self.hints.add((channel, item))


class Stage(NamedTuple):
    """`notified`: what listeners hear with the commits."""

    client: SqlClient
    recorder: Recorder
    store: LeaseStore
    notified: list[tuple[str, str]]

    async def heard(self) -> list[tuple[str, str]]:
        """The hints that were heard with the commits so far."""
        await self.client.sql.execute("select pg_notify($1, 'end')", WORK)
        await until(lambda: (WORK, "end") in self.notified)
        return self.notified[: self.notified.index((WORK, "end"))]


@pytest.fixture
async def stage(sql_client: SqlClient, database: Database) -> Stage:
    recorder = Recorder(database)
    stage = Stage(sql_client, recorder, LeaseStore(database, recorder), [])
    listener = await sql_client.connect()
    for channel in (WORK, EVENTS, RECORDS):
        await listener.sql.add_listener(channel, lambda *hint: stage.notified.append((str(hint[2]), str(hint[3]))))
    return stage


def sends(topic: str) -> str:
    return json.dumps(
        [
            {"message_id": str(uuid.uuid7()), "message": "x"},
            {"record_id": str(uuid.uuid7()), "topic": topic, "value": 1},
        ]
    )


async def test_what_a_step_or_an_end_sends(stage: Stage) -> None:
    await stage.client.sql.execute("select treadle.create_topic('t')")
    await stage.client.submit()
    claim = await stage.client.claim_one()
    step = EventToAppend("step", '{"name": "s", "result": 1}', sends=sends("t"))
    append = Append(claim.message_id, claim.lease, claim.last_seq + 1, [step])
    assert (await stage.store.append_and_send(append, True)).status == "ok"
    assert {(WORK, "default"), (RECORDS, "*")} < stage.recorder.hints
    assert len([channel for channel, _ in stage.recorder.hints if channel == EVENTS]) == 1
    stage.recorder.hints.clear()
    outcome = Outcome("completed", result='"ok"', sends=sends("t"))
    finish = Finish(claim.message_id, claim.lease, outcome, None, claim.last_seq + 2, (), claim.thread)
    assert (await stage.store.conclude(finish, True, 3)).status == "completed"
    assert {(WORK, "default"), (RECORDS, "*")} < stage.recorder.hints
    assert await stage.heard() == []


async def test_deliveries_to_webhooks(stage: Stage) -> None:
    await stage.client.sql.execute(CREATE)
    await stage.client.submit()
    claim = await stage.client.claim_one()
    finish = Finish(claim.message_id, claim.lease, DONE, None, claim.last_seq + 1, (), claim.thread)
    await stage.store.finish([finish], True, 3)
    assert stage.recorder.hints == {(WORK, "webhooks")}
    assert await stage.heard() == []


async def test_places_of_a_tenant_with_a_limit(stage: Stage) -> None:
    await stage.client.sql.execute("select treadle.limit_tenant('default', '{\"running\": 3}')")
    await stage.client.submit_many({}, {}, {})
    other = await stage.client.connect()
    async with other.sql.transaction():
        [claim] = await other.claim(1)
        claimed = await stage.store.claim(
            worker="w", queues=["default"], quantity=5, lease_seconds=60.0, first_lane="high"
        )
        assert claimed.claims == []
        assert stage.recorder.hints == {(WORK, "default")}  # look again: another claim counts
    stage.recorder.hints.clear()
    finish = Finish(claim.message_id, claim.lease, DONE, None, claim.last_seq + 1, (), claim.thread)
    await stage.store.finish([finish], True, 3)
    assert stage.recorder.hints == {(WORK, "default")}
    assert await stage.heard() == [(WORK, "*")]  # of limit_tenant, which no worker calls


async def test_what_remote_workers_write(stage: Stage, database: Database) -> None:
    remote = RemoteLeaseStore(
        database, stage.recorder, max_losses=3, retry_base=1.0, retry_max=1.0, max_queue_size=None
    )
    await stage.client.sql.execute(CREATE)
    await stage.client.sql.execute("select treadle.create_topic('t')")
    await remote.register(
        tenant="default", worker="r", host="h", pid=1, agents=[AGENT], concurrency=1, may_register=True
    )
    asked: dict[str, Any] = {"tenant": "default", "worker": "r", "quantity": 5, "lease_seconds": 60.0}
    assert await remote.claim(**asked, first_lane="high") == []
    await stage.client.submit()
    [claim] = await remote.claim(**asked, first_lane="high")
    step = EventToAppend("step", '{"name": "s", "result": 1}', sends=sends("t"))
    lease = ("default", "r", claim.message_id, claim.lease)
    assert (await remote.append_and_send(RemoteAppend(*lease, claim.last_seq + 1, [step]), True)).status == "ok"
    assert {(WORK, "default"), (RECORDS, "*")} < stage.recorder.hints
    stage.recorder.hints.clear()
    finish = RemoteFinish(*lease, claim.attempt, DONE, None, claim.last_seq + 2, ())
    assert [answer.status for answer in await remote.finish([finish], True)] == ["completed"]
    assert stage.recorder.hints == {(WORK, "webhooks")}
    stage.recorder.hints.clear()
    [claim] = await remote.claim(**asked, first_lane="high")
    outcome = Outcome("completed", result='"ok"', sends=sends("t"))
    lease = ("default", "r", claim.message_id, claim.lease)
    await remote.conclude(RemoteFinish(*lease, claim.attempt, outcome, None, claim.last_seq + 1, ()), True)
    assert {(WORK, "webhooks"), (WORK, "default"), (RECORDS, "*")} < stage.recorder.hints
    assert await stage.heard() == []


async def test_a_rollback_keeps_no_hint_and_other_callers_notify(stage: Stage) -> None:
    """In psql, for example, no process would send the hint."""
    await stage.client.submit()
    claim = await stage.client.claim_one()
    outcome = Outcome("completed", result='"ok"', sends=sends("no-such-topic"))
    finish = Finish(claim.message_id, claim.lease, outcome, None, claim.last_seq + 1, (), claim.thread)
    with pytest.raises(Exception, match="no-such-topic"):
        await stage.store.conclude(finish, True, 3)
    assert stage.recorder.hints == set()
    await stage.client.sql.execute("select treadle.submit('x', notify => true)")
    assert (WORK, "default") in await stage.heard()
