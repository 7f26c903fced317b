"""Which exception an agent raises for an error of Anthropic's SDK. `role` is the member of a team that asked."""

from typing import Any

from service.agents.contract import Overloaded, Rejected
from service.agents.http_errors import error_for_answer

OVERLOAD_ERROR_TYPES = {"overloaded_error", "rate_limit_error"}  # of an error event in the middle of a stream


class RequestRefused(Rejected):
    """The API refuses the request as it is (400, 413): its size, or something in it. It may accept one with less of
    the conversation."""


def error_for_status(error: Any, role: str | None = None) -> Exception:
    """For an error status, or for an error event in the middle of a stream."""
    reason = (error.api_message or error.message).rstrip(".")
    if error.status_code < 400:
        text = f"The Anthropic API broke off {f'the answer of the {role}' if role else 'its answer'}: {reason}."
        return Overloaded(text) if error.type in OVERLOAD_ERROR_TYPES else ConnectionError(text)
    text = f"The Anthropic API answered {f'the {role} ' if role else ''}{error.status_code}: {reason}."
    if error.status_code in {400, 413}:
        return RequestRefused(text)
    return error_for_answer(error.status_code, error.response.headers, text)


def error_for_connection(error: Exception, role: str | None = None) -> Exception:
    """For a failed connection: Overloaded if the request was not sent."""
    import httpx2

    reason = str(error.__cause__ or error).rstrip(".")
    text = f"The Anthropic API cannot be reached{f' by the {role}' if role else ''}: {reason}."
    not_sent = isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout)
    return Overloaded(text) if not_sent else ConnectionError(text)
