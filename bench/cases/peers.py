"""Peers: no-op jobs on other queues, on the same server in the same run, one process each.

Rounds alternate (PGMQ, pgqueuer, Treadle, PGMQ, ...), so that other load on the machine affects all; a ratio is the
median over the rounds. The peers keep no results, no events and no threads.
"""

import shutil
import statistics
from contextlib import AsyncExitStack
from importlib.util import find_spec
from typing import Any

from bench import meter
from bench.cases.drain import TUNED_SETTINGS, drain
from bench.processes import BenchError
from bench.report import Figure, Figures, median
from bench.stage import CaseDatabase, Stage, rate

ROUND_LIMIT_SECONDS = 120.0
TREADLE_ROW = "treadle, 1 worker"
NODE_PEERS = ("graphile-worker", "pg-boss")


async def run(stage: Stage) -> None:
    jobs = stage.pick(20_000, 3_000)
    few = stage.pick(2_000, 300)  # for slow peers
    rounds: dict[str, list[Figures]] = {}
    async with AsyncExitStack() as stack:
        treadle = await stack.enter_async_context(stage.base("peer_treadle"))
        await treadle.worker(**TUNED_SETTINGS)
        clients: list[tuple[str, str, CaseDatabase, dict[str, Any], int]] = []

        async def add(name: str, package: str | None, module: str, count: int, config: dict[str, Any]) -> None:
            if package and find_spec(package) is None:
                stage.skip(f"{package}: not installed (make bench installs requirements-bench.lock)")
                return
            base = await stack.enter_async_context(stage.base(f"peer_{name}", "plain"))
            if package is None:
                await stage.server.install_pgmq(base.name)
            clients.append((name, f"bench.peers.{module}", base, {"dsn": base.dsn, "jobs": count} | config, count))

        for connections in (1, 2):
            name = f"pgmq, {connections} connection{'s' * (connections > 1)}"
            await add(name, None, "raw_pgmq", jobs, {"connections": connections})
        await add("pgqueuer", "pgqueuer", "with_pgqueuer", jobs, {"batch": 100})
        await add("procrastinate", "procrastinate", "with_procrastinate", few, {"concurrency": 20})

        for n in range(stage.pick(3, 1)):
            for name, module, base, config, count in clients:
                stage.tell(f"{name} ({n + 1})")
                rounds.setdefault(name, []).append(await _drain(base, module, config, count))
            stage.tell(f"{TREADLE_ROW} ({n + 1})")
            rounds.setdefault(TREADLE_ROW, []).append(await drain(treadle, jobs))
    for name, figures in rounds.items():
        stage.record(name, median(figures), figures)
    _ratios(stage, rounds)
    _node(stage)


async def _drain(base: CaseDatabase, module: str, config: dict[str, Any], jobs: int) -> Figures:
    client = await base.client(module, config, kind="worker")
    before = await base.read()
    answer = await client.run(ROUND_LIMIT_SECONDS)
    after = await base.read()
    await client.stop()
    if answer["jobs"] != jobs:
        raise BenchError(f"{module} did {answer['jobs']} of {jobs} jobs.")
    return rate(jobs, answer["seconds"]) | meter.cost(before, after, jobs)


def _ratios(stage: Stage, rounds: dict[str, list[Figures]]) -> None:
    ours = rounds[TREADLE_ROW]
    for name, theirs in rounds.items():
        if name != TREADLE_ROW:
            figures = {
                key: Figure(
                    statistics.median(a[key].value / b[key].value for a, b in zip(ours, theirs, strict=True)), "x"
                )
                for key in ("rate", "cpu_total", "wal", "commits", "round_trips")
            }
            stage.record(f"treadle / {name}", figures, part=": ratios")


def _node(stage: Stage) -> None:
    """The place for peers in Node: write a client in bench/peers/ that follows bench.clients.script, and `add` it."""
    why = "there is no node on this machine" if shutil.which("node") is None else "no client is written for it yet"
    stage.skip(f"{', '.join(NODE_PEERS)}: {why}")
