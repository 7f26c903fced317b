"""Streaming: many SSE clients, each reading an agent that emits ten chunks a second; then half of them reconnecting."""

import asyncio
import json
import time

import uuid_utils.compat as uuid

from bench import meter
from bench.processes import BenchError
from bench.report import Figure, Figures
from bench.stage import CaseDatabase, Stage, rate

CHUNKS_PER_SECOND = 10
RECONNECT_SECONDS = 2.0
LEAD_SECONDS = 1.5  # in which a client process starts and opens a few streams
EXTRA_SECONDS = 60.0  # more than the agents take
SUBMIT = "select count(*) from treadle.submit_many($1::jsonb, notify => true)"


async def run(stage: Stage) -> None:
    few, many = stage.pick(100, 20), stage.pick(1_000, 100)
    rows = [(few, 0), (few, few // 2), (many, 0), (many, many // 2)]
    async with stage.base("streaming") as base:
        await base.worker(WORKER_CONCURRENCY=str(many))
        for clients, reconnecting in rows[:: stage.pick(1, 3)]:
            name = f"{clients:,} clients" + (", half reconnecting" if reconnecting else "")
            stage.tell(name)
            try:
                stage.record(name, await _stream(base, clients, reconnecting, stage.pick(15, 2)))
            except BenchError as error:  # the machine is too busy to open so many; other rows may succeed
                stage.fail(name, error)


async def _stream(base: CaseDatabase, clients: int, reconnecting: int, seconds: int) -> Figures:
    """Measure with a new API, whose memory no other streams have grown."""
    api, port = await base.processes.api()
    await _read(base, port, 10, 5, lead=LEAD_SECONDS)  # so that the memory of the first request is not counted
    await asyncio.sleep(0.5)
    resting = meter.memory(api.pid)
    peak = resting

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, meter.memory(api.pid))
            await asyncio.sleep(0.2)

    watching = asyncio.create_task(watch())
    try:
        chunks = seconds * CHUNKS_PER_SECOND
        return (
            await _read(base, port, clients, chunks, lead=LEAD_SECONDS + clients * 0.01, reconnecting=reconnecting)
        ) | {"memory": Figure((peak - resting) / clients / 1024, "KiB/stream")}
    finally:
        watching.cancel()
        await api.stop()


async def _read(
    base: CaseDatabase, port: int, clients: int, chunks: int, *, lead: float, reconnecting: int = 0
) -> Figures:
    """`lead`: seconds in which the streams are opened, before the agents begin."""
    ids = [str(uuid.uuid7()) for _ in range(clients)]
    start_at = time.time() + lead
    messages = [
        {
            "message_id": message_id,
            "message": "tick",
            "agent": "ticker",
            # The agents emit at different moments.
            "metadata": {
                "start_at": start_at + n / clients / CHUNKS_PER_SECOND,
                "per_second": CHUNKS_PER_SECOND,
                "chunks": chunks,
            },
        }
        for n, message_id in enumerate(ids)
    ]
    await base.sql.fetchval(SUBMIT, json.dumps(messages))
    limit = chunks / CHUNKS_PER_SECOND + EXTRA_SECONDS
    config = {
        "port": port,
        "ids": ids,
        "reconnecting": reconnecting,
        "reconnect_seconds": RECONNECT_SECONDS,
        "from_ns": int((start_at + 1) * 1e9),
        "seconds": limit,
    }
    client = await base.client("bench.clients.readers", config, seconds=lead + 60)
    if time.time() > start_at:
        raise BenchError(f"Opening {clients} streams took longer than {lead:.0f} seconds.")
    running = asyncio.create_task(client.run(limit + lead + 10))
    await asyncio.sleep(start_at - time.time())
    before = await base.read()
    answer = await running
    after = await base.read()
    await client.stop()
    expected = clients * chunks
    lost = expected - answer["tokens"] + answer["missing"] + answer["doubled"] + answer["unfinished"]
    return (
        rate(answer["tokens"], (answer["last_ns"] - answer["first_ns"]) / 1e9 + 1 / CHUNKS_PER_SECOND, "events")
        | {
            "p50": Figure(answer["p50"], "ms"),
            "p99": Figure(answer["p99"], "ms"),
            "lost": Figure(lost, "events"),
            "reconnects": Figure(answer["reconnects"], ""),
        }
        | meter.cost(before, after, expected, "event")
    )
