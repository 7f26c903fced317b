"""Answers of HTTP whose body comes in parts.

Such an answer may stay open for hours. So the layers that opened it return when its head is sent, and the request is
forgotten. What remains is an OpenAnswer in the scope; the outermost layer (`api.open_answers`) sends its parts.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import Any

from litestar.response import Stream
from litestar.response.base import ASGIResponse
from litestar.response.streaming import ASGIStreamingResponse
from litestar.types import HTTPResponseBodyEvent, Receive, Scope, Send

from service.sse_frames import HEADERS, MEDIA_TYPE

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
OPEN_ANSWER = "treadle.open_answer"  # its key in the scope


def sse(parts: AsyncIterator[bytes], headers: Mapping[str, str] = NO_HEADERS) -> Stream:
    """A stream of server-sent events."""
    return _PartStream(parts, media_type=MEDIA_TYPE, headers={**HEADERS, **headers}, status_code=200)


def json_stream(parts: AsyncIterator[bytes], headers: Mapping[str, str] = NO_HEADERS) -> Stream:
    """JSON after white space, which keeps the connection open until the JSON is known."""
    return _PartStream(parts, media_type="application/json", headers={**HEADERS, **headers}, status_code=200)


class OpenAnswer:
    """The body of an answer whose head is sent. Its parts must not need the request."""

    __slots__ = ("_ends", "_has_left", "_parts", "_sending")

    def __init__(self, parts: AsyncGenerator[bytes, None]) -> None:
        self._parts = parts
        self._ends: tuple[Callable[[], None], ...] = ()
        self._sending: asyncio.Task[Any] | None = None
        self._has_left = False

    def at_end(self, call: Callable[[], None]) -> None:
        """Call it when the answer ends, whether it was sent or not."""
        self._ends += (call,)

    async def send_to(self, send: Send) -> None:
        """Send the parts; returns at their end, or when the client leaves."""
        sending = self._sending = asyncio.current_task()
        assert sending is not None
        try:
            async for part in self._parts:
                await send(_body(part, more=True))
            await send(_body(b"", more=False))
        except asyncio.CancelledError:
            if not self._has_left or sending.uncancel():
                raise
        finally:
            await self._parts.aclose()
            self.end()

    def leave(self) -> None:
        """The client has disconnected."""
        if self._sending is not None:
            self._has_left = True
            self._sending.cancel()

    def end(self) -> None:
        self._sending = None
        ends, self._ends = self._ends, ()
        for call in ends:
            call()


class _PartStream(Stream):
    def to_asgi_response(self, *args: Any, **options: Any) -> ASGIResponse:
        response = super().to_asgi_response(*args, **options)
        response.__class__ = _PartResponse  # it differs in `__call__` only
        return response


class _PartResponse(ASGIStreamingResponse):
    __slots__ = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the head."""
        await self.start_response(send)
        parts: Any = self.iterator
        scope[OPEN_ANSWER] = OpenAnswer(parts)  # type: ignore[literal-required]  # a key of our own


def _body(part: bytes, *, more: bool) -> HTTPResponseBodyEvent:
    return {"type": "http.response.body", "body": part, "more_body": more}
