"""What the routes of remote workers share."""

from service.config import Settings
from service.db.notifier import Notifier
from service.db.pool import Database
from service.inputs.store import InputSchemas
from service.leases.model import lease_seconds
from service.protocols.leases.claims import RemoteClaims
from service.protocols.leases.store import RemoteLeaseStore
from service.protocols.leases.writer import RemoteWriter
from service.threads.store import ThreadStore


class RemoteServices:
    """What remote workers call; `inputs` checks the messages that they send, `threads` has their histories."""

    def __init__(self, settings: Settings, database: Database, notifier: Notifier) -> None:
        self.inputs = InputSchemas(database)
        self.threads = ThreadStore(database, lists=database)
        self.lease_seconds = lease_seconds(settings.worker_timeout)
        self.store = RemoteLeaseStore(
            database,
            max_losses=settings.max_losses,
            retry_base=settings.retry_base_seconds,
            retry_max=settings.retry_max_seconds,
            max_queue_size=settings.max_queue_size,
        )
        self.claims = RemoteClaims(self.store, lease_seconds=self.lease_seconds, poll_interval=settings.poll_interval)
        self.writer = RemoteWriter(self.store, notifier)
