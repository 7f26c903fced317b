"""How much an MCP server may answer: the SDK keeps a JSON answer whole in memory. It bounds each event of a stream."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from service.agents.contract import Rejected

if TYPE_CHECKING:
    import httpx2

MAX_ANSWER_BYTES = 10_000_000  # of an answer that is no stream of events


async def bound_answer(response: "httpx2.Response") -> None:
    """A hook of the client. Raises Rejected for a compressed answer, which could expand to gigabytes."""
    if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Rejected("The MCP server compressed its answer, which the request forbids.")
    if "text/event-stream" not in response.headers.get("content-type", ""):
        stream: Any = response.stream
        response.stream = _bounded(stream)


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
