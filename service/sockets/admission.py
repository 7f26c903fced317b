"""How a client is admitted to a socket, and how its socket ends: the same in every dialect.

The client sends its key or token in the header `Authorization`, as `?token=`, or as its first frame,

    {"type": "auth", "token": "..."}

and nothing else is read before it is checked. A program sends the header and sees the status of a handshake that is
refused. A page cannot see it: so where there is no header, the socket is accepted, and a refusal is its only frame. A
further frame `auth` renews the token, so that the socket outlives it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from typing import Annotated, Any, Protocol, TypeAlias

import msgspec
from msgspec import Meta, Struct

from service import telemetry
from service.access.authenticator import Access, bearer, require
from service.access.principal import Principal, Scope
from service.client_limits import ClientLimits, address_of, key_of, pause
from service.db.fair import tenant_of_request
from service.errors import (
    CAUSE_IN_LOG,
    Forbidden,
    Invalid,
    Refused,
    SchemaError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unprocessable,
)
from service.json_input import decode
from service.refusals import CHALLENGE, Plain
from service.sockets.peer import (
    AccessEnded,
    ClientDisconnected,
    ClientTooSlow,
    CloseCode,
    Peer,
    ServerStopping,
    Socket,
)

log = logging.getLogger(__name__)

FIRST_FRAME_SECONDS = 5.0
FIRST_FRAME_BYTES = 16_384  # of a socket whose client is not known yet; also the most of a later frame `auth`
LEAST_LOOK_SECONDS, MOST_LOOK_SECONDS = 0.1, 30.0  # between two looks at the access of a client that sends nothing
MISSING_KEY_DETAIL = (
    "Send a key or an access token: in the header Authorization, as ?token=, or within 5 seconds as the first frame,"
    ' {"type": "auth", "token": ...}.'
)
SOCKET_FAILED_DETAIL = f"The socket failed in the service. Reconnect; {CAUSE_IN_LOG}"

Refusal: TypeAlias = Refused | Unavailable | SchemaError
REFUSALS = (Refused, Unavailable, SchemaError)


class Dialect(Protocol):
    """What a dialect needs of its clients, and how it words a refusal."""

    scopes: tuple[Scope, ...]

    def answer(self, error: Refusal) -> Plain:
        """The answer to a handshake that is refused."""

    def frame(self, error: Refusal) -> str:
        """The last frame before the socket is closed, or the answer to a frame."""


class Auth(Struct, tag="auth", frozen=True, forbid_unknown_fields=True):
    """The key or token of a client that can send no header, as a web page."""

    token: Annotated[str, Meta(min_length=1, description="a key or an access token")]


class Sockets:
    """What the sockets of one API process share."""

    def __init__(self, access: Access, limits: ClientLimits, *, keepalive_interval: float) -> None:
        self.access = access
        self.limits = limits
        self._keepalive_interval = keepalive_interval
        self.look_seconds = min(keepalive_interval, MOST_LOOK_SECONDS)
        self._open: set[Caller] = set()

    def wake_all(self) -> None:
        """A key may have been revoked."""
        for caller in self._open:
            caller.look()

    async def serve(self, socket: Socket, dialect: Dialect, run: Callable[["Caller"], Awaitable[None]]) -> None:
        """Admit the client of a socket and `run` its session; then close the socket, with the reason."""
        peer = Peer(socket, self._keepalive_interval)
        with ExitStack() as counted, suppress(ClientDisconnected, ClientTooSlow):
            try:
                caller = await self._admit(socket, peer, dialect, counted)
            except _Answered:
                return
            except REFUSALS as error:
                await _end(peer, dialect, error)
                return
            await self._run(caller, run)

    async def _run(self, caller: "Caller", run: Callable[["Caller"], Awaitable[None]]) -> None:
        """Raises ClientDisconnected, ClientTooSlow."""
        peer, dialect = caller.peer, caller.dialect
        self._open.add(caller)
        telemetry.socket(opened=True)
        try:
            await run(caller)
        except (ClientDisconnected, ClientTooSlow):
            raise
        except ServerStopping:
            await peer.close(CloseCode.SERVICE_RESTART)
        except AccessEnded as ended:
            await _end(peer, dialect, Unauthorized(str(ended)))
        except REFUSALS as error:
            if not isinstance(error, Refused):
                log.log(error.log_level, "socket interrupted", extra={"error": str(error)})
            await _end(peer, dialect, error)
        except Exception:
            log.exception("socket failed")
            await _end(peer, dialect, Unavailable(SOCKET_FAILED_DETAIL), CloseCode.INTERNAL_ERROR)
        finally:
            self._open.discard(caller)
            telemetry.socket(opened=False)

    async def _admit(self, socket: Socket, peer: Peer, dialect: Dialect, counted: ExitStack) -> "Caller":
        """The client of an accepted socket, counted by its key as long as the socket is open. Raises _Answered where
        the handshake is refused, ClientDisconnected, ClientTooSlow, and what refuses the client."""
        header = socket.headers.get("authorization")
        if header is not None:
            try:
                caller = await self._identify(socket, peer, dialect, bearer(header), counted)
            except REFUSALS as error:
                await _refuse_handshake(peer, dialect, error)
                raise _Answered from None
            await peer.accept()
            return caller
        credential = socket.query_params.get("token") or None
        if credential is not None or not self.access.required:
            await peer.accept()
        else:
            await peer.accept(first_message_bytes=FIRST_FRAME_BYTES)
            credential = await _first_frame(peer)
        return await self._identify(socket, peer, dialect, credential, counted)

    async def _identify(
        self, socket: Socket, peer: Peer, dialect: Dialect, credential: str | None, counted: ExitStack
    ) -> "Caller":
        """Raises Unauthorized, Forbidden, TooManyRequests, Unavailable, SchemaError."""
        principal = await self.identify(credential, dialect)
        tenant_of_request.set(principal.tenant)
        clients = [address_of(socket.scope["client"])]
        if self.access.required:
            clients.append(key_of(principal))
            self.limits.count_request(clients[-1])
            counted.enter_context(self.limits.stream(clients[-1]))
        return Caller(self, peer, dialect, principal, clients)

    async def identify(self, credential: str | None, dialect: Dialect) -> Principal:
        """Raises Unauthorized, Forbidden, Unavailable, SchemaError."""
        principal = await self.access.identify(credential)
        for scope in dialect.scopes:
            require(principal, scope)
        return principal


class Caller:
    """The client of an open socket. `clients`: what its frames count for, its address and its key."""

    def __init__(
        self, sockets: Sockets, peer: Peer, dialect: Dialect, principal: Principal, clients: list[str]
    ) -> None:
        self._sockets = sockets
        self.peer = peer
        self.dialect = dialect
        self.principal = principal
        self._clients = clients
        self._wait: asyncio.Timeout | None = None  # for the next frame

    async def receive(self) -> str | bytes:
        """The next frame for the dialect. Raises ClientDisconnected, AccessEnded, Unavailable, SchemaError."""
        while _is_auth(frame := await self._next()):
            self.check()
            try:
                await self.count()
                await self._renew(decode(frame, Auth, "frame").token)
            except Refused as error:
                with suppress(ClientDisconnected):  # `_next` first returns the frames that arrived before it
                    await self.send(self.dialect.frame(error))
        return frame

    async def send(self, frame: str) -> None:
        """Raises ClientDisconnected, ClientTooSlow."""
        await self.peer.send(frame)

    def check(self) -> None:
        """Raises AccessEnded."""
        if reason := self._sockets.access.end_of(self.principal):
            raise AccessEnded(reason)

    def look(self) -> None:
        """Stop waiting for a frame if the access has ended."""
        if self._wait is not None and not self._wait.expired() and self._sockets.access.end_of(self.principal):
            self._wait.reschedule(asyncio.get_running_loop().time())

    def require(self, scope: Scope) -> None:
        """Raises Forbidden."""
        require(self.principal, scope)

    async def count(self) -> None:
        """A frame counts as a request. Raises TooManyRequests."""
        try:
            for client in self._clients:
                self._sockets.limits.count_request(client)
        except TooManyRequests:
            await pause()
            raise

    async def _next(self) -> str | bytes:
        while True:
            try:
                async with asyncio.timeout(self._seconds_to_look()) as self._wait:
                    return await self.peer.receive()
            except TimeoutError:
                self.check()
            finally:
                self._wait = None

    def _seconds_to_look(self) -> float:
        """Until the access is looked at again: at its end, if that is known."""
        expires_at, most = self.principal.expires_at, self._sockets.look_seconds
        return most if expires_at is None else min(most, max(expires_at - time.time(), LEAST_LOOK_SECONDS))

    async def _renew(self, credential: str) -> None:
        """Take another key or token of the same tenant with the same restrictions. Raises Unauthorized, Forbidden,
        Unavailable, SchemaError."""
        if not self._sockets.access.required:
            return
        renewed = await self._sockets.identify(credential, self.dialect)
        if (renewed.tenant, renewed.reach) != (self.principal.tenant, self.principal.reach):
            raise Forbidden("The token is for another tenant, subject, thread or agent: open another socket.")
        self.principal = renewed


class _Answered(Exception):
    """The handshake was refused: there is no socket."""


class _Kind(Struct):
    type: Any = None


def _is_auth(frame: str | bytes) -> bool:
    """Cheap for the frames that are not: few have the word."""
    word = '"auth"' if isinstance(frame, str) else b'"auth"'
    if len(frame) > FIRST_FRAME_BYTES or word not in frame:  # type: ignore[operator]  # of the same type
        return False
    try:
        return bool(decode(frame, _Kind, "frame").type == "auth")
    except Refused:
        return False


async def _first_frame(peer: Peer) -> str:
    """Raises Unauthorized, ClientDisconnected."""
    try:
        async with asyncio.timeout(FIRST_FRAME_SECONDS):
            frame = await peer.receive()
        return str(decode(frame, Auth, "frame").token)
    except (TimeoutError, Invalid, Unprocessable):
        raise Unauthorized(MISSING_KEY_DETAIL) from None


async def _refuse_handshake(peer: Peer, dialect: Dialect, error: Refusal) -> None:
    """Raises ClientDisconnected, ClientTooSlow."""
    plain = dialect.answer(error)
    headers = {"Content-Type": plain.media_type, **plain.headers}
    if error.retry_after:
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = CHALLENGE
    await peer.refuse(error.status, headers, msgspec.json.encode(plain.body))


async def _end(peer: Peer, dialect: Dialect, error: Refusal, code: CloseCode | None = None) -> None:
    """Raises ClientDisconnected, ClientTooSlow."""
    if code is None:
        is_final = isinstance(error, Refused) and not isinstance(error, TooManyRequests)
        code = CloseCode.REFUSED if is_final else CloseCode.TRY_AGAIN_LATER
    await peer.send(dialect.frame(error))
    await peer.close(code)
