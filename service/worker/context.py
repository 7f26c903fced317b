"""What an agent is given, backed by an attempt's outbox and the database, in this process or another."""

import asyncio
import contextlib
import contextvars
import functools
import hashlib
import inspect
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, Protocol, get_type_hints
from uuid import UUID

import msgspec

from service.agents.contract import ChildFailed, Exchange, Rejected, UnderWay
from service.events.model import RESERVED
from service.leases.store import Child, EventToAppend, Recorded
from service.limits import (
    DELAY_RULE,
    MAX_BATCH_MESSAGES,
    MAX_DELAY_SECONDS,
    MAX_STEP_NAME_CHARS,
    THREAD_ID_RULE,
    is_thread_id,
)
from service.queues.model import Claim
from service.threads.store import Exchange as StoredExchange
from service.threads.store import UnderWay as StoredUnderWay
from service.worker.outcome import Outcome, clean, encode

log = logging.getLogger("service.agent")

TAKEN = RESERVED | {"chunk"}
BYTES_PER_TOKEN = 4  # roughly, of a text in English
OPEN = {"queued", "processing"}
PRIORITIES = {"high", "normal", "low"}

# The step that runs here. What has no name of its own is numbered within it: when the step is not run again, the
# numbers of what comes after stay what they were.
_step: contextvars.ContextVar[str] = contextvars.ContextVar("step", default="")


class Lookups(Protocol):
    """What a context asks of the database."""

    async def recorded(self, message_id: UUID) -> Recorded: ...

    async def exchanges(self, thread: int, before: int, limit: int, tools: bool) -> Sequence[StoredExchange]: ...

    async def children(self, message_ids: Sequence[UUID]) -> Sequence[Child]: ...

    async def under_way(self, thread: int) -> StoredUnderWay | None: ...


class Backing(msgspec.Struct, frozen=True):
    """What a context hands on to its attempt, which may be in another process.

    `put` and `save` take an event (see Outbox), `park` says with which outcome the attempt is to be ended at once,
    `count` takes what the agent counts as a JSON object, `stopped` says whether the attempt is to end, `instance` finds
    or makes the agent's instance for the thread.
    """

    put: Callable[[EventToAppend], Awaitable[None]]
    save: Callable[[EventToAppend], Awaitable[None]]
    lookups: Lookups
    park: Callable[[Outcome], None]
    count: Callable[[str], None]
    stopped: Callable[[], bool]
    instance: Callable[[Callable[[], Any]], Awaitable[Any]]


