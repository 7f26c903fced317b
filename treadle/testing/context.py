"""A context without a database: for tests that call an agent as the function that it is."""

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from service.agents.contract import Exchange, UnderWay
from service.agents.exchanges import fitting, tokens


class FakeContext:
    """Implements treadle.Context in memory, and keeps what the agent did.

    context = FakeContext(thread_id="t", inputs={"confirm": "yes"})
    assert await shout(context, "hello") == "HELLO"
    assert context.text == "HELLO"

    A sync agent takes `context.sync`. `results` answers `gather`, by the id or the name of a sent message; `inputs`
    answers `input`, by the name of a question or the question itself; `steps` has results of earlier attempts.
    """

    def __init__(
        self,
        *,
        thread_id: str | None = None,
        tenant: str = "default",
        attempt: int = 1,
        metadata: Mapping[str, Any] | None = None,
        memory: dict[str, Any] | None = None,
        history: Sequence[tuple[Any, Any]] = (),
        inputs: Mapping[str, Any] | None = None,
        results: Mapping[str, Any] | None = None,
        steps: Mapping[str, Any] | None = None,
    ) -> None:
        self.message_id = str(uuid4())
        self.thread_id = thread_id
        self.tenant = tenant
        self.attempt = attempt
        self.metadata = dict(metadata or {})
        self.memory = dict(memory or {})
        self.deadline = datetime.now(UTC) + timedelta(minutes=1)
        self.log = logging.LoggerAdapter(logging.getLogger("treadle.testing"), {})
        self.cancelled = False
        self.chunks: list[str] = []
        self.events: list[tuple[str, Any]] = []
        self.sent: list[dict[str, Any]] = []
        self.published: list[dict[str, Any]] = []
        self.steps: dict[str, Any] = dict(steps or {})
        self.questions: list[Any] = []
        self.counts: dict[str, Any] = {}
        self._history = [Exchange(message, result) for message, result in history]
        self._inputs = dict(inputs or {})
        self._results = dict(results or {})
        self._begun: set[str] = set()
        self._instance: Any = None

    @property
    def text(self) -> str:
        """All that the agent emitted."""
        return "".join(self.chunks)

    @property
    def sync(self) -> "SyncFakeContext":
        """The same context for a sync agent: its methods without `await`."""
        return SyncFakeContext(self)

    def cancel(self) -> None:
        """From now on `cancelled` is true, and what begins something raises CancelledError."""
        self.cancelled = True

    async def emit(self, chunk: str) -> None:
        if not isinstance(chunk, str):
            raise TypeError(f"emit takes text, not {type(chunk).__name__}")
        self.chunks.append(chunk)

    async def event(self, type: str, data: Any) -> None:
        self.events.append((type, data))

    async def step(self, name: str, function: Callable[[], Any]) -> Any:
        self._require_running()
        if name in self._begun:
            raise ValueError(f"this attempt has already begun the step {name!r}: give each step its own name")
        self._begun.add(name)
        if name not in self.steps:
            result = function()
            self.steps[name] = await result if inspect.isawaitable(result) else result
        return self.steps[name]

    async def send(self, message: Any, *, name: str | None = None, **options: Any) -> str:
        self._require_running()
        message_id = name or str(uuid4())
        self.sent.append({"message_id": message_id, "message": message, **options})
        return message_id

    async def publish(self, topic: str, value: Any, *, name: str | None = None, **options: Any) -> str:
        self._require_running()
        record_id = name or str(uuid4())
        self.published.append({"record_id": record_id, "topic": topic, "value": value, **options})
        return record_id

    async def gather(self, *messages: str, return_exceptions: bool = False) -> list[Any]:
        self._require_running()
        missing = [message for message in messages if message not in self._results]
        if missing:
            raise AssertionError(f"FakeContext(results=...) has no result for {missing[0]!r}")
        results = [self._results[message] for message in messages]
        if not return_exceptions:
            for result in results:
                if isinstance(result, Exception):
                    raise result
        return results

    async def input(self, question: Any = None, *, name: str | None = None) -> Any:
        self._require_running()
        self.questions.append(question)
        key = name if name is not None else str(question)
        if key not in self._inputs:
            raise AssertionError(f"FakeContext(inputs=...) has no answer to {key!r}")
        return self._inputs[key]

    async def instance(self, make: Callable[[], Any]) -> Any:
        if self._instance is None:
            made = make()
            self._instance = await made if inspect.isawaitable(made) else made
        return self._instance

    async def under_way(self) -> UnderWay | None:
        return None

    async def history(
        self, limit: int = 50, *, max_tokens: int | None = None, system: str = "", tools: bool = False
    ) -> Sequence[Exchange]:
        found = self._history[-limit:] if limit > 0 else []
        return found if max_tokens is None else fitting(found, max_tokens - tokens(system))

    def memory_fits(self) -> bool:
        return True

    def usage(self, /, **counts: Any) -> None:
        self.counts |= counts

    def _require_running(self) -> None:
        if self.cancelled:
            raise asyncio.CancelledError


class SyncFakeContext:
    """The fake context of a sync agent."""

    def __init__(self, context: FakeContext) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._context, name)
        if not inspect.iscoroutinefunction(found):
            return found
        return lambda *args, **options: _finish(found(*args, **options))


def _finish(call: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that waits for nothing."""
    try:
        call.send(None)
    except StopIteration as end:
        return end.value
    call.close()
    raise RuntimeError("the fake context of a sync agent cannot run a coroutine that waits")
