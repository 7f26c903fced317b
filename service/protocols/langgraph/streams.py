"""The answers to requests that wait: a stream of events, or the final values."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from itertools import zip_longest
from typing import Any

import msgspec

from service.access.principal import Principal
from service.errors import Busy, Conflict, NotFound, TreadleError, Unauthorized, Unavailable
from service.events.follower import Interrupted
from service.events.model import Entry
from service.protocols.langgraph.find import Found, find_run
from service.protocols.langgraph.model import Json
from service.protocols.langgraph.services import LangGraphServices
from service.protocols.langgraph.translate import ALWAYS, Event, Translation
from service.sse_frames import KEEPALIVE, encode, guarded

log = logging.getLogger(__name__)

CANCEL_TRIES = 30
_cancelling: set[asyncio.Task[None]] = set()  # of runs whose client has gone; asyncio itself does not keep a task alive


class RunReader:
    """Reads the log of a run for one client. `cancels`: the run is cancelled if this client goes away."""

    def __init__(
        self, services: LangGraphServices, principal: Principal, found: Found, *, cancels: bool = False
    ) -> None:
        self._services = services
        self._principal = principal
        self._found = found
        self._cancels = cancels
        self._translation: Translation | None = None

    def events(self, after: int, modes: Collection[str]) -> AsyncIterator[bytes]:
        """The events of these modes with ids above `after`, as server-sent events."""
        return guarded("message", self._watched(self._events(after, frozenset(modes) | {ALWAYS})))

    async def _events(self, after: int, modes: frozenset[str]) -> AsyncGenerator[bytes, None]:
        try:
            async for events in self._pages(modes):
                wanted = [event for event in events if event.id > after and event.mode in modes]
                if wanted:
                    yield b"".join(_frame(event) for event in wanted)
                elif not events:
                    yield KEEPALIVE
        except Interrupted as error:  # the client sees that the run is open, and comes back
            log.log(error.log_level, "stream interrupted", extra={"error": str(error)})
        except (NotFound, Unauthorized) as error:
            yield encode("error", _json(_shown(error)))

    def body(self) -> AsyncIterator[bytes]:
        """The final values as JSON when the run has ended, or an error where the client's access ends before. Meanwhile
        line feeds keep the connection open. If this server stops, the connection breaks: the client comes back to the
        Location."""
        return self._watched(self._body())

    async def _body(self) -> AsyncGenerator[bytes, None]:
        try:
            async for events in self._pages():
                if not events:
                    yield b"\n"
        except (NotFound, Unauthorized) as error:
            yield _json({"__error__": _shown(error)}).encode()
            return
        yield _json(self.outcome).encode()

    async def settled(self, seconds: float) -> Json:
        """The final values, once the run has ended, or those after so many seconds. Raises NotFound, Unauthorized,
        Unavailable, SchemaError."""
        try:
            async with asyncio.timeout(seconds):
                async for _ in self._pages():
                    pass
        except TimeoutError:
            pass
        return self.outcome

    @property
    def outcome(self) -> Json:
        if self._translation is None:
            return {}
        failure = self._translation.failure
        return self._translation.values if failure is None else {"__error__": failure}

    async def _watched(self, parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Notes a client that goes away before the end."""
        gone = True
        try:
            async for part in parts:
                yield part
            gone = False
        except TreadleError:
            gone = False
            raise
        finally:
            if gone and self._cancels:  # before anything is awaited: this task may be cancelled again
                task = asyncio.ensure_future(self._cancel())
                _cancelling.add(task)
                task.add_done_callback(_cancelling.discard)
            await parts.aclose()

    async def _cancel(self) -> None:
        for _ in range(CANCEL_TRIES):
            try:
                now = await find_run(self._services, self._principal, None, str(self._found.run_id))
                if now.is_open:
                    await self._services.store.interrupt(self._principal, now.run_id.message_id)
                return
            except (Busy, Unavailable) as error:
                log.log(error.log_level, "run not cancelled yet", extra={"error": str(error)})
                await asyncio.sleep(error.retry_after or 1)
            except (Conflict, NotFound):
                return  # it is over

    async def _pages(self, modes: frozenset[str] = frozenset()) -> AsyncIterator[list[Event]]:
        """The events until the end of the run, those of these modes with their data; an empty list after each
        silence."""
        run_id, thread_id, placed = self._found.run_id, self._found.thread_id, self._found.placed
        first = await self._services.values_before(self._principal, placed)
        self._translation = translation = Translation(run_id, thread_id, placed.exchange, first, modes=modes)
        async for entries in self._services.follower.follow(self._principal, run_id.message_id, run_id.after):
            events = await self._translate(translation, entries)
            if events or not entries:
                yield events
            if translation.over:
                return

    async def _translate(self, translation: Translation, entries: list[Entry]) -> list[Event]:
        events: list[Event] = []
        for entry, following in zip_longest(entries, entries[1:]):
            if entry.last and entry.type == "cancelled":
                ended = await self._services.store.exchange(self._principal, entry.message_id)
                if ended.exchange.interrupted:
                    translation.end_cancelled(ended.exchange.said)
            events += translation.translate(entry, following)
            if translation.over:
                break
        return events


def _shown(error: Exception) -> Json:
    return {"error": type(error).__name__, "message": str(error)}


def _frame(event: Event) -> bytes:
    return encode(event.name, _json(event.data), event.id)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
