"""Latency: one message at a time, from its first byte to the first chunk and to `done`; when idle and beside others."""

import asyncio
import json
from typing import Any

from bench import meter
from bench.cases.streaming import LEAD_SECONDS
from bench.cases.tokens import OPENING_SECONDS, Load, emit
from bench.processes import BenchError, Client
from bench.sample import BODY
from bench.stage import CaseDatabase, Stage, spread

ROUND_LIMIT_SECONDS = 120.0
PAUSE_SECONDS = 0.02  # between two messages
WARMUP_MESSAGES = 30
POST = {"body": json.dumps({"message": BODY, "agent": "hello"})}
WAYS = (("stream", "the thread's stream"), ("socket", "a socket"), ("completions", "/v1/chat/completions"))

# The two parts of it: the wait for a worker, and the attempt.
STEP_TIMES = """
    select extract(epoch from started_at - created_at)::float8 * 1000 as pickup,
        extract(epoch from completed_at - started_at)::float8 * 1000 as attempt
    from treadle.messages order by created_at desc limit $1"""


async def run(stage: Stage) -> None:
    messages = stage.pick(300, 60)
    async with stage.base("latency") as base:
        await base.worker()
        _, port = await base.processes.api()
        stage.tell(f"{messages} messages, one at a time")
        await _idle(stage, base, port, messages)
        for way, name in WAYS:
            config = {"way": way, "text": BODY, "agent": "hello"}
            client = await _client(base, "bench.clients.one_thread", port, messages, config)
            stage.record(f"first chunk, over {name}", spread((await client.run(ROUND_LIMIT_SECONDS))["first"]))
    agents = stage.pick(500, 50)
    async with stage.base("busy latency") as base:
        await base.worker(WORKER_CONCURRENCY=str(agents + 20))
        _, port = await base.processes.api()
        stage.tell(f"the same beside {agents} agents")
        name = f"first chunk, beside {agents} agents"
        try:
            stage.record(
                name, spread(await _beside(base, port, Load(agents, 50), stage.pick(300, 10), stage.pick(25, 4)))
            )
        except BenchError as error:  # the machine is too busy for so many agents
            stage.fail(name, error)


async def _idle(stage: Stage, base: CaseDatabase, port: int, messages: int) -> None:
    client = await _client(base, "bench.clients.one_by_one", port, messages, POST)
    before = await base.read()
    answer = await client.run(ROUND_LIMIT_SECONDS)
    after = await base.read()
    await client.stop()
    rows = await base.sql.fetch(STEP_TIMES, messages)
    for name, key in (("POST accepted", "accepted"), ("first chunk", "first"), ("done", "done")):
        extra = meter.cost(before, after, messages) if key == "done" else {}
        stage.record(name, spread(answer[key]) | extra)
    for name, key in (("of it: waiting for a worker", "pickup"), ("of it: the attempt", "attempt")):
        stage.record(name, spread([row[key] for row in rows]))


async def _beside(base: CaseDatabase, port: int, load: Load, messages: int, seconds: int) -> list[float]:
    """Milliseconds to the first chunk of each message, while agents emit tokens to their readers."""
    client = await _client(base, "bench.clients.one_by_one", port, messages, POST)
    emitting = asyncio.create_task(emit(base, load, seconds, port=port))
    try:
        await asyncio.sleep(LEAD_SECONDS + load.agents * OPENING_SECONDS + 1)
        answer = await client.run(ROUND_LIMIT_SECONDS)
        if emitting.done():
            raise BenchError("The agents ended before the messages beside them.")
        await emitting
    finally:
        emitting.cancel()
    first: list[float] = answer["first"]
    return first


async def _client(base: CaseDatabase, program: str, port: int, messages: int, config: dict[str, Any]) -> Client:
    warmup = min(WARMUP_MESSAGES, messages // 2)
    common = {"port": port, "messages": messages, "warmup": warmup, "pause": PAUSE_SECONDS}
    return await base.client(program, common | config)
