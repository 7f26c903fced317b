"""The faults, each a coroutine that breaks something, waits as long as it is meant to last, and mends it."""

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import msgspec

from faults.history import Fault, History, Recovery
from faults.load import Clients
from faults.nodes import WORKER_TIMEOUT, Node, signal_to
from faults.postgres import Cluster

LONGER = WORKER_TIMEOUT + 2  # seconds: a silence for which the living must not be taken for dead
PICKUP_SECONDS = 30.0
FAULT_SECONDS = 120.0  # after which a fault is given up


class World(msgspec.Struct):
    """All that there is to break. `wait` sleeps until a moment that the fault is meant to last is over."""

    cluster: Cluster
    nodes: list[Node]
    clients: Clients
    history: History
    dice: random.Random

    def node(self) -> Node:
        return self.dice.choice([node for node in self.nodes if node.alive])

    def child(self, command: str) -> int | None:
        """The pid of a worker (`work`) or an API (`serve`) of some node."""
        found = [pid for node in self.nodes for pid in node.children(command)]
        return self.dice.choice(found) if found else None


Break = Callable[[World], Awaitable[None]]


class Kind(msgspec.Struct, frozen=True):
    """`weight`: how often it is chosen among the others. `lethal`: a worker may be taken for dead by it."""

    name: str
    run: Break
    weight: int
    lethal: bool
    about: str


FAULTS: dict[str, Kind] = {}


def fault(*, weight: int = 4, lethal: bool = False) -> Callable[[Break], Break]:
    def register(run: Break) -> Break:
        name = run.__name__
        FAULTS[name] = Kind(name, run, weight, lethal, (run.__doc__ or "").strip())
        return run

    return register


async def inflict(world: World, name: str) -> None:
    """Run one fault, and write down when."""
    kind = FAULTS[name]
    noted = Fault(name, time.time(), lethal=kind.lethal)
    world.history.faults.append(noted)
    try:
        async with asyncio.timeout(FAULT_SECONDS):
            await kind.run(world)
    except Exception as error:  # two at once may be in each other's way
        noted.detail = f"{type(error).__name__}: {error}"
    finally:
        noted.ended = time.time()


# Processes


@fault(weight=8, lethal=True)
async def kill_worker(world: World) -> None:
    """kill -9 of a worker."""
    if (pid := world.child("work")) is None:
        return
    held = await _held_by(world, pid)
    signal_to(pid, signal.SIGKILL)
    await _picked_up(world, held, time.time())


@fault(lethal=True)
async def stop_worker(world: World) -> None:
    """SIGSTOP of a worker for longer than WORKER_TIMEOUT, then SIGCONT: a zombie."""
    if (pid := world.child("work")) is not None:
        signal_to(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(LONGER)
        finally:
            signal_to(pid, signal.SIGCONT)


@fault()
async def kill_api(world: World) -> None:
    """kill -9 of an API; its readers go on at another."""
    node = world.node()
    for pid in node.children("serve"):
        signal_to(pid, signal.SIGKILL)
    await _resumed(world, node)


@fault(weight=2, lethal=True)
async def kill_supervisor(world: World) -> None:
    """kill -9 of a whole node's supervisor; then the node is started again."""
    node = world.node()
    await node.kill()
    await node.start()


@fault(weight=3)
async def rolling_restart(world: World) -> None:
    """SIGTERM to one node after the other, as a deployment does it, while clients stream."""
    for node in world.nodes:
        await node.stop()
        await node.start()


# PostgreSQL


@fault(weight=3)
async def crash_postgres(world: World) -> None:
    """PostgreSQL is stopped at once (it has to recover) and started again."""
    await _outage(world, signal.SIGQUIT, 0)


@fault(weight=2)
async def crash_postgres_for_long(world: World) -> None:
    """The same for longer than WORKER_TIMEOUT: nobody who lives may be reaped for it."""
    await _outage(world, signal.SIGQUIT, LONGER)


@fault(weight=3)
async def restart_postgres(world: World) -> None:
    """PostgreSQL is restarted as administrators do it."""
    await _outage(world, signal.SIGINT, 0)


@fault()
async def terminate_backends(world: World) -> None:
    """Every connection to PostgreSQL is ended by pg_terminate_backend."""
    await world.cluster.primary.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where backend_type = 'client backend' and pid <> pg_backend_pid()"
    )


