"""What a message costs in round trips and commits, alone and among a hundred: every statement of ours is one of each.

Nothing here is a measure of time; the statements are counted as they leave the processes.
"""

import asyncio
import math
import re
from collections import Counter
from typing import Any

import asyncpg
import msgspec
import pytest

from service.access.principal import COMMAND_LINE
from service.db import hint_timing, notifier
from service.db.notifier import Notifier
from service.db.pool import Connection, Database
from service.messages.model import NewMessage
from service.messages.store import MessageStore
from tests.support.fixture_types import StartWorker
from tests.support.messages import settled
from tests.support.sql_client import SqlClient
from tests.support.waiting import until
from treadle import Context, agent

# Calls of a worker and of the API that do not depend on messages.
CHORES = {"heartbeat", "admit_due", "tend_parents", "reap", "fold_counters", "sweep", "raise_marks", "mend_lanes"}
CHORES |= {"chores_due"}
CHORES |= {
    "vacuum_health",
    "pace_vacuum",
    "notify_health",
    "unclaimed_queues",
    "ensure_partitions",
    "drop_partitions",
    "register_agents",
    "instance_secret",
    "meta",
}
CHORES |= {"agent_overview"}  # a look at their input types, at most once a second
CHORES |= {"sign_off", "purge", "end_tenant_sessions", "fold_subscriptions", "purge_records", "fold_stores"}
CHORES |= {"sequence_records", "deliver_records"}  # at the start, and when the listener is connected


@agent("noop")
async def noop(context: Context, text: str) -> str:
    return "ok"


