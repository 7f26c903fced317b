"""What the routes of remote workers share."""

from service.config import Settings
from service.db.notifier import Notifier
from service.db.pool import Database
from service.leases.model import lease_seconds
from service.protocols.leases.claims import RemoteClaims
from service.protocols.leases.store import RemoteLeaseStore
from service.protocols.leases.writer import RemoteWriter


class RemoteServices:
    def __init__(self, settings: Settings, database: Database, notifier: Notifier) -> None:
        self.lease_seconds = lease_seconds(settings.worker_timeout)
        self.store = RemoteLeaseStore(
            database,
            max_losses=settings.max_losses,
            retry_base=settings.retry_base_seconds,
            retry_max=settings.retry_max_seconds,
        )
        self.claims = RemoteClaims(self.store, lease_seconds=self.lease_seconds, poll_interval=settings.poll_interval)
        self.writer = RemoteWriter(self.store, notifier)
