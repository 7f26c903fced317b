"""The API process: its routes, and how it starts and stops."""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from litestar import Litestar
from litestar.di import Provide
from litestar.middleware import DefineMiddleware

from service.access import routes as access
from service.access.principal import AUTH_OFF, Principal
from service.api import health, metrics, openapi, problems, start
from service.api.auth import Authentication, principal_of
from service.api.bodies import JsonBody
from service.api.clients import watch_client
from service.api.dependencies import WithoutTasks
from service.api.gate.layer import Gate
from service.api.gate.streams import limit_keys, limit_streams
from service.api.methods import EveryMethod
from service.api.moments import MeasuredRequests
from service.api.open_answers import OpenAnswers
from service.api.parts import Parts
from service.api.queries import KnownQueries
from service.api.server import LimitedProtocol
from service.api.services import WithServices, provide_service
from service.api.sockets import SocketProtocol
from service.audit import routes as audit
from service.changes import routes as changes
from service.config import Settings
from service.dashboard import routes as dashboard
from service.db.fair import tenant_of_request
from service.events import routes as events
from service.inspection import routes as inspection
from service.protocols.a2a import routes as a2a
from service.protocols.agui import routes as agui
from service.protocols.langgraph import routes as langgraph_api
from service.protocols.leases import routes as leases
from service.protocols.leases.traces import MakeTraces
from service.protocols.mcp import routes as mcp
from service.protocols.openai import routes as openai_api
from service.protocols.queue_socket import routes as queue_socket
from service.protocols.schema_registry import routes as schema_registry
from service.protocols.schema_registry.paths import EscapedPaths
from service.protocols.websocket import routes as websocket
from service.queues import routes as queues
from service.statistics import routes as statistics
from service.subscriptions import routes as subscriptions
from service.tenants import routes as tenants
from service.threads import routes as threads
from service.topics import routes as topics
from service.webhooks import routes as webhooks

log = logging.getLogger(__name__)

GRACEFUL_STOP_SECONDS = 5  # that open requests get when the process is told to stop

# Every route of the API is listed in one of these routers. To add a route, write a handler in the `routes` module of
# its noun (or protocol), with the `scope` that its callers need, and add it to that module's `router`. (The handlers of
# service/messages are in the router of service/inspection.)
# `Parts` (service/api/parts.py) has what handlers take by name. The options of a handler:
#   scope                       what a caller needs (service/access/principal.py)
#   unrestricted                refuses keys and tokens with restrictions; operators_only: all but those of operators
#   takes_api_key, takes_basic  the key may come in x-api-key, or as the password of Basic (service/api/auth.py)
#   is_stream                   the answer stays open, and its key may be `?token=`
#   stays_open                  the call counts as an open stream; `wait`: where it asks to wait (gate/streams.py)
#   decompress, read_other      how it reads bodies that are not plain JSON (service/api/bodies.py)
ROUTERS = [
    inspection.router,
    events.router,
    threads.router,
    topics.router,
    subscriptions.router,
    queues.router,
    leases.router,
    statistics.router,
    changes.router,
    tenants.router,
    access.router,
    webhooks.router,
    audit.router,
    start.router,
    health.router,
    metrics.router,
    websocket.router,
    queue_socket.router,
    schema_registry.router,
    openai_api.router,
    langgraph_api.router,
    mcp.router,
    agui.router,
    a2a.router,
    a2a.well_known,
    dashboard.router,
]


class Api:
    """The ASGI application over the parts that its routes share. It starts also while the database is away."""

    def __init__(self, settings: Settings, dsn: str, *, make_traces: MakeTraces | None = None) -> None:
        self._settings = settings
        self.parts = Parts(settings, dsn, make_traces=make_traces)
        self.app = _application(
            tuple(self.parts.services),
            needs_key=self.parts.access.access.required,
            max_body_bytes=settings.max_body_bytes,
        )
        self._asgi = WithServices(self.app, self.parts.services)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While it serves."""
        listening = asyncio.create_task(self.parts.listener.run())
        log.info("API started", extra={"host": self._settings.host, "port": self._settings.port})
        try:
            async with self.parts.access.run(), self.parts.remote.traces.listening():
                with self.parts.scrapes.metrics.listening():
                    yield
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await self.parts.notifier.flush()
            await self.parts.schema_checks.close()
            await self.parts.pools.close()
            log.info("API stopped")

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT. Open streams are then told to reconnect, to another replica or to the next
        process."""
        await UvicornServer(self).serve()

    @property
    def config(self) -> uvicorn.Config:
        return uvicorn.Config(
            OpenAnswers(
                MeasuredRequests(Gate(EveryMethod(EscapedPaths(self._asgi)), self._settings, self.parts.limits))
            ),
            host=self._settings.host,
            port=self._settings.port,
            proxy_headers=bool(self._settings.trusted_proxies),
            forwarded_allow_ips=list(self._settings.trusted_proxies),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACEFUL_STOP_SECONDS,
            timeout_keep_alive=self._settings.connection_idle_timeout,  # type: ignore[arg-type]  # seconds for a timer
            http=functools.partial(LimitedProtocol, limits=self.parts.limits),  # type: ignore[arg-type]  # uvicorn only calls it
            ws=SocketProtocol,
            ws_max_size=self._settings.max_body_bytes,
            ws_ping_interval=self._settings.keepalive_interval,
            ws_ping_timeout=self._settings.keepalive_interval,
            ws_per_message_deflate=False,  # compression costs each socket memory and each token time
        )


class UvicornServer(uvicorn.Server):
    """uvicorn waits for open responses when it stops, and a stream does not end by itself: this server ends them
    first."""

    def __init__(self, api: Api) -> None:
        super().__init__(api.config)
        self._api = api

    async def serve(self, sockets: Any = None) -> None:
        async with self._api.running():
            await super().serve(sockets)

    async def shutdown(self, sockets: Any = None) -> None:
        self._api.parts.close_streams()
        await super().shutdown(sockets)


def _any_client() -> Principal:
    tenant_of_request.set(AUTH_OFF.tenant)
    return AUTH_OFF


@functools.cache
def _application(services: tuple[str, ...], *, needs_key: bool, max_body_bytes: int) -> Litestar:
    """The routes of every API of the process, which find its services by these names: to register all routes takes a
    tenth of a second."""
    principal = Provide(principal_of if needs_key else _any_client, sync_to_thread=False)
    checks: list[Any] = [DefineMiddleware(Authentication), limit_keys] if needs_key else []
    return Litestar(
        ROUTERS,
        before_request=KnownQueries(),
        dependencies={"principal": principal} | {name: provide_service(name) for name in services},
        middleware=[limit_streams, *checks, watch_client],
        dto=JsonBody,
        return_dto=None,
        exception_handlers=problems.HANDLERS,
        request_max_body_size=max_body_bytes,
        openapi_config=openapi.config(needs_key=needs_key),
        plugins=[WithoutTasks()],
        logging_config=None,
    )
