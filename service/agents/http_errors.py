"""Which exception an agent raises when another service refuses a call."""

import math
import socket
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from service.agents.contract import Overloaded, Rejected, RetryAfter
from service.agents.raised import said
from service.errors import TreadleError

RETRYABLE_STATUSES = frozenset({408, 409, 425})  # the 4xx answers that another attempt may change
FIRST_ERROR_STATUS = 400
OVERLOAD_STATUSES = frozenset({429, 503, 529})  # the service is busy; the message is not at fault
REFUSAL_STATUSES = frozenset({400, 413})  # a service may accept a request with less of the conversation
OVERLOAD_ERROR_TYPES = {  # of an error event in the middle of a stream
    *("overloaded_error", "rate_limit_error"),  # Anthropic
    *("rate_limit_exceeded", "server_overloaded", "tokens", "requests"),  # OpenAI
}
NO_MONEY_ERROR_TYPES = {"insufficient_quota"}  # OpenAI answers 429 for it, but waiting does not help
# The names of what clients raise before they have sent anything: the libraries need not be installed.
UNREACHABLE_ERRORS = {
    *("ConnectError", "ConnectTimeout"),  # httpx, httpx2, httpcore, requests
    *("NewConnectionError", "ConnectTimeoutError"),  # urllib3
    "ClientConnectorError",  # aiohttp
    "EndpointConnectionError",  # botocore
}
# What AWS calls an overload, whatever its status is; in the middle of a stream it begins with a small letter.
AWS_OVERLOADS = {
    *("throttlingexception", "throttling", "throttledexception", "ec2throttledexception", "requestthrottled"),
    *("requestthrottledexception", "toomanyrequestsexception", "requestlimitexceeded", "slowdown"),
    *("serviceunavailableexception", "modelnotreadyexception", "provisionedthroughputexceededexception"),
}
AWS_REFUSALS = {"validationexception", "requestentitytoolargeexception", "requestentitytoolarge", "413"}
# gRPC has one status for a quota and for a message beyond a size, and one for all connections: the details tell.
GRPC_SIZES = ("larger than max", "exceeds maximum size")
GRPC_UNREACHABLE = ("failed to connect", "connection refused", "name resolution", "dns")
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


def error_of_service(error: BaseException) -> BaseException:
    """What the error means to a worker, if it is that of a client (a model SDK, httpx, requests, ...) or was raised
    from one: Overloaded if the service is overloaded or cannot be reached, RetryAfter if it says when, Rejected if it
    will stay so. Else the error itself."""
    for cause in _causes(error):
        if isinstance(cause, Rejected | RetryAfter | TreadleError) or not isinstance(cause, Exception):
            return error
        reason = f"{type(cause).__name__}: {said(cause)}"
        if _names_of(cause) & NO_MONEY_ERROR_TYPES:
            return Rejected(reason)
        response = _field(cause, "response")
        headers = _field(response, "headers") or _field(cause, "headers")
        headers = headers or _part(response, "ResponseMetadata", "HTTPHeaders")
        delay = retry_after_seconds(headers) if isinstance(headers, Mapping) else _retry_info_seconds(cause)
        if is_overload(cause) or cannot_be_reached(cause):
            return Overloaded(reason, delay or 0.0)
        if delay is not None:
            return RetryAfter(delay, reason)
    return error


def is_overload(error: Exception) -> bool:
    """Whether a client's error says that the service is overloaded: by its status, or by an error event in the middle
    of a stream, whose status is 200. AWS and gRPC have names of their own for it."""
    if _aws_code(error) in AWS_OVERLOADS or _is_grpc_overload(error):
        return True
    if _is_a(error, "ResourceExhausted") and _names_a_size(said(error)):
        return False  # Google's client gives gRPC's refusal of a size the status 429
    statuses = {status for status in _statuses(error) if status >= FIRST_ERROR_STATUS}
    if statuses:
        return bool(statuses & OVERLOAD_STATUSES)
    return _field(error, "body") is not None and bool(_names_of(error) & OVERLOAD_ERROR_TYPES)


def refuses_request(error: BaseException) -> bool:
    """Whether a client's error says that the service refuses the request as it is: its size, or something in it."""
    causes = [cause for cause in _causes(error) if isinstance(cause, Exception)]
    return any(map(_is_refusal, causes)) and not any(map(is_overload, causes))


def cannot_be_reached(error: Exception) -> bool:
    """Whether a client's error says that no connection could be made: so the request was not sent."""
    causes = list(_causes(error))
    if any(isinstance(cause, ConnectionRefusedError | socket.gaierror) for cause in causes):
        return True
    names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    return bool(names & UNREACHABLE_ERRORS) or (len(causes) == 1 and type(error).__name__ == "APIConnectionError")


