"""A remote worker of treadle in the test's own event loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.support.api_client import Client
from tests.support.waiting import until
from treadle import Worker


@contextlib.asynccontextmanager
async def serving(worker: Worker) -> AsyncIterator[Worker]:
    task = asyncio.create_task(worker.serve())
    try:
        await until(lambda: worker.registered.is_set() or task.done())
        yield worker
    finally:
        if not task.done():
            worker.stop()
            worker.stop()
        await task


def url_of(api: Client) -> str:
    return str(api.base_url)
