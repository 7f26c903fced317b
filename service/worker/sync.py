"""Where sync agents run: threads, counted for as long as they really run, for nobody can end one."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class SyncRunner:
    """`busy` counts calls that run, those that nobody waits for any more included."""

    def __init__(self, size: int) -> None:
        self._executor = ThreadPoolExecutor(size, thread_name_prefix="agent")
        self._loop = asyncio.get_running_loop()
        self.busy = 0

    async def run(self, function: Callable[..., Answer], *args: Any) -> Answer:
        """The function's result, from a thread."""
        self.busy += 1
        future = self._executor.submit(function, *args)
        future.add_done_callback(self._ended)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Start nothing more; what runs is left to itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _ended(self, _: Future[Any]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._count_down)

    def _count_down(self) -> None:
        self.busy -= 1
