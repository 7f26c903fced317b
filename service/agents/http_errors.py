"""Which exception an agent raises when another service refuses a call."""

import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from service.agents.contract import Overloaded, Rejected, RetryAfter

RETRYABLE_STATUSES = frozenset({408, 409, 425})  # the 4xx answers that another attempt may change
OVERLOAD_STATUSES = frozenset({429, 503, 529})  # the service is busy; the message is not at fault
MIN_RETRY_AFTER_SECONDS = 1.0
MAX_RETRY_AFTER_SECONDS = 3600.0
EARLIEST_EPOCH = 1_000_000_000.0  # a number of seconds from here on is a date (of 2001 or later), not a delay
EARLIEST_EPOCH_MILLISECONDS = 1_000 * EARLIEST_EPOCH


def error_for_answer(status: int, headers: Mapping[str, str], reason: str) -> Exception:
    """The exception for an answer of 3xx to 5xx.

    Overloaded if the service is overloaded; if another attempt may help, RetryAfter if the answer names a Retry-After
    and ConnectionError (retried with backoff) if it names none; Rejected if the answer will stay the same.
    """
    delay = retry_after_seconds(headers)
    if status in OVERLOAD_STATUSES:
        return Overloaded(reason, delay or 0.0)
    if status < 500 and status not in RETRYABLE_STATUSES:
        return Rejected(reason)
    return ConnectionError(reason) if delay is None else RetryAfter(delay, reason)


def error_of_service(error: Exception) -> Exception:
    """Overloaded or RetryAfter if the error carries a response that says so, as the errors of the model SDKs do; else
    the error itself."""
    response = getattr(error, "response", None)
    headers = getattr(response, "headers", None)
    if not isinstance(headers, Mapping):
        return error
    delay, reason = retry_after_seconds(headers), f"{type(error).__name__}: {error}"
    if getattr(response, "status_code", None) in OVERLOAD_STATUSES:
        return Overloaded(reason, delay or 0.0)
    return error if delay is None else RetryAfter(delay, reason)


def retry_after_seconds(headers: Mapping[str, str], *, most: float = MAX_RETRY_AFTER_SECONDS) -> float | None:
    """The header Retry-After in seconds, from a number or a date (RFC 9110), at most so many; None if it is missing or
    senseless."""
    value = headers.get("retry-after", "")
    try:
        return bounded_delay(float(value), most=most)
    except ValueError:
        pass
    try:
        return bounded_delay((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), most=most)
    except (ValueError, TypeError, OverflowError):  # not a date, or a date without a time zone
        return None


def bounded_delay(seconds: float, *, most: float = MAX_RETRY_AFTER_SECONDS) -> float | None:
    """A delay that a service asked for: at least a second and at most `most`. A number that can only be a time (in
    seconds or milliseconds since 1970) is read as one. None if it is past or not finite: the usual backoff applies."""
    if seconds >= EARLIEST_EPOCH_MILLISECONDS:
        seconds /= 1_000
    if EARLIEST_EPOCH <= seconds < math.inf:
        seconds -= time.time()
    if not 0 < seconds < math.inf:
        return None
    return min(max(seconds, MIN_RETRY_AFTER_SECONDS), most)
