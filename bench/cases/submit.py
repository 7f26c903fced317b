"""Submit: HTTP POST by 1, 16 and 64 connections, in batches, and the SQL function directly.

A worker of another queue does the janitor's chores, as in production, and claims nothing.
"""

import json
from functools import partial
from typing import Any

from bench import meter
from bench.posting import ROUND_LIMIT_SECONDS, post, posts
from bench.report import Figures
from bench.sample import BODY
from bench.stage import CaseDatabase, Stage, rate


async def run(stage: Stage) -> None:
    async with stage.base("submit") as base:
        await base.worker(QUEUES="idle")
        _, port = await base.processes.api()
        times = stage.pick(3, 1)
        single = json.dumps({"message": BODY, "agent": "noop"})

        for connections, full, quick in ((1, 1_000, 100), (16, 5_000, 800), (64, 10_000, 2_000)):
            requests = stage.pick(full, quick)
            config = posts(port, connections, requests, "/messages", single)
            await post(stage, base, f"POST, {connections} connection{'s' * (connections > 1)}", config, 1, times)

        requests = stage.pick(30, 4)
        for name, threads in (("batch of 1,000", 0), ("batch of 1,000 into threads", 1_000)):
            batch = [
                {"message": BODY, "agent": "noop"} | ({"thread_id": f"b{n % threads}"} if threads else {})
                for n in range(1_000)
            ]
            config = posts(port, 2, requests, "/messages/batch", json.dumps({"messages": batch}), items=1_000)
            await post(stage, base, name, config, 1_000, times)

        batches = stage.pick(40, 4)
        for name, ids, threads in (
            ("SQL, batches of 1,000", True, 0),
            ("SQL, batches of 1,000, ids made by it", False, 0),
            ("SQL, batches of 1,000 into threads", True, 1_000),
        ):
            statements = {"dsn": base.dsn, "batches": batches, "size": 1_000, "threads": threads, "ids": ids}
            await stage.repeat(name, times, partial(_statements, base, statements))

    async with stage.base("submit_and_work") as base:
        await base.worker()
        _, port = await base.processes.api()
        config = posts(port, 64, stage.pick(10_000, 2_000), "/messages", single)
        await post(stage, base, "POST, 64 connections, a worker draining", config, 1, times)


async def _statements(base: CaseDatabase, config: dict[str, Any]) -> Figures:
    client = await base.client("bench.clients.statements", config)
    before = await base.read()
    answer = await client.run(ROUND_LIMIT_SECONDS)
    after = await base.read()
    await client.stop()
    messages = config["batches"] * config["size"]
    return rate(messages, answer["seconds"]) | meter.cost(before, after, messages)
