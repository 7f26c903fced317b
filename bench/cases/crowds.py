"""Crowds: many streams and sockets on which nothing happens, many submits at once on an idle system, and many readers
that return at once."""

import asyncio
import time
from typing import Any

from bench import fill, meter
from bench.cases.drain import pause
from bench.processes import BenchError
from bench.report import Figure, Figures
from bench.sample import BODY
from bench.stage import CaseDatabase, Stage, spread

SETTLE_SECONDS = 2.0
MEASURED_EVENTS = 20
PAUSE_SECONDS = 0.1  # between two events
OPENING_SECONDS = 0.01  # for each stream, at most
LIMIT_SECONDS = 60.0
BURST_CONNECTIONS = 500
SUBMIT = "select treadle.submit($1::text, agent => 'noop', thread_id => $2, notify => true)"


async def run(stage: Stage) -> None:
    streams = stage.pick(10_000, 200)
    for way in ("stream", "socket"):
        async with stage.base("idle") as base:
            stage.tell(f"opening {streams} {way}s")
            stage.record(f"idle {way}s", await _idle(base, way, streams, stage.pick(15, 2)))
    submits = stage.pick(5_000, 500)
    async with stage.base("burst") as base:
        await base.worker(QUEUES="idle")
        stage.record(f"{submits:,} submits at once", await _burst(stage, base, submits))
    readers = stage.pick(1_000, 50)
    async with stage.base("herd") as base:
        stage.tell(f"{readers} readers return")
        stage.record(f"{readers:,} readers return", await _herd(base, readers))


async def _idle(base: CaseDatabase, way: str, streams: int, seconds: int) -> Figures:
    """The memory and the CPU of streams or sockets, and how late an event of one of them comes."""
    await pause(base, True)
    await fill.queued(base.dsn, streams, thread="t", threads=streams)
    api, port = await base.processes.api()
    await asyncio.sleep(SETTLE_SECONDS)
    resting = meter.memory(api.pid)
    config = {"port": port, "way": way, "streams": streams, "events": MEASURED_EVENTS, "seconds": LIMIT_SECONDS}
    opening = LIMIT_SECONDS + streams * OPENING_SECONDS
    client = await base.client("bench.clients.idle", config, seconds=opening)
    await asyncio.sleep(SETTLE_SECONDS)
    memory = meter.memory(api.pid) - resting
    before = await base.read()
    await asyncio.sleep(seconds)
    after = await base.read()
    busy = (after.cpu["api"] - before.cpu["api"]) / (after.at - before.at)
    running = asyncio.create_task(client.run(2 * LIMIT_SECONDS))
    sent = []
    for n in range(MEASURED_EVENTS):
        await asyncio.sleep(PAUSE_SECONDS)
        sent.append(time.time_ns())
        await base.sql.fetchval(SUBMIT, BODY, f"t{n * streams // MEASURED_EVENTS}")
    answer: Any = await running
    if len(answer["arrived"]) < MEASURED_EVENTS:
        raise BenchError(f"{len(answer['arrived'])} of {MEASURED_EVENTS} events arrived.")
    waits = [(came - went) / 1e6 for went, came in zip(sent, answer["arrived"], strict=True)]
    return {
        "streams": Figure(streams, ""),
        "memory": Figure(memory / streams / 1024, "KiB/stream"),
        "busy": Figure(100 * busy, "% core", seconds < SETTLE_SECONDS * 2),
        **spread(waits),
    }


async def _burst(stage: Stage, base: CaseDatabase, submits: int) -> Figures:
    _, port = await base.processes.api()
    config = {
        "port": port,
        "connections": min(BURST_CONNECTIONS, submits),
        "requests": submits,
        "warmup": BURST_CONNECTIONS,
        "path": "/messages",
        "body": '{"message": "x", "agent": "noop"}',
    }
    stage.tell(f"{submits} submits at once")
    client = await base.client("bench.clients.posts", config)
    answer = await client.run(LIMIT_SECONDS)
    await client.stop()
    return {
        "seconds": Figure(answer["seconds"], "s"),
        "p50": Figure(answer["p50"], "ms"),
        "p99": Figure(answer["p99"], "ms"),
        "failed": Figure(answer["failed"], "requests"),
    }


async def _herd(base: CaseDatabase, readers: int) -> Figures:
    """How long the readers of an API that was started again wait when all of them return at once."""
    await pause(base, True)
    await fill.queued(base.dsn, readers, thread="t", threads=readers)
    api, port = await base.processes.api()
    config = {"port": port, "streams": readers, "seconds": LIMIT_SECONDS}
    client = await base.client("bench.clients.herd", config, seconds=LIMIT_SECONDS)
    await api.stop()
    await base.processes.api(port=port)
    answer = await client.run(2 * LIMIT_SECONDS)
    if answer["missing"]:
        raise BenchError(f"{answer['missing']} of {readers} readers were not served within {LIMIT_SECONDS:g} seconds.")
    return {"seconds": Figure(answer["seconds"], "s"), "failed": Figure(answer["errors"], "requests")}
