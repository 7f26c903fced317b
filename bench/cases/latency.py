"""Latency when idle: one message at a time, from the first byte of the POST to the first chunk and to `done`."""

import json

from bench import meter
from bench.sample import BODY
from bench.stage import Stage, spread

ROUND_LIMIT_SECONDS = 120.0
PAUSE_SECONDS = 0.02  # between two messages

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
        config = {
            "port": port,
            "messages": messages,
            "warmup": 30,
            "pause": PAUSE_SECONDS,
            "body": json.dumps({"message": BODY, "agent": "hello"}),
        }
        stage.tell(f"{messages} messages, one at a time")
        client = await base.client("bench.clients.one_by_one", config)
        before = await base.read()
        answer = await client.run(ROUND_LIMIT_SECONDS)
        after = await base.read()
        rows = await base.sql.fetch(STEP_TIMES, messages)
        for name, key in (("POST accepted", "accepted"), ("first chunk", "first"), ("done", "done")):
            extra = meter.cost(before, after, messages) if key == "done" else {}
            stage.record(name, spread(answer[key]) | extra)
        for name, key in (("of it: waiting for a worker", "pickup"), ("of it: the attempt", "attempt")):
            stage.record(name, spread([row[key] for row in rows]))
