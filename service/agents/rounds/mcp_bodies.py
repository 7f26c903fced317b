"""What the SDK receives of the answers of an MCP server.

It keeps a JSON answer whole in memory, and bounds each event of a stream only. Of a status it makes an error of the
call that looks like one of the tool, so that a model would be told that the tool fails.
"""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec

from service.agents.contract import Rejected
from service.agents.http_errors import OVERLOAD_STATUSES

if TYPE_CHECKING:
    import httpx2

MAX_ANSWER_BYTES = 10_000_000  # of an answer that is no stream of events
STATUS, RETRY_AFTER = "treadle_status", "treadle_retry_after"  # in the data of an error that stands for a status
SESSION = "mcp-session-id"
INTERNAL_ERROR = -32603  # of JSON-RPC


async def bound_answer(response: "httpx2.Response") -> None:
    """A hook of the client. Raises Rejected for a compressed answer, which could expand to gigabytes."""
    if await _is_of_the_server(response):
        _tell_status(response)
        return
    if not _is_plain(response):
        raise Rejected("The MCP server compressed its answer, which the request forbids.")
    if "text/event-stream" not in response.headers.get("content-type", ""):
        stream: Any = response.stream
        response.stream = _bounded(stream)


async def _is_of_the_server(response: "httpx2.Response") -> bool:
    """Whether the status is about the server, or the proxy before it, and not about the call. The error of a call is
    JSON-RPC, whatever its status."""
    status = response.status_code
    if status in OVERLOAD_STATUSES:
        return True
    is_away = status >= 500 or (status == 404 and SESSION in response.request.headers)  # it has forgotten the session
    if not is_away or not response.headers.get("content-type", "").strip().lower().startswith("application/json"):
        return is_away
    return _is_plain(response) and not await _has_jsonrpc(response)


def _is_plain(response: "httpx2.Response") -> bool:
    return response.headers.get("content-encoding", "identity").strip().lower() == "identity"


async def _has_jsonrpc(response: "httpx2.Response") -> bool:
    """Reads the body, and leaves it to the SDK."""
    import httpx2

    stream: Any = response.stream
    try:
        body = b"".join([piece async for piece in _bounded(stream)])
        found = msgspec.json.decode(body)
    except (httpx2.StreamError, ValueError, RecursionError):  # too large, or no JSON
        return False
    response.stream = _replaced(stream, body)
    return isinstance(found, dict) and "jsonrpc" in found


def _tell_status(response: "httpx2.Response") -> None:
    status = response.status_code
    data = {STATUS: status, RETRY_AFTER: response.headers.get("retry-after", "")}
    error = {"code": INTERNAL_ERROR, "message": f"it answered {status}", "data": data}
    body = msgspec.json.encode({"jsonrpc": "2.0", "id": None, "error": error})
    response.headers["content-type"] = "application/json"
    response.headers.pop("content-encoding", None)
    response.stream = _replaced(response.stream, body)


def _replaced(stream: Any, body: bytes) -> Any:
    import httpx2

    class Replaced(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield body

        async def aclose(self) -> None:
            await stream.aclose()

    return Replaced()


def _bounded(stream: Any) -> Any:
    import httpx2

    class Bounded(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            """Raises StreamError, of which the SDK makes the answer to the call: the model reads it."""
            size = 0
            async for piece in stream:
                size += len(piece)
                if size > MAX_ANSWER_BYTES:
                    raise httpx2.StreamError(f"The answer of the MCP server has more than {MAX_ANSWER_BYTES} bytes.")
                yield piece

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()
