"""Finds the principal of a socket before anything else is read from it."""

import asyncio
from collections.abc import Mapping

from service.access.authenticator import Access, require
from service.access.principal import Principal, Scope
from service.errors import Forbidden, Invalid, Unauthorized, Unprocessable
from service.protocols.websocket.model import Auth
from service.protocols.websocket.peer import AccessEnded, Peer
from service.protocols.websocket.translate import decode_frame

FIRST_FRAME_SECONDS = 5.0
FIRST_FRAME_BYTES = 16_384  # of a socket whose client is not known yet
BEARER = "bearer "
MISSING = (
    "Send a key or an access token: in the header Authorization, as ?token=, or within 5 seconds as the first frame,"
    ' {"type": "auth", "token": ...}.'
)


def awaits_first_frame(access: Access, credential: str | None) -> bool:
    """Whether the key or token must come with the first frame."""
    return access.required and credential is None


def sent_with(headers: Mapping[str, str], query: Mapping[str, str]) -> str | None:
    """The key or token that came with the handshake."""
    header = headers.get("authorization")
    if header is not None:
        return header[len(BEARER) :].strip() if header[: len(BEARER)].lower() == BEARER else ""
    return query.get("token") or None


class Caller:
    """The client at the other end of a socket. It may renew its token, so that the socket outlives it."""

    def __init__(self, access: Access, principal: Principal) -> None:
        self._access = access
        self.principal = principal
        self.clients: list[str] = []  # that its frames count for: its address, and its key

    def check(self) -> None:
        """Raises AccessEnded."""
        if reason := self._access.end_of(self.principal):
            raise AccessEnded(reason)

    def require(self, scope: Scope) -> None:
        """Raises Forbidden."""
        require(self.principal, scope)

    async def renew(self, credential: str) -> None:
        """Take another key or token of the same tenant with the same restrictions. Raises Unauthorized, Forbidden,
        Unavailable, SchemaError."""
        if not self._access.required:
            return
        renewed = await _identify(self._access, credential)
        if (renewed.tenant, renewed.reach) != (self.principal.tenant, self.principal.reach):
            raise Forbidden("The token is for another tenant, subject, thread or agent: open another socket.")
        self.principal = renewed


async def admit(access: Access, peer: Peer, credential: str | None) -> Caller:
    """The caller of a socket. Without a credential, the client's first frame must have one. Raises Unauthorized,
    Forbidden, ClientDisconnected, Unavailable, SchemaError."""
    if awaits_first_frame(access, credential):
        credential = await _first_frame(peer)
    return Caller(access, await _identify(access, credential))


async def _identify(access: Access, credential: str | None) -> Principal:
    principal = await access.identify(credential)
    require(principal, "read")  # a socket shows the log of its thread
    return principal


async def _first_frame(peer: Peer) -> str:
    try:
        async with asyncio.timeout(FIRST_FRAME_SECONDS):
            frame = await peer.receive()
        if isinstance(first := decode_frame(frame), Auth):
            return first.token
    except (TimeoutError, Invalid, Unprocessable):
        pass
    raise Unauthorized(MISSING)