@fault(weight=2)
async def exhaust_connections(world: World) -> None:
    """Others take every connection there is, for some seconds; and ours are ended, so that they need new ones."""
    greedy: list[Any] = []
    try:
        with contextlib.suppress(asyncpg.PostgresError, OSError, TimeoutError):
            greedy.append(await world.cluster.primary.connect())
            while len(greedy) < 500:
                greedy.append(await world.cluster.primary.connect())
                if len(greedy) == 20:
                    await greedy[0].execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'treadle%'"
                    )
        await asyncio.sleep(3)
    finally:
        for connection in greedy:
            connection.terminate()


@fault(weight=2)
async def fail_over(world: World) -> None:
    """The primary is destroyed, its synchronous standby promoted; later it gets a standby again."""
    if len(world.cluster.servers) < 2:
        return
    await world.cluster.fail_over()
    await _comes_back(world, "failover to first new event", time.time())
    await world.cluster.follow()


# The network


@fault(weight=6)
async def cut_database(world: World) -> None:
    """Every connection between one node and PostgreSQL is reset, several times."""
    node = world.node()
    for _ in range(world.dice.randint(1, 10)):
        for proxy in node.databases:
            proxy.cut()
        await asyncio.sleep(world.dice.uniform(0, 0.3))


@fault(weight=8)
async def lose_answers(world: World) -> None:
    """PostgreSQL does what it is asked, but the answers are lost: whatever is repeated must not be done twice."""
    for _ in range(10):
        for proxy in world.node().databases:
            proxy.lose_answers(world.dice.randint(1, 3))
        await asyncio.sleep(0.2)


@fault()
async def half_open_database(world: World) -> None:
    """A node's connections to PostgreSQL go dead without a word, for less than WORKER_TIMEOUT."""
    await _frozen(world, WORKER_TIMEOUT / 4)


@fault(weight=2, lethal=True)
async def partition_database(world: World) -> None:
    """The same for longer than WORKER_TIMEOUT: its work goes on elsewhere, and it must write nothing."""
    await _frozen(world, LONGER)


@fault()
async def slow_database(world: World) -> None:
    """The way to PostgreSQL is slow: 50 ms and 500 kB a second."""
    node = world.node()
    for proxy in node.databases:
        proxy.delay, proxy.rate = 0.05, 500_000
    await asyncio.sleep(4)
    for proxy in node.databases:
        proxy.heal()


@fault()
async def drop_notifications(world: World) -> None:
    """Every NOTIFY is lost, for everybody."""
    proxies = [proxy for node in world.nodes for proxy in node.databases]
    for proxy in proxies:
        proxy.deaf = True
    await asyncio.sleep(5)
    for proxy in proxies:
        proxy.deaf = False


@fault(weight=6)
async def cut_clients(world: World) -> None:
    """Every connection between the clients and one API is reset; answers to submits are lost."""
    node = world.node()
    for _ in range(10):
        node.door.cut()
        node.door.lose_answers(2)
        await asyncio.sleep(0.1)


@fault(weight=3)
async def half_open_clients(world: World) -> None:
    """The clients' connections to one API go dead without a word."""
    node = world.node()
    node.door.freeze()
    await asyncio.sleep(3)
    node.door.thaw()


@fault(weight=2)
async def bad_readers(world: World) -> None:
    """Readers that never read, and 500 that connect and leave at once."""
    node = world.node()
    done = [one.message_id for one in world.history.sent.values() if one.message_id][-200:]
    if not done:
        return
    port = node.door.port
    idle = []
    for n in range(500):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            path = f"/messages/{done[n % len(done)]}/stream" if n % 2 else "/threads/thread-0/stream"
            writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            if n < 20:
                idle.append(writer)
            else:
                await writer.drain()
                writer.transport.abort()
    await asyncio.sleep(2)
    for writer in idle:
        writer.transport.abort()


