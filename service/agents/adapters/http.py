"""An agent that runs on another server: each message is one POST; the answer is JSON or a stream of server-sent events.

    from treadle.adapters import http_agent

    remote = http_agent("remote", "http://localhost:9000/answer")

The body is {message, thread_id, tenant, message_id, attempt, metadata, history}. The header Idempotency-Key is the
message id, the same in each attempt. A JSON answer is the result, or an object with the field `result`. In a stream,
`chunk` is a piece of the answer, `done` ends the stream with the result, `error` is a failure, and any other event
becomes an event of the message: `progress`, if its name is one of Treadle's own.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Unpack

import msgspec

from service.agents.contract import Context, Overloaded, Rejected, RetryAfter
from service.agents.definition import Agent
from service.agents.http_errors import asked_delay, error_for_answer
from service.agents.limits import LimitOptions
from service.agents.texts import json_or_text
from service.agents.tool_events import write_chosen_event
from service.limits import HISTORY_EXCHANGES, HISTORY_TOKENS

if TYPE_CHECKING:
    import httpx2

MAX_ANSWER_BYTES = 10_000_000  # of a JSON answer
MAX_EVENT_BYTES = 1_000_000  # of one event of a stream
MAX_ERROR_BODY_BYTES = 10_000  # read from an answer of 4xx or 5xx
MAX_REASON_CHARS = 500  # quoted from such an answer
CONNECT_SECONDS = 10
PIECES_PER_TURN = 100  # of a stream, before the loop may do something else


def http_agent(
    name: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    history: int = HISTORY_EXCHANGES,
    history_tokens: int = HISTORY_TOKENS,
    **limits: Unpack[LimitOptions],
) -> Agent:
    """Make the server at `url` an agent.

    headers         Sent with each call, for example an Authorization.
    history         How many completed messages of the thread are sent with the message; 0 for none.
    history_tokens  The most tokens that they have together; four bytes count as one.
    limits          The options of every agent; see `treadle.Limits`.

    Redirects and answers of 4xx reject the message. The agent retries after 408, 409, 425, 5xx and an answer that
    breaks off. 429, 503, 529 and a server that cannot be reached put the message off without a failure. The agent obeys
    a Retry-After of up to an hour. Raises ValueError for a limit that is out of range.
    """
    remote = _Remote(url, dict(headers or {}), history, history_tokens)

    async def answer(context: Context, message: str | dict[str, Any] | list[Any]) -> Any:
        """Asks an agent over HTTP."""
        return await remote.call(context, message)

    return Agent(name, answer, **limits)


class _Remote:
    def __init__(self, url: str, headers: dict[str, str], history: int, history_tokens: int) -> None:
        self._url = url
        self._headers = headers
        self._history = history
        self._history_tokens = history_tokens
        self._tls: Any = None

    async def call(self, context: Context, message: Any) -> Any:
        import httpx2  # slow to import, and only workers with such an agent need it

        exchanges = await context.history(self._history, max_tokens=self._history_tokens) if self._history else []
        body = {
            "message": message,
            "thread_id": context.thread_id,
            "tenant": context.tenant,
            "message_id": context.message_id,
            "attempt": context.attempt,
            "metadata": context.metadata,
            "history": [{"message": exchange.message, "result": exchange.result} for exchange in exchanges],
        }
        if self._tls is None:
            self._tls = httpx2.create_ssl_context()  # slow, so it is made once
        headers = httpx2.Headers(
            {
                "Accept": "text/event-stream, application/json",
                "Accept-Encoding": "identity",  # a compressed answer could expand to gigabytes
                "Content-Type": "application/json",
            }
        )
        headers.update(self._headers)
        headers["Idempotency-Key"] = context.message_id
        # Reading has no timeout: the attempt has one.
        timeout = httpx2.Timeout(None, connect=CONNECT_SECONDS)
        try:
            async with (
                httpx2.AsyncClient(verify=self._tls, timeout=timeout) as client,
                client.stream("POST", self._url, content=msgspec.json.encode(body), headers=headers) as response,
            ):
                return await self._read(context, response)
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise Rejected(f"The agent URL is invalid: {error}") from error
        except httpx2.TransportError as error:
            reason = (str(error) or type(error).__name__).rstrip(".")
            if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
                raise Overloaded(f"The agent cannot be reached: {reason}.") from error
            raise ConnectionError(f"The agent broke off the connection: {reason}.") from error

    async def _read(self, context: Context, response: "httpx2.Response") -> Any:
        status = response.status_code
        if 300 <= status < 400:
            raise Rejected(f"The agent answered {status}: redirects are not followed.")
        if status >= 400:
            reason = _reason(await _first_bytes(response))
            text = f"The agent answered {status}{': ' + reason if reason else ''}."
            raise error_for_answer(status, response.headers, text)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Rejected("The agent compressed its answer, which the request forbids.")
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/event-stream":
            return await _read_stream(context, response)
        if status == 204:
            return None
        body = await _body(response)
        try:
            return _result(context, msgspec.json.decode(body))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConnectionError(f"The agent's answer is not JSON: {error}.") from error
        except RecursionError:
            raise Rejected("The agent's answer is nested too deeply.") from None


async def _read_stream(context: Context, response: "httpx2.Response") -> Any:
    """Pass on the stream's events until `done`, and return the result."""
    pieces: list[str] = []
    size = 0
    async with contextlib.aclosing(_events(response)) as events:
        async for type, data in events:
            if type == "chunk":
                pieces.append(_chunk_text(data))
                size += len(pieces[-1].encode("utf-8", "replace"))
                if size > MAX_ANSWER_BYTES:
                    raise Rejected(f"The chunks of the agent have more than {MAX_ANSWER_BYTES} bytes.")
                await context.emit(pieces[-1])
            elif type == "done":
                return _result(context, json_or_text(data)) if data else "".join(pieces)
            elif type == "error":
                raise _error_of_event(json_or_text(data))
            else:
                await write_chosen_event(context, type, json_or_text(data))
    raise ConnectionError("The agent's stream ended without a done event.")


