"""One run: start the servers, load them, inject faults one after the other, repair everything, check the records."""

import asyncio
import os
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from faults.catalog import FAULTS, World, inject
from faults.checker import check
from faults.history import Fault, History, Recovery
from faults.load import Clients
from faults.nodes import Node, NodeFailed, end_leftover
from faults.postgres import Cluster
from faults.publishers import UNHANDLED_RECORDS_SQL, Publishers

SETTLE_SECONDS = 120.0  # every message must end within this time after the last fault
READ_SECONDS = 30.0  # then readers must have read the rest within this time
CALM_SECONDS = 5.0  # seconds without faults at the beginning
FIRST_FAULT = "kill_worker"  # alone, so that the promise about deaths is measured
MAX_TRIES = 3  # of a fault that finds nothing to break
RUN_FOLDER_PREFIX, KEPT_FOLDER_PREFIX = "treadle-faults-of-{}-", "treadle-faults-kept-"

Tell = Callable[[str], None]


class Plan(msgspec.Struct, frozen=True):
    """What a run does. `seconds`: of load and faults. `pause`: the longest pause between faults, in seconds. `rate`: in
    messages a second."""

    seed: int
    seconds: float
    rate: float
    faults: Sequence[str]
    pause: float
    nodes: int = 2
    workers: int = 2
    keep: bool = False


class RunResult(msgspec.Struct):
    """The result of a run. `wrong` is empty if every promise was kept."""

    seed: int
    wrong: dict[str, list[str]]
    counts: dict[str, int]
    faults: list[Fault]
    recoveries: dict[str, dict[str, float]]
    api_kilobytes: dict[str, int]
    folder: str | None


async def run(plan: Plan, tell: Tell) -> RunResult:
    _remove_killed_runs()
    folder = Path(tempfile.mkdtemp(prefix=RUN_FOLDER_PREFIX.format(os.getpid())))
    folder.chmod(0o755)
    history = History()
    rng = random.Random(plan.seed)
    cluster = Cluster(folder, standby="fail_over" in plan.faults)
    journal = folder / "journal"
    nodes = [Node(f"node-{n + 1}", folder, plan.workers, journal) for n in range(plan.nodes)]
    result = None
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
        clients = Clients([node.api_proxy.port for node in nodes], history, random.Random(rng.random()), plan.rate)
        world = World(cluster, nodes, clients, history, rng)
        memory = {"at first": max(node.api_kilobytes() for node in nodes)}
        publishers = Publishers(cluster, history, random.Random(rng.random()))
        await publishers.prepare()
        load = asyncio.create_task(_load(clients, publishers, plan.seconds))
        try:
            await _inject_faults(world, plan, load, tell)
            await load
        finally:
            load.cancel()
        tell("repairing everything, and waiting until every message has ended")
        await _repair(world)
        memory["at the end"] = max(node.api_kilobytes() for node in nodes)
        await _settle(world)
        await clients.settle(READ_SECONDS, await _thread_ends(cluster))
        tell("checking")
        wrong, counts = await _check(cluster, history, journal)
        result = RunResult(
            plan.seed,
            wrong,
            counts,
            history.faults,
            _summary(history.recoveries),
            memory,
            None,
        )
        return result
    finally:
        await asyncio.gather(*(node.close() for node in nodes), return_exceptions=True)
        cluster.remove()
        if result is not None and not result.wrong and not plan.keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            kept = tempfile.mkdtemp(prefix=KEPT_FOLDER_PREFIX)
            folder.rename(kept)
            if result is not None:
                result.folder = kept


async def _load(clients: Clients, publishers: Publishers, seconds: float) -> None:
    await asyncio.gather(clients.run(seconds), publishers.run(seconds))


