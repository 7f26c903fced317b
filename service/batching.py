"""Natural batching: while one call is in flight, requests pile up; when it returns, all of them go in the next call.

Idle, no request waits; under load, batches grow by themselves. Used for submits and reads (API), appends and finishes
(worker).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from service.errors import Busy, Unavailable

ALONE_CALLS = 2  # at once; each holds a connection while it waits for a lock

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """`run` takes a list of items and whether it may wait for locks (`patient`); it returns the results in the same
    order. An exception among the results is raised for its item only.

    A batch has at most `limit` items, fewer if `weigh` counts one of them for several. If `run` raises for a batch, the
    batch is split until only the item at fault fails; Unavailable is raised for all items at once.

    Items for which `must_run_alone` is true, and items answered with Busy, run one by one beside the batches, with
    `patient` true. If an item is still Busy then, it runs again after `retry_seconds`; without them, Busy is raised.

    Cancelling a caller does not cancel an item that waits for a batch or has begun: it runs. An item that waits to run
    alone is dropped.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item], bool], Awaitable[Sequence[Result | Exception]]],
        *,
        limit: int,
        weigh: Callable[[Item], int] = lambda _: 1,
        must_run_alone: Callable[[Item], bool] | None = None,
        retry_seconds: float | None = None,
    ) -> None:
        self._run = run
        self._limit = limit
        self._weigh = weigh
        self._must_run_alone = must_run_alone
        self._retry_seconds = retry_seconds
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._driver: asyncio.Task[None] | None = None
        self._alone_tasks: set[asyncio.Task[None]] = set()
        self._alone_slots = asyncio.Semaphore(ALONE_CALLS)

    async def submit(self, item: Item) -> Result:
        """Wait for the item's result, or raise the exception that `run` gave for it."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        if self._must_run_alone is not None and self._must_run_alone(item):
            self._start_alone(item, future)
            return await future
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

    def _start_alone(self, item: Item, future: asyncio.Future[Result]) -> None:
        task = asyncio.create_task(self._settle_alone(item, future))
        self._alone_tasks.add(task)
        task.add_done_callback(self._alone_tasks.discard)

    async def _settle_alone(self, item: Item, future: asyncio.Future[Result]) -> None:
        while not future.done():
            async with self._alone_slots:  # fair: an item that stays Busy queues behind the others
                await self._settle([(item, future)], patient=True)
            if not future.done():
                await asyncio.sleep(self._retry_seconds or 0)

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
                self._start_alone(item, future)
            elif future.done() or (isinstance(result, Busy) and self._retry_seconds is not None):
                pass
            elif isinstance(result, Exception):
                future.set_exception(result)
                future.exception()  # marks it as retrieved: the caller may have been cancelled
            else:
                future.set_result(result)
