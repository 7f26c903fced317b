"""The context of sync agents in a remote worker."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from service.agents.contract import Exchange
from service.agents.step_names import within_step
from service.agents.thread_bridge import ThreadBridge
from treadle.worker.context import RemoteContext


class SyncContext:
    """The context of a sync agent: the same methods, without `await`."""

    def __init__(self, context: RemoteContext, bridge: ThreadBridge) -> None:
        self._context = context
        self._bridge = bridge

    @property
    def memory(self) -> dict[str, Any]:
        return self._context.memory

    @memory.setter
    def memory(self, memory: dict[str, Any]) -> None:
        self._context.memory = memory

    def emit(self, chunk: str) -> None:
        self._bridge.wait(self._context.emit(chunk))

    def event(self, type: str, data: Any) -> None:
        self._bridge.wait(self._context.event(type, data))

    def step(self, name: str, function: Callable[[], Any]) -> Any:
        """The function runs here, in the agent's own thread."""
        if inspect.iscoroutinefunction(function):
            return self._bridge.wait(self._context.step(name, function))
        name = self._bridge.wait(self._context.claim_step(name))
        if (stored := self._context.find_step(name, function)) is not None:
            return stored[0]
        with within_step(name):
            result = function()
            if inspect.iscoroutine(result):
                result = self._bridge.wait(result)
        return self._bridge.wait(self._context.keep_step(name, function, result))

    def send(self, message: Any, **options: Any) -> str:
        return self._bridge.wait(self._context.send(message, **options))

    def publish(self, topic: str, value: Any, **options: Any) -> str:
        return self._bridge.wait(self._context.publish(topic, value, **options))

    def gather(self, *messages: str, return_exceptions: bool = False) -> list[Any]:
        return self._bridge.wait(self._context.gather(*messages, return_exceptions=return_exceptions))

    def input(self, question: Any = None, *, name: str | None = None) -> Any:
        return self._bridge.wait(self._context.input(question, name=name))

    def history(self, *args: Any, **options: Any) -> Sequence[Exchange]:
        return self._bridge.wait(self._context.history(*args, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)