# Agents


def _poison(agent: str, *, weight: int = 1, lethal: bool = False, follow: bool = False) -> None:
    async def run(world: World) -> None:
        world.clients.send(agent, follow=follow)

    run.__name__, run.__doc__ = f"agent_{agent}", f"A message for an agent that {agent}."
    fault(weight=weight, lethal=lethal)(run)


_poison("exits", weight=2, lethal=True)
_poison("leaks", weight=1, lethal=True)
_poison("blocks", weight=2)
_poison("deaf", weight=2)
_poison("floods", follow=True)
_poison("raises", weight=2, follow=True)


# How long it took


async def _outage(world: World, number: signal.Signals, seconds: float) -> None:
    primary = world.cluster.primary
    await primary.stop(number)
    await asyncio.sleep(seconds)
    await primary.start()
    await _comes_back(world, "postgres back to first new event", time.time())


async def _frozen(world: World, seconds: float) -> None:
    node = world.node()
    for proxy in node.databases:
        proxy.freeze()
    try:
        await asyncio.sleep(seconds)
    finally:
        for proxy in node.databases:
            proxy.thaw()


async def _resumed(world: World, away: Node) -> None:
    """Note how long until another API goes on with a stream."""
    seen = [reading for reading in world.history.readings if reading.message_id and len(reading.events) > 1]
    others = [node for node in world.nodes if node is not away]
    if seen and others:
        reading = seen[-1]
        since = time.time()
        with contextlib.suppress(httpx.TransportError):
            async with (
                httpx.AsyncClient(timeout=5) as client,
                client.stream(
                    "GET",
                    f"{world.dice.choice(others).url}/messages/{reading.message_id}/stream",
                    headers={"Last-Event-ID": "1"},
                ) as answer,
            ):
                async for _ in answer.aiter_lines():
                    world.history.recoveries.append(
                        Recovery("API killed to a stream going on elsewhere", time.time() - since)
                    )
                    return


async def _comes_back(world: World, what: str, since: float) -> None:
    """Note how long until an agent's event was written again."""
    question = (
        "select min(created_at) from treadle.events where created_at > $1 and type = 'chunk'"
        " and message_id > treadle.uuid_at($1 - interval '10 minutes')"
    )
    await _note(world, what, question, datetime.fromtimestamp(since, UTC), since)


async def _picked_up(world: World, held: list[Any], since: float) -> None:
    """Note how long until all that a killed worker held was begun again (or over)."""
    if held:
        question = (
            "select coalesce(max(e.at), $1) from treadle.messages m left join lateral (select min(e.created_at) as at"
            " from treadle.events e where e.message_id = m.message_id and e.created_at > $1"
            " and e.type in ('started', 'done', 'error', 'cancelled')) e on true"
            " where m.message_id = any($2) and (m.completed_at is null or m.completed_at > $1)"
            " having coalesce(bool_and(e.at is not null), true)"  # also where all had ended before
        )
        at = datetime.fromtimestamp(since, UTC)
        await _note(world, "worker killed to its messages running again", question, at, since, held)


async def _note(world: World, what: str, question: str, at: datetime, since: float, *args: Any) -> None:
    until = time.monotonic() + PICKUP_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            connection = await world.cluster.primary.connect(2)
            try:
                if found := await connection.fetchval(question, at, *args):
                    if found > at:
                        world.history.recoveries.append(Recovery(what, found.timestamp() - since))
                    return
            finally:
                await connection.close()
        await asyncio.sleep(0.2)


async def _held_by(world: World, pid: int) -> list[Any]:
    with contextlib.suppress(asyncpg.PostgresError, OSError, TimeoutError):
        connection = await world.cluster.primary.connect(2)
        try:
            question = "select message_id from treadle.leases join treadle.workers using (worker_id) where pid = $1"
            return [row["message_id"] for row in await connection.fetch(question, pid)]
        finally:
            await connection.close()
    return []
