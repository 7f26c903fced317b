"""The API process: its routes, the objects that they share, and how it stops."""

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
from service.access.principal import AUTH_OFF
from service.api import health, metrics, openapi, problems, start
from service.api.auth import AccessParts, Authentication, principal_of
from service.api.bodies import JsonBody
from service.api.clients import watch_client
from service.api.dependencies import WithoutTasks
from service.api.gate.layer import Gate
from service.api.gate.streams import limit_keys, limit_streams
from service.api.methods import EveryMethod
from service.api.metrics import Scrapes
from service.api.moments import MeasuredRequests
from service.api.pools import Pools
from service.api.queries import KnownQueries
from service.api.server import LimitedProtocol
from service.api.services import WithServices, provide_service
from service.api.sockets import SocketProtocol
from service.audit import routes as audit
from service.audit.store import AuditStore
from service.changes import routes as changes
from service.changes.feed import ChangeFeed
from service.changes.sse import ChangeStreams
from service.changes.store import ChangeStore
from service.client_limits import ClientLimits
from service.config import Settings
from service.dashboard import routes as dashboard
from service.db.availability import Availability
from service.db.listener import Listener, to_each
from service.db.notifier import EVENTS, KEYS, TOPICS, WORK, Notifier
from service.events import routes as events
from service.events.feed import Feed
from service.events.follower import Follower
from service.events.sse import Streams
from service.events.store import EventStore
from service.events.waiter import Waiter
from service.inspection import routes as inspection
from service.inspection.store import InspectionStore
from service.installation.store import InstallationStore
from service.messages.store import MessageStore
from service.protocols.a2a import routes as a2a
from service.protocols.a2a.services import SILENCE_SECONDS, A2AServices
from service.protocols.agui import routes as agui
from service.protocols.agui.services import AguiServices
from service.protocols.langgraph import routes as langgraph_api
from service.protocols.langgraph.services import LangGraphServices
from service.protocols.langgraph.store import LangGraphStore
from service.protocols.leases import routes as leases
from service.protocols.leases.services import RemoteServices
from service.protocols.mcp import routes as mcp
from service.protocols.mcp.services import McpServices
from service.protocols.openai import routes as openai_api
from service.protocols.openai.services import OpenAIServices
from service.protocols.queue_socket import routes as queue_socket
from service.protocols.queue_socket.services import QueueSocketServices
from service.protocols.schema_registry import routes as schema_registry
from service.protocols.schema_registry.paths import EscapedPaths
from service.protocols.websocket import routes as websocket
from service.protocols.websocket.services import ChatServices
from service.queues import routes as queues
from service.queues.store import QueueStore
from service.schemas.records import RecordSchemas
from service.schemas.registry import Registry
from service.schemas.store import SchemaStore
from service.sockets.admission import Sockets
from service.statistics import routes as statistics
from service.statistics.store import StatisticsStore
from service.subscriptions import routes as subscriptions
from service.subscriptions.store import SubscriptionStore
from service.tenants import routes as tenants
from service.tenants.store import TenantStore
from service.threads import routes as threads
from service.threads.store import ThreadStore
from service.topics import routes as topics
from service.topics.feed import TopicFeed
from service.topics.sse import TopicStreams
from service.topics.store import TopicStore
from service.webhooks import routes as webhooks
from service.webhooks.store import PushStore, WebhookStore

log = logging.getLogger(__name__)

GRACEFUL_STOP_SECONDS = 5  # that open requests get when the process is told to stop