async def _events(response: "httpx2.Response") -> AsyncGenerator[tuple[str, str], None]:
    """The type and data of a stream's events, by the HTML standard."""
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
            size += len(value.encode()) + 1  # an empty line counts, too
            if size > MAX_EVENT_BYTES:
                raise Rejected(f"An event of the agent has more than {MAX_EVENT_BYTES} bytes.")


async def _lines(response: "httpx2.Response") -> AsyncGenerator[str, None]:
    """The lines, ended by CR LF, LF or CR. A last line without an end is dropped."""
    # A line is collected in place: to join it with each piece would take a time that grows with its square.
    rest, start, after_cr = bytearray(), True, False
    async for number, piece in _numbered(response.aiter_raw()):
        if number % PIECES_PER_TURN == 0:
            await asyncio.sleep(0)  # pieces that are there already would keep the loop from its other work
        text = piece.removeprefix(b"\n") if after_cr else piece
        after_cr = piece.endswith(b"\r")  # an LF at the start of the next piece belongs to this CR
        first, *lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        rest += first
        for line in lines:
            yield rest.decode("utf-8", "replace").removeprefix("\ufeff" if start else "")
            rest, start = bytearray(line), False
        if len(rest) > MAX_EVENT_BYTES:
            raise Rejected(f"A line of the agent's stream has more than {MAX_EVENT_BYTES} bytes.")


async def _numbered(pieces: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, bytes]]:
    number = 0
    async for piece in pieces:
        number += 1
        yield number, piece


async def _body(response: "httpx2.Response") -> bytes:
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise Rejected(f"The agent's answer has more than {MAX_ANSWER_BYTES} bytes.")
    return bytes(body)


async def _first_bytes(response: "httpx2.Response") -> bytes:
    """The beginning of an error's body."""
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > MAX_ERROR_BODY_BYTES:
            break
    return bytes(body[:MAX_ERROR_BODY_BYTES])


def _result(context: Context, answer: Any) -> Any:
    """The result in a JSON answer: the field `result` of an object, which may also have `usage`; else all of it."""
    if not isinstance(answer, dict) or "result" not in answer:
        return answer
    if isinstance(answer.get("usage"), dict):
        context.usage(**answer["usage"])
    return answer["result"]


def _chunk_text(data: str) -> str:
    """The text of a `chunk` event: a JSON text, the field `chunk` of an object, or the data unchanged."""
    decoded = json_or_text(data)
    if isinstance(decoded, dict) and isinstance(decoded.get("chunk"), str):
        return str(decoded["chunk"])
    return decoded if isinstance(decoded, str) else data


def _error_of_event(data: Any) -> Exception:
    """The exception for an `error` event: an object {error, retryable, retry_after}, or a text."""
    fields = data if isinstance(data, dict) else {"error": data}
    reason = str(fields.get("error") or "The agent failed without giving a reason.")[:MAX_REASON_CHARS]
    if fields.get("retryable") is False:
        return Rejected(reason)
    if (seconds := asked_delay(fields.get("retry_after"))) is not None:
        return RetryAfter(seconds, reason)
    return RuntimeError(reason)


def _reason(body: bytes) -> str:
    """The reason in an error's body, on one line."""
    value = json_or_text(body.decode("utf-8", "replace"))
    for key in ("detail", "error", "message"):
        if isinstance(value, dict) and isinstance(value.get(key), str | dict):
            value = value[key]
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return " ".join(text.split())[:MAX_REASON_CHARS].rstrip(".")
