"""The connection to another system: what it may send to us, and where our headers go."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping

import httpx
from a2a.client import A2ACardResolver, Client, ClientConfig, ClientFactory
from a2a.types import AgentCard

from service.agents.adapters.a2a.errors import mapped
from service.agents.contract import Rejected

MAX_ANSWER_BYTES = 20_000_000  # of a response, or of one event of a stream; either may carry a whole task
CONNECT_SECONDS = 10.0
BINDINGS = ["JSONRPC", "HTTP+JSON"]


@contextlib.asynccontextmanager
async def connected(url: str, headers: Mapping[str, str], tls: ssl.SSLContext) -> AsyncIterator[Client]:
    """A client of the agent whose card is below `url`. Raises Rejected, Overloaded, ConnectionError, RetryAfter."""
    sent = httpx.Headers(dict(headers))
    sent["Accept-Encoding"] = "identity"  # a compressed answer could expand to gigabytes
    timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)  # reading has none: the attempt has one
    hooks = {"response": [_bound]}
    async with httpx.AsyncClient(verify=tls, timeout=timeout, headers=sent, event_hooks=hooks) as http:
        factory = ClientFactory(ClientConfig(httpx_client=http, supported_protocol_bindings=BINDINGS))
        with mapped():
            card = await A2ACardResolver(http, url).get_agent_card()
            _keep_usable_interfaces(card, url, with_headers=bool(headers))
        try:
            client = factory.create(card)
        except ValueError as error:
            raise Rejected(f"The card of the agent has no interface that can be used: {error}") from error
        yield client


def _keep_usable_interfaces(card: AgentCard, url: str, *, with_headers: bool) -> None:
    """Headers may hold a credential, so they go only to the origin that the author of the agent named. Raises
    Rejected."""
    usable = [it for it in card.supported_interfaces if not with_headers or _origin(it.url) == _origin(url)]
    if card.supported_interfaces and not usable:
        raise Rejected("The card of the agent names another origin than its URL: the headers are not sent there.")
    del card.supported_interfaces[:]
    card.supported_interfaces.extend(usable)


def _origin(url: str) -> tuple[str, str, int | None]:
    """Raises httpx.InvalidURL."""
    parsed = httpx.URL(url)
    return parsed.scheme, parsed.host, parsed.port


async def _bound(response: httpx.Response) -> None:
    """Raises Rejected, now or when the response is read."""
    if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Rejected("The agent compressed its answer, which the request forbids.")
    assert isinstance(response.stream, httpx.AsyncByteStream)
    response.stream = _Bounded(response.stream, "text/event-stream" in response.headers.get("content-type", ""))


class _Bounded(httpx.AsyncByteStream):
    """The bytes of a response, as long as no part of it that must be kept whole is too large."""

    def __init__(self, stream: httpx.AsyncByteStream, has_events: bool) -> None:
        self._stream = stream
        self._has_events = has_events

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Raises Rejected."""
        size, last = 0, b""
        async for piece in self._stream:
            read = last + piece  # a blank line may be spread over two pieces
            end = max(read.rfind(blank) for blank in (b"\n\n", b"\r\r", b"\n\r")) if self._has_events else -1
            size = size + len(piece) if end < 0 else len(read) - end
            if size > MAX_ANSWER_BYTES:
                what = "An event" if self._has_events else "The answer"
                raise Rejected(f"{what} of the agent has more than {MAX_ANSWER_BYTES} bytes.")
            last = read[-1:]
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
