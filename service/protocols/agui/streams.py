"""The stream of a run: its events as they come, and what the thread remembers."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import msgspec

from service.access.principal import Principal
from service.errors import CAUSE_IN_LOG, NotFound, Refused, TreadleError
from service.json_input import readable_object
from service.protocols.agui.ids import Asked, Run
from service.protocols.agui.model import PROTOCOL_VERSION, Event, Message
from service.protocols.agui.services import AguiServices
from service.protocols.agui.translate import Translation, state_events
from service.sse_frames import KEEPALIVE, encode_unnamed, guarded

log = logging.getLogger(__name__)

RUN_FAILED_DETAIL = f"The run failed in the service; {CAUSE_IN_LOG}"


class RunReader:
    """Reads the log of a run for one client. `before`: the messages of the conversation before the run. `answered`: the
    questions before this place of the log do not end it. `state`: that with which the run began; its agent finds it in
    the memory of the thread, which has it when the run is completed. `told`: the state of the client, as it says.

    A stream may be open for long, so it keeps no messages but the encoded ones of the client: those of the run are read
    again where they are needed, at its end."""

    def __init__(
        self,
        services: AguiServices,
        principal: Principal,
        run: Run,
        asked: Asked,
        before: list[Message],
        *,
        answered: int = 0,
        state: dict[str, Any],
        told: Any = None,
    ) -> None:
        self._services = services
        self._principal = principal
        self._run = run
        self._asked = asked
        self._before = [msgspec.Raw(msgspec.json.encode(message)) for message in before]
        self._answered = answered
        self._translation = Translation(run, asked, answered)
        self._state_of_run = state
        self._told = told

    def events(self, *, with_history: bool = False) -> AsyncIterator[bytes]:
        """`with_history`: the client does not know the messages before."""
        return guarded("message", self._events(with_history=with_history))

    async def _events(self, *, with_history: bool) -> AsyncGenerator[bytes, None]:
        try:
            yield encode_unnamed(self._translation.opening())
            if with_history:
                yield encode_unnamed(_snapshot(self._before))
            if state := await self._state(is_open=True):
                yield frames(state)
            follower, run = self._services.follower, self._run
            async for entries in follower.follow(self._principal, run.message_id, run.after):
                events: list[Event] = []
                for entry in entries:
                    events += self._translation.translate(entry)
                    if self._translation.end is not None:
                        yield frames([*events, *await self._closing(self._translation.end)])
                        return
                yield frames(events) or KEEPALIVE
        except Exception as error:  # without a terminal event, clients take the run for a success
            yield error_frame(error)

    async def _closing(self, end: Event) -> list[Event]:
        """The last events of the run."""
        snapshots = await self._state(is_open=self._translation.is_parked)  # its memory is not stored yet
        if self._translation.content.dropped or end.get("outcome", {}).get("type") == "interrupt":
            snapshots.append(_snapshot([*self._before, *await self._messages()]))
        return [*snapshots, end]

    async def _messages(self) -> list[Message]:
        """Those that the run adds to the conversation."""
        again = Translation(self._run, self._asked, self._answered, wants_messages=True)
        async for entry in self._services.follower.read(self._run.message_id, self._run.after):
            again.translate(entry)
            if again.end is not None:
                break
        return again.content.told.messages

    async def _state(self, *, is_open: bool) -> list[Event]:
        """What the client does not know of the state that the agent has, or (not open) that the run has left."""
        memory = await memory_of(self._services, self._principal, self._asked.thread_id)
        if is_open:
            memory |= self._state_of_run
        events = state_events(self._told, memory)
        self._told = memory if events else self._told
        return events


async def memory_of(services: AguiServices, principal: Principal, thread_id: str) -> dict[str, Any]:
    """What the agents of the thread remember; empty for a thread that does not exist."""
    try:
        memory = (await services.threads.get(principal, thread_id)).memory
    except NotFound:
        return {}
    return readable_object(bytes(memory).decode()) if isinstance(memory, msgspec.Raw) else memory or {}


async def nothing_open(
    services: AguiServices, principal: Principal, asked: Asked, messages: list[Message]
) -> AsyncIterator[bytes]:
    """The stream of a client that connects to a thread without a run."""
    names = {"threadId": asked.thread_id, "runId": asked.run_id}
    state = state_events(None, await memory_of(services, principal, asked.thread_id))
    started = {"type": "RUN_STARTED", **names, "protocolVersion": PROTOCOL_VERSION}
    yield frames([started, _snapshot(messages), *state, {"type": "RUN_FINISHED", **names}])


async def error_stream(error: Exception) -> AsyncIterator[bytes]:
    yield error_frame(error)


def error_frame(error: Exception) -> bytes:
    """The end of a run that could not begin, or whose stream breaks off."""
    if isinstance(error, Refused):
        return encode_unnamed({"type": "RUN_ERROR", "message": str(error), "code": "refused"})
    if isinstance(error, TreadleError):
        log.log(error.log_level, "run interrupted", extra={"error": str(error)})
        return encode_unnamed({"type": "RUN_ERROR", "message": str(error), "code": "unavailable"})
    log.error("run broke", exc_info=error)
    return encode_unnamed({"type": "RUN_ERROR", "message": RUN_FAILED_DETAIL, "code": "internal"})


def _snapshot(messages: Sequence[Message | msgspec.Raw]) -> Event:
    return {"type": "MESSAGES_SNAPSHOT", "messages": messages}


def frames(events: list[Event]) -> bytes:
    return b"".join(map(encode_unnamed, events))
