"""The life of one socket: requests of the client and the transcript of the thread run side by side until one ends.

The client's last id is all the state there is. On any trouble the socket is closed, the client reconnects with that id,
and no agent notices.
"""

import asyncio
import contextlib
import logging

from service.errors import SchemaError, Unavailable
from service.protocols.websocket.admission import Caller
from service.protocols.websocket.model import CloseCode, Error
from service.protocols.websocket.peer import (
    AccessEnded,
    ClientDisconnected,
    ClientTooSlow,
    FrameWriter,
    Peer,
    ServerStopping,
)
from service.protocols.websocket.requests import Requests
from service.protocols.websocket.services import ChatServices
from service.protocols.websocket.transcript import SeenEvent, Transcript

log = logging.getLogger(__name__)


class Session:
    def __init__(
        self,
        services: ChatServices,
        peer: Peer,
        caller: Caller,
        thread_id: str,
        seen: SeenEvent,
        *,
        agent: str | None = None,
        takes_bare_texts: bool = False,
    ) -> None:
        """`agent` answers the inputs that name none. `takes_bare_texts`: a frame may be just what the user says."""
        accepted = asyncio.Event()
        self._writer = FrameWriter(peer, patience_seconds=services.settings.keepalive_interval)
        self._requests = Requests(
            services, peer, self._writer, caller, thread_id, accepted, agent=agent, takes_bare_texts=takes_bare_texts
        )
        self._transcript = Transcript(services, self._writer, caller, thread_id, seen, accepted)

    async def run(self) -> None:
        receiving = asyncio.create_task(self._requests.run())
        sending = asyncio.create_task(self._transcript.run())
        tasks = (receiving, sending)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and isinstance(sending.exception(), ClientDisconnected):
                await asyncio.wait([receiving])  # until it has read every frame that the client sent
            for task in tasks:
                if task.done() and (error := task.exception()):
                    await self._close_after(error)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _close_after(self, error: BaseException) -> None:
        with contextlib.suppress(ClientDisconnected, ClientTooSlow):
            if isinstance(error, ServerStopping):
                await self._writer.close(CloseCode.SERVICE_RESTART)
            elif isinstance(error, AccessEnded):
                await self._writer.send(Error(str(error)))
                await self._writer.close(CloseCode.REFUSED)
            elif isinstance(error, Unavailable | SchemaError):
                log.log(error.log_level, "chat interrupted", extra={"error": str(error)})
                await self._writer.send(Error(str(error), retry_after=Unavailable.retry_after))
                await self._writer.close(CloseCode.TRY_AGAIN_LATER)
            elif not isinstance(error, ClientDisconnected | ClientTooSlow):
                log.error("chat failed", exc_info=error)
                detail = "The chat failed in the service. Reconnect; the cause is in its log."
                await self._writer.send(Error(detail, retry_after=Unavailable.retry_after))
                await self._writer.close(CloseCode.INTERNAL_ERROR)
