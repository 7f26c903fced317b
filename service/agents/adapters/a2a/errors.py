"""Which exception an agent raises when the other system refuses a call, or cannot be reached."""

import contextlib
from collections.abc import Iterator

import httpx
import idna
from a2a.client.errors import A2AClientError, AgentCardResolutionError
from a2a.utils.errors import A2AError, InternalError, InvalidAgentResponseError

from service.agents.contract import Overloaded, Rejected
from service.agents.http_errors import error_for_answer

MAX_REASON_CHARS = 500


@contextlib.contextmanager
def mapped() -> Iterator[None]:
    """Errors of the client mean what they mean to a worker. Raises Rejected, RetryAfter, Overloaded, ConnectionError,
    RuntimeError."""
    try:
        yield
    except (A2AError, A2AClientError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise _exception(error) from error
    except idna.IDNAError as error:  # httpx raises it for a host such as xn--ls8h.la
        raise Rejected(f"The agent URL is invalid: {error}.") from error


def _exception(error: Exception) -> Exception:
    cause = error if isinstance(error, httpx.HTTPError | httpx.InvalidURL) else error.__cause__
    if isinstance(cause, httpx.HTTPStatusError) and isinstance(error, A2AClientError):
        return _of_answer(cause.response, _reason(error))
    if isinstance(cause, httpx.TransportError | httpx.InvalidURL):
        return _of_connection(cause)
    if isinstance(error, InternalError | InvalidAgentResponseError):
        return RuntimeError(_reason(error))
    if isinstance(error, A2AClientError) and not isinstance(error, AgentCardResolutionError):
        return ConnectionError(_reason(error))
    return Rejected(_reason(error))


def _of_answer(response: httpx.Response, reason: str) -> Exception:
    if 300 <= response.status_code < 400:
        return Rejected(f"The agent answered {response.status_code}: redirects are not followed.")
    return error_for_answer(response.status_code, response.headers, reason)


def _of_connection(error: httpx.TransportError | httpx.InvalidURL) -> Exception:
    reason = (str(error) or type(error).__name__).rstrip(".")
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
        return Rejected(f"The agent URL is invalid: {reason}.")
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Overloaded(f"The agent cannot be reached: {reason}.")
    return ConnectionError(f"The agent broke off the connection: {reason}.")


def _reason(error: Exception) -> str:
    return f"The agent refused the call: {' '.join(str(error).split())[:MAX_REASON_CHARS]}".rstrip(".") + "."
