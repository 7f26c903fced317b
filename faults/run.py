"""One run: the stage is set, the load begins, faults come one after the other, everything is mended, and checked."""

import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from faults.checker import check
from faults.history import Fault, History, Recovery
from faults.load import Clients
from faults.mischief import FAULTS, World, inflict
from faults.nodes import Node
from faults.postgres import Cluster

SETTLE_SECONDS = 120.0  # in which everything must have come to its end after the last fault
CALM = 5.0  # seconds without faults at the beginning

Tell = Callable[[str], None]


class Plan(msgspec.Struct, frozen=True):
    """What to do: faults in seconds of `seconds`, with `pause` seconds between them at most; `rate` in messages a
    second."""

    seed: int
    seconds: float
    rate: float
    faults: Sequence[str]
    pause: float
    nodes: int = 2
    workers: int = 2
    keep: bool = False


class Verdict(msgspec.Struct):
    """What came of it. `wrong` is empty in a run in which every promise was kept."""

    seed: int
    wrong: dict[str, list[str]]
    counts: dict[str, int]
    faults: list[Fault]
    recoveries: dict[str, dict[str, float]]
    api_kilobytes: dict[str, int]
    folder: str | None


async def run(plan: Plan, tell: Tell) -> Verdict:
    folder = Path(tempfile.mkdtemp(prefix="treadle-faults-"))
    folder.chmod(0o755)
    history = History()
    dice = random.Random(plan.seed)
    cluster = Cluster(folder, standby="fail_over" in plan.faults)
    journal = folder / "journal"
    nodes = [Node(f"node-{n + 1}", folder, plan.workers, journal) for n in range(plan.nodes)]
    verdict = None
    try:
        tell("starting PostgreSQL")
        await cluster.start()
        if len(cluster.servers) > 1:
            tell("copying it to a standby")
            await cluster.follow()
        tell("starting the nodes")
        for node in nodes:
            await node.prepare(cluster.servers)
        await nodes[0].start()  # the first migrates
        await asyncio.gather(*(node.start() for node in nodes[1:]))
        clients = Clients([node.url for node in nodes], history, random.Random(dice.random()), plan.rate)
        world = World(cluster, nodes, clients, history, dice)
        memory = {"at first": max(node.api_kilobytes() for node in nodes)}
        load = asyncio.create_task(clients.run(plan.seconds))
        try:
            await _break_things(world, plan, load, tell)
            await load
        finally:
            load.cancel()
        tell("mending, and waiting until everything has come to its end")
        await _mend(world)
        memory["at the end"] = max(node.api_kilobytes() for node in nodes)
        await _settle(world)
        await clients.settle(30)
        tell("checking")
        wrong, counts = await _check(cluster, history, journal)
        verdict = Verdict(
            plan.seed,
            wrong,
            counts,
            history.faults,
            _summary(history.recoveries),
            memory,
            str(folder) if wrong else None,
        )
        return verdict
    finally:
        await asyncio.gather(*(node.close() for node in nodes), return_exceptions=True)
        cluster.remove()
        if verdict is not None and not verdict.wrong and not plan.keep:
            shutil.rmtree(folder, ignore_errors=True)


async def _break_things(world: World, plan: Plan, load: "asyncio.Task[None]", tell: Tell) -> None:
    """One fault after the other, now and then two at once, while the load goes on."""
    await asyncio.wait({load}, timeout=min(CALM, plan.seconds / 5))
    weights = [FAULTS[name].weight for name in plan.faults]
    deck = list(plan.faults)  # each once, in any order, before any comes twice
    world.dice.shuffle(deck)
    end = time.monotonic() + plan.seconds
    beside: set[asyncio.Task[None]] = set()
    while not load.done() and time.monotonic() < end:
        name = deck.pop() if deck else world.dice.choices(plan.faults, weights)[0]
        tell(name)
        if world.dice.random() < 0.2:  # the next one begins while this one lasts
            beside.add(asyncio.create_task(inflict(world, name)))
        else:
            await inflict(world, name)
        await asyncio.wait({load}, timeout=world.dice.uniform(0, plan.pause))
    if beside:
        await asyncio.wait(beside)


async def _mend(world: World) -> None:
    """Everything runs again, and nothing is in the way."""
    for node in world.nodes:
        for proxy in (*node.databases, node.door):
            proxy.heal()
    if not world.cluster.primary.alive:
        await world.cluster.primary.start()
    for node in world.nodes:
        if not node.alive:
            await node.start()


async def _settle(world: World) -> None:
    """Wait until nothing is open any more, as far as SQL knows."""
    sql = await world.cluster.primary.connect()
    try:
        deadline = time.monotonic() + SETTLE_SECONDS
        unanswered = 1
        while time.monotonic() < deadline:
            unanswered = sum(one.acknowledged is None for one in world.history.sent.values())
            if not unanswered and not await sql.fetchval(
                "select exists (select from treadle.messages where state in ('queued', 'processing'))"
            ):
                return
            await asyncio.sleep(0.3)
    finally:
        await sql.close()


async def _check(cluster: Cluster, history: History, journal: Path) -> tuple[dict[str, list[str]], dict[str, int]]:
    sql = await cluster.primary.connect()
    try:
        wrong = await check(history, sql, journal)
        row = await sql.fetchrow(
            "select count(*) as messages, count(*) filter (where state = 'completed') as completed,"
            " count(*) filter (where state = 'failed') as failed,"
            " count(*) filter (where state = 'cancelled') as cancelled,"
            " count(*) filter (where attempt > 1) as more_than_one_attempt, sum(losses) as losses,"
            " (select count(*) from treadle.events) as events from treadle.messages"
        )
        assert row is not None
        counts = {name: int(value or 0) for name, value in row.items()}
    finally:
        await sql.close()
    counts["faults"] = len(history.faults)
    counts["readers"] = len(history.readings)
    counts["connections"] = sum(reading.connections for reading in history.readings)
    counts["events_seen"] = sum(len(reading.events) for reading in history.readings)
    counts["repeated_calls"] = history.retries
    return wrong, counts


def _summary(recoveries: Sequence[Recovery]) -> dict[str, dict[str, float]]:
    """Count, median and worst, by what recovered."""
    found: dict[str, list[float]] = {}
    for recovery in recoveries:
        found.setdefault(recovery.what, []).append(recovery.seconds)
    summary: dict[str, dict[str, Any]] = {}
    for what, seconds in found.items():
        seconds.sort()
        summary[what] = {
            "times": len(seconds),
            "median": round(seconds[len(seconds) // 2], 2),
            "worst": round(seconds[-1], 2),
        }
    return summary
