"""The checker of the fault suite finds every kind of broken promise."""

import contextlib
import copy
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from faults.agents import Note, answer
from faults.checker import check
from faults.checks import fault_times, records
from faults.history import Fault, History, Reading, Seen, Sent
from faults.publishers import SUBSCRIPTIONS
from service.db.pool import Connection
from tests.support.sql_client import SqlClient
from tests.support.topic_calls import Topics


class HealthyRun:
    """A small run in which every promise was run: two messages of a thread, each read to its end, as is the thread."""

    def __init__(self, sql_client: SqlClient, journal: Path) -> None:
        self.sql_client, self.journal = sql_client, journal
        self.history = History()
        self.notes: list[Note] = []
        self.thread = Reading(None, "t")

    async def play(self) -> None:
        for n, key in enumerate(("scribe-0", "scribe-1")):
            message_id = await self.sql_client.submit(key, thread_id="t", agent="scribe", metadata={"key": key})
            (claim,) = await self.sql_client.claim()
            await self.sql_client.append((claim, claim.last_seq + 1, [f"{key}:1:0 "]))
            await self.sql_client.finish(claim, result=answer(key, 1), first_seq=claim.last_seq + 2)
            self.history.sent[key] = Sent(key, "scribe", "t", 1, n, n + 0.5, str(message_id))
            self.notes += [Note("begin", str(message_id), 1, 1, n), Note("end", str(message_id), 1, 1, n + 0.8)]
            data: list[Any] = [
                {"message": key, "agent": "scribe", "priority": "normal", "thread_id": "t"},
                {"attempt": 1},
                {"type": "content", "chunk": f"{key}:1:0 ", "index": 0},
                {"state": "completed", "result": answer(key, 1), "completed_at": "now"},
            ]
            await self.sql_client.sql.execute(
                "update treadle.events set data = $2::jsonb where message_id = $1 and type = 'chunk'",
                message_id,
                msgspec.json.encode(data[2]).decode(),
            )
            types = ("queued", "started", "chunk", "done")
            seen = [Seen(seq, type, data[seq - 1]) for seq, type in enumerate(types, 1)]
            self.history.readings.append(Reading(str(message_id), None, seen, 1, True))
            place = {"message_id": str(message_id)}
            self.thread.events += [
                Seen(4 * n + one.position, one.type, one.data | place | {"seq": one.position}) for one in seen
            ]
        self.history.readings.append(self.thread)
        await self._publish("0:000000")

    async def _publish(self, value: str) -> None:
        """A record that both subscriptions handle, and its copy."""
        topics = Topics(self.sql_client)
        await topics.create("faults.in", "faults.out")
        for name in SUBSCRIPTIONS:
            await topics.subscribe(name, "faults.in", agent="scribe")
        for topic in ("faults.in", "faults.out"):
            await topics.publish(topic, value)
        await topics.route()
        await topics.handle()
        self.history.published.append(value)

    @contextlib.asynccontextmanager
    async def copied(self) -> AsyncIterator["HealthyRun"]:
        """A run with the same records, which may be damaged. What the block does to the database is undone."""
        run = HealthyRun(self.sql_client, self.journal)
        run.history, run.notes, run.thread = copy.deepcopy((self.history, self.notes, self.thread))
        transaction = self.sql_client.sql.transaction()
        await transaction.start()
        try:
            yield run
        finally:
            await transaction.rollback()

    async def wrong(self) -> dict[str, list[str]]:
        self.journal.write_bytes(b"".join(msgspec.json.encode(note) + b"\n" for note in self.notes))
        return await check(self.history, self.sql_client.sql, self.journal)

    @property
    def first(self) -> Sent:
        return self.history.sent["scribe-0"]


@pytest.fixture
async def run(sql: Connection, dsn: str, tmp_path: Path) -> AsyncIterator[HealthyRun]:
    async with contextlib.AsyncExitStack() as stack:
        sql_client = SqlClient(sql, dsn, stack)
        await sql_client.register({"agent": "scribe"})
        run = HealthyRun(sql_client, tmp_path / "journal")
        await run.play()
        yield run


async def test_a_healthy_run_breaks_no_promise(run: HealthyRun) -> None:
    assert await run.wrong() == {}


# Records of clients and agents


def drop_message_events(run: HealthyRun) -> None:
    for reading in run.history.readings:
        if reading.message_id:
            reading.events.clear()


