"""A service that an agent needs is overloaded: its messages are put off without a failure, and few of them ask."""

from typing import Any

import httpx2
import msgspec
import pytest

from service.config import Settings
from service.db.pool import Connection
from service.leases.model import Claim
from service.worker.breakers import MAX_PAUSE_SECONDS, OVERLOADS_UNTIL_OPEN, PROBE_SECONDS, Breakers
from service.worker.outcome import failed
from tests.support.claims import CLAIM
from tests.support.fixture_types import StartWorker
from tests.support.messages import log, run, settled, submit_many
from tests.support.waiting import until
from treadle import Context, Overloaded, Rejected, RetryAfter, agent

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
