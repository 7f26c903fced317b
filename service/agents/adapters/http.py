"""An agent that is somewhere else: a message is one POST, its answer JSON or a stream of server-sent events.

    from service.agents.adapters.http import http_agent

    remote = http_agent("remote", "http://localhost:9000/answer")

The body is {message, thread_id, message_id, attempt, metadata, history}, and the header Idempotency-Key is the message
id, the same in each attempt. A JSON answer is the result, or has it in `result`. In a stream, `chunk` is a piece of the
answer, `done` the end with the result, `error` a failure, and any other event one of the message's.
"""

import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, Unpack

import msgspec

from service.agents.contract import Context, Rejected, RetryAfter
from service.agents.definition import Agent
from service.agents.http_errors import verdict
from service.agents.limits import LimitOptions

if TYPE_CHECKING:
    import httpx2

HISTORY = 50  # messages of the thread
MAX_BODY_BYTES = 10_000_000  # of a JSON answer
MAX_EVENT_BYTES = 1_000_000  # of one event of a stream
MAX_QUOTED_BYTES = 10_000  # of a refusal
MAX_SAID_CHARS = 500  # of what a refusal says
CONNECT_SECONDS = 10


def http_agent(
    name: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    history: int = HISTORY,
    **limits: Unpack[LimitOptions],
) -> Agent:
    """Make what answers at `url` an agent. `headers` go with each call, e.g. an Authorization; `history` is how many
    completed messages of the thread are sent along, 0 for none.

    Answers of 4xx and redirects reject the message; 408, 409, 425, 429, 5xx, connections that fail and answers that
    break off are retried, after Retry-After where there is one.
    """
    remote = _Remote(url, dict(headers or {}), history)

    async def answer(context: Context, message: str | dict[str, Any] | list[Any]) -> Any:
        """Asks an agent over HTTP."""
        return await remote.ask(context, message)

    return Agent(name, answer, **limits)


class _Remote:
    def __init__(self, url: str, headers: dict[str, str], history: int) -> None:
        self._url = url
        self._headers = headers
        self._history = history
        self._tls: Any = None

    async def ask(self, context: Context, message: Any) -> Any:
        import httpx2  # only those who have such an agent wait for it

        exchanges = await context.history(self._history) if self._history else []
        body = {
            "message": message,
            "thread_id": context.thread_id,
            "message_id": context.message_id,
            "attempt": context.attempt,
            "metadata": context.metadata,
            "history": [{"message": exchange.message, "result": exchange.result} for exchange in exchanges],
        }
        if self._tls is None:
            self._tls = httpx2.create_ssl_context()  # takes longer than all else here
        headers = httpx2.Headers(
            {
                "Accept": "text/event-stream, application/json",
                "Accept-Encoding": "identity",  # a few compressed bytes could be gigabytes
                "Content-Type": "application/json",
            }
        )
        headers.update(self._headers)
        headers["Idempotency-Key"] = context.message_id
        # Reading has no limit of its own: the attempt has one.
        limits = httpx2.Timeout(None, connect=CONNECT_SECONDS)
        try:
            async with (
                httpx2.AsyncClient(verify=self._tls, timeout=limits) as client,
                client.stream("POST", self._url, content=msgspec.json.encode(body), headers=headers) as response,
            ):
                return await self._read(context, response)
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise Rejected(f"The agent's address is none: {error}") from error
        except httpx2.TransportError as error:
            trouble = (
                "cannot be reached" if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout) else "broke off"
            )
            reason = (str(error) or type(error).__name__).rstrip(".")
            raise ConnectionError(f"The agent {trouble}: {reason}.") from error

    async def _read(self, context: Context, response: "httpx2.Response") -> Any:
        status = response.status_code
        if 300 <= status < 400:
            raise Rejected(f"The agent answered {status}: redirects are not followed.")
        if status >= 400:
            said = _complaint(await _begun(response))
            raise verdict(status, response.headers, f"The agent answered {status}{': ' + said if said else ''}.")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Rejected("The agent's answer is compressed, which it was not asked for.")
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/event-stream":
            return await _follow(context, response)
        if status == 204:
            return None
        body = await _body(response)
        try:
            return _result(context, msgspec.json.decode(body))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConnectionError(f"The agent's answer is not JSON: {error}.") from error


