"""pgqueuer with the settings of its performance guide: asyncpg, a larger batch, its autovacuum settings, logged tables.

config: dsn, jobs, batch. Answer: seconds from the first job's start to the last one's end.
"""

import time
from typing import Any

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

from bench.clients.script import Go, play
from bench.sample import BODY


async def drain(config: Any, go: Go) -> Any:
    connection = await asyncpg.connect(config["dsn"], command_timeout=60)
    queries = Queries.from_asyncpg_connection(connection)
    if not await queries.schema_is_installed():
        await queries.install()
        await queries.optimize_autovacuum()
    for start in range(0, config["jobs"], 1_000):
        count = min(1_000, config["jobs"] - start)
        await queries.enqueue(["noop"] * count, [BODY.encode()] * count, [0] * count)
    await connection.execute("vacuum (analyze)")

    manager = PgQueuer.from_asyncpg_connection(connection)
    done, began = 0, 0.0

    @manager.entrypoint("noop")  # type: ignore[untyped-decorator, unused-ignore]  # it has no types where it is not installed
    async def noop(job: Job) -> None:
        nonlocal done, began
        done += 1
        began = began or time.perf_counter()

    await go()
    await manager.run(batch_size=config["batch"], mode=QueueExecutionMode.drain)
    return {"seconds": time.perf_counter() - began, "jobs": done}


if __name__ == "__main__":
    play(drain)
