"""Calls about topics and subscriptions."""

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Literal
from uuid import UUID

import msgspec
import uuid_utils.compat as uuid7
from msgspec import Struct

from treadle.client.connection import Connection, decode, segment
from treadle.client.model import PublishedRecord, RecordPage, Subscription, Topic, TopicRecord
from treadle.client.streams import Streams

DEFAULT_RETENTION_HOURS = 168.0
DEFAULT_RECORD_BYTES = 1_000_000

Delivery = Literal["at_least_once", "at_most_once", "exactly_once"]


class _Report(Struct, frozen=True):
    records: list[PublishedRecord]


class Topics(Streams, Connection):
    async def declare_topic(
        self,
        topic: str,
        *,
        retention_hours: float | None = DEFAULT_RETENTION_HOURS,
        max_record_bytes: int = DEFAULT_RECORD_BYTES,
        schema_subject: str | None = None,
    ) -> Topic:
        """Create a topic, or change it. `retention_hours` None: its records are kept for ever."""
        options = {
            "retention_hours": retention_hours,
            "max_record_bytes": max_record_bytes,
            "schema_subject": schema_subject,
        }
        return decode(await self._send("PUT", f"/topics/{segment(topic)}", body=options), Topic)

    async def topics(self) -> list[Topic]:
        """The topics with their offsets and subscriptions."""
        return await self._list("/topics", list[Topic])

    async def delete_topic(self, topic: str) -> None:
        """Delete a topic with its records. Raises NotFound."""
        await self._send("DELETE", f"/topics/{segment(topic)}", repeatable=False)

    async def publish(
        self, topic: str, value: Any, *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> UUID:
        """Publish one record, and return its id, when it is stored durably. (`producer` sends many.) Raises NotFound,
        Invalid."""
        record_id = uuid7.uuid7()
        record = {"value": value, "key": key, "headers": headers, "record_id": record_id}
        await self._send("POST", f"/topics/{segment(topic)}/records", body=record)
        return record_id

    async def publish_many(self, topic: str, records: Sequence[Mapping[str, Any]]) -> list[PublishedRecord]:
        """Publish up to 1,000 records, all or nothing: objects with `value` and perhaps `key`, `headers`, `record_id`.
        A record whose id is there already is `known`. Raises NotFound, Invalid."""
        named = [{"record_id": uuid7.uuid7(), **record} for record in records]
        answer = await self._send("POST", f"/topics/{segment(topic)}/records", body={"records": named})
        return decode(answer, _Report).records

    async def records(
        self, topic: str, *, offset: int | str = "earliest", limit: int = 100, wait: float = 0
    ) -> RecordPage:
        """A page of the records from an offset, a time, `earliest` or `latest` on. A reader at the end waits for up to
        `wait` seconds (60 at most). Raises NotFound."""
        query = {"offset": offset, "limit": limit, "wait": wait}
        return decode(await self._send("GET", f"/topics/{segment(topic)}/records", query=query), RecordPage)

    async def stream_topic(self, topic: str, *, start: int | str = "latest") -> AsyncGenerator[TopicRecord, None]:
        """The records of a topic, from an offset, a time, `earliest` or `latest` on. The stream resumes by itself and
        ends when the topic is deleted. Raises NotFound."""
        path = f"/topics/{segment(topic)}/stream?from={segment(start)}"
        async with contextlib.aclosing(self._read(path, None)) as events:
            async for event in events:
                if event.type == "deleted":
                    return
                if event.type == "record":
                    yield _record(event.data)

    async def subscribe(
        self,
        name: str,
        topics: str | Sequence[str],
        agent: str,
        *,
        start: int | str = "latest",
        delivery: Delivery = "at_least_once",
        max_in_flight: int = 1000,
        filter: Mapping[str, Any] | None = None,
        dead_letter: bool = True,
    ) -> Subscription:
        """Declare a subscription: each record of the topics becomes a message for an agent. A repeat changes
        nothing."""
        body = {
            "topics": topics,
            "agent": agent,
            "from": start,
            "delivery": delivery,
            "max_in_flight": max_in_flight,
            "filter": filter,
            "dead_letter": dead_letter,
        }
        return decode(await self._send("PUT", f"/subscriptions/{segment(name)}", body=body), Subscription)

    async def subscriptions(self) -> list[Subscription]:
        """The subscriptions with their positions and lag."""
        return await self._list("/subscriptions", list[Subscription])

    async def seek(self, name: str, to: int | str, *, topic: str | None = None) -> Subscription:
        """Move a subscription to an offset, a time, `earliest` or `latest`; records behind it are delivered again."""
        path = f"/subscriptions/{segment(name)}/seek"
        return decode(await self._send("POST", path, body={"to": to, "topic": topic}), Subscription)

    async def pause_subscription(self, name: str) -> Subscription:
        """Deliver nothing more to a subscription; its open messages go on. Raises NotFound."""
        return decode(await self._send("POST", f"/subscriptions/{segment(name)}/pause"), Subscription)

    async def resume_subscription(self, name: str) -> Subscription:
        """Let a paused subscription go on where it stopped. Raises NotFound."""
        return decode(await self._send("POST", f"/subscriptions/{segment(name)}/resume"), Subscription)

    async def unsubscribe(self, name: str) -> None:
        """Delete a subscription; its open messages go on. Raises NotFound."""
        await self._send("DELETE", f"/subscriptions/{segment(name)}", repeatable=False)


def _record(data: dict[str, Any]) -> TopicRecord:
    return msgspec.convert(data, TopicRecord)
