"""Tokens: many agents that emit tokens as models do, and readers of each; what a token costs, and how late it comes."""

import asyncio
import json
import time
from typing import Any, Literal

import msgspec
import uuid_utils.compat as uuid

from bench import meter
from bench.cases.streaming import EXTRA_SECONDS, LEAD_SECONDS, SUBMIT
from bench.processes import BenchError
from bench.report import Figure, Figures
from bench.stage import CaseDatabase, Stage, rate

OPENING_SECONDS = 0.006  # for each reader
ENDED = "select count(*) = $2 from treadle.messages where message_id = any($1) and state = 'completed'"
ROWS = "select count(*) from treadle.events where message_id = any($1) and type = 'chunk'"
LAST_END = "select extract(epoch from max(completed_at))::float8 from treadle.messages where message_id = any($1)"


class Load(msgspec.Struct, frozen=True):
    agents: int
    per_second: int  # tokens of each agent
    readers: int = 1  # of each agent
    workers: int = 1
    times: int = 1  # that a token repeats the time of its emission
    way: Literal["stream", "socket"] = "stream"  # of the readers

    @property
    def name(self) -> str:
        one = "a reader each" if self.way == "stream" else "a socket each"
        readers = {0: "no reader", 1: one}.get(self.readers, f"{self.readers} readers each")
        workers = "" if self.workers == 1 else f", {self.workers} workers"
        return f"{self.agents:,} x {self.per_second}/s, {readers}{workers}"


LOADS = (
    Load(100, 50),
    Load(500, 50),
    Load(500, 50, way="socket"),
    Load(1_000, 50, readers=0),
    Load(1_000, 50),
    Load(1_000, 50, readers=3),
    Load(1_000, 50, workers=2),
    Load(1_000, 100),
    Load(1_500, 100),
    Load(2_000, 50),
)
QUICK_LOADS = (Load(50, 20), Load(50, 20, way="socket"), Load(50, 20, readers=3, workers=2))


async def run(stage: Stage) -> None:
    seconds = stage.pick(10, 2)
    for load in QUICK_LOADS if stage.quick else LOADS:
        stage.tell(load.name)
        try:
            async with stage.base("tokens") as base:
                for _ in range(load.workers):
                    await base.worker(WORKER_CONCURRENCY=str(load.agents))
                stage.record(load.name, await _measure(base, load, seconds))
        except BenchError as error:  # the machine is too busy to open so many; other rows may succeed
            stage.fail(load.name, error)


async def _measure(base: CaseDatabase, load: Load, seconds: int) -> Figures:
    if not load.readers:
        return await emit(base, load, seconds, port=None)
    api, port = await base.processes.api()
    try:
        await emit(base, Load(10, 10), 1, port=port)  # so that the memory of the first requests is not counted
        await asyncio.sleep(0.5)
        peak = resting = meter.memory(api.pid)

        async def watch() -> None:
            nonlocal peak
            while True:
                peak = max(peak, meter.memory(api.pid))
                await asyncio.sleep(0.2)

        watching = asyncio.create_task(watch())
        try:
            found = await emit(base, load, seconds, port=port)
        finally:
            watching.cancel()
        return found | {"memory": Figure((peak - resting) / load.agents / load.readers / 1024, "KiB/reader")}
    finally:
        await api.stop()


async def emit(base: CaseDatabase, load: Load, seconds: int, *, port: int | None) -> Figures:
    """Let the agents emit for so many seconds. Without a `port` they have no readers."""
    ids = [str(uuid.uuid7()) for _ in range(load.agents)]
    lead = LEAD_SECONDS + load.agents * load.readers * OPENING_SECONDS
    start_at = time.time() + lead
    each = load.per_second * seconds
    await base.sql.fetchval(SUBMIT, json.dumps([
        {
            "message_id": message_id,
            "message": "tick",
            "agent": "ticker",
            # The agents emit at different moments.
            "metadata": {
                "start_at": start_at + n / load.agents / load.per_second,
                "per_second": load.per_second,
                "chunks": each,
                "times": load.times,
            },
        }
        | ({"thread_id": message_id} if load.way == "socket" else {})
        for n, message_id in enumerate(ids)
    ]))  # fmt: skip
    client = None
    if port is not None:
        config = {
            "port": port,
            "way": load.way,
            "ids": ids * load.readers,
            "reconnecting": 0,
            "reconnect_seconds": 0,
            "from_ns": int((start_at + 1) * 1e9),
            "seconds": seconds + EXTRA_SECONDS,
        }
        client = await base.client("bench.clients.readers", config, seconds=lead + 60)
    if time.time() > start_at:
        raise BenchError(f"Opening the streams took longer than {lead:.0f} seconds.")
    running = asyncio.create_task(client.run(seconds + EXTRA_SECONDS + lead + 10)) if client else None
    await asyncio.sleep(start_at - time.time())
    before = await base.read()
    answer: Any = await running if running else None
    await base.until(ENDED, ids, len(ids), seconds=seconds + EXTRA_SECONDS, what="the agents' end")
    after = await base.read()
    if client is not None:
        await client.stop()
    tokens = load.agents * each
    found = await _log_figures(base, ids, tokens, start_at, seconds)
    if answer is not None:
        found |= _reader_figures(answer, tokens * load.readers * load.times)
    return found | meter.cost(before, after, tokens, "token")


async def _log_figures(base: CaseDatabase, ids: list[str], tokens: int, start_at: float, seconds: int) -> Figures:
    took = await base.sql.fetchval(LAST_END, ids) - start_at
    rows = await base.sql.fetchval(ROWS, ids)
    return rate(tokens, took, "tokens") | {
        "slip": Figure(100 * (took / seconds - 1), "%"),
        "rows": Figure(rows / tokens, "/token"),
    }


def _reader_figures(answer: Any, expected: int) -> Figures:
    lost = expected - answer["tokens"] + answer["missing"] + answer["doubled"] + answer["unfinished"]
    return {
        "p50": Figure(answer["p50"], "ms"),
        "p99": Figure(answer["p99"], "ms"),
        "lost": Figure(lost, "tokens"),
    }