WRONG_RECORDS: list[tuple[str, Callable[[HealthyRun], object]]] = [
    ("an acknowledged record", lambda run: run.history.published.append("0:000001")),
    ("no client gets", lambda run: run.history.add_client_error("a stream was answered 500")),
    ("an acknowledged submit", lambda run: setattr(run.first, "message_id", "00000000-0000-7000-8000-000000000000")),
    ("an acknowledged submit", lambda run: setattr(run.first, "acknowledged", None)),
    ("an acknowledged submit", lambda run: setattr(run.first, "message_id", run.history.readings[1].message_id)),
    ("each message ends", lambda run: setattr(run.first, "cancelled", 202)),
    ("each message ends", lambda run: setattr(run.first, "chunks", 2)),
    ("each message ends", lambda run: setattr(run.first, "agent", "exits")),
    ("one final event, and the text", lambda run: setattr(run.first, "chunks", 2)),
    ("a thread runs", lambda run: setattr(run.first, "began", 5)),
    ("a stream is its log", lambda run: run.history.readings[0].events.pop(1)),
    ("a stream is its log", lambda run: run.history.readings[0].events.pop()),
    ("a stream is its log", lambda run: run.history.readings[0].events.append(Seen(4, "done", {}))),
    ("a stream is its log", lambda run: run.history.readings[0].events[2].data.update(chunk="other")),
    ("a stream is its log", lambda run: run.history.readings[0].events[3].data.update(result="other")),
    ("a stream is its log", lambda run: run.thread.events.pop()),
    ("a stream is its log", lambda run: run.thread.events.pop(2)),
    ("a stream is its log", lambda run: run.thread.events.clear()),
    ("a stream is its log", lambda run: run.history.readings.append(Reading(None, "t"))),
    ("an attempt runs once", lambda run: run.notes.append(run.notes[0])),
    ("an attempt runs once", lambda run: run.notes.pop()),
    ("an attempt runs once", lambda run: run.notes.append(msgspec.structs.replace(run.notes[0], attempt=2))),
    ("an attempt runs once", lambda run: setattr(run.notes[1], "pid", 2)),
    ("turns of a thread", lambda run: setattr(run.notes[1], "at", 1.1)),
    ("turns of a thread", lambda run: setattr(run.notes[2], "at", 0.5)),
    ("the run shows", lambda run: run.history.sent.clear()),
    ("the run shows", lambda run: run.notes.clear()),
    ("the run shows", lambda run: run.thread.events.clear()),
    ("the run shows", lambda run: run.history.readings.clear()),
    ("the run shows", drop_message_events),
    ("the faults work", lambda run: run.history.faults.append(Fault("fail_over", 0, 1, detail="there is none"))),
    ("everything recovers", lambda run: run.history.not_recovered.append("a node ended with 1")),
    ("a worker's death", lambda run: run.history.faults.append(Fault("kill_worker", 0, 9, noticed=8.0))),
]


async def test_wrong_records_of_clients_and_agents_are_found(run: HealthyRun, subtests: pytest.Subtests) -> None:
    for number, (promise, damage) in enumerate(WRONG_RECORDS):
        with subtests.test(promise, number=number):
            async with run.copied() as damaged:
                damage(damaged)
                assert any(known.startswith(promise) for known in await damaged.wrong())
    assert await run.wrong() == {}


# Rows of the database

WRONG_ROWS = [
    ("an acknowledged submit", "select treadle.delete_thread('t')"),
    ("a submit that is repeated", "update treadle.messages set metadata = jsonb_build_object('key', 'scribe-0')"),
    ("every message ends", "select treadle.submit('x', agent => 'scribe')"),
    (
        "each message ends",
        "alter table treadle.messages drop constraint messages_lane;"
        " update treadle.messages set state = 'failed', error = 'x' where ord = 1",
    ),
    (
        "each message ends",
        "alter table treadle.messages drop constraint messages_lane;"
        " update treadle.messages set state = 'failed', error = 'x', losses = 3, attempt = 3 where ord = 1",
    ),
    ("each message ends", "update treadle.messages set result = '\"other\"' where ord = 1"),
    ("each message ends", "update treadle.messages set failures = 1 where ord = 1"),
    ("children are sent", "update treadle.messages set agent = 'team' where ord = 1"),
    (
        "children are sent",
        "update treadle.messages m set parent = (select n.message_id from treadle.messages n where n.ord = 1)"
        " where ord = 2",
    ),
    ("one final event", "update treadle.events set type = 'done' where type = 'chunk'"),
    (
        "one final event",
        "update treadle.events set data = jsonb_set(data, '{chunk}', '\"scribe-0:1:1 \"') where type = 'chunk'",
    ),
    ("a thread runs", "update treadle.messages set ord = 11 where ord = 1"),
    ("a thread runs", "update treadle.events set thread_pos = 9 where thread_pos = 4"),
    ("an acknowledged record", """update treadle.topic_log set "offset" = 7"""),
    (
        "an acknowledged record",
        "insert into treadle.topic_log select topic, 1, tenant, record_id from treadle.topic_log where topic = 1",
    ),
    ("a record is handled", """update treadle.messages set body = '"other"' where subscription is not null"""),
    ("a record is handled", "delete from treadle.topic_log where topic = 2"),
    ("no living worker", "update treadle.messages set losses = 1 where ord = 1"),
    ("no rule is violated", "delete from treadle.counters"),
]