class AttemptContext:
    """Implements service.agents.contract.Context."""

    def __init__(
        self, claim: Claim, metadata: dict[str, Any], backing: Backing, *, max_event_bytes: int, in_thread: bool
    ) -> None:
        self.message_id = str(claim.message_id)
        self.thread_id = claim.thread_id
        self.attempt = claim.attempt
        self.metadata = metadata
        self.deadline = datetime.now(UTC) + timedelta(seconds=claim.timeout_seconds)
        self.log = logging.LoggerAdapter(log, {"message_id": self.message_id, "attempt": claim.attempt})
        kept = msgspec.json.decode(claim.memory or "{}")
        self.memory: dict[str, Any] = kept if isinstance(kept, dict) else {}
        self._claim = claim
        self._backing = backing
        self._max_event_bytes = max_event_bytes
        self._in_thread = in_thread  # the agent runs in a thread
        self._index = 0
        self._begun: set[str] = set()  # names of this attempt
        self._unnamed: Counter[str] = Counter()
        self._before: asyncio.Task[Recorded] | None = None  # what earlier attempts left, read once
        self._sent: dict[str, str | None] = {}  # id to the thread whose turn it takes
        self._unsent: dict[str, dict[str, Any]] = {}  # by id: to be committed with the next step, or the end

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
        name, result = await self.find_step(name)
        if result is None:
            with within(name):
                answer = await call_step(function)
            result = await self.keep_step(name, answer)
        return as_returned(function, result)

    async def find_step(self, name: str) -> tuple[str, str | None]:
        """Its name as it is stored, and its result, JSON text, where it is finished."""
        name = self._begin("step", name)
        return name, (await self._earlier()).steps.get(name)

    async def keep_step(self, name: str, answer: Any) -> str:
        """Its result as JSON text, once that is in the log."""
        result = encode(answer)
        step: dict[str, Any] = {"name": name, "result": msgspec.Raw(result.encode())}
        if self._unsent:
            step["sent"] = list(self._unsent)
        await self._backing.save(EventToAppend("step", self._fitting(step, "a step"), self._take_unsent()))
        return result

    async def send(
        self,
        message: Any,
        *,
        agent: str | None = None,
        thread_id: str | None = None,
        priority: str = "normal",
        metadata: Mapping[str, Any] | None = None,
        delay: float = 0.0,
        aside: bool = False,
        name: str | None = None,
    ) -> str:
        if len(self._sent) == MAX_BATCH_MESSAGES:
            raise ValueError(f"a message sends at most {MAX_BATCH_MESSAGES} others")
        if priority not in PRIORITIES:
            raise ValueError(f"the priority is high, normal or low, not {priority!r}")
        if not 0 <= delay <= MAX_DELAY_SECONDS:
            raise ValueError(f"delay must be {DELAY_RULE}")
        if thread_id is not None and not is_thread_id(thread_id):
            raise ValueError(f"thread_id must be {THREAD_ID_RULE}")
        if aside and thread_id is None:
            raise ValueError("an aside needs a thread_id")
        child = _child_id(self._claim.message_id, self._begin("send", name))
        submission = {
            "message_id": child,
            "parent": self.message_id,
            "message": message,
            "agent": agent,
            "thread_id": thread_id,
            "priority": priority,
            "metadata": metadata,
            "delay_seconds": delay,
            "aside": aside,
        }
        given = {key: value for key, value in submission.items() if value is not None}
        text = self._fitting(given, "a message")
        self._sent[child] = None if aside else thread_id
        if child not in (await self._earlier()).sent:
            self._unsent[child] = msgspec.json.decode(text)
        return child

    async def gather(self, *messages: str, return_exceptions: bool = False) -> list[Any]:
        children = await self._children(messages)
        for child in children:
            if child.parent != self._claim.message_id:
                raise ValueError(f"gather takes what send returned, not '{child.message_id}'")
            if self.thread_id is not None and child.thread_id == self.thread_id and not self._claim.aside:
                raise ValueError(
                    f"the message {child.message_id} waits for this one's turn in the thread {self.thread_id!r}"
                )
        if waiting := [child.message_id for child in children if child.state in OPEN]:
            await self._park("children", {"children": waiting}, waiting)
        results = [_result(child) for child in children]
        if not return_exceptions:
            for result in results:
                if isinstance(result, ChildFailed):
                    raise result
        return results

    async def input(self, question: Any = None, *, name: str | None = None) -> Any:
        name = self._begin("input", name)
        answer = (await self._earlier()).inputs.get(name)
        if answer is None:
            await self._park("input", {"name": name, "question": question})
        return msgspec.json.decode(answer)

    async def instance(self, make: Callable[[], Any]) -> Any:
        return await self._backing.instance(make)

    async def under_way(self) -> UnderWay | None:
        if self._claim.thread is None:
            return None
        found = await self._backing.lookups.under_way(self._claim.thread)
        if found is None or found.message_id == self._claim.message_id:
            return None
        return UnderWay(str(found.message_id), found.agent, found.message, found.steps, found.progress)

    async def history(
        self, limit: int = 50, *, max_tokens: int | None = None, system: str = "", tools: bool = False
    ) -> Sequence[Exchange]:
        if self._claim.thread is None or self._claim.ord is None:
            return []
        found = await self._backing.lookups.exchanges(self._claim.thread, self._claim.ord, limit, tools)
        exchanges = [Exchange(exchange.message, exchange.result, exchange.tools) for exchange in found]
        return exchanges if max_tokens is None else _within(exchanges, max_tokens - tokens(system))

    def usage(self, **counts: Any) -> None:
        self._backing.count(encode(counts))

    def concluded(self, outcome: Outcome) -> Outcome:
        """The outcome with what is committed with it: what was not sent yet, and the memory where it has changed.

        Raises Rejected where the memory is too large.
        """
        memory = None
        if self._claim.thread is not None and not self._claim.aside:
            if not isinstance(self.memory, dict):
                raise Rejected(f"A thread's memory is an object, not {type(self.memory).__name__}.")
            try:
                text = self._fitting(self.memory, "a thread's memory")
            except ValueError as error:
                raise Rejected(f"{error}.") from None
            if msgspec.json.decode(text) != msgspec.json.decode(self._claim.memory or "{}"):
                memory = text
        return msgspec.structs.replace(outcome, sends=self._take_unsent(), memory=memory)

    # Parts

    def _begin(self, kind: str, name: str | None) -> str:
        """The name of a step, a message sent or a question; each is used once in an attempt."""
        if name is None:
            name = f"{_step.get()}{kind}"
            self._unnamed[name] += 1
            name = f"{name} {self._unnamed[name]}"
        elif not name or len(name) > MAX_STEP_NAME_CHARS:
            raise ValueError(f"the name of a {kind} has 1 to {MAX_STEP_NAME_CHARS} characters")
        name = clean(name)
        if (key := f"{kind}/{name}") in self._begun:
            raise ValueError(f"the {kind} {name!r} was begun before in this attempt: give each a name of its own")
        self._begun.add(key)
        return name

    async def _earlier(self) -> Recorded:
        if self._claim.attempt == 1:
            return Recorded()
        if self._before is None:
            self._before = asyncio.ensure_future(self._backing.lookups.recorded(self._claim.message_id))
        return await asyncio.shield(self._before)

    async def _children(self, message_ids: Sequence[str]) -> list[Child]:
        """How they stand; those that are not there yet, but will be, are `queued`."""
        own = self._claim.message_id
        ids = [_id(message_id) for message_id in message_ids if message_id not in self._unsent]
        found = {str(child.message_id): child for child in (await self._backing.lookups.children(ids) if ids else ())}
        for message_id, child in found.items():
            if child.state == "gone" and (message_id in self._sent or message_id in (await self._earlier()).sent):
                found[message_id] = msgspec.structs.replace(child, parent=own)
        return [
            Child(UUID(message_id), "queued", parent=own, thread_id=self._sent[message_id])
            if message_id in self._unsent
            else found[str(UUID(message_id))]
            for message_id in message_ids
        ]

    async def _park(self, hold: str, says: dict[str, Any], children: list[UUID] | None = None) -> NoReturn:
        if self._unsent:
            says["sent"] = list(self._unsent)
        data = self._fitting(says, "a question")
        self._backing.park(Outcome(hold, result=data, sends=self._take_unsent(), children=children))
        if not self._in_thread:
            # Its cancellation ends the agent: a framework would make something else of an exception.
            await asyncio.get_running_loop().create_future()
        raise asyncio.CancelledError

    def _take_unsent(self) -> str | None:
        unsent, self._unsent = self._unsent, {}
        return encode(list(unsent.values())) if unsent else None

    def _fitting(self, data: Any, what: str) -> str:
        """JSON text that is not too large for the log."""
        text = encode(data)
        if (size := len(text.encode())) > self._max_event_bytes:
            raise ValueError(f"{what} has at most {self._max_event_bytes} bytes (MAX_EVENT_BYTES); this one has {size}")
        return text


