"""Natural batching: while one call is in flight, requests pile up; when it returns, all of them go in the next call.

Idle, no request waits; under load, batches grow by themselves. Used for submits and reads (API), appends and finishes
(worker).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from service.errors import Busy, TooSlow, Unavailable
from service.patience import Patience

ALONE_CALLS = 2  # at once; each holds a connection
SPLIT_CALLS = 2  # likewise, of batches in which something was held
RESOLVED_AT_ONCE = 50  # results, in turns; then the loop looks for what has arrived meanwhile

SHARING_READERS = 1_000  # of one answer
SHARING_SECONDS = 10.0  # that a reader waits, like one that waits for a connection

Asked = TypeVar("Asked", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """`run` takes a list of items and whether it may wait a moment for locks (`patient`); it returns the results in the
    same order. An exception among the results is raised for its item only.

    A batch has items of one group, that of the item that waits longest. It has at most `limit` items, fewer if `weigh`
    counts one of them for several. At most `calls` batches are in flight, each of another owner (`owned_by`, by default
    the group). If `run` raises for a batch, it is split until only the item at fault fails; Unavailable is raised for
    all items at once, and so is Busy where it names what all of them need. A batch that is split because of Busy makes
    calls that wait for locks: they run beside the batches of other owners.

    Items for which `must_run_alone` is true run one by one beside the batches. Items that were answered with Busy are
    repeated, as often as `patience` allows: alone where few things are held, else with the next batch, so that a
    transaction which holds many things costs no call for each. Without patience Busy is raised. `held_by` names what an
    item needs, and `measure` counts its characters (see Patience).

    An item whose caller is cancelled before it has begun is dropped. A batch that has begun runs to its end. With
    `in_turns` the callers of a large batch go on in turns: where each has much to do with its result, a new request
    does not wait until all of them have done it. Without, they go on together, so that what they ask for next makes
    one batch.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item], bool], Awaitable[Sequence[Result | Exception]]],
        *,
        limit: int,
        calls: int = 1,
        in_turns: bool = False,
        weigh: Callable[[Item], int] = lambda _: 1,
        group_by: Callable[[Item], Hashable] = lambda _: None,
        owned_by: Callable[[Item], Hashable] | None = None,
        must_run_alone: Callable[[Item], bool] | None = None,
        patience: Patience | None = None,
        held_by: Callable[[Item], Hashable] = lambda _: None,
        measure: Callable[[Item], int] = lambda _: 0,
    ) -> None:
        self._run = run
        self._limit = limit
        self._calls = calls
        self._at_once = RESOLVED_AT_ONCE if in_turns else limit
        self._weigh = weigh
        self._group_by = group_by
        self._owned_by = owned_by or group_by
        self._must_run_alone = must_run_alone
        self._patience = patience
        self._held_by = held_by
        self._measure = measure
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._drivers: set[asyncio.Task[None] | None] = set()
        self._in_flight: set[Hashable] = set()  # owners
        self._alone_slots = asyncio.Semaphore(ALONE_CALLS)
        self._splits: set[asyncio.Task[None]] = set()
        self._split_slots = asyncio.Semaphore(SPLIT_CALLS)

    async def submit(self, item: Item) -> Result:
        """Wait for the item's result, or raise the exception that `run` gave for it."""
        key = self._held_by(item)
        busy = None
        if self._patience is None or self._patience.lets_through(key):
            try:
                return await self._call(item)
            except Busy as error:
                if self._patience is None:
                    raise
                busy = error
        return await self._patience.run(
            lambda repeated: self._repeat(item) if repeated else self._call(item),
            key=key,
            characters=self._measure(item),
            busy=busy,
        )

    async def _call(self, item: Item) -> Result:
        if self._must_run_alone is not None and self._must_run_alone(item):
            async with self._alone_slots:
                return await self._run_alone(item, patient=False)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.enqueue(item, future)
        return await future

    def enqueue(self, item: Item, future: "asyncio.Future[Result]") -> None:
        """Let the next batch resolve a future with the item's result, without any patience."""
        self._waiting.append((item, future))
        if len(self._drivers) < self._calls and self._owned_by(item) not in self._in_flight:  # else it has to wait
            self._start_driver()

    def _start_driver(self) -> None:
        if len(self._drivers) < self._calls:
            self._drivers.add(asyncio.create_task(self._drive()))

    async def _repeat(self, item: Item) -> Result:
        assert self._patience is not None
        if self._patience.has_few_lines:
            return await self._run_alone(item, patient=True)
        return await self._call(item)

    async def _run_alone(self, item: Item, *, patient: bool) -> Result:
        results = await self._run([item], patient)
        _require_one_each([item], results)
        result = results[0]
        if isinstance(result, Exception):
            raise result
        return result

    async def _drive(self) -> None:
        try:
            while batch := self._next_batch():
                owner = self._owned_by(batch[0][0])
                self._in_flight.add(owner)
                is_settled = True
                try:
                    is_settled = await self._settle(batch)
                finally:
                    if is_settled:
                        self._in_flight.discard(owner)
                if not is_settled:
                    split = asyncio.create_task(self._split(batch, owner))
                    self._splits.add(split)
                    split.add_done_callback(self._splits.discard)
        finally:
            self._drivers.discard(asyncio.current_task())

    async def _split(self, batch: list[tuple[Item, asyncio.Future[Result]]], owner: Hashable) -> None:
        """Run the halves of a batch in which something was held; its owner waits until they are through."""
        try:
            async with self._split_slots:
                await self._settle_halves(batch)
        finally:
            self._in_flight.discard(owner)
            if self._waiting:
                self._start_driver()

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        of_others: list[tuple[Item, asyncio.Future[Result]]] = []  # that came before others of this group
        weight = 0
        group = None
        while self._waiting:
            item, future = self._waiting[0]
            if not future.done():  # else its caller was cancelled
                its_group = self._group_by(item)
                if (batch and its_group != group) or self._is_in_flight(item):
                    of_others.append((item, future))
                else:
                    group = its_group
                    weight += self._weigh(item)
                    if batch and weight > self._limit:
                        break
                    batch.append((item, future))
            self._waiting.popleft()
        self._waiting.extendleft(reversed(of_others))
        return batch

    def _is_in_flight(self, item: Item) -> bool:
        return bool(self._in_flight) and self._owned_by(item) in self._in_flight

    async def _settle(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> bool:
        """Run the batch; False: something that some of its items need is held, and none has a result."""
        items = [item for item, _ in batch]
        results: Sequence[Result | Exception]
        try:
            results = await self._run(items, False)
            _require_one_each(items, results)
        except Unavailable as error:
            results = [error] * len(batch)
        except Exception as error:
            if len(batch) == 1 or (isinstance(error, Busy) and error.held is not None):
                results = [error] * len(batch)
            elif isinstance(error, Busy):
                return False
            else:
                await self._settle_halves(batch)
                return True
        _resolve(batch, results, self._at_once)
        return True

    async def _settle_halves(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]):
            if not await self._settle(half):
                await self._settle_halves(half)


