"""What the queue sockets of one API process share."""

from typing import NamedTuple

from service.config import Settings
from service.events.feed import Feed
from service.messages.store import MessageStore
from service.threads.logs import ThreadLogs
from service.threads.store import ThreadStore


class QueueSocketServices(NamedTuple):
    settings: Settings
    feed: Feed
    messages: MessageStore
    threads: ThreadStore
    logs: ThreadLogs