def _remove_killed_runs() -> None:
    """Remove the folders, servers and supervisors of killed runs."""
    pattern = RUN_FOLDER_PREFIX.format("*")
    for folder in Path(tempfile.gettempdir()).glob(f"{pattern}*"):
        found = re.match(RUN_FOLDER_PREFIX.format(r"(\d+)"), folder.name)
        if found and not _lives(int(found[1])):
            for home in folder.glob("node-*/"):
                end_leftover(home)
            Cluster(folder, standby=True).remove()
            shutil.rmtree(folder, ignore_errors=True)


def _lives(pid: int) -> bool:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, 0)
        return True
    return False


async def _inject_faults(world: World, plan: Plan, load: "asyncio.Task[None]", tell: Tell) -> None:
    """Inject one fault after the other, sometimes two at once, while the load runs."""
    await asyncio.wait({load}, timeout=min(CALM_SECONDS, plan.seconds / 5))
    weights = [FAULTS[name].weight for name in plan.faults]
    deck = sorted(plan.faults)  # each fault once, in random order, before one comes twice
    world.rng.shuffle(deck)
    deck.sort(key=lambda name: name == FIRST_FAULT)
    beside: set[asyncio.Task[None]] = set()
    while not load.done():
        again = deck[-1:] or failed(world.history.faults)
        name = again[0] if again else world.rng.choices(plan.faults, weights)[0]
        deck = deck[:-1]
        alone = name == FIRST_FAULT or FAULTS[name].alone
        if beside and (alone or any(fault.name == name and not fault.ended for fault in world.history.faults)):
            await asyncio.wait(beside)  # never the same type twice at once: one would repair what the other breaks
        tell(name)
        if not alone and world.rng.random() < 0.2:  # the next one begins before this one ends
            beside.add(asyncio.create_task(inject(world, name)))
        else:
            await inject(world, name)
        await asyncio.wait({load}, timeout=world.rng.uniform(0, plan.pause))
    if beside:
        await asyncio.wait(beside)
    for name in [name for name in failed(world.history.faults) for _ in range(MAX_TRIES)]:
        if name in failed(world.history.faults):
            tell(f"{name}, once more")
            await inject(world, name)


def failed(faults: Iterable[Fault]) -> list[str]:
    """The types that were tried, have ended and never had an effect; without those that have had all their tries."""
    tried: dict[str, list[Fault]] = {}
    for fault in faults:
        tried.setdefault(fault.name, []).append(fault)
    return [
        name
        for name, ours in tried.items()
        if len(ours) < MAX_TRIES and all(fault.ended and fault.detail for fault in ours)
    ]


async def _repair(world: World) -> None:
    """Start everything that does not run, also where a fault could not repair it."""
    if not world.cluster.primary.alive:
        await world.cluster.primary.start()
    for node in world.nodes:
        if not node.alive:
            with suppress(NodeFailed):
                await node.start()


async def _settle(world: World) -> None:
    """Wait until every message has ended, as the database says."""
    sql = await world.cluster.primary.connect()
    try:
        deadline = time.monotonic() + SETTLE_SECONDS
        unanswered = 1
        while time.monotonic() < deadline:
            unanswered = sum(one.acknowledged is None for one in world.history.sent.values())
            if not unanswered and not await sql.fetchval(
                "select exists (select from treadle.messages where state in ('queued', 'processing'))"
                f" or ({UNHANDLED_RECORDS_SQL})"
            ):
                return
            await asyncio.sleep(0.3)
    finally:
        await sql.close()


async def _thread_ends(cluster: Cluster) -> dict[str, int]:
    """The last place of each thread's log."""
    sql = await cluster.primary.connect()
    try:
        rows = await sql.fetch(
            "select t.thread_id, max(e.thread_pos) as last from treadle.events e"
            " join treadle.threads t on t.id = e.thread group by t.thread_id"
        )
        return {row["thread_id"]: row["last"] for row in rows}
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
    counts["records"] = len(history.published)
    return wrong, counts


def _summary(recoveries: Sequence[Recovery]) -> dict[str, dict[str, float]]:
    """Count, median and worst seconds, by the name of the recovery."""
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
