"""A service that an agent needs is overloaded: its messages are put off without a failure, and few of them ask."""

import email.message
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import anthropic
import httpx
import httpx2
import msgspec
import openai
import pydantic_ai
import pytest

from service.agents.http_errors import refuses_request
from service.config import Settings
from service.db.pool import Connection
from service.errors import QueueFull
from service.leases.model import Claim
from service.worker.breakers import MAX_PAUSE_SECONDS, OVERLOADS_UNTIL_OPEN, PROBE_SECONDS, Breakers
from service.worker.outcome import failed
from tests.support.fixture_types import StartWorker
from tests.support.messages import log, run, settled, submit_many
from tests.support.waiting import until
from treadle import Context, Overloaded, Rejected, RetryAfter, agent

CLAIM = msgspec.convert(
    {
        **dict.fromkeys(("thread", "thread_id", "ord")),
        **{"message_id": "0192f0c1-2222-7000-8000-000000000000", "lease": "0192f0c1-2222-7000-8000-000000000001"},
        **{"queue": "q", "agent": "a", "priority": "normal", "body": '"x"', "metadata": "{}", "attempt": 1},
        **{"max_attempts": 3, "failures": 0, "losses": 0, "timeout_seconds": 1, "last_seq": 1},
        "created_at": datetime(2026, 1, 1),
    },
    Claim,
)
SETTINGS = Settings(overload_patience=600)


def after(seconds: float | None) -> Claim:
    return msgspec.structs.replace(CLAIM, overloaded_seconds=seconds)


async def test_an_overload_is_no_failure_and_other_failures_count(sql: Connection, start_worker: StartWorker) -> None:
    @agent("moody")
    async def moody(context: Context, request: str) -> str:
        if context.attempt in (1, 2):
            raise ExceptionGroup("group", [Overloaded("Too many requests.")])
        if context.attempt == 3:
            raise ValueError
        return "well"

    await start_worker(moody)
    message = await run(sql, "x", agent="moody", max_attempts=2)
    assert (message["state"], message["attempt"], message["failures"]) == ("completed", 4, 1)
    errors = [entry.data["error"] for entry in await log(sql, message["message_id"]) if entry.type == "retry"]
    assert errors[0].endswith("Too many requests.")


async def test_a_sync_agent_can_be_overloaded_too(sql: Connection, start_worker: StartWorker) -> None:
    @agent("sync")
    def sync(context: Any, request: str) -> str:
        if context.attempt == 1:
            raise Overloaded
        return "well"

    await start_worker(sync)
    message = await run(sql, "x", agent="sync", max_attempts=1)
    assert (message["state"], message["failures"]) == ("completed", 0)


def test_the_wait_grows_with_the_overload_and_obeys_the_service() -> None:
    for waited, low, high in ((None, 1, 2), (0.5, 1, 2), (10, 5, 10), (500, 30, 60)):
        for _ in range(50):
            outcome = failed(Overloaded("busy"), after(waited), SETTINGS)
            assert (outcome.kind, outcome.error) == ("overloaded", "busy")
            assert low <= (outcome.delay_seconds or 0) <= high
    asked = failed(Overloaded("busy", 100), after(None), SETTINGS)
    assert 100 <= (asked.delay_seconds or 0) <= 110
    at_once = failed(Overloaded("busy", 0.001), after(None), SETTINGS)
    assert (at_once.delay_seconds or 0) >= 1


def test_patience_ends() -> None:
    outcome = failed(Overloaded("Busy."), after(600), SETTINGS)
    assert outcome.kind == "rejected"
    assert outcome.error == "Busy. This has lasted for more than 600 seconds (OVERLOAD_PATIENCE)."


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ExceptionGroup("g", [Overloaded("busy"), Rejected("no")]), "rejected"),
        (ExceptionGroup("g", [ValueError(), Overloaded("busy", 5)]), "overloaded"),
        (RetryAfter(5), "error"),
    ],
)
def test_of_several_exceptions_one_decides(error: Exception, kind: str) -> None:
    assert failed(error, CLAIM, SETTINGS).kind == kind


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_breaker_opens_after_overloads_in_a_row() -> None:
    clock = Clock()
    breakers = Breakers(1.0, clock)
    for outcome in ("overloaded", "overloaded", "completed") * 3:  # one user's limit beside another's answers
        breakers.record("a", outcome)
    assert breakers.pause_left("a") == 0
    for _ in range(OVERLOADS_UNTIL_OPEN):
        assert breakers.pause_left("a") == 0
        breakers.record("a", "overloaded")
    first = breakers.pause_left("a")
    assert 0.999 <= first <= 2.001
    assert breakers.pause_left("b") == 0
    breakers.record("a", "overloaded")  # it was on its way
    assert breakers.pause_left("a") == first


def test_after_a_pause_one_message_tries() -> None:
    clock = Clock()
    breakers = Breakers(1.0, clock)
    for _ in range(OVERLOADS_UNTIL_OPEN):
        breakers.record("a", "overloaded")
    pauses = []
    for _ in range(10):
        clock.now += breakers.pause_left("a") + 0.001  # sums of floats are not exact
        assert breakers.pause_left("a") == 0
        assert breakers.pause_left("a") == pytest.approx(PROBE_SECONDS)
        breakers.record("a", "overloaded")
        pauses.append(breakers.pause_left("a"))
    longest = [min(MAX_PAUSE_SECONDS, 2.0 ** (n + 2)) for n in range(len(pauses))]
    assert all(0.499 * most <= pause <= 1.001 * most for pause, most in zip(pauses, longest, strict=True))
    clock.now += MAX_PAUSE_SECONDS + 0.001
    assert breakers.pause_left("a") == 0
    breakers.record("a", "released")  # tells nothing
    assert breakers.pause_left("a") == pytest.approx(PROBE_SECONDS)
    clock.now += PROBE_SECONDS + 0.001
    assert breakers.pause_left("a") == 0
    breakers.record("a", "completed")
    assert breakers.pause_left("a") == 0
    assert breakers.pause_left("a") == 0


async def test_few_messages_ask_an_overloaded_service(
    sql: Connection, start_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0
    well = False

    @agent("busy")
    async def busy(context: Context, request: str) -> str:
        nonlocal calls
        calls += 1
        if not well:
            raise Overloaded
        return "well"

    await start_worker(busy, worker_concurrency=1, retry_base_seconds=0.2)
    ids = await submit_many(sql, [{"message": "x", "agent": "busy", "max_attempts": 1}] * 20)
    put_off = "select count(*) = 20 from treadle.messages where attempt > 0 and hold = 'backoff'"
    await until(lambda: sql.fetchval(put_off))
    attempts = await sql.fetchval("select sum(attempt) from treadle.messages")
    assert calls <= attempts / 2  # without the breaker each attempt calls
    well = True
    for message_id in ids:
        message = await settled(sql, message_id)
        assert (message["state"], message["failures"]) == ("completed", 0)
    assert "a service that an agent needs is overloaded: its messages wait" in caplog.text


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
    ):
        assert 100 <= (failed(error, CLAIM, SETTINGS).delay_seconds or 0) <= 110


async def test_an_unreachable_model_of_one_s_own_costs_no_failure(sql: Connection, start_worker: StartWorker) -> None:
    @agent("asks")
    async def asks(context: Context, text: str) -> str:
        if context.attempt < 3:
            async with httpx2.AsyncClient() as client:
                await client.get("http://127.0.0.1:1/")
        return "well"

    await start_worker(asks)
    message = await run(sql, "x", agent="asks", max_attempts=1)
    assert (message["state"], message["attempt"], message["failures"]) == ("completed", 3, 0)
