"""The bridge between the event loop and threads that run sync code: agents, steps and tools."""

import asyncio
import concurrent.futures
import contextvars
import functools
import inspect
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class ThreadBridge:
    """Lets a thread wait for coroutines of the loop, until the attempt that the thread works for is over."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waits: set[Future[Any]] = set()
        self._closed = False

    def wait(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        """Run the coroutine in the loop and wait for its result, in a thread. Raises asyncio.CancelledError once the
        bridge is closed: unlike concurrent.futures.CancelledError, `except Exception` does not catch it. Raises
        RuntimeError in the loop, which would wait for itself."""
        if self._closed:
            call.close()
            raise asyncio.CancelledError
        if _running_loop() is self._loop:
            call.close()
            raise RuntimeError(
                "a sync agent's context does not work in coroutines: call it in the agent, or make the agent async"
            )
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        self._waits.add(future)
        try:
            if self._closed:
                future.cancel()
            return future.result()
        except concurrent.futures.CancelledError:
            raise asyncio.CancelledError from None
        finally:
            self._waits.discard(future)

    def close(self) -> None:
        """Cancel all waits and refuse further ones, in the loop's thread: otherwise the thread would wait for ever."""
        self._closed = True
        for wait in list(self._waits):
            wait.cancel()


def require_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Raises RuntimeError in another event loop, such as that of an asyncio.run in a thread: the attempts of a worker
    share what writes their events, and that would wait for ever in a loop that has ended."""
    if asyncio.get_running_loop() is not loop:
        raise RuntimeError(
            "the context belongs to the event loop that runs the agent: call it there, from another thread with"
            " asyncio.run_coroutine_threadsafe"
        )


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


_in_thread: contextvars.ContextVar[bool] = contextvars.ContextVar("in_thread", default=False)


def borrows_place() -> bool:
    """Whether this runs for a function that `call_in_thread` has put into a thread, and that waits meanwhile."""
    return _in_thread.get()


async def call_in_thread(function: Callable[..., Answer], *args: Any) -> Answer:
    """Like asyncio.to_thread: in the loop's default executor, which is the worker's (service.agents.os_threads)."""
    context = contextvars.copy_context()
    context.run(_in_thread.set, True)
    call = functools.partial(context.run, function, *args)
    return await asyncio.get_running_loop().run_in_executor(None, call)


class LoopExecutor(Executor):
    """For frameworks that ask for an executor, and would otherwise use threads of their own: that of the loop.

    Only for `run_in_executor` of the running loop, which takes the future of asyncio as it is.
    """

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        call = functools.partial(function, *args, **kwargs)
        return asyncio.get_running_loop().run_in_executor(None, call)


async def call_anywhere(function: Callable[[], Any]) -> Any:
    """Call a coroutine function in the loop, any other function in a thread, because it may block."""
    if inspect.iscoroutinefunction(function):
        return await function()
    answer = await call_in_thread(function)
    return await answer if inspect.isawaitable(answer) else answer
