"""What an agent in a remote worker can do."""

import asyncio
import copy
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NoReturn

import msgspec

from service.agents.client_state import state_of_client
from service.agents.contract import ChildFailed, Exchange, Rejected, Unacceptable
from service.agents.exchanges import fitting, given_with, tokens
from service.agents.json_types import as_stored, read, return_type, same_json, unreadable
from service.agents.step_names import Names, prefix_of, running_step, within_step
from service.agents.texts import clean, encode_clean
from service.agents.thread_bridge import call_anywhere, require_loop
from service.agents.usage import Usage
from treadle.worker.buffer import EventBuffer
from treadle.worker.calls import Calls
from treadle.worker.protocol import Asked, Claim, Event, Placed, Stoppable, Unsent, WaitedMessage, Waiting

log = logging.getLogger("treadle.agent")

CHUNK_CHARS = 50_000


class NotRemote(Rejected):
    """The agent uses what only the workers of the installation have. The message fails for good."""

    def __init__(self, name: str) -> None:
        super().__init__(f"context.{name} works only in a worker of the installation (AGENTS, treadle work).")


class RemoteContext:
    """Of treadle.Context: the message, `emit`, `event`, `step`, `send`, `gather`, `publish`, `input`, `history`,
    `usage`, and the memory; and the `traceparent` of the attempt. `stoppable`: the attempt; once it is stopped, every
    call that begins something raises CancelledError."""

    def __init__(
        self,
        claim: Claim,
        tenant: str,
        buffer: EventBuffer,
        calls: Calls,
        stoppable: Stoppable,
        *,
        client_state: Sequence[str] = (),
    ) -> None:
        self.message_id = str(claim.message_id)
        self.thread_id = claim.thread_id
        self.tenant = tenant
        self.attempt = claim.attempt
        self.traceparent = claim.traceparent
        self.metadata = claim.metadata
        self.deadline = datetime.now(UTC) + timedelta(seconds=claim.timeout_seconds)
        self._stored: dict[str, Any] = claim.memory if isinstance(claim.memory, dict) else {}
        self.memory: dict[str, Any] = copy.deepcopy(self._stored) | state_of_client(claim.metadata, client_state)
        self.log = logging.LoggerAdapter(log, {"message_id": self.message_id, "attempt": claim.attempt})
        self._claim = claim
        self._buffer = buffer
        self._chunks = 0
        self._usage = Usage()
        self._names = Names()
        self._numbering = asyncio.Lock()
        self._calls = calls
        self._loop = asyncio.get_running_loop()
        self._stoppable = stoppable
        self._unsent = Unsent()
        self._unsent_threads: dict[str, str | None] = {}  # of messages to send, by id: whose turn each takes
        self._is_exactly_once = _delivery(claim.metadata) == "exactly_once"

    @property
    def cancelled(self) -> bool:
        return self._stoppable.is_stopped

    async def emit(self, chunk: str) -> None:
        if not isinstance(chunk, str):
            raise Unacceptable(f"emit takes text, not {type(chunk).__name__}.")
        for start in range(0, len(chunk), CHUNK_CHARS):
            data = {"chunk": clean(chunk[start : start + CHUNK_CHARS]), "index": self._chunks}
            self._chunks += 1
            await self._buffer.put(_event("chunk", data, "The text"))

    async def event(self, type: str, data: Any) -> None:
        await self._buffer.put(_event(type, data, f"The event {type!r}"))

    async def step(self, name: str, function: Callable[[], Any]) -> Any:
        name = await self.claim_step(name)
        if (stored := self.find_step(name, function)) is not None:
            return stored[0]
        with within_step(name):
            result = await call_anywhere(function)
        return await self.keep_step(name, function, result)

    async def claim_step(self, name: str) -> str:
        """The name as it is stored. Raises ValueError, Unacceptable."""
        await self._require_running()
        return self._names.claim("step", name)

    def find_step(self, name: str, function: Callable[[], Any]) -> tuple[Any] | None:
        """The stored result of an earlier attempt. Raises Rejected, TypeError."""
        declared = return_type(function)
        if reason := unreadable(declared):
            raise Rejected(f"The result of the step {name!r} cannot be read back: {reason}.")
        if name not in self._claim.steps:
            return None
        try:
            return (read(msgspec.json.encode(self._claim.steps[name]).decode(), declared),)
        except TypeError as error:
            raise TypeError(f"the stored result of the step {name!r} does not fit its annotation: {error}") from None

    async def keep_step(self, name: str, function: Callable[[], Any], result: Any) -> Any:
        """Store the result before it is used; returns it as every later attempt reads it. Raises TypeError if it does
        not fit the annotation, Rejected if it is not JSON; nothing is stored then."""
        text = encode_once(result, f"The result of the step {name!r}")
        try:
            value = read(as_stored(text), return_type(function))
        except TypeError as error:
            raise TypeError(f"the step {name!r} returned what its annotation does not allow: {error}") from None
        except RecursionError:
            raise Rejected(f"The result of the step {name!r} is nested too deeply.") from None
        step: dict[str, Any] = {"name": name, "result": msgspec.Raw(text.encode())}
        if used := self._usage.of_step(prefix_of(name)):
            step["usage"] = used
        event = Event("step", msgspec.Raw(msgspec.json.encode(step)))
        if self._unsent and not self._is_exactly_once:
            event = msgspec.structs.replace(event, sends=self._unsent)
            self._unsent, self._unsent_threads = Unsent(), {}
        await self._buffer.save(event)
        return value

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
        await self._require_running()
        named = {"agent": agent, "thread_id": thread_id, "priority": priority, "metadata": metadata}
        given = {"message": message, "delay_seconds": delay, "aside": aside, **named}
        send = _plain({key: value for key, value in given.items() if value is not None}, "A message to send")
        placed = await self._place("send", name, send, self._calls.place_message)
        message_id = str(placed.message_id)
        if placed.is_new:
            self._unsent.sends.append({**send, "name": placed.name})
            self._unsent_threads[message_id] = None if aside else thread_id
        return message_id

    async def gather(self, *messages: str, return_exceptions: bool = False) -> list[Any]:
        await self._require_running()
        sent = [message for message in messages if message not in self._unsent_threads]
        found = {str(child.message_id): child for child in (await self._calls.children(sent) if sent else ())}
        for message, child in found.items():
            if child.state != "deleted" and str(child.parent) != self.message_id:
                raise Unacceptable(f"gather takes what send returned, not {message!r}.")
        threads = {message: child.thread_id for message, child in found.items()} | self._unsent_threads
        own_turn = None if self._claim.aside else self.thread_id
        if own := [message for message in messages if own_turn is not None and threads[message] == own_turn]:
            turn = f"this one's turn in the thread {self.thread_id!r}"
            raise Unacceptable(f"The message {own[0]} waits for {turn}: send it to another thread.")
        open_ones = [id for id in messages if id not in found or found[id].state in ("queued", "processing")]
        if open_ones:
            self._stoppable.stop(Waiting(open_ones))
            await asyncio.get_running_loop().create_future()
        results = [_result(found[message]) for message in messages]
        failed = [result for result in results if isinstance(result, ChildFailed)]
        if failed and not return_exceptions:
            raise failed[0]
        return results

    async def publish(
        self,
        topic: str,
        value: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> str:
        await self._require_running()
        given = {"topic": topic, "value": value, "key": key, "headers": headers}
        record = _plain(given, "A record to publish")
        placed = await self._place("publish", name, record, self._calls.place_record)
        if placed.is_new:
            self._unsent.records.append({**record, "name": placed.name})
        return str(placed.record_id)

    async def input(self, question: Any = None, *, name: str | None = None) -> Any:
        await self._require_running()
        name = self._name_of_question(question, name)
        if name in self._claim.inputs:
            return self._claim.inputs[name]
        self._stoppable.stop(Asked(name, _plain(question, "The question")))
        # The attempt cancels the agent here. An exception would not do: frameworks handle exceptions.
        return await asyncio.get_running_loop().create_future()

    async def history(
        self, limit: int = 50, *, max_tokens: int | None = None, system: str = "", tools: bool = False
    ) -> Sequence[Exchange]:
        await self._require_running()
        if limit <= 0:
            return []
        past = await self._calls.history(limit, tools=tools)
        exchanges = [*given_with(self.metadata), *past][-limit:]
        return exchanges if max_tokens is None else fitting(exchanges, max_tokens - tokens(system))

    async def _place(
        self,
        kind: Literal["send", "publish"],
        name: str | None,
        given: dict[str, Any],
        place: Callable[[dict[str, Any], Sequence[int] | None], Awaitable[Placed]],
    ) -> Placed:
        """Name a message or a record. Without a name, the server finds one of an earlier attempt by its content: sends
        side by side may come in another order. Raises ValueError, Rejected."""
        if self._is_exactly_once and running_step():
            raise Rejected("A message that is delivered exactly once may send and publish outside of its steps only.")
        if name is not None or self.attempt == 1:  # nothing was sent before the first attempt
            own = self._names.claim(kind, name)
            return msgspec.structs.replace(await place({**given, "name": own}, None), name=own)
        async with self._numbering:  # the answer takes the number
            prefix, used = self._names.unnamed(kind)
            placed = await place({**given, "name": prefix}, used)
            self._names.claim(kind, placed.name)
            return placed

    def _name_of_question(self, question: Any, name: str | None) -> str:
        """Raises ValueError, Rejected."""
        asked = _plain(question, "The question")

        def compare(name: str) -> bool | None:
            if name not in self._claim.inputs:
                return None
            return name not in self._claim.questions or same_json(self._claim.questions[name], asked)

        return self._names.claim("input", name, compare)

    def unsent_with(self, events: Sequence[Event]) -> Unsent:
        """What the end of the attempt commits: also what these steps send, which are written with it."""
        unsent = [event.sends for event in events if event.sends is not None]
        every = [*unsent, self._unsent]
        return Unsent([send for one in every for send in one.sends], [it for one in every for it in one.records])

    def changed_memory(self) -> dict[str, Any]:
        """The field of the end that saves the memory; empty if it has not changed. Raises Rejected."""
        if self.thread_id is None or self._claim.aside:
            return {}
        if not isinstance(self.memory, dict):
            raise Rejected(f"A thread's memory is an object, not {type(self.memory).__name__}.")
        memory = _plain(self.memory, "The thread's memory")
        return {} if same_json(memory, self._stored) else {"memory": memory}

    def usage(self, /, **counts: Any) -> None:
        """Set values for the step that runs here; those of steps that run side by side are added."""
        self._usage.count(encode_once(counts, "The usage"), running_step())

    @property
    def counts(self) -> dict[str, Any]:
        """What the attempt used."""
        return self._usage.total

    def memory_fits(self) -> bool:
        return True

    async def _require_running(self) -> None:
        """Raises CancelledError if the attempt is over or must end: an agent that ignores that begins nothing more.
        Raises RuntimeError in another event loop."""
        require_loop(self._loop)
        if self._stoppable.is_stopped:
            await asyncio.sleep(0)  # an agent that tries for ever must not block the loop
            raise asyncio.CancelledError

    def __getattr__(self, name: str) -> NoReturn:
        if name in ("instance", "under_way", "incoming"):
            raise asyncio.CancelledError if self._stoppable.is_stopped else NotRemote(name)
        raise AttributeError(name)


def _result(child: WaitedMessage) -> Any:
    if child.state == "completed":
        return child.result
    return ChildFailed(str(child.message_id), child.state, child.error)


def encode_once(value: Any, what: str) -> str:
    """JSON text of what an agent's work came to. Raises Unacceptable if it is not JSON: another attempt would pay for
    the same."""
    try:
        return encode_clean(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise Unacceptable(f"{what} is not JSON: {reason}.") from error


def _plain(value: Any, what: str) -> Any:
    """As the server reads it. Raises Unacceptable for a value that is not JSON."""
    text = encode_once(value, what)
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise Unacceptable(f"{what} is nested too deeply.") from None


def _delivery(metadata: Mapping[str, Any]) -> Any:
    """How the subscription delivers it, if one does."""
    record = metadata.get("record")
    return record.get("delivery") if isinstance(record, dict) else None


def _event(type: str, data: Any, what: str) -> Event:
    """Raises Unacceptable for data that is not JSON."""
    return Event(type, msgspec.Raw(encode_once(data, what).encode()))
