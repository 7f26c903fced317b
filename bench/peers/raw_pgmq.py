"""PGMQ alone through asyncpg: read 100, delete 100, nothing else. The upper limit for a queue on PGMQ.

config: dsn, jobs, connections. Answer: seconds.
"""

import asyncio
import time
from typing import Any

import asyncpg

from bench.clients.script import Go, play
from bench.sample import BODY

BATCH_JOBS = 100


async def drain(config: Any, go: Go) -> Any:
    connections = [await asyncpg.connect(config["dsn"], command_timeout=60) for _ in range(config["connections"])]
    await connections[0].execute("select pgmq.create('peer')")
    await connections[0].fetchval(
        "select count(*) from pgmq.send_batch('peer', array_fill(to_jsonb($1::text), array[$2::integer]))",
        BODY,
        config["jobs"],
    )
    await connections[0].execute("vacuum (analyze) pgmq.q_peer")
    await go()
    began = time.perf_counter()
    done = sum(await asyncio.gather(*(_work(connection) for connection in connections)))
    seconds = time.perf_counter() - began
    await asyncio.gather(*(connection.close() for connection in connections))
    return {"seconds": seconds, "jobs": done}


async def _work(connection: "asyncpg.Connection[asyncpg.Record]") -> int:
    done = 0
    while rows := await connection.fetch("select msg_id, message from pgmq.read('peer', 60, $1)", BATCH_JOBS):
        ids = [row["msg_id"] for row in rows]
        await connection.fetch("select * from pgmq.delete('peer', $1::bigint[])", ids)
        done += len(ids)
    return done


if __name__ == "__main__":
    play(drain)