async def _follow(context: Context, response: "httpx2.Response") -> Any:
    """Hand on a stream's events until its `done`; returns the result."""
    said: list[str] = []
    async with contextlib.aclosing(_events(response)) as events:
        async for type, data in events:
            if type == "chunk":
                said.append(_piece(data))
                await context.emit(said[-1])
            elif type == "done":
                return _result(context, _decoded(data)) if data else "".join(said)
            elif type == "error":
                raise _failure(_decoded(data))
            else:
                await context.event(type, _decoded(data))
    raise ConnectionError("The agent's stream ended without a done event.")


async def _events(response: "httpx2.Response") -> AsyncGenerator[tuple[str, str], None]:
    """Type and data of a stream's events, as the HTML standard has it."""
    type, size = "", 0
    data: list[str] = []
    async for line in _lines(response):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield type or "message", "\n".join(data)
            type, data, size = "", [], 0
        elif name == "event":
            type = value
        elif name == "data":
            data.append(value)
            size += len(value)
            if size > MAX_EVENT_BYTES:
                raise Rejected(f"An event of the agent has more than {MAX_EVENT_BYTES} bytes.")


async def _lines(response: "httpx2.Response") -> AsyncGenerator[str, None]:
    """Lines, ended by CR LF, LF or CR. One that the stream's end cuts off is none."""
    rest, start, half = b"", True, False
    async for piece in response.aiter_raw():
        text = rest + (piece.removeprefix(b"\n") if half else piece)
        half = piece.endswith(b"\r")  # a LF that comes next belongs to it
        *lines, rest = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace").removeprefix("\ufeff" if start else "")
            start = False
        if len(rest) > MAX_EVENT_BYTES:
            raise Rejected(f"A line of the agent's stream has more than {MAX_EVENT_BYTES} bytes.")


async def _body(response: "httpx2.Response") -> bytes:
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise Rejected(f"The agent's answer has more than {MAX_BODY_BYTES} bytes.")
    return bytes(body)


async def _begun(response: "httpx2.Response") -> bytes:
    """The first bytes of a body that is only to be quoted."""
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > MAX_QUOTED_BYTES:
            break
    return bytes(body[:MAX_QUOTED_BYTES])


def _result(context: Context, answer: Any) -> Any:
    """An object with `result` may have `usage`, too; any other JSON is the result itself."""
    if not isinstance(answer, dict) or "result" not in answer:
        return answer
    if isinstance(answer.get("usage"), dict):
        context.usage(**answer["usage"])
    return answer["result"]


def _piece(data: str) -> str:
    """A chunk's text: a JSON text, an object with `chunk`, or else the data as they are."""
    decoded = _decoded(data)
    if isinstance(decoded, dict) and isinstance(decoded.get("chunk"), str):
        return str(decoded["chunk"])
    return decoded if isinstance(decoded, str) else data


def _failure(said: Any) -> Exception:
    """What an `error` event asks for: {error, retryable, retry_after}, or a text."""
    told = said if isinstance(said, dict) else {"error": said}
    reason = str(told.get("error") or "The agent failed, and does not say why.")[:MAX_SAID_CHARS]
    delay = told.get("retry_after")
    if told.get("retryable") is False:
        return Rejected(reason)
    if isinstance(delay, int | float) and not isinstance(delay, bool):
        return RetryAfter(delay, reason)
    return RuntimeError(reason)


def _complaint(body: bytes) -> str:
    """What a refusal says, in a line."""
    said = _decoded(body.decode("utf-8", "replace"))
    for key in ("detail", "error", "message"):
        if isinstance(said, dict) and isinstance(said.get(key), str | dict):
            said = said[key]
    text = said if isinstance(said, str) else msgspec.json.encode(said).decode()
    return " ".join(text.split())[:MAX_SAID_CHARS].rstrip(".")


def _decoded(data: str) -> Any:
    """JSON, or the text as it is."""
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        return data
