"""The server's side of a chat: the log of the thread, from the client's cursor on."""

import asyncio
from typing import NoReturn

from service.events.store import is_full
from service.protocols.websocket.model import Status
from service.protocols.websocket.peer import FrameWriter, ServerStopping
from service.protocols.websocket.services import ChatServices, ThreadLog
from service.protocols.websocket.translate import from_entry
from service.waiting import wait_for


class Transcript:
    """Sends each entry of the log as one frame. `accepted` tells that an input was stored: the thread exists."""

    def __init__(
        self, services: ChatServices, writer: FrameWriter, thread_id: str, after: int, accepted: asyncio.Event
    ) -> None:
        self._services = services
        self._feed = services.feed
        self._writer = writer
        self._thread_id = thread_id
        self._after = after
        self._accepted = accepted

    async def run(self) -> NoReturn:
        """Raises ClientDisconnected, ClientTooSlow, ServerStopping, Unavailable, SchemaError."""
        log = await self._services.find_log(self._thread_id)
        # A cursor beyond the log belongs to a log that was deleted: every entry is new to this client.
        self._after = min(self._after, log[1] if log else 0)
        await self._send_open(log)
        while True:
            while log is None:
                await self._wait(self._accepted)
                self._accepted.clear()
                if (log := await self._services.find_log(self._thread_id)) is not None:
                    await self._send_open(log)
            await self._follow(log[0])
            await self._writer.send(Status("deleted", thread_id=self._thread_id))
            log, self._after = None, 0

    async def _send_open(self, log: ThreadLog | None) -> None:
        key, last = log or (None, 0)
        await self._writer.send(Status("open", thread_id=self._thread_id, log=key, after=self._after, last=last))

    async def _follow(self, thread: int) -> None:
        """Send the log from the cursor on; returns when the thread was deleted."""
        with self._feed.subscribe(thread) as wake:
            while True:
                wake.clear()
                entries = await self._feed.read(thread, self._after)
                if entries is None:
                    return
                if entries and entries[0].cursor > self._after + 1:
                    await self._writer.send(Status("gap", after=self._after, next=entries[0].cursor))
                for entry in entries:
                    await self._writer.send(from_entry(entry))
                    self._after = entry.cursor
                if not is_full(entries):
                    await self._wait(wake)

    async def _wait(self, wake: asyncio.Event) -> None:
        """Return when there may be something new; raises ServerStopping."""
        if not self._feed.closing:
            await wait_for(wake, self._services.settings.poll_interval)
        if self._feed.closing:
            raise ServerStopping
