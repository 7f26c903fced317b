"""The server's side of a chat: the log of the thread, from the client's cursor on."""

import asyncio
import math
from typing import NamedTuple, NoReturn

from service.events.model import OUT_OF_REACH, is_out_of_reach
from service.protocols.websocket.model import ServerFrame, Status
from service.protocols.websocket.services import ChatServices
from service.protocols.websocket.translate import encode_frame, from_entry
from service.sockets.admission import Caller
from service.sockets.peer import AccessEnded, ServerStopping
from service.threads.logs import ThreadLog
from service.waiting import wait_for


class SeenEvent(NamedTuple):
    """The last event that a client has received: its `id`, and the name of its log where the client sends that too."""

    position: int
    log: int | None


class Transcript:
    """Sends each entry of the log as one frame. `accepted` tells that an input was stored: the thread exists."""

    def __init__(
        self,
        services: ChatServices,
        caller: Caller,
        thread_id: str,
        seen: SeenEvent,
        accepted: asyncio.Event,
    ) -> None:
        self._services = services
        self._feed = services.feed
        self._caller = caller
        self._thread_id = thread_id
        self._after, self._seen_log = seen
        self._accepted = accepted

    async def run(self) -> NoReturn:
        """Raises ClientDisconnected, ClientTooSlow, ServerStopping, AccessEnded, Unavailable, SchemaError."""
        log = await self._services.logs.find(self._caller.principal, self._thread_id)
        lost = self._after if not self._is_of_log(log) else 0
        if lost:
            self._after = 0
        await self._send_open(log)
        if lost:
            await self._send_gap(lost, 1)
        while True:
            while log is None:
                self._check()
                await wait_for(self._accepted, self._services.settings.poll_interval)
                self._accepted.clear()
                if (log := await self._services.logs.find(self._caller.principal, self._thread_id)) is not None:
                    await self._send_open(log)
            await self._follow(log[0])
            await self._send(Status("deleted", thread_id=self._thread_id))
            log, self._after = None, 0

    def _is_of_log(self, log: ThreadLog | None) -> bool:
        """Whether the log can have the event that the client has seen. If not, every entry is new to this client."""
        key, last = log or (None, 0)
        return self._after <= last and self._seen_log in (None, key)

    async def _send_gap(self, after: int, next: int) -> None:
        await self._send(Status("gap", after=after, next=next))

    async def _send_open(self, log: ThreadLog | None) -> None:
        key, last = log or (None, 0)
        await self._send(Status("open", thread_id=self._thread_id, log=key, after=self._after, last=last))

    async def _follow(self, thread: int) -> None:
        """Send the log from the cursor on; returns when the thread was deleted."""
        with self._feed.follow(thread) as reader:
            while True:
                self._check()
                page = await reader.next(self._after, math.inf)
                if page is None:
                    return
                if page.ends_before is not None:  # a failover lost the end of the log, or all of it
                    await self._send_gap(self._after, 1)
                    self._after = 0
                elif page.entries and page.entries[0].cursor > self._after + 1:
                    await self._send_gap(self._after, page.entries[0].cursor)
                for entry in page.entries:
                    if is_out_of_reach(entry, self._caller.principal):
                        raise AccessEnded(OUT_OF_REACH)
                    await self._send(from_entry(entry))
                    self._after = entry.cursor
                del page  # the next one may be long in coming

    def _check(self) -> None:
        """Raises ServerStopping, AccessEnded."""
        if self._feed.closing:
            raise ServerStopping
        self._caller.check()

    async def _send(self, frame: ServerFrame) -> None:
        await self._caller.send(encode_frame(frame))
