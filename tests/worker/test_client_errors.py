"""What the errors of clients of other services mean: SDKs of models, AWS, gRPC, Google, HTTP."""

import email.message
import importlib
import socket
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pydantic_ai
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

from service.agents.http_errors import error_of_service, refuses_request
from service.config import Settings
from service.errors import QueueFull
from service.worker.outcome import failed
from tests.support.claims import CLAIM
from treadle import Rejected, RetryAfter

with warnings.catch_warnings():  # it wants a later Python
    warnings.simplefilter("ignore", FutureWarning)
    GOOGLE: Any = importlib.import_module("google.api_core.exceptions")

SETTINGS = Settings(overload_patience=600)

REQUEST = httpx2.Request("POST", "http://127.0.0.1:1/")


def _answered(status: int, **headers: str) -> httpx2.Response:
    return httpx2.Response(status, headers=headers, request=REQUEST)


def _raised(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def _refused_by_requests() -> Exception:
    requests = pytest.importorskip("requests")
    try:
        requests.get("http://127.0.0.1:1/", timeout=5)
    except OSError as error:
        return error
    raise AssertionError


def _refused_by_urllib() -> Exception:
    try:
        urllib.request.urlopen("http://127.0.0.1:1/", timeout=5)
    except urllib.error.URLError as error:
        return error
    raise AssertionError


RETRY_INFO = RetryInfo(retry_delay=Duration(seconds=100, nanos=500_000_000))
RETRY_INFO_JSON = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "100.5s"}
MID_STREAM = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
OVERLOADS: dict[str, Callable[[], Exception]] = {
    "anthropic 529": lambda: anthropic.InternalServerError("busy", response=_answered(529), body=None),
    "openai 503": lambda: openai.InternalServerError("busy", response=_answered(503), body=None),
    "openai 429": lambda: openai.RateLimitError("busy", response=_answered(429), body=None),
    "anthropic, in a stream": lambda: anthropic.APIStatusError("busy", response=_answered(200), body=MID_STREAM),
    "openai, in a stream": lambda: openai.APIError("busy", REQUEST, body={"code": "rate_limit_exceeded"}),
    "anthropic, away": lambda: _raised(anthropic.APIConnectionError(request=REQUEST), httpx2.ConnectError("refused")),
    "openai, away": lambda: _raised(openai.APITimeoutError(REQUEST), httpx2.ConnectTimeout("slow")),
    "openai, bare": lambda: openai.APIConnectionError(request=REQUEST),
    "httpx2, away": lambda: httpx2.ConnectError("refused"),
    "httpx, away": lambda: httpx.ConnectError("refused"),
    "httpx 503": lambda: httpx.HTTPStatusError("busy", request=httpx.Request("GET", "/"), response=httpx.Response(503)),
    "requests, away": _refused_by_requests,
    "urllib, away": _refused_by_urllib,
    "urllib 503": lambda: urllib.error.HTTPError("http://x", 503, "busy", email.message.Message(), None),
    "pydantic_ai 529": lambda: pydantic_ai.ModelHTTPError(529, "model"),
    "AWS 429": lambda: AwsError("ThrottlingException", 429),
    "AWS 400": lambda: AwsError("ThrottlingException", 400),
    "AWS 503": lambda: AwsError("503", 503),
    "AWS, in a stream": lambda: AwsError("throttlingException"),
    "AWS, in LangChain": lambda: _raised(ValueError("Error raised by bedrock service"), AwsError("Throttling", 400)),
    "grpc, exhausted": lambda: RpcError("RESOURCE_EXHAUSTED"),
    "grpc, away": lambda: RpcError("UNAVAILABLE", "failed to connect to all addresses; last error: Connection refused"),
    "grpc, no host": lambda: RpcError("UNAVAILABLE", "DNS resolution failed for x:1"),
    "google, exhausted": lambda: GOOGLE.ResourceExhausted("Quota exceeded for x"),
    "google, away": lambda: GOOGLE.ServiceUnavailable("The model is overloaded."),
    "google, REST": lambda: GOOGLE.from_http_status(429, "busy"),
    "google, after retries": lambda: _raised(
        GOOGLE.RetryError("Timeout of 60.0s exceeded", None), GOOGLE.TooManyRequests("busy")
    ),
    "AWS, requests": lambda: AwsError("RequestThrottledException", 400),
    "no such host": lambda: socket.gaierror(-2, "Name or service not known"),
    "one's own": lambda: _raised(RuntimeError("No answer."), httpx2.ConnectError("refused")),
    "in a group": lambda: ExceptionGroup("g", [ValueError(), httpx2.ConnectError("refused")]),
}


