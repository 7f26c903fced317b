"""Long logs: an answer of a megabyte in 20,000 chunks; and a thread with 100,000 events, which many readers replay at
once while others read live streams."""

import asyncio
import json
from typing import Any

from bench.cases.streaming import LEAD_SECONDS, SUBMIT
from bench.cases.tokens import ENDED, OPENING_SECONDS, Load, emit
from bench.processes import BenchError
from bench.report import Figure, Figures
from bench.stage import CaseDatabase, Stage

TIMES_IN_A_TOKEN = 3  # 57 bytes, so that 20,000 tokens are a megabyte
LIMIT_SECONDS = 300.0
THREAD = "long"
MESSAGE = "select message_id from treadle.messages"


async def run(stage: Stage) -> None:
    tokens, seconds = stage.pick(20_000, 2_000), 2
    async with stage.base("long answer") as base:
        await base.worker()
        _, port = await base.processes.api()
        stage.tell(f"an answer of {tokens:,} chunks")
        load = Load(1, tokens // seconds, times=TIMES_IN_A_TOKEN)
        stage.record(f"an answer of {tokens:,} chunks", await emit(base, load, seconds, port=port))
    events, readers = stage.pick(100_000, 2_000), stage.pick(100, 10)
    async with stage.base("long thread") as base:
        await base.worker(WORKER_CONCURRENCY=str(readers))
        _, port = await base.processes.api()
        stage.tell(f"filling a thread with {events:,} events")
        await _fill(base, events)
        live = Load(readers, 20)
        stage.record(f"{readers} live streams", await emit(base, live, stage.pick(10, 2), port=port))
        stage.tell(f"{readers} live streams, {readers} replays")
        config = {"port": port, "thread": THREAD, "readers": readers, "events": events, "seconds": LIMIT_SECONDS}
        beside, replay = await _beside(base, port, live, stage.pick(30, 2), config)
        stage.record(f"{readers} live streams, beside {readers} replays", beside)
        stage.record(f"{readers} replays of {events:,} events", replay)


async def _fill(base: CaseDatabase, events: int) -> None:
    message = {"message": "x", "agent": "noter", "thread_id": THREAD, "metadata": {"events": events}}
    await base.sql.fetchval(SUBMIT, json.dumps([message]))
    ids = [row["message_id"] for row in await base.sql.fetch(MESSAGE)]
    await base.until(ENDED, ids, 1, seconds=LIMIT_SECONDS, what="the events of the thread")


async def _beside(
    base: CaseDatabase, port: int, load: Load, seconds: int, config: dict[str, Any]
) -> tuple[Figures, Figures]:
    """The figures of the live streams, and those of the replays that begin a second after them."""
    client = await base.client("bench.clients.replays", config)
    emitting = asyncio.create_task(emit(base, load, seconds, port=port))
    try:
        await asyncio.sleep(LEAD_SECONDS + load.agents * OPENING_SECONDS + 1)
        answer = await client.run(LIMIT_SECONDS + 10)
        live = await emitting
    finally:
        emitting.cancel()
    if answer["missing"]:
        raise BenchError(f"{answer['missing']} replays did not end within {LIMIT_SECONDS:g} seconds.")
    events = config["readers"] * config["events"]
    return live, {
        "rate": Figure(events / answer["seconds"], "events/s"),
        "seconds": Figure(answer["seconds"], "s"),
        "size": Figure(answer["bytes"] / events, "B/event"),
    }
