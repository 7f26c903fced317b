"""What the routes and sockets of one API process share: its pools, feeds and stores, built once."""

from typing import Any

from service.access.store import KeyStore
from service.api import health
from service.api.auth import AccessParts
from service.api.metrics import Scrapes
from service.api.pools import Pools
from service.audit.store import AuditStore
from service.changes.feed import ChangeFeed
from service.changes.sse import ChangeStreams
from service.changes.store import ChangeStore
from service.client_limits import ClientLimits
from service.config import Settings
from service.db.availability import Availability
from service.db.listener import Listener, to_each
from service.db.notifier import EVENTS, KEYS, TOPICS, WORK, Notifier
from service.events.feed import Feed
from service.events.follower import Follower
from service.events.sse import Streams
from service.events.store import EventStore
from service.events.waiter import Waiter
from service.inspection.store import InspectionStore
from service.installation.store import InstallationStore
from service.messages.store import MessageStore
from service.protocols.a2a.services import SILENCE_SECONDS, A2AServices
from service.protocols.agui.services import AguiServices
from service.protocols.langgraph.services import LangGraphServices
from service.protocols.langgraph.store import LangGraphStore
from service.protocols.leases.services import RemoteServices
from service.protocols.leases.traces import MakeTraces
from service.protocols.mcp.services import McpServices
from service.protocols.openai.services import OpenAIServices
from service.protocols.queue_socket.services import QueueSocketServices
from service.protocols.websocket.services import ChatServices
from service.queues.store import QueueStore
from service.schemas.records import RecordSchemas
from service.schemas.registry import Registry
from service.schemas.sandboxed.checks import SchemaChecks
from service.schemas.store import SchemaStore
from service.sockets.admission import Sockets
from service.statistics.store import StatisticsStore
from service.subscriptions.store import SubscriptionStore
from service.tenants.store import TenantStore
from service.threads.logs import ThreadLogs
from service.threads.store import ThreadStore
from service.topics.feed import TopicFeed
from service.topics.sse import TopicStreams
from service.topics.store import TopicStore
from service.webhooks.store import PushStore, WebhookStore


