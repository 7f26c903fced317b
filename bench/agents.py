"""The agents that the benchmark's workers run (AGENTS=bench.agents)."""

import asyncio
import time

from treadle import Context, agent


@agent("noop")
async def noop(context: Context, text: str) -> str:
    """Does nothing, so that only the cost of the queue is measured."""
    return "ok"


@agent("hello")
async def hello(context: Context, text: str) -> str:
    """Streams one chunk."""
    await context.emit("hello")
    return "ok"


@agent("ticker")
async def ticker(context: Context, text: str) -> str:
    """Emits metadata.chunks chunks from the time metadata.start_at (Unix seconds) on, metadata.per_second a second.

    Each chunk is the time of its emission (Unix nanoseconds), metadata.times times. A late tick does not delay the next
    one.
    """
    interval = 1 / float(context.metadata["per_second"])
    due = float(context.metadata["start_at"])
    times = int(context.metadata.get("times", 1))
    for _ in range(int(context.metadata["chunks"])):
        await asyncio.sleep(max(0.0, due - time.time()))
        await context.emit(times * str(time.time_ns()))
        due += interval
    return "ok"


@agent("noter")
async def noter(context: Context, text: str) -> str:
    """Writes metadata.events events as fast as it can."""
    for number in range(int(context.metadata["events"])):
        await context.event("note", {"number": number})
    return "ok"
