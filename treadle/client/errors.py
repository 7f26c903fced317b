"""What the clients raise.

TreadleError
├── ApiError              the server refused the call: `status`, `detail`, `retry_after`
│   ├── Unauthorized      401
│   ├── Forbidden         403
│   ├── NotFound          404
│   ├── Conflict          409
│   ├── Invalid           400, 413, 414, 415 and 422
│   └── TooManyRequests   429, for longer than the client repeats the call
├── Unavailable           the server cannot be reached, or has no database, for longer than the client repeats the call
├── MessageFailed         `run`: the message ended as failed
└── MessageCancelled      `run`: the message ended as cancelled
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from treadle.client.model import Message


class TreadleError(Exception):
    """The head of this tree."""


class ApiError(TreadleError):
    """The server refused a call. After a refusal nothing was written."""

    def __init__(self, status: int, detail: str, retry_after: float | None = None) -> None:
        """`status` is that of HTTP, `detail` one sentence of the server, `retry_after` its advice in seconds."""
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after = retry_after


class Unauthorized(ApiError):
    """The key or token is missing, unknown, expired or revoked."""


class Forbidden(ApiError):
    """The key or token lacks a scope, or the tenant is suspended."""


class NotFound(ApiError):
    """There is no such message, thread, queue or agent, or not for this key."""


class Conflict(ApiError):
    """Not possible in this state, such as to cancel a message that is over."""


class Invalid(ApiError):
    """A value is not acceptable."""


class TooManyRequests(ApiError):
    """A queue is full, or a limit is reached."""


class Unavailable(TreadleError):
    """The server cannot be reached, or cannot reach its database."""


class MessageFailed(TreadleError):
    """The message ended as failed; `message` is its status."""

    def __init__(self, message: "Message") -> None:
        super().__init__(message.error or "The message failed.")
        self.message = message


class MessageCancelled(TreadleError):
    """The message ended as cancelled; `message` is its status."""

    def __init__(self, message: "Message") -> None:
        super().__init__("The message was cancelled.")
        self.message = message


_BY_STATUS: dict[int, type[ApiError]] = {
    **dict.fromkeys((400, 413, 414, 415, 422), Invalid),
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: TooManyRequests,
}


def api_error(status: int, detail: str, retry_after: float | None = None) -> ApiError:
    """The exception for an answer of this status."""
    return _BY_STATUS.get(status, ApiError)(status, detail, retry_after)
