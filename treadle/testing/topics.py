"""The topics of one test's installation."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from service.access.principal import COMMAND_LINE
from service.agents.definition import Agent
from service.agents.protobuf_types import to_json
from service.db.notifier import Notifier
from service.db.pool import Database
from service.errors import NotFound
from service.inspection.store import InspectionStore
from service.subscriptions.store import SubscriptionStore
from service.topics.model import NewRecord, NewTopic
from service.topics.store import TopicStore
from treadle.client.model import TopicRecord

LOOK_SECONDS = 0.01
SUBSCRIBED_SECONDS = 30.0  # that a worker may take to make its subscriptions
PAGE_RECORDS = 1_000
SHOWN_FAILURES = 5


class Topics:
    def __init__(self, database: Database) -> None:
        self._notifier = Notifier(database)
        self._topics = TopicStore(database, self._notifier)
        self._subscriptions = SubscriptionStore(database)
        self._messages = InspectionStore(database)

    async def declare(self, names: Sequence[str]) -> None:
        for name in names:
            await self._topics.declare(COMMAND_LINE, name, NewTopic())

    async def subscribed(self, agents: Sequence[Agent]) -> None:
        """Wait until the worker has made the subscriptions of these agents. Raises TimeoutError."""
        async with asyncio.timeout(SUBSCRIBED_SECONDS):
            for agent in agents:
                while agent.limits.topics and not await self._reads(agent):  # noqa: ASYNC110 - of a worker
                    await asyncio.sleep(LOOK_SECONDS)

    async def _reads(self, agent: Agent) -> bool:
        try:
            found = await self._subscriptions.get(COMMAND_LINE, agent.name)
        except NotFound:
            return False
        return found.topics == list(agent.limits.topics)

    async def publish(self, topic: str, value: Any, key: str | None, headers: Mapping[str, str] | None) -> str:
        plain = msgspec.json.decode(msgspec.json.encode(value, enc_hook=to_json))
        record = NewRecord(plain, key, None if headers is None else dict(headers))
        [published] = await self._topics.publish(COMMAND_LINE, topic, [record])
        await self._notifier.flush()
        return str(published.record_id)

    async def records(self, topic: str, count: int, timeout: float) -> list[TopicRecord]:
        """Raises TimeoutError, NotFound."""
        found: list[TopicRecord] = []
        try:
            async with asyncio.timeout(timeout):
                while True:
                    found = await self._all(topic)
                    if len(found) >= count:
                        return found
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            raise TimeoutError(f"{topic} has {len(found)} of {count} records{await self._failures()}") from None

    async def _all(self, topic: str) -> list[TopicRecord]:
        found: list[TopicRecord] = []
        while True:
            page = await self._topics.read(COMMAND_LINE, topic, len(found), PAGE_RECORDS)
            if not page.records:
                return found
            found += msgspec.json.decode(msgspec.json.encode(page.records), type=list[TopicRecord])

    async def _failures(self) -> str:
        page = await self._messages.page(COMMAND_LINE, {"state": "failed"}, before=None, limit=SHOWN_FAILURES)
        return "".join(f"; {message.agent} failed: {message.error}" for message in page.messages)
