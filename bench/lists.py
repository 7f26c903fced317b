"""The lists, single messages and figures that dashboards read: each call by its route, with the service's statement."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from service.access.principal import COMMAND_LINE
from service.access.store import KeyStore
from service.audit.store import AuditStore
from service.db.pool import Database
from service.inspection.store import InspectionStore
from service.installation.store import InstallationStore
from service.messages.store import MessageStore
from service.queues.store import QueueStore
from service.statistics.store import StatisticsStore
from service.subscriptions.store import SubscriptionStore
from service.tenants.store import TenantStore
from service.threads.store import ThreadStore
from service.topics.store import TopicStore
from service.webhooks.store import WebhookStore

LISTED_ITEMS = 50  # of a list
TENANT = COMMAND_LINE.tenant
FILTERS = {
    "": {},
    "?state=failed": {"state": "failed"},  # these match nothing
    "?agent=none": {"agent": "none"},
    "?q=none": {"q": "none"},
    "?error=none": {"error": "none"},
    "?queue=default&state=queued": {"queue": "default", "state": "queued"},
}

Call = Callable[[], Awaitable[Any]]


def calls(database: Database, messages: MessageStore, newest: Callable[[], UUID]) -> Mapping[str, Call]:
    """`newest`: the id of the message that is looked at."""
    inspection, queues, threads = InspectionStore(database), QueueStore(database), ThreadStore(database)
    statistics, installation = StatisticsStore(database), InstallationStore(database)
    topics = TopicStore(database, Silent())  # type: ignore[arg-type]  # of a notifier it only hints
    subscriptions = SubscriptionStore(database)

    async def inspect() -> None:
        await inspection.message(COMMAND_LINE, await messages.status(COMMAND_LINE, newest()))

    def find(wanted: dict[str, str]) -> Call:
        return lambda: inspection.page(COMMAND_LINE, wanted, before=None, limit=LISTED_ITEMS)

    return {
        **{f"GET /messages{query}": find(wanted) for query, wanted in FILTERS.items()},
        "GET /messages/{id}": inspect,
        "GET /messages/{id}/explain": lambda: messages.explain(COMMAND_LINE, newest()),
        "GET /queue": lambda: queues.overview(COMMAND_LINE),
        "GET /queues": lambda: queues.page(COMMAND_LINE, None, LISTED_ITEMS),
        "GET /queues/{name}/dead-letters": lambda: queues.dead_letter_page(COMMAND_LINE, "default", LISTED_ITEMS, None),
        "GET /threads": lambda: threads.page(COMMAND_LINE, LISTED_ITEMS, None),
        "GET /threads?q=none": lambda: threads.page(COMMAND_LINE, LISTED_ITEMS, None, text="none"),
        "GET /stats": lambda: statistics.read(COMMAND_LINE),
        "GET /stats?by=agent": lambda: statistics.read(COMMAND_LINE, by="agent"),
        "GET /agents": lambda: queues.agent_page(COMMAND_LINE, None, LISTED_ITEMS),
        "GET /workers": lambda: queues.worker_page(None, LISTED_ITEMS),
        "GET /instances": lambda: queues.instance_page(COMMAND_LINE, agent=None, thread_id=None, limit=LISTED_ITEMS),
        "GET /topics": lambda: topics.page(COMMAND_LINE, None, LISTED_ITEMS),
        "GET /subscriptions": lambda: subscriptions.page(COMMAND_LINE, None, LISTED_ITEMS),
        "GET /webhooks": lambda: WebhookStore(database).all(TENANT),
        "GET /tenants": lambda: TenantStore(database).page(None, LISTED_ITEMS),
        "GET /keys": lambda: KeyStore(database).page(None, None, LISTED_ITEMS),
        "GET /audit": lambda: AuditStore(database).page(TENANT, since=None, before=None, limit=LISTED_ITEMS),
        "GET /health": installation.health,
        "GET /metrics": installation.figures,
    }


class Silent:
    """Stands in for the notifier and drops all hints."""

    def hint(self, channel: str, item: str) -> None:
        pass