def tokens(value: Any) -> int:
    """About how many tokens a model takes it for."""
    size = len(value.encode()) if isinstance(value, str) else len(encode(value))
    return -(-size // BYTES_PER_TOKEN)


def _within(exchanges: list[Exchange], budget: int) -> list[Exchange]:
    """The latest whole exchanges that fit."""
    kept = len(exchanges)
    for exchange in reversed(exchanges):
        budget -= tokens(exchange.message) + tokens(exchange.result) + sum(tokens(tool) for tool in exchange.tools)
        if budget < 0:
            break
        kept -= 1
    return exchanges[kept:]


def _child_id(parent: UUID, name: str) -> str:
    """A UUIDv7 of the parent's time, the same whenever it is asked for (RFC 9562, 5.7: all but the time is free)."""
    digest = hashlib.sha256(parent.bytes + name.encode()).digest()
    value = int.from_bytes(parent.bytes[:6] + digest[:10], "big")
    return str(UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62))


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except (ValueError, AttributeError, TypeError):
        raise ValueError(f"gather takes what send returned, not {text!r}") from None


def _result(child: Child) -> Any:
    if child.state == "completed":
        return msgspec.json.decode(child.result or "null")
    return ChildFailed(str(child.message_id), child.state, child.error)


@contextlib.contextmanager
def within(step: str) -> Iterator[None]:
    """What is sent and asked in here belongs to this step."""
    token = _step.set(f"{_step.get()}{step}: ")
    try:
        yield
    finally:
        _step.reset(token)


async def call_step(function: Callable[[], Any]) -> Any:
    """A coroutine function here, any other in a thread, for it may block."""
    if inspect.iscoroutinefunction(function):
        return await function()
    answer = await asyncio.to_thread(function)
    return await answer if inspect.isawaitable(answer) else answer


def as_returned(function: Callable[[], Any], result: str) -> Any:
    """The result of a step, JSON text, as the type that it says it returns."""
    return msgspec.json.decode(result, type=_returned(function))


def _returned(function: Callable[[], Any]) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return get_type_hints(function).get("return", Any)
    except (NameError, TypeError):  # a name that is not there at run time; a callable without hints
        return Any
