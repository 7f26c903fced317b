"""The API process: routes, what they are given, and how it stops."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from litestar import Litestar
from litestar.di import Provide

from service.api import health, problems
from service.api import openapi as docs
from service.api.bodies import JsonBody
from service.api.server import LimitedProtocol, SocketProtocol
from service.config import Settings
from service.dashboard import routes as page
from service.db.availability import Availability
from service.db.listener import Listener
from service.db.notifier import EVENTS, Notifier
from service.db.pool import Database
from service.events import routes as event_routes
from service.events.feed import Feed
from service.events.sse import Streams
from service.events.store import EventStore
from service.messages import routes as message_routes
from service.messages.store import MessageStore
from service.protocols.websocket import routes as chat_routes
from service.protocols.websocket.session import Chats
from service.queues import routes as queue_routes
from service.queues.store import QueueStore
from service.threads import routes as thread_routes
from service.threads.store import ThreadStore

log = logging.getLogger(__name__)

CONNECTIONS = 10
STOP_SECONDS = 5  # that requests under way get when the process is told to stop

ROUTES = [
    message_routes.submit,
    message_routes.submit_batch,
    message_routes.status,
    message_routes.cancel,
    message_routes.give_input,
    message_routes.redrive,
    event_routes.stream_message,
    event_routes.list_events,
    thread_routes.list_threads,
    thread_routes.get_thread,
    thread_routes.get_usage,
    thread_routes.list_messages,
    thread_routes.delete_thread,
    event_routes.stream_thread,
    queue_routes.overview,
    queue_routes.list_queues,
    queue_routes.get_queue,
    queue_routes.pause,
    queue_routes.resume,
    queue_routes.dead_letters,
    queue_routes.list_agents,
    queue_routes.drop_instance,
    queue_routes.list_workers,
    health.health,
    health.live,
    health.ready,
    page.page,
    page.file,
]
SOCKETS = [chat_routes.chat, chat_routes.chat_in]


class Api:
    """The ASGI application and what it holds. The database may be away when it starts."""

    def __init__(self, settings: Settings, dsn: str) -> None:
        self._settings = settings
        availability = Availability()
        pooler = settings.database_pooler == "transaction"
        self._database = Database(dsn, name="api", size=CONNECTIONS, pooler=pooler, availability=availability)
        self._notifier = Notifier(self._database)
        events = EventStore(self._database)
        self.feed = Feed(events)
        self._listener = Listener(
            settings.listen_database_url or dsn,
            {EVENTS: self.feed.receive},
            self.feed.wake_all,
            availability=availability,
        )
        streams = Streams(
            self.feed, poll_interval=settings.poll_interval, keepalive_interval=settings.keepalive_interval
        )
        messages = MessageStore(self._database, self._notifier, max_queue_size=settings.max_queue_size)
        threads = ThreadStore(self._database)
        given = {
            "settings": settings,
            "database": self._database,
            "messages": messages,
            "threads": threads,
            "chats": Chats(settings, self.feed, messages, threads),
            "queues": QueueStore(self._database),
            "events": events,
            "streams": streams,
        }
        self.app = Litestar(
            [*ROUTES, *SOCKETS],
            dependencies={name: _provide(value) for name, value in given.items()},
            dto=JsonBody,
            return_dto=None,
            exception_handlers=problems.HANDLERS,
            lifespan=[self._run],
            request_max_body_size=settings.max_body_bytes,
            openapi_config=docs.config(),
            logging_config=None,
        )
        docs.describe_problems(self.app)

    @contextlib.asynccontextmanager
    async def _run(self, _: Litestar) -> AsyncIterator[None]:
        listening = asyncio.create_task(self._listener.run())
        log.info("API started", extra={"host": self._settings.host, "port": self._settings.port})
        try:
            yield
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await self._notifier.flush()
            await self._database.close()
            log.info("API stopped")

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT. Open streams are told to come back (to another replica, or to the next
        process)."""
        await _Server(self).serve()

    @property
    def config(self) -> uvicorn.Config:
        return uvicorn.Config(
            self.app,
            host=self._settings.host,
            port=self._settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=STOP_SECONDS,
            http=LimitedProtocol,
            ws=SocketProtocol,
            ws_max_size=self._settings.max_body_bytes,
            ws_ping_interval=self._settings.keepalive_interval,
            ws_ping_timeout=self._settings.keepalive_interval,
            ws_per_message_deflate=False,  # it would cost each socket memory, and each token time
        )


class _Server(uvicorn.Server):
    """uvicorn waits for open responses when it stops, and a stream has no end of its own: end them first."""

    def __init__(self, api: Api) -> None:
        super().__init__(api.config)
        self._feed = api.feed

    async def shutdown(self, sockets: Any = None) -> None:
        self._feed.close()
        await super().shutdown(sockets)


def _provide(value: Any) -> Provide:
    return Provide(lambda: value, sync_to_thread=False, use_cache=True)
