"""Large messages: a worker claims and holds a bounded number of bytes, and the rest at once when it has room again."""

import asyncio
import secrets
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from service.config import Settings
from service.db.pool import Connection
from service.leases.model import Claimed
from service.worker import attempts, claimer
from service.worker.agent_filter import AgentFilter
from service.worker.claimer import Claimer
from service.worker.traces import NoTraces
from tests.support.agents import CountingAgent, gate_agent
from tests.support.fixture_types import StartWorker
from tests.support.messages import settled, submit_many
from tests.support.waiting import until
from tests.support.workers import never_replaced
from treadle import Context, agent

LARGE = 100_000
FULL = "the messages that run are too large together"


def texts(quantity: int) -> list[str]:
    return [secrets.token_hex(LARGE // 2) for _ in range(quantity)]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """No poll helps."""
    return msgspec.structs.replace(settings, poll_interval=600.0)


@pytest.mark.parametrize("claim_bytes", [1, int(2.5 * LARGE), 50 * LARGE])
async def test_a_worker_holds_a_bounded_number_of_bytes(
    sql: Connection,
    start_worker: StartWorker,
    register_agents: Any,
    monkeypatch: pytest.MonkeyPatch,
    claim_bytes: int,
) -> None:
    monkeypatch.setattr(claimer, "CLAIM_BATCH_BYTES", claim_bytes)
    monkeypatch.setattr(attempts, "MAX_HELD_CHARACTERS", int(3.5 * LARGE))
    counting = CountingAgent()
    await register_agents(counting.agent)
    ids = await submit_many(sql, [{"message": text, "agent": "count"} for text in texts(9)])
    worker = await start_worker(counting.agent, worker_concurrency=50)
    await until(lambda: counting.running, (4).__eq__)
    counting.release.set()
    for message_id in ids:
        assert (await settled(sql, message_id))["state"] == "completed"
    assert counting.most == 4
    await until(lambda: worker.running[0], (0).__eq__)


async def test_what_a_worker_holds_goes_on_while_its_memory_is_full(
    sql: Connection, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Steps, cancellations and heartbeats do. The worker says why it claims no small message either."""
    monkeypatch.setattr(attempts, "MAX_HELD_CHARACTERS", int(1.5 * LARGE))
    go_on = asyncio.Event()
    held: set[str] = set()

    @agent("steps")
    async def steps(context: Context, text: str) -> int:
        held.add(context.message_id)
        await go_on.wait()
        await context.emit("goes on")
        length: int = await context.step("length", lambda: len(text))
        return length

    worker = await start_worker(steps, worker_concurrency=50)
    large = await submit_many(sql, [{"message": text, "agent": "steps"} for text in texts(2)])
    await until(lambda: len(held), (2).__eq__)
    [small] = await submit_many(sql, [{"message": "small", "agent": "steps"}])
    await until(lambda: FULL in caplog.text)
    assert worker.held_characters >= 2 * LARGE

    before = await sql.fetchval("select max(heartbeat_at) from treadle.workers")
    await until(lambda: sql.fetchval("select max(heartbeat_at) > $1 from treadle.workers", before))
    await sql.execute("select treadle.cancel($1::uuid)", large[0])
    assert (await settled(sql, large[0]))["state"] == "cancelled"
    await until(lambda: str(small) in held)  # the end of the large one made room
    go_on.set()
    assert (await settled(sql, large[1]))["result"] == LARGE
    assert (await settled(sql, small))["state"] == "completed"
    await until(lambda: worker.held_characters, (0).__eq__)
    assert caplog.text.count(FULL) == 1  # not at each look


async def test_small_messages_are_claimed_beside_large_ones(
    sql: Connection, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claimer, "CLAIM_BATCH_BYTES", LARGE)
    wait, waiting, release = gate_agent()
    await start_worker(wait, worker_concurrency=50)
    await submit_many(sql, [{"message": text, "agent": "gate"} for each in texts(5) for text in (each, "x", "x")])
    await until(lambda: len(waiting), (15).__eq__)
    release.set()


async def test_a_claim_whose_bytes_are_used_up_is_followed_by_the_next_at_once(settings: Settings) -> None:
    """One that leaves nothing is followed by the next at a hint."""
    work = asyncio.Event()
    answers = [Claimed([], is_filled=True), Claimed([], is_filled=True), Claimed([])]
    rooms: list[int] = []

    class Store:
        async def claim(self, *, room_bytes: int, **_: Any) -> Claimed:
            rooms.append(room_bytes)
            return answers.pop(0)

    held = SimpleNamespace(leases={}, wake_for_room=False, room=lambda: 10, room_bytes=lambda: 7)
    parts: Any = {"store": Store(), "attempts": held, "traces": NoTraces(), "work": work}
    parts["agent_filter"] = AgentFilter((), never_replaced)
    running = Claimer(worker="w", settings=settings, lease_seconds=60.0, **parts)
    task = asyncio.create_task(running.run())
    await until(lambda: not answers)
    await until(lambda: not held.wake_for_room)  # the two claims before set it
    answers.append(Claimed([]))
    work.set()
    await until(lambda: not answers)
    running.stop()
    await task
    assert rooms == [7] * 4


async def test_a_worker_whose_memory_is_full_claims_when_an_attempt_has_ended(settings: Settings) -> None:
    work = asyncio.Event()
    claims = 0

    class Store:
        async def claim(self, **_: Any) -> Claimed:
            nonlocal claims
            claims += 1
            return Claimed([])

    class Held(SimpleNamespace):
        def __len__(self) -> int:
            return 1

    held = Held(leases={}, wake_for_room=False, room=lambda: 10, room_bytes=lambda: 0, held_characters=7)
    parts: Any = {"store": Store(), "attempts": held, "traces": NoTraces(), "work": work}
    parts["agent_filter"] = AgentFilter((), never_replaced)
    running = Claimer(worker="w", settings=settings, lease_seconds=60.0, **parts)
    task = asyncio.create_task(running.run())
    await until(lambda: held.wake_for_room)
    assert not claims
    held.room_bytes = lambda: 1
    work.set()
    await until(lambda: claims)
    running.stop()
    await task
