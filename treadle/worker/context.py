"""What an agent in a remote worker can do."""

import asyncio
import contextvars
import functools
import inspect
import logging
import types
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, TypeVar

import msgspec

from service.agents.contract import Rejected
from service.agents.json_types import read, return_type, unreadable
from service.agents.protobuf_types import to_json
from service.agents.thread_bridge import ThreadBridge, call_anywhere
from treadle.worker.buffer import EventBuffer
from treadle.worker.protocol import Claim, Event

log = logging.getLogger("treadle.agent")

CHUNK_CHARS = 50_000
T = TypeVar("T")


class NotRemote(Rejected):
    """The agent uses what only the workers of the installation have. The message fails for good."""

    def __init__(self, name: str) -> None:
        super().__init__(f"context.{name} works only in a worker of the installation (AGENTS, treadle work).")


class RemoteContext:
    """Of treadle.Context: the message, `emit`, `event`, `step`, `usage`, and the memory, which cannot be changed."""

    def __init__(self, claim: Claim, tenant: str, buffer: EventBuffer) -> None:
        self.message_id = str(claim.message_id)
        self.thread_id = claim.thread_id
        self.tenant = tenant
        self.attempt = claim.attempt
        self.metadata = claim.metadata
        self.deadline = datetime.now(UTC) + timedelta(seconds=claim.timeout_seconds)
        self.memory: Mapping[str, Any] = types.MappingProxyType(claim.memory if isinstance(claim.memory, dict) else {})
        self.log = logging.LoggerAdapter(log, {"message_id": self.message_id, "attempt": claim.attempt})
        self.counts: dict[str, Any] = {}
        self.cancelled = False
        self._claim = claim
        self._buffer = buffer
        self._chunks = 0
        self._steps: set[str] = set()

    async def emit(self, chunk: str) -> None:
        if not isinstance(chunk, str):
            raise TypeError(f"emit takes text, not {type(chunk).__name__}")
        for start in range(0, len(chunk), CHUNK_CHARS):
            data = {"chunk": chunk[start : start + CHUNK_CHARS].replace("\x00", "\ufffd"), "index": self._chunks}
            self._chunks += 1
            await self._buffer.put(_event("chunk", data))

    async def event(self, type: str, data: Any) -> None:
        await self._buffer.put(_event(type, data))

    async def step(self, name: str, function: Callable[[], Any]) -> Any:
        if (stored := self.find_step(name, function)) is not None:
            return stored[0]
        return await self.keep_step(name, function, await call_anywhere(function))

    def find_step(self, name: str, function: Callable[[], Any]) -> tuple[Any] | None:
        """The stored result of an earlier attempt. Raises ValueError, Rejected, TypeError."""
        if name in self._steps:
            raise ValueError(f"this attempt has already begun the step {name!r}: give each step its own name")
        self._steps.add(name)
        declared = return_type(function)
        if reason := unreadable(declared):
            raise Rejected(f"The result of the step {name!r} cannot be read back: {reason}.")
        if name not in self._claim.steps:
            return None
        return (read(msgspec.json.encode(self._claim.steps[name]).decode(), declared),)

    async def keep_step(self, name: str, function: Callable[[], Any], result: Any) -> Any:
        """Store the result before it is used. Raises Rejected for one that is no JSON."""
        try:
            event = _event("step", {"name": name, "result": result})
        except (TypeError, ValueError) as error:
            raise Rejected(f"The result of the step {name!r} is not JSON: {error}.") from error
        await self._buffer.save(event)
        stored = msgspec.json.decode(event.data)["result"]
        return read(msgspec.json.encode(stored).decode(), return_type(function))

    def usage(self, **counts: Any) -> None:
        self.counts |= counts

    def memory_fits(self) -> bool:
        return True

    def __getattr__(self, name: str) -> NoReturn:
        if name in ("send", "publish", "gather", "input", "instance", "under_way", "history"):
            raise NotRemote(name)
        raise AttributeError(name)


class SyncContext:
    """The context of a sync agent: the same methods, without `await`."""

    def __init__(self, context: RemoteContext, bridge: ThreadBridge) -> None:
        self._context = context
        self._bridge = bridge

    def emit(self, chunk: str) -> None:
        self._bridge.wait(self._context.emit(chunk))

    def event(self, type: str, data: Any) -> None:
        self._bridge.wait(self._context.event(type, data))

    def step(self, name: str, function: Callable[[], Any]) -> Any:
        """The function runs here, in the agent's own thread."""
        if inspect.iscoroutinefunction(function):
            return self._bridge.wait(self._context.step(name, function))
        if (stored := self._context.find_step(name, function)) is not None:
            return stored[0]
        return self._bridge.wait(self._context.keep_step(name, function, function()))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def in_thread(function: Callable[..., T], *args: Any) -> Coroutine[Any, Any, T]:
    """Run a sync agent in a thread that keeps the context variables."""
    return asyncio.to_thread(functools.partial(contextvars.copy_context().run, function), *args)


def _event(type: str, data: Any) -> Event:
    """Raises TypeError for data that is no JSON."""
    return Event(type, msgspec.Raw(msgspec.json.encode(data, enc_hook=to_json)))
