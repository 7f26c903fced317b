"""The connection to one server: sends calls, and repeats those whose answer was lost."""

import asyncio
import os
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

import httpx2
import msgspec

from service.agents.protobuf_types import to_json
from treadle.client.repeats import Repeats

T = TypeVar("T")
DEFAULT_URL = "http://localhost:8000"
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0


class Connection:
    """What all calls of a client share. Leaving its block, or `close`, ends it."""

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        repeat_seconds: float = 60.0,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """
        url             Of the server; default: the variable TREADLE_URL, else http://localhost:8000.
        key             An API key, an access token or a JWT; default: the variable TREADLE_KEY, else none.
        repeat_seconds  How long a call is repeated that finds no server, a full queue, a reached limit or a held
                        thread; 0: never. Streams are resumed without an end.
        transport       Instead of the network, for tests.
        """
        key = os.environ.get("TREADLE_KEY") if key is None else key
        self.address = (url, key)
        self._repeat_seconds = repeat_seconds
        self._http = httpx2.AsyncClient(
            base_url=url or os.environ.get("TREADLE_URL") or DEFAULT_URL,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=None),  # each open stream has a connection
            transport=transport,
        )

    async def close(self) -> None:
        """Close all connections. Open streams end with an error."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _list(self, path: str, items: type[list[T]]) -> list[T]:
        """All items of a list, page by page."""
        answer = await self._send("GET", path)
        found = decode(answer, items)
        while (cursor := next_cursor(answer)) is not None:
            answer = await self._send("GET", path, query={"cursor": cursor})
            found += decode(answer, items)
        return found

    async def _send(
        self,
        method: str,
        path: str,
        *,
        body: Any = msgspec.UNSET,
        query: dict[str, Any] | None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
        repeatable: bool = True,
        repeat_seconds: float | None = None,
    ) -> httpx2.Response:
        """Send a call until it is answered. `repeatable`: the server may receive it twice. `repeat_seconds`: instead of
        the client's."""
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        if traceparent is not None:
            headers["traceparent"] = traceparent
        content = None
        if body is not msgspec.UNSET:
            headers["Content-Type"] = "application/json"
            content = msgspec.json.encode(body, enc_hook=to_json)
        params = {name: value for name, value in (query or {}).items() if value is not None}
        seconds = self._repeat_seconds if repeat_seconds is None else repeat_seconds
        repeats = Repeats(seconds, repeatable=repeatable)
        while True:
            try:
                answer = await self._http.request(method, path, content=content, headers=headers, params=params)
            except httpx2.TransportError as error:
                delay = repeats.after_error(error)
            else:
                if answer.is_success:
                    return answer
                delay = repeats.after_refusal(answer)
            await asyncio.sleep(delay)


def next_cursor(answer: httpx2.Response) -> str | None:
    """The cursor in the `Link` of the page that follows."""
    link: dict[str, Any] = answer.links.get("next", {})
    cursors = parse_qs(urlsplit(str(link.get("url", ""))).query).get("cursor")
    return cursors[0] if cursors else None


def decode(answer: httpx2.Response, type: type[T]) -> T:
    """The body of an answer. Raises msgspec.ValidationError if a server of another version answers otherwise."""
    return msgspec.json.decode(answer.content, type=type)


def segment(value: object) -> str:
    """An id or name as one segment of a path."""
    return quote(str(value), safe="")
