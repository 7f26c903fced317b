"""The checker of the fault suite: it finds what it is there to find."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from faults.agents import Note, answer
from faults.checker import check
from faults.history import Fault, History, Reading, Seen, Sent
from service.db.pool import Connection
from tests.support.sql_client import SqlClient


class Kept:
    """A small run in which every promise was kept: two messages of a thread, each read to its end, as is the thread."""

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

    async def wrong(self) -> dict[str, list[str]]:
        self.journal.write_bytes(b"".join(msgspec.json.encode(note) + b"\n" for note in self.notes))
        return await check(self.history, self.sql_client.sql, self.journal)

    @property
    def first(self) -> Sent:
        return self.history.sent["scribe-0"]


@pytest.fixture
async def kept(sql: Connection, dsn: str, tmp_path: Path) -> AsyncIterator[Kept]:
    async with contextlib.AsyncExitStack() as stack:
        sql_client = SqlClient(sql, dsn, stack)
        await sql_client.register({"agent": "scribe"})
        kept = Kept(sql_client, tmp_path / "journal")
        await kept.play()
        yield kept


async def test_where_every_promise_was_kept_it_finds_nothing(kept: Kept) -> None:
    assert await kept.wrong() == {}


# In what the clients and agents wrote down

TALES: list[tuple[str, Callable[[Kept], object]]] = [
    ("no client gets", lambda kept: kept.history.complain("a stream was answered 500")),
    ("an acknowledged submit", lambda kept: setattr(kept.first, "message_id", "00000000-0000-7000-8000-000000000000")),
    ("an acknowledged submit", lambda kept: setattr(kept.first, "acknowledged", None)),
    ("an acknowledged submit", lambda kept: setattr(kept.first, "message_id", kept.history.readings[1].message_id)),
    ("each message ends", lambda kept: setattr(kept.first, "cancelled", 202)),
    ("each message ends", lambda kept: setattr(kept.first, "chunks", 2)),
    ("each message ends", lambda kept: setattr(kept.first, "agent", "exits")),
    ("one terminal event, and the text", lambda kept: setattr(kept.first, "chunks", 2)),
    ("a thread goes", lambda kept: setattr(kept.first, "began", 5)),
    ("a stream is its log", lambda kept: kept.history.readings[0].events.pop(1)),
    ("a stream is its log", lambda kept: kept.history.readings[0].events.pop()),
    ("a stream is its log", lambda kept: kept.history.readings[0].events.append(Seen(4, "done", {}))),
    ("a stream is its log", lambda kept: kept.history.readings[0].events[2].data.update(chunk="other")),
    ("a stream is its log", lambda kept: kept.history.readings[0].events[3].data.update(result="other")),
    ("a stream is its log", lambda kept: kept.thread.events.pop()),
    ("a stream is its log", lambda kept: kept.thread.events.pop(2)),
    ("a stream is its log", lambda kept: kept.thread.events.clear()),
    ("a stream is its log", lambda kept: kept.history.readings.append(Reading(None, "t"))),
    ("an attempt runs once", lambda kept: kept.notes.append(kept.notes[0])),
    ("an attempt runs once", lambda kept: kept.notes.pop()),
    ("an attempt runs once", lambda kept: kept.notes.append(msgspec.structs.replace(kept.notes[0], attempt=2))),
    ("an attempt runs once", lambda kept: setattr(kept.notes[1], "pid", 2)),
    ("what must run one after", lambda kept: setattr(kept.notes[1], "at", 1.1)),
    ("what must run one after", lambda kept: setattr(kept.notes[2], "at", 0.5)),
    ("the run shows", lambda kept: kept.history.sent.clear()),
    ("the run shows", lambda kept: kept.notes.clear()),
    ("the run shows", lambda kept: kept.thread.events.clear()),
    ("the run shows", lambda kept: kept.history.readings.clear()),
    ("the run shows", lambda kept: [one.events.clear() for one in kept.history.readings if one.message_id]),
    ("the faults work", lambda kept: kept.history.faults.append(Fault("fail_over", 0, 1, detail="there is none"))),
    ("what was broken", lambda kept: kept.history.unwell.append("a node ended with 1")),
    ("a worker's death", lambda kept: kept.history.faults.append(Fault("kill_worker", 0, 9, noticed=8.0))),
]


@pytest.mark.parametrize(("promise", "tell"), TALES)
async def test_it_finds_what_clients_saw_wrong(kept: Kept, promise: str, tell: Callable[[Kept], object]) -> None:
    tell(kept)
    assert any(known.startswith(promise) for known in await kept.wrong())


# In the database

DAMAGES = [
    ("an acknowledged submit", "select treadle.delete_thread('t')"),
    ("a submit that is repeated", "update treadle.messages set metadata = jsonb_build_object('key', 'scribe-0')"),
    ("everything comes", "select treadle.submit('x', agent => 'scribe')"),
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
    ("what a message sends", "update treadle.messages set agent = 'team' where ord = 1"),
    (
        "what a message sends",
        "update treadle.messages m set parent = (select n.message_id from treadle.messages n where n.ord = 1)"
        " where ord = 2",
    ),
    ("one terminal event", "update treadle.events set type = 'done' where type = 'chunk'"),
    (
        "one terminal event",
        "update treadle.events set data = jsonb_set(data, '{chunk}', '\"scribe-0:1:1 \"') where type = 'chunk'",
    ),
    ("a thread goes", "update treadle.messages set ord = 11 where ord = 1"),
    ("a thread goes", "update treadle.events set thread_pos = 9 where thread_pos = 4"),
    ("nobody who lives", "update treadle.messages set losses = 1 where ord = 1"),
    ("nothing is violated", "delete from treadle.counters"),
]


@pytest.mark.parametrize(("promise", "damage"), DAMAGES)
async def test_it_finds_what_is_wrong_in_the_database(kept: Kept, promise: str, damage: str) -> None:
    await kept.sql_client.sql.execute(damage)
    assert any(known.startswith(promise) for known in await kept.wrong())


# What faults explain


async def lose(kept: Kept, times: int) -> list[str]:
    """Charge the first message so many losses; returns what is found of them."""
    await kept.sql_client.sql.execute(f"update treadle.messages set losses = {times}, attempt = 2 where ord = 1")
    return (await kept.wrong()).get("nobody who lives is reaped", [])


FOR_EVER = time.time() + 1e6


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("kill_worker", 0, FOR_EVER, lethal=True)],
        [Fault("kill_worker", 0, lethal=True)],  # it lasts
        [Fault("agent_exits", 0, 0.1, lethal=True, keys=["scribe-0"])],  # as long as its message
        [Fault("cut_database", 0, FOR_EVER, cuts_off=True), Fault("half_open_database", 0, FOR_EVER, cuts_off=True)],
    ],
    ids=lambda faults: faults[0].name,
)
async def test_a_loss_is_no_wonder_where_a_fault_can_kill_workers(kept: Kept, faults: list[Fault]) -> None:
    kept.history.faults += faults
    assert not await lose(kept, 1)
    assert await lose(kept, 2)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("kill_worker", 0, 0.1, lethal=True),  # before it was there
        Fault("kill_worker", FOR_EVER, FOR_EVER + 1, lethal=True),  # after its end
        Fault("cut_database", 0, FOR_EVER, cuts_off=True),  # alone
        Fault("drop_notifications", 0, FOR_EVER),
    ],
    ids=lambda fault: fault.name,
)
async def test_a_loss_is_one_where_no_fault_can_have_caused_it(kept: Kept, fault: Fault) -> None:
    kept.history.faults.append(fault)
    assert await lose(kept, 1)


@pytest.mark.parametrize(("zombies", "found"), [(True, False), (False, True)])
async def test_zombies_overlap(kept: Kept, zombies: bool, found: bool) -> None:
    kept.history.faults.append(Fault("stop_worker", 0, 1, lethal=True, zombies=zombies))
    kept.notes[1].at = 1.5
    assert ("what must run one after the other does not run at once" in await kept.wrong()) is found


async def test_a_fault_in_vain_is_no_matter_where_another_of_its_kind_worked(kept: Kept) -> None:
    kept.history.faults += [Fault("kill_api", 0, 1, detail="there is none"), Fault("kill_api", 2, 3)]
    assert await kept.wrong() == {}


async def test_a_death_may_be_noticed_late_in_the_aftermath_of_another_fault(kept: Kept) -> None:
    kept.history.faults += [Fault("kill_worker", 4, 13, noticed=8.0), Fault("crash_postgres", 0, 3)]
    assert await kept.wrong() == {}


async def test_two_nodes_that_are_cut_off_for_a_moment_excuse_nothing(kept: Kept) -> None:
    kept.history.faults += [
        Fault("cut_database", 0, FOR_EVER, cuts_off=True, where="node-1"),
        Fault("half_open_database", 0, FOR_EVER, cuts_off=True, where="node-2"),
    ]
    assert await lose(kept, 1)
