"""treadle.submit_many without HTTP: one connection, one statement after the other.

config: dsn, batches, size, threads (0: standalone), ids (whether the client makes the ids). Answer: seconds.
"""

import time
from typing import Any

import asyncpg
import msgspec
import uuid_utils.compat as uuid

from bench.clients.script import Go, play
from bench.sample import BODY

SUBMIT = "select count(*) from treadle.submit_many($1::jsonb, autocommit => true)"


async def submit(config: Any, go: Go) -> Any:
    connection = await asyncpg.connect(config["dsn"], command_timeout=60)
    batches = [_batch(config, n) for n in range(config["batches"] + 1)]
    await connection.fetchval(SUBMIT, batches.pop())
    await go()
    began = time.perf_counter()
    for batch in batches:
        await connection.fetchval(SUBMIT, batch)
    seconds = time.perf_counter() - began
    await connection.close()
    return {"seconds": seconds}


def _batch(config: Any, number: int) -> str:
    messages = []
    for n in range(config["size"]):
        message = {"message": BODY, "agent": "noop"}
        if config["ids"]:
            message["message_id"] = str(uuid.uuid7())
        if config["threads"]:
            message["thread_id"] = f"t{(number * config['size'] + n) % config['threads']}"
        messages.append(message)
    return msgspec.json.encode(messages).decode()


if __name__ == "__main__":
    play(submit)
