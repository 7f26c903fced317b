"""Waiting for what other transactions hold, without a connection.

A call that finds a thread held does not wait in PostgreSQL: it ends with Busy, which names the thread. One caller for
each held thread then repeats its call, and the other callers wait in a line behind it.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Hashable
from contextvars import ContextVar
from typing import Any, TypeVar

from service.errors import Busy
from service.waiting import retrieve_exception

HELD_SECONDS = 5.0  # from the arrival of a request to the answer 409, while another transaction holds the thread
FIRST_DELAY_SECONDS = 0.01  # until the first repetition; each further delay is twice as long
MAX_DELAY_SECONDS = 0.2
DIRECT_CALLS = 2  # first calls of one kind at once, where each is a transaction of its own, with a connection
CONCURRENT_REPETITIONS = 2  # of all held things together: each is short
MAX_LINE_CALLERS = 100  # of a thread, say; what all writers of a tenant share has as many as MAX_LINE_CHARS allows
MAX_LINE_CHARS = 20_000_000  # of all callers in a line
CALLER_CHARS = 2_000  # that each caller in a line counts for, beside what it says
FEW_LINES = 4

Result = TypeVar("Result")

client_leaves: ContextVar[Callable[[], Coroutine[Any, Any, None]] | None] = ContextVar("client_leaves", default=None)
"""In the task of a request: waits until its client has disconnected."""


class _Line:
    """The callers that wait for one held thing. The first of them, which repeats its call, is not in the line."""

    def __init__(self) -> None:
        # In the order of their arrival; resolved with whether the thing is free.
        self.waiting: dict[asyncio.Future[bool], None] = {}
        self.characters = 0


class _NoSlot(Busy):
    """No slot became free in time."""


class _Slots:
    """At most `number` calls at once (None: any number), and at most `of_group` of one group (None: as many). Groups
    take turns: many calls of one delay another by one."""

    def __init__(self, number: int | None, of_group: int | None = None) -> None:
        self.number = number
        self._of_group = number if of_group is None else of_group
        self._taken: Counter[Hashable] = Counter()  # by group
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    @contextlib.asynccontextmanager
    async def taken(self, group: Hashable, deadline: float | None = None) -> AsyncIterator[None]:
        if self.number is None:
            yield
            return
        if self._is_free_for(group):
            self._taken[group] += 1
        else:
            await self._wait(group, deadline)
        try:
            yield
        finally:
            self._leave(group)

    def _is_free_for(self, group: Hashable) -> bool:
        assert self.number is not None
        assert self._of_group is not None
        return self._taken.total() < self.number and self._taken[group] < self._of_group

    async def _wait(self, group: Hashable, deadline: float | None) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(group, deque()).append(future)
        try:
            async with asyncio.timeout_at(deadline):
                await future
        except BaseException as error:
            if future.done() and not future.cancelled():
                self._leave(group)  # it came too late
            if isinstance(error, TimeoutError):
                raise _NoSlot("Too many requests of this kind are under way: try again.") from None
            raise

    def _leave(self, group: Hashable) -> None:
        self._taken[group] -= 1
        if not self._taken[group]:
            del self._taken[group]
        for other in list(self._waiting):
            if self._is_free_for(other):
                self._pass_to(other)

    def _pass_to(self, group: Hashable) -> None:
        line = self._waiting.pop(group)
        while line:
            future = line.popleft()
            if not future.done():
                future.set_result(None)
                self._taken[group] += 1
                break
        if line:
            self._waiting[group] = line  # behind the other groups


class Patience:
    """One for each kind of call, so that no kind waits for another.

    A caller is answered with Busy `seconds` after its arrival (None: it waits without limit), and at once where a line
    is full. At most `slots` first calls run at the same time (None: any number), `slots_of_group` of them of one group
    (None: all), and at most `repetitions` repeated ones (None: any number, where they share a call). A caller leaves
    its line when it is cancelled or its client disconnects.
    """

    def __init__(
        self,
        *,
        seconds: float | None = None,
        slots: int | None = None,
        slots_of_group: int | None = None,
        repetitions: int | None = CONCURRENT_REPETITIONS,
    ) -> None:
        self._seconds = seconds
        self._slots = _Slots(slots, slots_of_group)
        self._repetitions = _Slots(repetitions)
        self._lines: dict[Hashable, _Line] = {}
        self.callers = 0  # that wait now

    @property
    def has_few_lines(self) -> bool:
        """Whether a repeated call may wait a moment in PostgreSQL: with many held things, one would delay another."""
        return len(self._lines) <= FEW_LINES

    def lets_through(self, key: Hashable) -> bool:
        """Whether a first call needs nothing of this: its caller makes it alone, and comes with its Busy error."""
        return self._seconds is None and self._slots.number is None and key not in self._lines

    async def run(
        self,
        call: Callable[[bool], Awaitable[Result]],
        *,
        key: Hashable = None,
        characters: int = 0,
        busy: Busy | None = None,
        group: Hashable = None,
    ) -> Result:
        """The result of `call(False)` or of a repetition, `call(True)`; raises what they raise.

        `key`: what the call needs, if that is known; a Busy error that names something else counts more. `characters`:
        how much memory the caller keeps while it waits. `busy`: the answer to a first call that was made already.
        `group`: whose call it is; groups take the slots in turns.
        """
        deadline = None if self._seconds is None else asyncio.get_running_loop().time() + self._seconds
        if busy is not None:
            key = busy.held or key or object()
        elif key not in self._lines:
            try:
                async with self._slots.taken(group, deadline):
                    if key not in self._lines:  # which another caller may have begun meanwhile
                        return await call(False)
            except _NoSlot:
                raise
            except Busy as error:
                key = error.held or key or object()
        self.callers += 1
        try:
            limited = self._with_slot(call, group, deadline)
            return await _unless_client_leaves(self._stand(limited, key, deadline, characters))
        finally:
            self.callers -= 1

    async def _stand(
        self, call: Callable[[bool], Awaitable[Result]], key: Hashable, deadline: float | None, characters: int
    ) -> Result:
        """Wait for the held thing, and for each other that the call then finds held."""
        while True:
            line = self._lines.get(key)
            if line is not None and await self._wait(line, key, deadline, characters):
                try:
                    return await call(False)
                except _NoSlot:
                    raise
                except Busy as error:
                    key = error.held or key
                if key in self._lines:
                    continue
            self._lines.setdefault(key, _Line())
            try:
                return await self._repeat(call, key, deadline)
            except Busy as error:
                if error.held in (None, key) or (deadline and asyncio.get_running_loop().time() >= deadline):
                    raise
                key = error.held  # what it waited for is free, and now it needs something else

    def _with_slot(
        self, call: Callable[[bool], Awaitable[Result]], group: Hashable, deadline: float | None
    ) -> Callable[[bool], Awaitable[Result]]:
        async def limited(repeated: bool) -> Result:
            slot = self._repetitions.taken(group) if repeated else self._slots.taken(group, deadline)
            async with slot:
                return await call(repeated)

        return limited

    async def _wait(self, line: _Line, key: Hashable, deadline: float | None, characters: int) -> bool:
        """Whether the thing is free; False: the caller is the first of the line now."""
        if not _is_shared(key) and len(line.waiting) >= MAX_LINE_CALLERS:
            raise Busy("Another transaction holds what many requests wait for: try again.")
        characters += CALLER_CHARS
        if line.characters + characters > MAX_LINE_CHARS:
            raise Busy("Another transaction holds what many requests wait for: try again.")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        expiry = None if deadline is None else loop.call_at(deadline, _expire, future)
        line.waiting[future] = None
        line.characters += characters
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and not future.result():
                self._pass_on(key)
            raise
        finally:
            line.waiting.pop(future, None)  # a caller that leaves keeps no place
            line.characters -= characters
            if expiry is not None:
                expiry.cancel()

    async def _repeat(self, call: Callable[[bool], Awaitable[Result]], key: Hashable, deadline: float | None) -> Result:
        """Repeat the call until it finds the thing free, as the first of its line."""
        loop = asyncio.get_running_loop()
        delay = FIRST_DELAY_SECONDS
        is_free = False
        try:
            while True:
                await asyncio.sleep(delay)
                try:
                    result = await call(True)
                    is_free = True
                    return result
                except Busy as error:
                    is_free = error.held not in (None, key)
                    if is_free or (deadline is not None and loop.time() >= deadline):
                        raise
                except Exception:
                    is_free = True
                    raise
                delay = min(delay * 2, MAX_DELAY_SECONDS)
        finally:
            if is_free:
                for future in list(self._lines.pop(key).waiting):
                    if not future.done():
                        future.set_result(True)
            else:
                self._pass_on(key)

    def _pass_on(self, key: Hashable) -> None:
        """Let the next caller of the line be the first."""
        waiting = self._lines[key].waiting
        while waiting:
            future = next(iter(waiting))
            del waiting[future]
            if not future.done():
                future.set_result(False)
                return
        del self._lines[key]


def _is_shared(key: Hashable) -> bool:
    """Whether the thing is what all writers of a tenant need (`tenant/`, see Busy.held): a line has whole batches."""
    return isinstance(key, str) and key.find("/") == len(key) - 1


async def _unless_client_leaves(waiting: Coroutine[Any, Any, Result]) -> Result:
    """The result, unless the request's client disconnects first: what it asked for has not begun, and is dropped."""
    leaves = client_leaves.get()
    if leaves is None:
        return await waiting
    task, watch = asyncio.create_task(waiting), asyncio.create_task(leaves())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Busy("The client has disconnected.")
    finally:
        task.add_done_callback(retrieve_exception)
        task.cancel()
        watch.cancel()


def _expire(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_exception(Busy("Another transaction holds the thread: try again."))
