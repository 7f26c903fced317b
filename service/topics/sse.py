"""Readers of a topic without a subscription: streams of server-sent events, and long polls."""

import time
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec

from service.access.authenticator import Access, check_access
from service.access.principal import Principal
from service.errors import BeyondEnd, NotFound
from service.limits import JSON_PAGE_BYTES, PAGE_ITEMS
from service.sse_frames import KEEPALIVE, RECONNECT, Silence, encode, guarded
from service.topics.feed import TopicFeed
from service.topics.model import RecordPage
from service.topics.store import TopicStore
from service.waiting import wait_for


class TopicStreams:
    """Creates the streams of one API process. Intervals in seconds."""

    def __init__(
        self, feed: TopicFeed, topics: TopicStore, access: Access, *, poll_interval: float, keepalive_interval: float
    ) -> None:
        self._feed = feed
        self._topics = topics
        self._access = access
        self._poll_interval = poll_interval
        self._keepalive_interval = keepalive_interval

    async def poll(self, principal: Principal, topic: str, start: int, limit: int, wait_seconds: float) -> RecordPage:
        """Records from an offset on; where there are none, wait for the first ones, but not longer than
        `wait_seconds`. Raises NotFound, BeyondEnd, and Unauthorized where the access ends meanwhile."""
        until = time.monotonic() + wait_seconds
        with self._feed.subscribe(await self._topics.topic_key(principal, topic)) as wake:
            while True:
                wake.clear()
                page = await self._topics.read(principal, topic, start, limit)
                left = until - time.monotonic()
                if page.records or left <= 0 or self._feed.closing:
                    return page
                await wait_for(wake, min(self._poll_interval, left))
                check_access(self._access, principal)

    def stream(self, principal: Principal, topic: str, topic_key: int, start: int) -> AsyncIterator[bytes]:
        """The records from an offset on, as events `record` whose id is the offset. The stream ends when the topic is
        deleted."""
        return guarded("topic", self._follow(principal, topic, topic_key, start))

    async def _follow(
        self, principal: Principal, topic: str, topic_key: int, start: int
    ) -> AsyncGenerator[bytes, None]:
        silence = Silence(self._keepalive_interval)
        yield KEEPALIVE  # the client sees that the stream is open, even if the topic is silent
        with self._feed.subscribe(topic_key) as wake:
            while not self._feed.closing:
                if reason := self._access.end_of(principal):
                    yield encode("unauthorized", _json({"message": reason}))
                    return
                wake.clear()
                try:
                    page = await self._topics.read(principal, topic, start, PAGE_ITEMS, JSON_PAGE_BYTES)
                except NotFound:
                    yield encode("deleted", _json({"topic": topic}))
                    return
                except BeyondEnd as error:
                    yield _gap(start, error.first_offset)
                    start = error.first_offset
                    continue
                part, start, has_records = _encode(page, start), page.next_offset, bool(page.records)
                del page  # a client may take long to read the part
                if part:
                    yield part
                    silence.reset()
                if has_records:
                    continue
                await wait_for(wake, min(self._poll_interval, self._keepalive_interval))
                if silence.is_too_long():
                    yield KEEPALIVE
        yield RECONNECT


def _encode(page: RecordPage, start: int) -> bytes:
    """A page on the wire. It begins with `gap` if retention has deleted records between the reader and the page."""
    gap = _gap(start, start + page.gap) if page.gap else b""
    return gap + b"".join(encode("record", _json(record), record.offset) for record in page.records)


def _gap(start: int, following: int) -> bytes:
    return encode("gap", _json({"after": start - 1, "next": following}))


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
