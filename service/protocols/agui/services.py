"""What the handlers of the protocol share."""

from typing import NamedTuple

from service.config import Settings
from service.events.follower import Follower
from service.messages.store import MessageStore
from service.queues.store import QueueStore
from service.threads.store import ThreadStore


class AguiServices(NamedTuple):
    settings: Settings
    follower: Follower
    messages: MessageStore
    threads: ThreadStore
    queues: QueueStore