@agent("talk")
async def talk(context: Context, text: str) -> str:
    await context.emit("hello")
    return "ok"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The statements that were sent, by the SQL function that they call, without the chores."""
    monkeypatch.setattr(hint_timing, "SLOW_SECONDS", math.inf)  # however busy this machine is
    counter: Counter[str] = Counter()
    for name in ("fetch", "fetchrow", "fetchval"):
        original = getattr(Database, name)

        async def counted(self: Database, query: str, *args: Any, original: Any = original, **more: Any) -> Any:
            names = re.findall(r"treadle\.(?!_ke(?:ep|pt)_hints)(\w+)", query)
            if CHORES.isdisjoint(names):
                counter["hint" if names == ["_notify"] else "claim" if "claim" in names else names[0]] += 1
            return await original(self, query, *args, **more)

        monkeypatch.setattr(Database, name, counted)
    return counter


@pytest.fixture
async def store(database: Database) -> MessageStore:
    return MessageStore(database, Notifier(database), max_queue_size=10_000)


async def submit(store: MessageStore, count: int, agent: str) -> list[Any]:
    accepted = await asyncio.gather(*(store.submit(COMMAND_LINE, NewMessage("x", agent=agent)) for _ in range(count)))
    return [one.message_id for one in accepted]


async def drained(sql: Connection, count: int) -> None:
    """Wait until so many messages are completed and their hints are sent."""
    done = "select coalesce(sum(completed), 0)::integer from treadle.queue_counts"
    await until(lambda: sql.fetchval(done), lambda completed: completed == count)


async def test_one_message_costs_a_submit_a_claim_and_a_finish(
    store: MessageStore, sql: Connection, start_worker: StartWorker, sent: Counter[str]
) -> None:
    await start_worker(noop, poll_interval=60.0)
    sent.clear()
    for _ in range(10):  # one after the other
        (message_id,) = await submit(store, 1, "noop")
        await settled(sql, message_id)
    assert sent["submit_many"] == sent["finish"] == 10
    # One for each message. One more where a hint, or the room that an attempt left, comes while a claim is in flight.
    assert sent["claim"] <= 20
    assert sent["append"] == 0
    assert sent["hint"] <= 10  # of an attempt that did not end soon; submit and finish tell of their events themselves
    assert set(sent) <= {"submit_many", "claim", "finish", "hint"}


async def test_hints_follow_their_commits_after_slow_ones(
    store: MessageStore,
    sql: Connection,
    start_worker: StartWorker,
    sent: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only one transaction of the cluster at a time commits a NOTIFY."""
    monkeypatch.setattr(hint_timing, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(hint_timing, "COMPARED_WRITES", 1)
    heard: list[str] = []
    await sql.add_listener(notifier.EVENTS, lambda *hint: heard.append(str(hint[-1])))
    await start_worker(talk, poll_interval=60.0)
    await submit(store, 1, "talk")
    sent.clear()
    (message_id,) = await submit(store, 1, "talk")
    await until(lambda: any(str(message_id) in hint for hint in heard))
    await settled(sql, message_id)
    assert sent["hint"] >= 1  # those of the first message went with its commits, which seemed slow


SLOW = 2 * hint_timing.SLOW_SECONDS
RARE = [SLOW, SLOW, 0.0, SLOW, SLOW]  # writes that are slow by chance


@pytest.mark.parametrize(
    ("written", "hinted"),
    [
        (RARE, "wwwww"),
        ([SLOW] * 3 + [0.0] * 6, "wwwaaaaaa"),  # without hints the writes are fast
        ([SLOW] * 3 + [0.0, SLOW, SLOW] + [SLOW] * 3, "wwwaaaaaa"),  # one of them was
        ([SLOW] * 3 + [SLOW] * 3 + [SLOW] * 6, "wwwaaawwwwww"),  # without hints the writes are as slow
    ],
)
def test_hints_travel_with_commits_while_that_makes_them_no_slower(
    database: Database, written: list[float], hinted: str
) -> None:
    now = 0.0
    hints = Notifier(database, lambda: now)

    def write(seconds: float, *, single: bool = True) -> str:
        nonlocal now
        with hints.with_commit(single=single) as is_hinted:
            now += seconds
        return "w" if is_hinted else "a"

    assert "".join(map(write, written)) == hinted
    assert write(SLOW, single=False) == "a"  # the hints of several items always follow
    now += hint_timing.PERIOD_SECONDS
    assert write(0.0) == "w"


def test_writes_overlap_the_decision_on_their_hints() -> None:
    timing = hint_timing.HintTiming()
    for seconds in (SLOW, SLOW, SLOW, 0.0, SLOW):  # the last two began before hints followed their commits
        timing.note(1.0, seconds, hinted=True)
    assert not timing.travels(1.0)
    for _ in range(hint_timing.COMPARED_WRITES):
        timing.note(2.0, SLOW, hinted=False)
    assert timing.travels(2.0)


async def test_emitted_events_cost_one_append_and_no_hint(
    store: MessageStore, sql: Connection, start_worker: StartWorker, sent: Counter[str]
) -> None:
    await start_worker(talk, poll_interval=60.0)
    sent.clear()
    (message_id,) = await submit(store, 1, "talk")
    await settled(sql, message_id)
    assert sent["append"] <= 1  # none where the finish carries what was said
    assert sent["hint"] <= 1


@pytest.mark.parametrize("threads", [False, True])
async def test_a_hundred_messages_cost_hardly_more_than_one(
    store: MessageStore,
    sql: Connection,
    start_worker: StartWorker,
    sent: Counter[str],
    threads: bool,
) -> None:
    await start_worker(noop, poll_interval=60.0)
    await sql.execute("select treadle.pause('default')")
    sent.clear()
    news = [NewMessage("x", agent="noop", thread_id=f"t{n}" if threads else None) for n in range(100)]
    await asyncio.gather(*(store.submit(COMMAND_LINE, new) for new in news))
    assert sent["submit_many"] == 1
    await sql.execute("select treadle.pause('default', false)")
    await drained(sql, 100)
    # They are claimed and end in batches. How many depends on when hints arrive, but each kind of call costs a message
    # at most a tenth of a round trip and of a commit.
    assert 1 <= sent["claim"] <= 10
    assert 1 <= sent["finish"] <= 10
    assert set(sent) <= {"submit_many", "claim", "finish", "hint"}
    assert sum(sent.values()) <= 20, sent


async def test_messages_of_equal_restrictions_go_together(
    store: MessageStore, start_worker: StartWorker, sent: Counter[str]
) -> None:
    await start_worker(noop, poll_interval=60.0)
    sent.clear()
    callers = [msgspec.structs.replace(COMMAND_LINE, subject=subject) for subject in ("a", "b")]
    news = [store.submit(caller, NewMessage("x", agent="noop")) for _ in range(50) for caller in callers]
    await asyncio.gather(*news)
    assert 2 <= sent["submit_many"] <= 6


async def statements_of_a_submit(sql_client: SqlClient, count: int, **fields: Any) -> int:
    """How many statements the submit of so many messages takes, with those inside its functions: the fewest of some
    calls, because a call that plans again (an analyze came between, or many changes in other databases) evaluates its
    constants by statements."""
    heard: list[str] = []

    def hear(_: object, message: asyncpg.PostgresLogMessage) -> None:
        heard.append(message.message)

    batch = msgspec.json.encode([{"message": "x", "agent": "echo"} | fields] * count).decode()
    sql = sql_client.sql
    await sql.execute(
        "load 'auto_explain'; set auto_explain.log_nested_statements = on; set auto_explain.log_level = 'notice'"
    )
    sql.add_log_listener(hear)
    counts = []
    for _ in range(12):
        heard.clear()
        await sql.execute("set auto_explain.log_min_duration = 0")
        await sql.execute("select treadle.submit_many($1, max_queue_size => 9999, autocommit => true)", batch)
        await sql.execute("set auto_explain.log_min_duration = -1")
        counts.append(len(heard))
    sql.remove_log_listener(hear)
    return min(counts)


async def test_a_submit_takes_few_statements_however_many_messages_it_has(sql_client: SqlClient) -> None:
    one = await statements_of_a_submit(sql_client, 1)
    assert 0 < one <= 20
    # One sorts their lane rows by lane; the ids and the answer of one message are found without a query.
    assert await statements_of_a_submit(sql_client, 100) == one + 4
    in_thread = await statements_of_a_submit(sql_client, 1, thread_id="busy")
    assert one < in_thread <= 31
    # One looks at its message and answers without a query.
    assert await statements_of_a_submit(sql_client, 100, thread_id="busy") == in_thread + 6
    at_once = await statements_of_a_submit(sql_client, 1, thread_id="busy", aside=True)
    assert at_once <= 34  # no message can give way to it


async def test_our_connections_switch_jit_off(sql: Connection, database: Database) -> None:
    """For statements on views, which cannot do it themselves."""
    await sql.execute(f"alter database {await sql.fetchval('select current_database()')} set jit = on")
    assert await database.fetchval("show jit") == "off"


@pytest.mark.parametrize("threads", [False, True])
async def test_no_function_runs_for_each_message(sql_client: SqlClient, threads: bool) -> None:
    """What PostgreSQL inlines it does not call: a function that is called for each row starts a query each time."""
    texts = [{"agent": "echo"} | ({"thread_id": f"t{n}"} if threads else {}) for n in range(100)]
    async with sql_client.sql.transaction():
        await sql_client.sql.execute("set local track_functions = 'all'")
        await sql_client.submit_many(*texts, autocommit=True)
        claims = await sql_client.claim(100)
        assert await sql_client.append(*((claim, claim.last_seq + 1, ["x"]) for claim in claims)) == ["ok"] * 100
        first_seq = claims[0].last_seq + 2
        assert await sql_client.finish(*claims, first_seq=first_seq) == ["completed"] * 100
        ids = [claim.message_id for claim in claims]
        read = await sql_client.sql.fetch("select type from treadle.read_events($1, $2)", ids, [0] * 100)
        called = await sql_client.sql.fetch("select funcname, calls from pg_stat_xact_user_functions")
    assert Counter(row["type"] for row in read) == dict.fromkeys(("queued", "started", "chunk", "done"), 100)
    assert "submit_many" in {row["funcname"] for row in called}
    assert [row["funcname"] for row in called if row["calls"] >= 50] == []
