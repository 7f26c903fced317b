"""What an agent is given, backed by an attempt's outbox and the thread's store, in this process or another."""

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, TypeVar, get_type_hints
from uuid import UUID

import msgspec

from service.agents.contract import Turn
from service.events.model import RESERVED
from service.queues.leases import EventToAppend
from service.queues.model import Claim
from service.threads.store import Turn as StoredTurn
from service.worker.outcome import clean, encode

log = logging.getLogger("service.agent")

TAKEN = RESERVED | {"chunk"}
MAX_STEP_NAME = 200  # characters

Answer = TypeVar("Answer")
Turns: TypeAlias = Callable[[int, int, int], Awaitable[Sequence[StoredTurn]]]
Steps: TypeAlias = Callable[[UUID], Awaitable[dict[str, str]]]


class Backing(msgspec.Struct, frozen=True):
    """What a context hands on to its attempt, which may be in another process.

    `put` and `save` take an event (see Outbox), `steps` reads the results of a message's finished steps, `turns` a
    thread's history, `count` takes what the agent counts as a JSON object, `stopped` says whether the attempt is to
    end.
    """

    put: Callable[[EventToAppend], Awaitable[None]]
    save: Callable[[EventToAppend], Awaitable[None]]
    steps: Steps
    turns: Turns
    count: Callable[[str], None]
    stopped: Callable[[], bool]


class AttemptContext:
    """Implements service.agents.contract.Context."""

    def __init__(self, claim: Claim, metadata: dict[str, Any], backing: Backing, *, max_event_bytes: int) -> None:
        self.message_id = str(claim.message_id)
        self.thread_id = claim.thread_id
        self.attempt = claim.attempt
        self.metadata = metadata
        self.deadline = datetime.now(UTC) + timedelta(seconds=claim.timeout_seconds)
        self.log = logging.LoggerAdapter(log, {"message_id": self.message_id, "attempt": claim.attempt})
        self._claim = claim
        self._backing = backing
        self._max_event_bytes = max_event_bytes
        self._index = 0
        self._begun: set[str] = set()  # steps of this attempt
        self._finished: asyncio.Task[dict[str, str]] | None = None  # those of earlier ones, read once

    @property
    def cancelled(self) -> bool:
        return self._backing.stopped()

    async def emit(self, chunk: str) -> None:
        if not isinstance(chunk, str):
            raise TypeError(f"emit takes text, not {type(chunk).__name__}")
        size = max(1, self._max_event_bytes // 12)  # a character takes at most 12 bytes of JSON
        for start in range(0, len(chunk), size):
            data = encode({"type": "content", "chunk": clean(chunk[start : start + size]), "index": self._index})
            self._index += 1
            await self._backing.put(EventToAppend("chunk", data))

    async def event(self, type: str, data: Any) -> None:
        if type in TAKEN or not type or len(type) > 100 or not type.isprintable():
            raise ValueError(f"the event type {type!r} is not free for agents")
        await self._backing.put(EventToAppend(type, self._fitting(data, "an event")))

    async def step(self, name: str, function: Callable[[], Any]) -> Any:
        if not name or len(name) > MAX_STEP_NAME:
            raise ValueError(f"a step's name has 1 to {MAX_STEP_NAME} characters")
        if (name := clean(name)) in self._begun:
            raise ValueError(f"the step {name!r} was begun before in this attempt: give each a name of its own")
        self._begun.add(name)
        result = (await self._earlier()).get(name)
        if result is None:
            answer = await _call(function)
            result = encode(answer)
            await self._backing.save(
                EventToAppend("step", self._fitting({"name": name, "result": msgspec.Raw(result.encode())}, "a step"))
            )
        return msgspec.json.decode(result, type=_returned(function))

    async def _earlier(self) -> dict[str, str]:
        if self._claim.attempt == 1:
            return {}
        if self._finished is None:
            self._finished = asyncio.ensure_future(self._backing.steps(self._claim.message_id))
        return await asyncio.shield(self._finished)

    def _fitting(self, data: Any, what: str) -> str:
        """JSON text that is not too large for the log."""
        text = encode(data)
        if (size := len(text.encode())) > self._max_event_bytes:
            raise ValueError(f"{what} has at most {self._max_event_bytes} bytes (MAX_EVENT_BYTES); this one has {size}")
        return text

    async def history(self, limit: int = 50) -> Sequence[Turn]:
        if self._claim.thread is None or self._claim.ord is None:
            return []
        turns = await self._backing.turns(self._claim.thread, self._claim.ord, limit)
        return [Turn(turn.message, turn.result) for turn in turns]

    def usage(self, **counts: Any) -> None:
        self._backing.count(encode(counts))


class SyncContext:
    """The same for a sync agent, which runs in a thread: methods wait instead of being awaited."""

    def __init__(self, context: AttemptContext, loop: asyncio.AbstractEventLoop) -> None:
        self._context = context
        self._loop = loop
        self.message_id = context.message_id
        self.thread_id = context.thread_id
        self.attempt = context.attempt
        self.metadata = context.metadata
        self.deadline = context.deadline
        self.log = context.log
        self.usage = context.usage

    @property
    def cancelled(self) -> bool:
        return self._context.cancelled

    def emit(self, chunk: str) -> None:
        self._wait(self._context.emit(chunk))

    def event(self, type: str, data: Any) -> None:
        self._wait(self._context.event(type, data))

    def step(self, name: str, function: Callable[[], Any]) -> Any:
        return self._wait(self._context.step(name, function))

    def history(self, limit: int = 50) -> Sequence[Turn]:
        return self._wait(self._context.history(limit))

    def _wait(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()


async def _call(function: Callable[[], Any]) -> Any:
    """Run a step: a coroutine function here, any other in a thread, for it may block."""
    if inspect.iscoroutinefunction(function):
        return await function()
    answer = await asyncio.to_thread(function)
    return await answer if inspect.isawaitable(answer) else answer


def _returned(function: Callable[[], Any]) -> Any:
    """The type that a step says it returns."""
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return get_type_hints(function).get("return", Any)
    except (NameError, TypeError):  # a name that is not there at run time; a callable without hints
        return Any
