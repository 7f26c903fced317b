"""The socket /ws/chat/queue: the checks before a session begins, and why it ends."""

import asyncio
import logging
from contextlib import ExitStack, suppress
from typing import Any

import msgspec
from litestar import Router, WebSocket, websocket
from litestar.di import NamedDependency
from litestar.exceptions import WebSocketDisconnect

from service import telemetry
from service.access.authenticator import require
from service.access.principal import Principal
from service.client_limits import address_of, key_of
from service.errors import Refused, SchemaError, TooManyRequests, Unauthorized, Unavailable
from service.params import parse_event_id, parse_thread_id
from service.protocols.queue_socket.services import QueueSocketServices
from service.protocols.queue_socket.session import QueueSession, Stopping
from service.protocols.queue_socket.translate import SYSTEM

log = logging.getLogger(__name__)

Socket = WebSocket[Any, Any, Any]

REFUSED, INTERNAL_ERROR, SERVICE_RESTART, TRY_AGAIN_LATER = 1008, 1011, 1012, 1013  # close codes of RFC 6455
MISSING = "Send a key or an access token as ?token=, or in the header Authorization."
BEARER = "bearer "


@websocket("/ws/chat/queue")
async def queue_socket(socket: Socket, queue_sockets: NamedDependency[QueueSocketServices]) -> None:
    """The query has `token`, `session_id` (or `thread_id`), `agent` and `last_event_id`."""
    await socket.accept()
    with ExitStack() as counted, suppress(_Gone):
        code = await _serve(socket, queue_sockets, counted)
        await _event(socket, {"type": "websocket.close", "code": code, "reason": ""})


router = Router("/", route_handlers=[queue_socket], opt={"scope": "read"})


class _Gone(Exception):
    """The client has closed the socket, or takes nothing."""


async def _serve(socket: Socket, services: QueueSocketServices, counted: ExitStack) -> int:
    """Returns the code with which the socket is closed. Raises _Gone."""

    async def send(frame: dict[str, Any]) -> None:
        text = msgspec.json.encode(frame).decode()
        try:
            async with asyncio.timeout(services.settings.keepalive_interval):
                await _event(socket, {"type": "websocket.send", "bytes": None, "text": text})
        except TimeoutError:
            raise _Gone from None

    async def receive() -> str | bytes:
        try:
            event: Any = await socket.receive()
        except WebSocketDisconnect:
            raise _Gone from None
        if event["type"] == "websocket.disconnect":
            raise _Gone
        return event.get("text") or event.get("bytes") or b""

    try:
        principal, clients = await _admit(socket, services, counted)
        query = socket.query_params
        session = QueueSession(
            services,
            principal,
            parse_thread_id(query.get("session_id") or query.get("thread_id") or ""),
            agent=query.get("agent"),
            after=parse_event_id(query.get("last_event_id"), "last_event_id"),
            clients=clients,
            receive=receive,
            send=send,
        )
        telemetry.socket(opened=True)
        try:
            await session.run()
        finally:
            telemetry.socket(opened=False)
    except Stopping:
        return SERVICE_RESTART
    except (Refused, Unavailable, SchemaError) as error:
        await send({"type": "error", "source": SYSTEM, "content": str(error)})
        is_final = isinstance(error, Refused) and not isinstance(error, TooManyRequests)
        return REFUSED if is_final else TRY_AGAIN_LATER
    except _Gone:
        raise
    except Exception:
        log.exception("queue socket failed")
    return INTERNAL_ERROR


async def _admit(socket: Socket, services: QueueSocketServices, counted: ExitStack) -> tuple[Principal, list[str]]:
    """The principal, and the clients that its frames count for: its address, and its key. Raises Unauthorized,
    Forbidden, TooManyRequests, Unavailable, SchemaError."""
    credential: str | None
    header = socket.headers.get("authorization")
    if header is not None:
        credential = header[len(BEARER) :].strip() if header[: len(BEARER)].lower() == BEARER else ""
    else:
        credential = socket.query_params.get("token") or None
    if services.access.required and credential is None:
        raise Unauthorized(MISSING)
    principal = await services.access.identify(credential)
    require(principal, "read")
    clients = [address_of(socket.scope["client"])]
    if services.access.required:
        clients.append(key_of(principal))
        services.limits.count_request(clients[-1])
        counted.enter_context(services.limits.stream(clients[-1]))
    return principal, clients


async def _event(socket: Socket, event: Any) -> None:
    try:
        await socket.send(event)
    except (WebSocketDisconnect, OSError, RuntimeError):  # RuntimeError: uvicorn has begun to close the socket
        raise _Gone from None