async def test_wrong_rows_of_the_database_are_found(run: HealthyRun, subtests: pytest.Subtests) -> None:
    for promise, damage in WRONG_ROWS:
        with subtests.test(promise, damage=damage):
            async with run.copied() as damaged:
                await damaged.sql_client.sql.execute(damage)
                assert any(known.startswith(promise) for known in await damaged.wrong())
    assert await run.wrong() == {}


# Losses that faults explain


async def lose(run: HealthyRun, times: int) -> list[str]:
    """Charge the first message so many losses; returns what the check says about losses."""
    await run.sql_client.sql.execute(f"update treadle.messages set losses = {times}, attempt = 2 where ord = 1")
    return (await run.wrong()).get("no living worker is reaped", [])


FAR_FUTURE = time.time() + 1e6


EXPLANATIONS = [
    [Fault("kill_worker", 0, FAR_FUTURE, lethal=True)],
    [Fault("kill_worker", 0, lethal=True)],  # it has not ended
    [Fault("agent_exits", 0, 0.1, lethal=True, keys=["scribe-0"])],  # as long as its message
    [Fault("cut_database", 0, FAR_FUTURE, cuts_off=True), Fault("half_open_database", 0, FAR_FUTURE, cuts_off=True)],
]


async def test_a_fault_that_kills_workers_explains_a_loss(run: HealthyRun, subtests: pytest.Subtests) -> None:
    for faults in EXPLANATIONS:
        with subtests.test(faults=faults):
            async with run.copied() as lossy:
                lossy.history.faults += faults
                assert not await lose(lossy, 1)
                assert await lose(lossy, 2)


NO_EXPLANATIONS = [
    Fault("kill_worker", 0, 0.1, lethal=True),  # before it was there
    Fault("kill_worker", FAR_FUTURE, FAR_FUTURE + 1, lethal=True),  # after its end
    Fault("cut_database", 0, FAR_FUTURE, cuts_off=True),  # alone
    Fault("drop_notifications", 0, FAR_FUTURE),
]


async def test_a_loss_that_no_fault_explains_is_found(run: HealthyRun, subtests: pytest.Subtests) -> None:
    for fault in NO_EXPLANATIONS:
        with subtests.test(fault=fault):
            async with run.copied() as lossy:
                lossy.history.faults.append(fault)
                assert await lose(lossy, 1)


@pytest.mark.parametrize(("zombies", "found"), [(True, False), (False, True)])
async def test_only_zombies_may_run_at_the_same_time(run: HealthyRun, zombies: bool, found: bool) -> None:
    run.history.faults.append(Fault("stop_worker", 0, 1, lethal=True, zombies=zombies))
    run.notes[1].at = 1.5
    assert ("turns of a thread do not overlap" in await run.wrong()) is found


async def test_a_fault_without_effect_counts_only_if_its_type_never_worked(run: HealthyRun) -> None:
    run.history.faults += [Fault("kill_api", 0, 1, detail="there is none"), Fault("kill_api", 2, 3)]
    assert await run.wrong() == {}


async def test_a_death_may_be_noticed_late_right_after_another_fault(run: HealthyRun) -> None:
    run.history.faults += [Fault("kill_worker", 4, 13, noticed=8.0), Fault("crash_postgres", 0, 3)]
    assert await run.wrong() == {}


async def test_two_nodes_cut_off_for_a_moment_explain_no_loss(run: HealthyRun) -> None:
    run.history.faults += [
        Fault("cut_database", 0, FAR_FUTURE, cuts_off=True, where="node-1"),
        Fault("half_open_database", 0, FAR_FUTURE, cuts_off=True, where="node-2"),
    ]
    assert await lose(run, 1)


def test_times_of_a_moved_clock_are_those_of_the_run() -> None:
    back = Fault("clock_back", 1000, 1010, clock_shift_seconds=-3600)
    for written, real in ((990, 990), (1005 - 3600, 1005), (1020, 1020), (None, None)):
        row = fault_times.by_the_real_clock({"key": "k", "submitted": 990, "ended": written}, [back])
        assert row == {"key": "k", "submitted": 990, "ended": real}


def test_records_of_a_key_that_ran_out_of_order_are_found() -> None:
    values = ["0:000000", "0:000001"]
    log = [{"topic": topic, "value": value} for topic in ("in", "out") for value in values]

    def wrong(*offsets: int) -> list[str]:
        """`offsets` in the order in which the thread ran."""
        common = {"subscription": "s", "state": "completed", "thread": 7}
        rows = [common | {"value": values[offset], "record_offset": offset} for offset in offsets]
        return records.handled(rows, log, {"in": "in", "out": "out"}, ["s"])

    assert wrong(0, 1) == []
    assert wrong(1, 0) == ["the thread 7 ran out of order"]
