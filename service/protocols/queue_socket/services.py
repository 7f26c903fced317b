"""What the queue sockets of one API process share."""

from service.access.authenticator import Access
from service.client_limits import ClientLimits
from service.config import Settings
from service.events.feed import Feed
from service.messages.store import MessageStore
from service.threads.store import ThreadStore


class QueueSocketServices:
    def __init__(
        self,
        settings: Settings,
        feed: Feed,
        messages: MessageStore,
        threads: ThreadStore,
        *,
        access: Access,
        limits: ClientLimits,
    ) -> None:
        self.settings = settings
        self.feed = feed
        self.messages = messages
        self.threads = threads
        self.access = access
        self.limits = limits
