"""The cost of a piece of work: CPU by kind of process, WAL, commits, round trips.

The kernel counts the CPU time of every process of the run (of PostgreSQL: the main process, live backends and ended
ones); PostgreSQL counts the rest. These figures hold on a noisy machine, where seconds do not.
"""

import os
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import psutil

from bench.report import Figure, Figures

READ_COUNTERS = """
    select pg_current_wal_insert_lsn() - '0/0'::pg_lsn as wal,
        pg_snapshot_xmax(pg_current_snapshot())::text::bigint as commits,
        (select coalesce(sum(s.calls), 0) from pg_stat_statements s join pg_database d on d.oid = s.dbid
            where d.datname = current_database() and s.toplevel and s.userid <> 'bench'::regrole) as calls"""

TOP_STATEMENTS = """
    select left(regexp_replace(query, '\\s+', ' ', 'g'), 150) as query, sum(calls)::bigint as calls,
        sum(total_exec_time + total_plan_time) as total_ms,
        sum(total_exec_time + total_plan_time) / sum(calls) as mean_ms,
        sum(shared_blks_hit + shared_blks_read) / sum(calls) as buffers
    from pg_stat_statements s join pg_database d on d.oid = s.dbid
    where d.datname = current_database() and s.userid <> 'bench'::regrole
    group by 1 order by 3 desc limit 25"""

LITTLE_CPU_SECONDS = 0.5  # of CPU: the kernel counts in hundredths of a second, and a process needs some to warm up


class Reading(msgspec.Struct, frozen=True):
    at: float
    cpu: dict[str, float]  # seconds by kind of process
    busy: float  # seconds in which the machine's cores were not idle
    wal: int
    commits: int
    calls: int


class Meter:
    """`processes` are the pids by kind; a kind that ends before the second reading is not counted."""

    def __init__(self, sql: "asyncpg.Connection[asyncpg.Record]", server: int) -> None:
        self._sql = sql
        self._server = server

    async def read(self, processes: Mapping[str, Sequence[int]]) -> Reading:
        row = await self._sql.fetchrow(READ_COUNTERS)
        assert row is not None
        cpu = {kind: sum(_used(pid) for pid in pids) for kind, pids in processes.items()}
        cpu |= {"postgres": _used_by_tree(self._server), "bench": _used(os.getpid())}
        times = psutil.cpu_times()
        busy = sum(times) - times.idle - times.iowait - times.guest - times.guest_nice
        return Reading(time.monotonic(), cpu, busy, int(row["wal"]), row["commits"], int(row["calls"]))


def cost(before: Reading, after: Reading, messages: int, each: str = "message") -> Figures:
    """Figures for one message (or one `each`); `others` is the share of the machine that other processes used."""
    seconds = after.at - before.at
    cpu = {kind: after.cpu[kind] - used for kind, used in before.cpu.items() if kind in after.cpu}
    others = after.busy - before.busy - sum(cpu.values())
    figures = {
        f"cpu_{kind}": Figure(cpu[kind] / messages * 1e6, f"us/{each}", cpu[kind] < LITTLE_CPU_SECONDS)
        for kind in ("postgres", "api", "worker", "load")
        if kind in cpu
    }
    ours = sum(cpu.get(kind, 0.0) for kind in ("postgres", "api", "worker"))
    figures["cpu_total"] = Figure(ours / messages * 1e6, f"us/{each}", ours < LITTLE_CPU_SECONDS)
    figures["wal"] = Figure((after.wal - before.wal) / messages, f"B/{each}")
    figures["commits"] = Figure((after.commits - before.commits) / messages, f"/{each}")
    figures["round_trips"] = Figure((after.calls - before.calls) / messages, f"/{each}")
    figures["others"] = Figure(max(0.0, others) / seconds / (psutil.cpu_count() or 1) * 100, "% machine")
    return figures


async def profile(sql: "asyncpg.Connection[asyncpg.Record]") -> list[dict[str, Any]]:
    """The statements that took most of PostgreSQL's time in this database since `reset_statements`."""
    return [dict(row) for row in msgspec.to_builtins([dict(row) for row in await sql.fetch(TOP_STATEMENTS)])]


async def reset_statements(sql: "asyncpg.Connection[asyncpg.Record]") -> None:
    await sql.execute("select pg_stat_statements_reset()")


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    return int(psutil.Process(pid).memory_info().rss)


def machine() -> dict[str, Any]:
    return {
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": list(os.getloadavg()),
    }


def _used(pid: int) -> float:
    with suppress(psutil.NoSuchProcess):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0


def _used_by_tree(pid: int) -> float:
    used = _used(pid)
    with suppress(psutil.NoSuchProcess):
        used += sum(_used(child.pid) for child in psutil.Process(pid).children(recursive=True))
    return used


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
