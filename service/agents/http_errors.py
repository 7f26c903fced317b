"""What another service's refusal means for the message: later, by backoff, or never. Shared by agents that call one."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from service.agents.contract import Rejected, RetryAfter

PASSING = frozenset({408, 409, 425, 429})  # the answers of 4xx that another try may change


def verdict(status: int, headers: Mapping[str, str], reason: str) -> Exception:
    """The exception for an answer that is none: a Retry-After is obeyed, other passing trouble is retried by backoff,
    and what the service will never answer is rejected."""
    if status < 500 and status not in PASSING:
        return Rejected(reason)
    delay = retry_after(headers)
    return ConnectionError(reason) if delay is None else RetryAfter(delay, reason)


def patient(error: Exception) -> Exception:
    """RetryAfter in place of an error that carries a service's Retry-After, as those of the model makers' SDKs do; else
    the error itself."""
    headers = getattr(getattr(error, "response", None), "headers", None)
    delay = retry_after(headers) if isinstance(headers, Mapping) else None
    return error if delay is None else RetryAfter(delay, f"{type(error).__name__}: {error}")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, of either form that RFC 9110 allows; None where there is no such header, or none that makes sense."""
    value = headers.get("retry-after", "")
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):  # no date, or one without a time zone
        return None
