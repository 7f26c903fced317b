"""The bridge from threads to the loop: a thread waits for a coroutine until its attempt is over."""

import asyncio

import pytest

from service.agents.thread_bridge import ThreadBridge, call_anywhere


async def test_a_thread_receives_the_result_or_the_exception_of_a_coroutine() -> None:
    bridge = ThreadBridge()

    async def double(text: str) -> str:
        return text * 2

    async def fail() -> None:
        raise ValueError("no")

    assert await asyncio.to_thread(lambda: bridge.wait(double("x"))) == "xx"
    with pytest.raises(ValueError, match="no"):
        await asyncio.to_thread(lambda: bridge.wait(fail()))


async def test_a_closed_bridge_cancels_a_wait_and_refuses_the_next_one() -> None:
    """Code in the thread that catches Exception does not catch this, and cannot go on."""
    bridge = ThreadBridge()
    waiting = asyncio.Event()

    async def wait_for_ever() -> None:
        waiting.set()
        await asyncio.Event().wait()

    def work() -> list[str]:
        raised = []
        for _ in range(2):
            try:
                bridge.wait(wait_for_ever())
            except Exception:
                raised.append("Exception")
            except asyncio.CancelledError:
                raised.append("CancelledError")
        return raised

    thread = asyncio.create_task(asyncio.to_thread(work))
    await waiting.wait()
    bridge.close()
    assert await thread == ["CancelledError", "CancelledError"]


async def test_sync_functions_run_in_a_thread_and_coroutine_functions_in_the_loop() -> None:
    async def in_loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def in_thread() -> bool:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return True

    assert await call_anywhere(in_loop) is asyncio.get_running_loop()
    assert await call_anywhere(in_thread)
    assert await call_anywhere(lambda: asyncio.sleep(0, "awaited")) == "awaited"


async def test_a_wait_in_the_loop_is_refused() -> None:
    """It would wait for itself, and with it every other agent of the worker."""
    bridge = ThreadBridge()

    async def never() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="make the agent async"):
        bridge.wait(never())
