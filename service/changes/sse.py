"""Server-sent events that tell a client when to read lists and figures again."""

from collections.abc import AsyncGenerator, AsyncIterator

import msgspec

from service.access.authenticator import Access
from service.access.principal import Principal
from service.changes.feed import ChangeFeed
from service.sse_frames import KEEPALIVE, RECONNECT, Silence, encode, guarded
from service.waiting import wait_for


class ChangeStreams:
    """Creates the streams of one API process. Intervals in seconds."""

    def __init__(self, feed: ChangeFeed, access: Access, *, poll_interval: float, keepalive_interval: float) -> None:
        self._feed = feed
        self._access = access
        self._poll_interval = poll_interval
        self._keepalive_interval = keepalive_interval

    def stream(self, principal: Principal) -> AsyncIterator[bytes]:
        """Events `changed` about the principal's tenant, for an operator about all. It never ends by itself."""
        return guarded("changes", self._follow(principal))

    async def _follow(self, principal: Principal) -> AsyncGenerator[bytes, None]:
        silence = Silence(self._keepalive_interval)
        yield KEEPALIVE  # the client sees that the stream is open
        with self._feed.subscribe(None if principal.is_operator else principal.tenant) as reader:
            while not self._feed.closing:
                await wait_for(reader.wake, min(self._poll_interval, self._keepalive_interval))
                if reason := self._access.end_of(principal):
                    yield encode("unauthorized", msgspec.json.encode({"message": reason}).decode())
                    return
                if changed := reader.take():
                    yield encode("changed", msgspec.json.encode({"of": changed}).decode())
                    silence.reset()
                elif silence.is_too_long():
                    yield KEEPALIVE
        yield RECONNECT
