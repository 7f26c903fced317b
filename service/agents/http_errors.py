"""Which exception an agent raises when another service refuses a call: retry later, retry with backoff, or fail."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from service.agents.contract import Rejected, RetryAfter
from service.agents.raised import decisive, leaves

RETRYABLE_STATUSES = frozenset({408, 409, 425, 429})  # the 4xx answers that another attempt may change


def error_for_answer(status: int, headers: Mapping[str, str], reason: str) -> Exception:
    """The exception for an answer of 3xx to 5xx.

    RetryAfter if the answer may change and names a Retry-After, ConnectionError (retried with backoff) if it names
    none, and Rejected if the answer will stay the same.
    """
    if status < 500 and status not in RETRYABLE_STATUSES:
        return Rejected(reason)
    delay = retry_after_seconds(headers)
    return ConnectionError(reason) if delay is None else RetryAfter(delay, reason)


def with_retry_after(error: Exception) -> Exception:
    """RetryAfter if the error (or one in the group that it is) carries a response with a Retry-After, as the errors of
    the model SDKs do; else the error itself."""
    if isinstance(decisive(error), Rejected | RetryAfter):
        return error
    for leaf in leaves(error):
        headers = getattr(getattr(leaf, "response", None), "headers", None)
        delay = retry_after_seconds(headers) if isinstance(headers, Mapping) else None
        if delay is not None:
            return RetryAfter(delay, f"{type(leaf).__name__}: {leaf}")
    return error


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """The header Retry-After in seconds, from a number or a date (RFC 9110); None if it is missing or invalid."""
    value = headers.get("retry-after", "")
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):  # not a date, or a date without a time zone
        return None
