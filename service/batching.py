"""Natural batching: while one call is in flight, requests pile up; when it returns, all of them go in the next call.

Idle, nothing waits; loaded, batches grow by themselves. Used for submits (API), appends and finishes (worker) and reads
(API).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from service.errors import Busy, Unavailable

PATIENT = 2  # items that wait on their own at once: each holds a connection meanwhile

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """`run` takes a list of items and answers with their results in the same order; an exception among them is its
    item's. A batch has `limit` items, fewer where `weigh` says that one counts for several.

    A caller that is cancelled cancels nobody: its item is run with its batch. When `run` raises for a batch (anything
    but Unavailable, which is nobody's fault), the batch is split until only the item at fault fails. An item answered
    with Busy is run once more on its own (`patient` true), beside the others, so that nobody waits for what holds it
    up; and, with `again`, once more so many seconds after each further Busy.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item], bool], Awaitable[Sequence[Result | Exception]]],
        *,
        limit: int,
        weigh: Callable[[Item], int] = lambda _: 1,
        again: float | None = None,
    ) -> None:
        self._run = run
        self._limit = limit
        self._weigh = weigh
        self._again = again
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._driver: asyncio.Task[None] | None = None
        self._alone: set[asyncio.Task[None]] = set()
        self._patience = asyncio.Semaphore(PATIENT)

    async def submit(self, item: Item) -> Result:
        """Wait for the result of this item; raises what `run` said of it."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._driver is None:
            self._driver = asyncio.create_task(self._drive())
        return await future

    async def _drive(self) -> None:
        try:
            while self._waiting:
                await self._settle(self._next_batch())
        finally:
            self._driver = None

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch = [self._waiting.popleft()]
        weight = self._weigh(batch[0][0])
        while self._waiting and (weight := weight + self._weigh(self._waiting[0][0])) <= self._limit:
            batch.append(self._waiting.popleft())
        return batch

    async def _settle_alone(self, item: Item, future: asyncio.Future[Result]) -> None:
        while not future.done():
            async with self._patience:  # first come, first served: whoever waits longer comes back to the end
                await self._settle([(item, future)], patient=True)
            if not future.done():
                await asyncio.sleep(self._again or 0)

    async def _settle(self, batch: list[tuple[Item, asyncio.Future[Result]]], *, patient: bool = False) -> None:
        try:
            results = await self._run([item for item, _ in batch], patient)
            if len(results) != len(batch):
                raise RuntimeError(f"{len(batch)} items were answered with {len(results)} results")
        except Unavailable as error:
            results = [error] * len(batch)
        except Exception as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._settle(batch[:middle])
                await self._settle(batch[middle:])
                return
            results = [error]
        for (item, future), result in zip(batch, results, strict=True):
            if isinstance(result, Busy) and not patient:
                task = asyncio.create_task(self._settle_alone(item, future))
                self._alone.add(task)
                task.add_done_callback(self._alone.discard)
            elif future.done() or (isinstance(result, Busy) and self._again is not None):
                pass
            elif isinstance(result, Exception):
                future.set_exception(result)
                future.exception()  # the caller may be gone: that is no lost exception
            else:
                future.set_result(result)
