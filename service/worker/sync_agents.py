"""The context that sync agents are given."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from service.agents.contract import Exchange, UnderWay
from service.agents.step_names import within_step
from service.agents.thread_bridge import ThreadBridge
from service.limits import HISTORY_EXCHANGES
from service.worker.context.attempt_context import AttemptContext


class SyncContext:
    """The context of a sync agent: the same methods, without `await`."""

    def __init__(self, context: AttemptContext, bridge: ThreadBridge) -> None:
        self._context = context
        self._bridge = bridge
        self.message_id = context.message_id
        self.thread_id = context.thread_id
        self.tenant = context.tenant
        self.attempt = context.attempt
        self.metadata = context.metadata
        self.deadline = context.deadline
        self.log = context.log
        self.usage = context.usage

    @property
    def memory(self) -> dict[str, Any]:
        return self._context.memory

    @memory.setter
    def memory(self, value: dict[str, Any]) -> None:
        self._context.memory = value

    @property
    def cancelled(self) -> bool:
        return self._context.cancelled

    def memory_fits(self) -> bool:
        return self._context.memory_fits()

    def emit(self, chunk: str) -> None:
        self._bridge.wait(self._context.emit(chunk))

    def event(self, type: str, data: Any) -> None:
        self._bridge.wait(self._context.event(type, data))

    def step(self, name: str, function: Callable[[], Any]) -> Any:
        """The function runs here, in the agent's own thread."""
        if inspect.iscoroutinefunction(function):
            return self._bridge.wait(self._context.step(name, function))
        step = self._context.make_step(name, function)
        result = self._bridge.wait(step.find())
        if result is not None:
            return step.stored(result)
        with within_step(step.name):
            answer = function()
            if inspect.iscoroutine(answer):
                answer = self._bridge.wait(answer)
        return self._bridge.wait(step.keep(answer))

    def send(self, message: Any, **options: Any) -> str:
        return self._bridge.wait(self._context.send(message, **options))

    def publish(self, topic: str, value: Any, **options: Any) -> str:
        return self._bridge.wait(self._context.publish(topic, value, **options))

    def gather(self, *messages: str, return_exceptions: bool = False) -> list[Any]:
        return self._bridge.wait(self._context.gather(*messages, return_exceptions=return_exceptions))

    def input(self, question: Any = None, *, name: str | None = None) -> Any:
        return self._bridge.wait(self._context.input(question, name=name))

    def instance(self, make: Callable[[], Any]) -> Any:
        return self._bridge.wait(self._context.instance(make))

    def incoming(self) -> Sequence[Any]:
        return self._bridge.wait(self._context.incoming())

    def under_way(self) -> UnderWay | None:
        return self._bridge.wait(self._context.under_way())

    def history(self, limit: int = HISTORY_EXCHANGES, **options: Any) -> Sequence[Exchange]:
        return self._bridge.wait(self._context.history(limit, **options))