# Every route of the API is listed in one of these routers. To add a route, write a handler in the `routes` module of
# its noun (or protocol), with the `scope` that its callers need, and add it to that module's `router`.
# `Api._make_services` has what handlers take by name.
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
    """The ASGI application and the objects that its routes share. It starts also while the database is away."""

    def __init__(self, settings: Settings, dsn: str) -> None:
        self._settings = settings
        availability = Availability()
        self._pools = Pools(dsn, settings, availability)
        self._notifier = Notifier(self._pools.calls)
        self._events = EventStore(self._pools.calls)
        self.feed = Feed(self._events, poll_interval=settings.poll_interval)
        self.topic_feed = TopicFeed()
        self.change_feed = ChangeFeed(ChangeStore(self._pools.reads))
        self._access = AccessParts(settings, self._pools.reads, self._wake_readers)
        self.remote = RemoteServices(settings, self._pools.work, self._notifier, self._access.access)
        self._limits = ClientLimits(settings)
        self._sockets = Sockets(self._access.access, self._limits, keepalive_interval=settings.keepalive_interval)
        self._listener = Listener(
            settings.listen_database_url or dsn,
            {
                EVENTS: to_each(self.change_feed.receive_messages, self.feed.receive),
                TOPICS: to_each(self.change_feed.receive_topics, self.topic_feed.receive),
                KEYS: self._access.cache.receive,
                WORK: to_each(self.change_feed.receive_messages, self.remote.claims.receive),
            },
            self._catch_up,
            role="treadle_app",
            availability=availability,
        )
        self._installation = InstallationStore(self._pools.health)
        self._scrapes = Scrapes(self._installation, self._pools.all)
        services = self._make_services()
        self.app = _application(
            tuple(services), needs_key=self._access.access.required, max_body_bytes=settings.max_body_bytes
        )
        self._asgi = WithServices(self.app, services)

    def _catch_up(self) -> None:
        """Hints may have been lost."""
        self._wake_readers()
        self._access.cache.refresh_all()

    def _wake_readers(self) -> None:
        self.feed.wake_all()
        self.topic_feed.wake_all()
        self.change_feed.wake_all()
        self.remote.claims.wake_all()
        self._sockets.wake_all()

    def _make_services(self) -> dict[str, Any]:
        """The objects that handlers receive as arguments of these names."""
        settings = self._settings
        pools = self._pools
        message_store = MessageStore(
            pools.calls,
            self._notifier,
            max_queue_size=settings.max_queue_size,
            reads=pools.reads,
            lists=pools.lists,
        )
        thread_store = ThreadStore(pools.calls, lists=pools.lists)
        queue_store = QueueStore(pools.calls, lists=pools.lists)
        registry = Registry(SchemaStore(pools.calls))
        topic_store = TopicStore(pools.calls, self._notifier, reads=pools.reads)
        keepalive = settings.keepalive_interval
        follower = Follower(self.feed, self._access.access, keepalive_interval=keepalive)
        silence = min(keepalive, SILENCE_SECONDS)
        attentive = Follower(self.feed, self._access.access, keepalive_interval=silence)
        inspection_store = InspectionStore(pools.lists)
        return {
            "settings": settings,
            "access": self._access.access,
            "limits": self._limits,
            "keys": self._access.keys,
            "tokens": self._access.tokens,
            "messages": message_store,
            "inspection": inspection_store,
            "statistics": StatisticsStore(pools.lists),
            "threads": thread_store,
            "remote": self.remote,
            "queues": queue_store,
            "tenants": TenantStore(pools.calls),
            "webhooks": WebhookStore(pools.calls, reads=pools.lists),
            "audit": AuditStore(pools.lists),
            "schemas": registry,
            "record_schemas": RecordSchemas(registry),
            "health_checks": health.HealthChecks(self._installation, self._access.access),
            "scrapes": self._scrapes,
            "events": self._events,
            "event_pages": EventStore(pools.lists),
            "waiter": Waiter(self.feed, self._events, self._access.access),
            "streams": Streams(self.feed, self._access.access, keepalive_interval=keepalive),
            "change_streams": ChangeStreams(
                self.change_feed,
                self._access.access,
                poll_interval=settings.poll_interval,
                keepalive_interval=keepalive,
            ),
            "topics": topic_store,
            "topic_streams": TopicStreams(
                self.topic_feed,
                topic_store,
                self._access.access,
                poll_interval=settings.poll_interval,
                keepalive_interval=keepalive,
            ),
            "subscriptions": SubscriptionStore(pools.calls, reads=pools.lists),
            "sockets": self._sockets,
            "services": ChatServices(settings, self.feed, message_store, thread_store),
            "queue_sockets": QueueSocketServices(settings, self.feed, message_store, thread_store),
            "openai": OpenAIServices(settings, follower, message_store, thread_store, queue_store),
            "langgraph": LangGraphServices(
                settings,
                follower,
                self._events,
                message_store,
                thread_store,
                queue_store,
                LangGraphStore(pools.calls, pools.lists),
            ),
            "mcp": McpServices(settings, follower, message_store, thread_store, queue_store),
            "agui": AguiServices(settings, follower, message_store, thread_store, queue_store),
            "a2a": A2AServices(
                settings,
                self._access.access,
                attentive,
                message_store,
                inspection_store,
                queue_store,
                PushStore(pools.calls, reads=pools.lists),
            ),
        }

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While it serves."""
        listening = asyncio.create_task(self._listener.run())
        log.info("API started", extra={"host": self._settings.host, "port": self._settings.port})
        try:
            async with self._access.run():
                with self._scrapes.metrics.listening():
                    yield
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await self._notifier.flush()
            await self._pools.close()
            log.info("API stopped")

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT. Open streams are then told to reconnect, to another replica or to the next
        process."""
        await UvicornServer(self).serve()

    @property
    def config(self) -> uvicorn.Config:
        return uvicorn.Config(
            MeasuredRequests(Gate(EveryMethod(EscapedPaths(self._asgi)), self._settings, self._limits)),
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
            http=functools.partial(LimitedProtocol, limits=self._limits),  # type: ignore[arg-type]  # uvicorn only calls it
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
        for feed in (self._api.feed, self._api.topic_feed, self._api.change_feed):
            feed.close()
        self._api.remote.claims.close()
        await super().shutdown(sockets)


@functools.cache
def _application(services: tuple[str, ...], *, needs_key: bool, max_body_bytes: int) -> Litestar:
    """The routes of every API of the process, which find its services by these names: to register all routes takes a
    tenth of a second."""
    principal = Provide(principal_of if needs_key else lambda: AUTH_OFF, sync_to_thread=False)
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
