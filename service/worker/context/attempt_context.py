"""The context of an attempt, as its agent uses it."""

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from service.agents.client_state import state_of_client
from service.agents.contract import Exchange, Rejected, Unacceptable, UnderWay
from service.agents.texts import clean
from service.events.model import RESERVED_TYPES
from service.json_input import readable_object, same_json
from service.leases.model import Claim, EventToAppend, Outcome
from service.limits import HISTORY_EXCHANGES, MAX_EVENT_TYPE_CHARS
from service.worker.context import history, parking, sends, steps
from service.worker.context.backend import ContextBackend
from service.worker.context.scope import AttemptScope
from service.worker.context.tools import ToolCalls
from service.worker.outcome import encode_once

log = logging.getLogger("service.agent")

MAX_JSON_BYTES_PER_CHARACTER = 12

_to_json = msgspec.json.Encoder().encode


class AttemptContext:
    """Implements service.agents.contract.Context. What few agents use is made when it is used."""

    def __init__(
        self,
        claim: Claim,
        metadata: dict[str, Any],
        backend: ContextBackend,
        *,
        max_event_bytes: int,
        in_thread: bool,
        client_state: Sequence[str] = (),
    ) -> None:
        self.message_id = str(claim.message_id)
        self.thread_id = claim.thread_id
        self.tenant = claim.tenant
        self.attempt = claim.attempt
        self.metadata = metadata
        given = state_of_client(metadata, client_state) if client_state else {}
        self.memory: dict[str, Any] = readable_object(claim.memory) | given
        self._ends_at = time.time() + claim.timeout_seconds
        self._claim = claim
        self._backend = backend
        self._scope = AttemptScope(claim, backend, max_event_bytes=max_event_bytes)
        self._chunk_characters = max(1, max_event_bytes // MAX_JSON_BYTES_PER_CHARACTER)
        self._in_thread = in_thread  # the agent is sync and runs in a thread
        self._incoming = 0  # messages that the agent has received
        if given and not self.memory_fits():
            raise Rejected("The memory of the thread is too large with the state that the client sent.")

    @functools.cached_property
    def deadline(self) -> datetime:
        return datetime.fromtimestamp(self._ends_at, UTC)

    @functools.cached_property
    def log(self) -> "logging.LoggerAdapter[logging.Logger]":
        return logging.LoggerAdapter(log, {"message_id": self.message_id, "attempt": self.attempt})

    @functools.cached_property
    def _tools(self) -> ToolCalls:
        return ToolCalls(self._claim)

    @property
    def cancelled(self) -> bool:
        return self._backend.stopped

    async def emit(self, chunk: str) -> None:
        if not isinstance(chunk, str):
            raise TypeError(f"emit takes text, not {type(chunk).__name__}")
        self._scope.require_loop()
        for start in range(0, len(chunk), self._chunk_characters):
            text = clean(chunk[start : start + self._chunk_characters])
            await self._backend.events.put(EventToAppend("chunk", _to_json(text).decode()))

    async def event(self, type: str, data: Any) -> None:
        if type in RESERVED_TYPES or not type or len(type) > MAX_EVENT_TYPE_CHARS or not type.isprintable():
            raise Unacceptable(f"agents cannot write events of the type {type!r}: choose another one")
        self._scope.require_loop()
        await self._backend.events.put(EventToAppend(type, self._scope.fit(data, "an event")))
        if type == "tool":
            self._tools.note(data)

    async def step(self, name: str, function: Callable[[], Any]) -> Any:
        return await steps.run(self._scope, name, function)

    def make_step(self, name: str, function: Callable[[], Any]) -> steps.Step:
        """For SyncContext, which runs the function in the agent's own thread."""
        return steps.Step(self._scope, name, function)

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
        return await sends.send(
            self._scope,
            message,
            agent=agent,
            thread_id=thread_id,
            priority=priority,
            metadata=metadata,
            delay=delay,
            aside=aside,
            name=name,
        )

    async def publish(
        self,
        topic: str,
        value: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> str:
        return await sends.publish(self._scope, topic, value, key=key, headers=headers, name=name)

    async def gather(self, *messages: str, return_exceptions: bool = False) -> list[Any]:
        return await parking.gather(
            self._scope, messages, return_exceptions=return_exceptions, in_thread=self._in_thread
        )

    async def input(self, question: Any = None, *, name: str | None = None) -> Any:
        return await parking.ask(self._scope, question, name, in_thread=self._in_thread)

    async def instance(self, make: Callable[[], Any]) -> Any:
        await self._scope.require_running()
        return await self._backend.instance(make)

    async def incoming(self) -> Sequence[Any]:
        await self._scope.require_running()
        if self._claim.thread is None or self._claim.aside:
            return []
        found = await self._backend.queries.take_incoming(self._claim.message_id, self._claim.lease)
        new, self._incoming = found[self._incoming :], len(found)
        return new

    async def under_way(self) -> UnderWay | None:
        return await history.under_way(self._scope)

    async def history(
        self, limit: int = HISTORY_EXCHANGES, *, max_tokens: int | None = None, system: str = "", tools: bool = False
    ) -> Sequence[Exchange]:
        return await history.history(self._scope, limit, max_tokens=max_tokens, system=system, tools=tools)

    async def steps_of(self, message_id: str) -> dict[str, Any]:
        """The results of the steps of any message, by name; for adapters, which check that it is of this thread."""
        await self._scope.require_running()
        try:
            found = await self._backend.queries.earlier_results(UUID(message_id))
        except ValueError:
            return {}
        return {name: msgspec.json.decode(result) for name, result in found.steps.items()}

    async def use_store(self, calls: Sequence[dict[str, Any]]) -> list[Any]:
        """The answers of calls of the store (sql/78_store.sql), in the store of the subject of the message; for
        adapters."""
        await self._scope.require_running()
        text = encode_once(list(calls), "A value of the store")
        answers = await self._backend.queries.use_store(self._claim.message_id, self._claim.lease, text)
        if answers is None:
            raise asyncio.CancelledError
        return answers

    def memory_fits(self) -> bool:
        try:
            self._scope.fit(self.memory, "a thread's memory")
        except ValueError:
            return False
        return True

    def usage(self, /, **counts: Any) -> None:
        self._scope.count(encode_once(counts, "The usage"))

    def complete(self, outcome: Outcome) -> Outcome:
        """The outcome of a completed agent, with the messages that are not sent yet, and the memory if it has changed:
        they are committed together.

        Raises Rejected if the memory is too large, no JSON or not an object.
        """
        sends, memory = self._scope.take_unsent(), self._changed_memory()
        if sends is None and memory is None:
            return outcome
        return msgspec.structs.replace(outcome, sends=sends, memory=memory)

    def _changed_memory(self) -> str | None:
        if self._claim.thread is None or self._claim.aside:
            return None
        if not isinstance(self.memory, dict):
            raise Rejected(f"A thread's memory is an object, not {type(self.memory).__name__}.")
        if not self.memory and self._claim.memory is None:
            return None
        text = encode_once(self.memory, "The thread's memory")
        if same_json(msgspec.json.decode(text), readable_object(self._claim.memory)):
            return None  # it may be too large: another one has written it
        try:
            return self._scope.fit(self.memory, "a thread's memory")
        except ValueError as error:
            raise Rejected(f"{error}.") from None
