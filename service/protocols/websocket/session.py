"""The life of one socket: requests of the client and the transcript of the thread run side by side until one ends.

The client's last id is all the state there is. On any trouble the socket is closed, the client reconnects with that id,
and no agent notices.
"""

import asyncio

from service.protocols.websocket.requests import Requests
from service.protocols.websocket.services import ChatServices
from service.protocols.websocket.transcript import SeenEvent, Transcript
from service.sockets.admission import Caller
from service.sockets.sides import run_sides


class Session:
    def __init__(
        self,
        services: ChatServices,
        caller: Caller,
        thread_id: str,
        seen: SeenEvent,
        *,
        agent: str | None = None,
        takes_bare_texts: bool = False,
    ) -> None:
        """`agent` answers the inputs that name none. `takes_bare_texts`: a frame may be just what the user says."""
        accepted = asyncio.Event()
        self._requests = Requests(services, caller, thread_id, accepted, agent=agent, takes_bare_texts=takes_bare_texts)
        self._transcript = Transcript(services, caller, thread_id, seen, accepted)

    async def run(self) -> None:
        """Raises what the first of the two sides raises: ClientDisconnected, ClientTooSlow, ServerStopping,
        AccessEnded, Unavailable, SchemaError."""
        await run_sides(self._requests.run(), self._transcript.run())