class Parts:
    """`services` are what handlers take by name. All of it starts also while the database is away."""

    def __init__(self, settings: Settings, dsn: str, *, make_traces: MakeTraces | None = None) -> None:
        self._settings = settings
        availability = Availability()
        self.pools = pools = Pools(dsn, settings, availability)
        self.notifier = Notifier(pools.calls)
        self._events = EventStore(pools.streams)
        self.feed = Feed(EventStore(pools.calls), poll_interval=settings.poll_interval)
        self.topic_feed = TopicFeed()
        self.change_feed = ChangeFeed(ChangeStore(pools.reads))
        keys = KeyStore(pools.keys, changes=pools.changes, reads=pools.reads)
        self.access = AccessParts(settings, keys, self._wake_readers)
        self.schema_checks = SchemaChecks()
        self.remote = RemoteServices(
            settings, pools.work, self.notifier, self.access.access, self.schema_checks, make_traces=make_traces
        )
        self.limits = ClientLimits(settings)
        self._sockets = Sockets(self.access.access, self.limits, keepalive_interval=settings.keepalive_interval)
        self.listener = Listener(
            settings.listen_database_url or dsn,
            {
                EVENTS: to_each(self.change_feed.receive_messages, self.feed.receive),
                TOPICS: to_each(self.change_feed.receive_topics, self.topic_feed.receive),
                KEYS: self.access.cache.receive,
                WORK: to_each(self.change_feed.receive_messages, self.remote.claims.receive),
            },
            self._catch_up,
            role="treadle_app",
            availability=availability,
        )
        self._installation = InstallationStore(pools.health)
        self.scrapes = Scrapes(self._installation, pools.all)
        self._messages = MessageStore(
            pools.calls,
            self.notifier,
            max_queue_size=settings.max_queue_size,
            reads=pools.reads,
            lists=pools.lists,
        )
        self._threads = ThreadStore(pools.calls, reads=pools.reads, lists=pools.lists, streams=pools.streams)
        self._queues = QueueStore(pools.changes, lists=pools.lists)
        self._inspection = InspectionStore(pools.lists)
        self.services: dict[str, Any] = {**self._of_process(), **self._of_nouns(), **self._of_streams()}
        self.services |= self._of_protocols()

    def close_streams(self) -> None:
        """End every stream and every claim that waits; their clients come back to another process."""
        for feed in (self.feed, self.topic_feed, self.change_feed):
            feed.close()
        self.remote.claims.close()

    def _catch_up(self) -> None:
        """Hints may have been lost."""
        self._wake_readers()
        self.access.cache.refresh_all()

    def _wake_readers(self) -> None:
        self.feed.read_for_all()
        self.topic_feed.wake_all()
        self.change_feed.wake_all()
        self.remote.claims.wake_all()
        self._sockets.wake_all()

    def _of_process(self) -> dict[str, Any]:
        """What the process itself knows: settings, keys, limits, health."""
        return {
            "settings": self._settings,
            "access": self.access.access,
            "keys": self.access.keys,
            "tokens": self.access.tokens,
            "limits": self.limits,
            "sockets": self._sockets,
            "health_checks": health.HealthChecks(self._installation, self.access.access),
            "scrapes": self.scrapes,
        }

    def _of_nouns(self) -> dict[str, Any]:
        """The stores."""
        pools = self.pools
        registry = Registry(SchemaStore(pools.changes, reads=pools.reads), self.schema_checks)
        return {
            "messages": self._messages,
            "inspection": self._inspection,
            "statistics": StatisticsStore(pools.lists),
            "threads": self._threads,
            "queues": self._queues,
            "tenants": TenantStore(pools.changes, reads=pools.lists),
            "webhooks": WebhookStore(pools.changes, reads=pools.lists),
            "audit": AuditStore(pools.lists),
            "schemas": registry,
            "record_schemas": RecordSchemas(registry),
            "events": self._events,
            "event_pages": EventStore(pools.lists),
            "subscriptions": SubscriptionStore(pools.changes, reads=pools.lists),
        }

    def _of_streams(self) -> dict[str, Any]:
        """What serves streams and calls that wait; the store of topics also reads for its stream."""
        access = self.access.access
        poll, keepalive = self._settings.poll_interval, self._settings.keepalive_interval
        pools = self.pools
        topics = TopicStore(pools.calls, self.notifier, reads=pools.reads, lists=pools.lists, changes=pools.changes)
        return {
            "waiter": Waiter(self.feed, self._events, access),
            "streams": Streams(self.feed, access, keepalive_interval=keepalive),
            "change_streams": ChangeStreams(self.change_feed, access, poll_interval=poll, keepalive_interval=keepalive),
            "topics": topics,
            "topic_streams": TopicStreams(
                self.topic_feed, topics, access, poll_interval=poll, keepalive_interval=keepalive
            ),
        }

    def _of_protocols(self) -> dict[str, Any]:
        settings, pools = self._settings, self.pools
        messages, threads, queues = self._messages, self._threads, self._queues
        logs = ThreadLogs(threads)
        follower = self._follower(settings.keepalive_interval)
        return {
            "remote": self.remote,
            "chats": ChatServices(settings, self.feed, messages, threads, logs),
            "queue_sockets": QueueSocketServices(settings, self.feed, messages, threads, logs),
            "openai": OpenAIServices(settings, follower, messages, threads, queues),
            "langgraph": LangGraphServices(
                settings,
                follower,
                self._events,
                messages,
                threads,
                queues,
                LangGraphStore(pools.calls, reads=pools.reads, lists=pools.lists),
            ),
            "mcp": McpServices(settings, follower, messages, threads, queues),
            "agui": AguiServices(settings, follower, messages, threads, queues),
            "a2a": A2AServices(
                settings,
                self.access.access,
                self._follower(min(settings.keepalive_interval, SILENCE_SECONDS)),
                messages,
                self._inspection,
                queues,
                PushStore(pools.calls, reads=pools.lists),
            ),
        }

    def _follower(self, keepalive_interval: float) -> Follower:
        return Follower(self.feed, self.access.access, keepalive_interval=keepalive_interval)