class SharedReads(Generic[Asked, Result]):
    """Reads whose answer is the same for all who ask the same. Those who ask while such a read is in flight share the
    next one, which begins after they asked. At most `calls` are in flight, each for another question. A read may run
    in a task that another question has begun, with the context variables of that one."""

    def __init__(self, read: Callable[[Asked], Awaitable[Result]], *, calls: int = 2) -> None:
        self._read = read
        self._batches: Batcher[Asked, Result] = Batcher(
            self._read_once, limit=SHARING_READERS, calls=calls, group_by=lambda asked: asked
        )

    async def ask(self, asked: Asked) -> Result:
        """Raises what the read raises, and TooSlow where too many others wait."""
        try:
            async with asyncio.timeout(SHARING_SECONDS):
                return await self._batches.submit(asked)
        except TimeoutError:
            raise TooSlow("Too many other lists are being read: try again in a moment.") from None

    async def _read_once(self, same: Sequence[Asked], _: bool) -> list[Result | Exception]:
        try:
            return [await self._read(same[0])] * len(same)
        except Exception as error:
            return [error] * len(same)


def _require_one_each(items: Sequence[object], results: Sequence[object]) -> None:
    if len(results) != len(items):
        raise RuntimeError(f"{len(items)} items were answered with {len(results)} results")


def _resolve(
    batch: list[tuple[Item, asyncio.Future[Result]]],
    results: Sequence[Result | Exception],
    at_once: int,
    start: int = 0,
) -> None:
    """Hand out the results from `start` on: so many now, and the others in the next turns of the loop. Meanwhile the
    next batch is on its way."""
    past = start + at_once
    for (_, future), result in zip(batch[start:past], results[start:past], strict=True):
        if future.done():
            pass
        elif isinstance(result, Exception):
            future.set_exception(result)
            future.exception()  # marks it as retrieved: the caller may have been cancelled
        else:
            future.set_result(result)
    if past < len(batch):
        asyncio.get_running_loop().call_soon(_resolve, batch, results, at_once, past)
