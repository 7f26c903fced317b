"""Server-sent events on the wire, for the streams of all nouns."""

import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec

from service import telemetry
from service.errors import TreadleError

log = logging.getLogger(__name__)

HEADERS = {
    # Caches and proxies must not store, compress or buffer a stream.
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
MEDIA_TYPE = "text/event-stream"
RECONNECT = b"retry: 1000\n\n"  # SSE's field `retry:` (in milliseconds), not the event `retry`
KEEPALIVE = b": keepalive\n\n"

_LINE_ENDS = re.compile("[\x85\u2028\u2029]")  # some clients end a line here, though JSON and SSE do not


def encode(event: str, data: str, event_id: int | str | None = None) -> bytes:
    """One event on the wire; `data` is JSON text on one line.

    `id` comes last: some clients take an id as soon as they read its line, and would lose the event if the connection
    broke between that line and the data.
    """
    tail = f"id: {event_id}\n" if event_id is not None else ""
    return f"event: {event}\ndata: {_line(data)}\n{tail}\n".encode()


def encode_unnamed(value: Any) -> bytes:
    """An event without a name and id, as other protocols send them; `value` becomes JSON."""
    return f"data: {_line(msgspec.json.encode(value).decode())}\n\n".encode()


def _line(data: str) -> str:
    return data if data.isascii() else _LINE_ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", data)


class Silence:
    """Measures by the clock how long a stream has sent nothing: a stream may be woken often without any event."""

    __slots__ = ("_longest_seconds", "_since")

    def __init__(self, longest_seconds: float) -> None:
        self._longest_seconds = longest_seconds
        self.reset()

    def reset(self) -> None:
        self._since = time.monotonic()

    def seconds_left(self) -> float:
        """Until it is time for a comment."""
        return max(0.0, self._longest_seconds - (time.monotonic() - self._since))

    def is_too_long(self) -> bool:
        """Whether it is time for a comment; if so, the silence starts again."""
        if self.seconds_left() > 0:
            return False
        self.reset()
        return True


async def guarded(kind: str, stream: AsyncGenerator[bytes, None], first: bytes = b"") -> AsyncIterator[bytes]:
    """A stream that tells its client to reconnect instead of breaking off. `kind`: of the log, for telemetry. `first`:
    its first part, which was taken from it."""
    telemetry.stream(kind=kind, opened=True)
    try:
        if first:
            yield first
            first = b""  # the stream may stay open for hours
        async for part in stream:
            yield part
    except TreadleError as error:
        log.log(error.log_level, "stream interrupted", extra={"error": str(error)})
        yield RECONNECT
    except Exception:
        log.exception("stream broke")
        yield RECONNECT
    finally:
        telemetry.stream(kind=kind, opened=False)
        await stream.aclose()


async def reconnect_later(error: Exception) -> AsyncIterator[bytes]:
    """A stream that only tells its client to reconnect: EventSource gives up for good on any answer but 200."""
    level = error.log_level if isinstance(error, TreadleError) else logging.WARNING
    log.log(level, "stream cannot be opened", extra={"error": str(error)})
    yield RECONNECT
