"""procrastinate with a pool and concurrent jobs, finished ones deleted.

config: dsn, jobs, concurrency. Answer: seconds from the first job's start to the last one's end.
"""

import logging
import time
from typing import Any

from procrastinate import App, PsycopgConnector

from bench.clients.script import Go, play
from bench.sample import BODY


async def drain(config: Any, go: Go) -> Any:
    logging.disable(logging.WARNING)
    app = App(connector=PsycopgConnector(conninfo=config["dsn"], min_size=2, max_size=config["concurrency"] + 4))
    done, began = 0, 0.0

    @app.task(name="noop")  # type: ignore[untyped-decorator, unused-ignore]  # it has no types where it is not installed
    async def noop(body: str) -> None:
        nonlocal done, began
        done += 1
        began = began or time.perf_counter()

    async with app.open_async():
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()
        arguments: dict[str, Any] = {"body": BODY}
        await noop.batch_defer_async(*[arguments] * config["jobs"])
        await go()
        await app.run_worker_async(
            wait=False,
            concurrency=config["concurrency"],
            delete_jobs="successful",
            install_signal_handlers=False,
        )
        return {"seconds": time.perf_counter() - began, "jobs": done}


if __name__ == "__main__":
    play(drain)