@pytest.mark.parametrize("name", OVERLOADS)
def test_the_error_of_a_client_is_an_overload(name: str) -> None:
    assert failed(OVERLOADS[name](), CLAIM, SETTINGS).kind == "overloaded"


class AwsError(Exception):
    """As botocore's ClientError."""

    def __init__(self, code: str, status: int | None = None, **headers: str) -> None:
        super().__init__(f"An error occurred ({code}) when calling the Converse operation")
        self.response: dict[str, Any] = {"Error": {"Code": code, "Message": "busy"}}
        if status is not None:
            self.response["ResponseMetadata"] = {"HTTPStatusCode": status, "HTTPHeaders": headers}


class RpcError(Exception):
    """As that of grpc."""

    def __init__(self, name: str, details: str = "") -> None:
        super().__init__(name)
        self._name = name
        self._details = details

    def details(self) -> str:
        return self._details

    def code(self) -> Any:
        return SimpleNamespace(name=self._name, value=(8, self._name.lower()))


class GenaiError(Exception):
    """As the APIError of google.genai."""

    def __init__(self, code: int, details: Any) -> None:
        super().__init__(f"{code} RESOURCE_EXHAUSTED. {details}")
        self.code = code
        self.details = details


class Broken(Exception):
    @property
    def response(self) -> Any:
        raise RuntimeError

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (anthropic.InternalServerError("broken", response=_answered(500), body=None), "error"),
        (anthropic.InternalServerError("broken", response=_answered(500), body=MID_STREAM), "error"),  # by its status
        (
            _raised(openai.APIConnectionError(request=REQUEST), httpx2.ReadError("cut")),
            "error",
        ),  # it may have been sent
        (openai.RateLimitError("no money", response=_answered(429), body={"code": "insufficient_quota"}), "rejected"),
        (_raised(Rejected("no"), httpx2.ConnectError("refused")), "rejected"),
        (_raised(RetryAfter(5), httpx2.ConnectError("refused")), "error"),
        (QueueFull("The queue is full."), "error"),
        (Broken(), "error"),
        (AwsError("ValidationException", 400), "error"),
        (RpcError("INVALID_ARGUMENT"), "error"),
        (RpcError("RESOURCE_EXHAUSTED", "Received message larger than max (5000000 vs. 4194304)"), "error"),
        (RpcError("UNAVAILABLE", "Socket closed"), "error"),  # it may have been sent
        (GOOGLE.ResourceExhausted("Received message larger than max (5000000 vs. 4194304)"), "error"),
        (GOOGLE.DeadlineExceeded("Deadline exceeded"), "error"),  # it was sent
        (GOOGLE.InvalidArgument("no", details=[{"@type": "x/google.rpc.BadRequest"}]), "error"),
        (ConnectionError("cut"), "error"),
    ],
)
def test_other_errors_are_none(error: Exception, kind: str) -> None:
    assert failed(error, CLAIM, SETTINGS).kind == kind


@pytest.mark.parametrize(
    ("error", "is_refused"),
    [
        (openai.BadRequestError("too long", response=_answered(400), body=None), True),
        (_raised(ValueError("Error raised by bedrock service"), AwsError("ValidationException", 400)), True),
        (AwsError("ThrottlingException", 400), False),
        (AwsError("ExpiredTokenException", 400), False),
        (openai.RateLimitError("busy", response=_answered(429), body=None), False),
    ],
)
def test_a_throttle_with_status_400_refuses_no_request(error: Exception, is_refused: bool) -> None:
    assert refuses_request(error) == is_refused


def test_a_client_s_retry_after_is_obeyed() -> None:
    for error in (
        anthropic.RateLimitError("busy", response=_answered(429, **{"Retry-After": "100"}), body=None),
        AwsError("ThrottlingException", 429, **{"retry-after": "100"}),
        GOOGLE.ResourceExhausted("busy", details=[ErrorInfo(reason="QUOTA"), RETRY_INFO]),
        GOOGLE.from_http_status(429, "busy", details=[{"@type": "x/google.rpc.Help"}, RETRY_INFO_JSON]),
        GOOGLE.InternalServerError("broken", details=[RETRY_INFO_JSON]),
        GenaiError(429, {"error": {"code": 429, "details": [RETRY_INFO_JSON]}}),
    ):
        assert 100 <= (failed(error, CLAIM, SETTINGS).delay_seconds or 0) <= 111  # up to a tenth more than asked


@pytest.mark.parametrize("details", [None, "busy", {}, [None], [{"@type": "x/google.rpc.RetryInfo"}], [RetryInfo()]])
def test_details_without_a_delay_ask_for_none(details: Any) -> None:
    error = GenaiError(500, details)
    assert error_of_service(error) is error