def _statuses(error: BaseException) -> set[int]:
    found = [_field(_field(error, "response"), "status_code")]
    found += [_field(error, name) for name in ("status_code", "status", "code")]
    found.append(_part(_field(error, "response"), "ResponseMetadata", "HTTPStatusCode"))  # botocore
    return {status for status in found if isinstance(status, int)}


def _is_refusal(error: Exception) -> bool:
    """AWS answers 400 for much else, too."""
    code = _aws_code(error)
    return bool(_statuses(error) & REFUSAL_STATUSES) if code is None else code in AWS_REFUSALS


def _aws_code(error: Exception) -> str | None:
    """What botocore's error is called, in small letters."""
    code = _part(_field(error, "response"), "Error", "Code")
    return code.lower() if isinstance(code, str) else None


def _names_of(error: Exception) -> set[str]:
    names = (_field(error, "type"), _field(error, "code"))
    return {name for name in names if isinstance(name, str)}


def _is_grpc_overload(error: Any) -> bool:
    """Whether a call of gRPC ended because of a quota, or because no connection was made."""
    if not _is_a(error, "RpcError"):
        return False
    try:
        code, details = str(error.code().name), error.details() if _field(error, "details") else ""
    except Exception:  # of the error's own code
        return False
    text = f"{details} {said(error)}".lower()
    if code == "RESOURCE_EXHAUSTED":
        return not _names_a_size(text)
    return code == "UNAVAILABLE" and any(sign in text for sign in GRPC_UNREACHABLE)


def _is_a(error: Exception, name: str) -> bool:
    """Whether a class of this name is among the error's: its library need not be installed."""
    return any(kind.__name__ == name for kind in type(error).__mro__)


def _names_a_size(text: str) -> bool:
    return any(sign in text.lower() for sign in GRPC_SIZES)


def _retry_info_seconds(error: Exception) -> float | None:
    """The delay that one of Google's services asks for: a RetryInfo among the error's details, which are Protobuf
    messages, or JSON, with the body around it in google.genai."""
    details = _field(error, "details")
    details = _part(details, "error", "details") or details
    for detail in details if isinstance(details, list | tuple) else ():
        if isinstance(detail, Mapping) and str(detail.get("@type")).endswith("google.rpc.RetryInfo"):
            return asked_delay(str(detail.get("retryDelay")).removesuffix("s"))
        if type(detail).__name__ == "RetryInfo":
            delay = _field(detail, "retry_delay")
            return asked_delay((_field(delay, "seconds") or 0) + (_field(delay, "nanos") or 0) / 1_000_000_000)
    return None


def _part(value: Any, *names: str) -> Any:
    """A part of nested objects; None where it is missing."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _field(value: Any, name: str) -> Any:
    """None where it is missing, or where the error's own code cannot say it."""
    try:
        return getattr(value, name, None)
    except Exception:
        return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those from which it was raised: by `from`, or as its reason or argument (urllib, requests)."""
    seen: list[BaseException] = []
    cause: Any = error
    while isinstance(cause, BaseException) and not any(cause is before for before in seen):
        yield cause
        seen.append(cause)
        carried = (cause.__cause__, _field(cause, "reason"), *cause.args[:1])
        cause = next((item for item in carried if isinstance(item, BaseException)), None)


def retry_after_seconds(headers: Mapping[str, str], *, most: float = MAX_RETRY_AFTER_SECONDS) -> float | None:
    """The header Retry-After in seconds, from a number or a date (RFC 9110), at most so many; None if it is missing or
    senseless."""
    return asked_delay(headers.get("retry-after", ""), most=most)


def asked_delay(value: Any, *, most: float = MAX_RETRY_AFTER_SECONDS) -> float | None:
    """A delay that a service asked for, a number or a text with a number or a date: at least a second and at most
    `most`. A number that can only be a time (in seconds or milliseconds since 1970) is read as one. None if it is past,
    not finite or anything else: the usual backoff applies."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return _bounded(float(value), most)
    except OverflowError:  # a whole number of 309 digits or more
        return most if value > 0 else None  # type: ignore[operator]  # no text: float() raises no OverflowError for one
    except ValueError:
        pass
    try:
        return _bounded((parsedate_to_datetime(str(value)) - datetime.now(UTC)).total_seconds(), most)
    except (ValueError, TypeError, OverflowError):  # not a date, or a date without a time zone
        return None


def _bounded(seconds: float, most: float) -> float | None:
    if seconds >= EARLIEST_EPOCH_MILLISECONDS:
        seconds /= 1_000
    if EARLIEST_EPOCH <= seconds < math.inf:
        seconds -= time.time()
    if not 0 < seconds < math.inf:
        return None
    return min(max(seconds, MIN_RETRY_AFTER_SECONDS), most)
