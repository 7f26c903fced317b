"""The threads in which a worker runs sync code: agents, steps, tools, and what makes instances.

A thread cannot be killed. One whose attempt is over, but whose function is not, is *abandoned*: it gives its place to
the next call, and is counted until it ends, because it costs memory and perhaps a core.
"""

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

from service.agents.thread_bridge import borrows_place

Answer = TypeVar("Answer")


LOOKUP_PLACES = 64
LOOKUPS = (socket.getaddrinfo, socket.getnameinfo)


class Threads:
    """A worker's threads: `places` for agents, and as many for all other calls."""

    def __init__(self, places: int) -> None:
        self._agents = WorkerThreads(places)
        self._calls = LoopThreads(places)

    @property
    def abandoned(self) -> int:
        """Threads whose function outlives its attempt."""
        return self._agents.abandoned + self._calls.abandoned

    def serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take over what this loop runs in threads: steps, tools, and what frameworks run there for agents."""
        loop.set_default_executor(self._calls)

    async def run_agent(self, function: Callable[..., Answer], *args: Any) -> Answer:
        return await asyncio.wrap_future(self._agents.submit(function, *args))

    def close(self) -> None:
        """Start nothing more; running threads are left to themselves."""
        self.close_agents()
        self._calls.shutdown()

    def close_agents(self) -> None:
        """The same for agents only: the loop goes on, with its other calls."""
        self._agents.shutdown()


class _Call(Future[Any]):
    def __init__(self, pool: "WorkerThreads", function: Callable[[], Any], *, takes_place: bool) -> None:
        super().__init__()
        self._pool = pool
        self._function = function
        self.takes_place = takes_place
        self.is_abandoned = False

    def cancel(self) -> bool:
        """asyncio calls this when the task that waits for the call is cancelled."""
        if super().cancel():
            return True
        self._pool.abandon(self)
        return False

    def run(self) -> None:
        if not self.set_running_or_notify_cancel():
            return
        try:
            self.set_result(self._function())
        except StopIteration as error:  # an asyncio future cannot carry it
            stopped = RuntimeError("the function raised StopIteration")
            stopped.__cause__ = error
            self.set_exception(stopped)
        except BaseException as error:
            self.set_exception(error)


class WorkerThreads(ThreadPoolExecutor):
    """At most `places` calls run at once, without those that are abandoned; the others wait for a place.

    A call from the thread of another call borrows that one's place: otherwise calls that wait for each other could
    take all places. The threads are daemons, so that a hung one keeps no process alive. (Loops take only a
    ThreadPoolExecutor as their default executor; nothing of its own pool is used.)
    """

    def __init__(self, places: int) -> None:
        super().__init__(1)
        self._free = places
        self._abandoned = 0
        self._waiting: deque[_Call] = deque()
        self._ready: SimpleQueue[_Call | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._mutex = threading.Lock()
        self._threads_alive = 0
        self._is_shut_down = False

    @property
    def abandoned(self) -> int:
        """Threads that run a function whose caller has gone."""
        return self._abandoned

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        call = _Call(self, lambda: function(*args, **kwargs), takes_place=not borrows_place())
        with self._mutex:
            if self._is_shut_down:
                raise RuntimeError("the worker has stopped: no further function is run in a thread")
            if call.takes_place and self._free <= 0:
                self._waiting.append(call)
                return call
            self._free -= call.takes_place
            self._start(call)
        return call

    def abandon(self, call: _Call) -> None:
        """The call's caller has gone, and its function runs."""
        with self._mutex:
            if call.done() or call.is_abandoned:
                return
            call.is_abandoned = True
            self._abandoned += 1
            self._pass_place(call)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Start nothing more. Running functions are left to themselves, whatever `wait` says."""
        with self._mutex:
            self._is_shut_down = True
            waiting, self._waiting = self._waiting, deque()
            for _ in range(self._threads_alive):
                self._ready.put(None)
        for call in waiting:
            call.cancel()

    def _start(self, call: _Call) -> None:
        self._ready.put(call)
        if not self._idle.acquire(blocking=False):
            self._threads_alive += 1
            threading.Thread(target=self._work, name="treadle-call", daemon=True).start()

    def _work(self) -> None:
        while (call := self._ready.get()) is not None:
            call.run()
            with self._mutex:
                if call.is_abandoned:
                    self._abandoned -= 1
                else:
                    self._pass_place(call)
            del call  # the thread must not keep its result alive
            self._idle.release()

    def _pass_place(self, call: _Call) -> None:
        """Its place goes to the next call that waits."""
        if not call.takes_place:
            return
        self._free += 1
        while self._waiting and self._free > 0:
            following = self._waiting.popleft()
            if not following.cancelled():
                self._free -= 1
                self._start(following)


class LoopThreads(WorkerThreads):
    """What a loop runs in threads. asyncio's own loop looks up the names of hosts here, that of PostgreSQL too: lookups
    have places of their own, so that functions that hang keep no connection from being made. (uvloop looks them up in
    threads of its own.)"""

    def __init__(self, places: int) -> None:
        super().__init__(places)
        self._lookups = WorkerThreads(LOOKUP_PLACES)

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        is_lookup = any(function is lookup for lookup in LOOKUPS)
        if is_lookup or isinstance(getattr(function, "__self__", None), asyncio.AbstractEventLoop):
            return self._lookups.submit(function, *args, **kwargs)
        return super().submit(function, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._lookups.shutdown(wait, cancel_futures=cancel_futures)
