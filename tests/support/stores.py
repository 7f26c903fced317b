"""The stores of the service on one database, and messages in it."""

from uuid import UUID

from service.access.principal import Principal
from service.db.notifier import Notifier
from service.db.pool import Database
from service.events.store import EventStore
from service.inspection.store import InspectionStore
from service.messages.model import NewMessage
from service.messages.store import MessageStore
from service.queues.store import QueueStore
from service.threads.store import ThreadStore
from tests.support.sql_client import SqlClient


class Stores:
    def __init__(self, database: Database, sql_client: SqlClient) -> None:
        self.messages = MessageStore(database, Notifier(database), max_queue_size=1000)
        self.threads = ThreadStore(database)
        self.events = EventStore(database)
        self.queues = QueueStore(database)
        self.inspection = InspectionStore(database)
        self.sql_client = sql_client

    async def submit(self, caller: Principal, thread_id: str | None = None, agent: str = "echo") -> UUID:
        return (await self.messages.submit(caller, NewMessage("secret", thread_id=thread_id, agent=agent))).message_id
