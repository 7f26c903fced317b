"""Make the outcome of an attempt, and decide when a failed one is tried again."""

import asyncio
import random
import signal
import traceback
from typing import Any, Literal, TypeAlias

from service.agents.contract import Deferred, Overloaded, Rejected, RetryAfter, Unacceptable
from service.agents.http_errors import error_of_service
from service.agents.raised import decisive_of, leaves, said
from service.agents.texts import clean, encode_clean
from service.config import Settings
from service.errors import Invalid, NotFound, Unprocessable
from service.json_input import unreadable
from service.leases.model import Claim, Outcome
from service.leases.overload import put_off
from service.limits import MAX_ERROR_CHARS

MAX_TRACEBACK_CHARS = 20_000

StopReason: TypeAlias = Literal["cancelled", "lost", "released", "parked"]
"""Why a worker ends an attempt early: its message was cancelled, its lease was lost, the worker stops, or the agent
waits for others."""


# What PostgreSQL answers to the writes of an attempt, and will answer again: a value is not accepted, or there is no
# such agent or topic.
REFUSALS = (Invalid, NotFound, Unprocessable)

RELEASED = Outcome("released", error="The worker was stopped.")
CANCELLED = Outcome("error", error="Cancelled.")  # PostgreSQL makes it `cancelled`, because a cancel was requested


def completed(result: Any, settings: Settings) -> Outcome:
    """Raises Rejected for a result that is not JSON or is too large: another attempt would pay for the same."""
    text = encode_once(result, "The agent's result")
    size = len(text) if text.isascii() else len(text.encode())
    if size > settings.max_result_bytes:
        limit = settings.max_result_bytes
        raise Rejected(f"A result has at most {limit} bytes (MAX_RESULT_BYTES); this one has {size}.")
    return Outcome("completed", result=text)


def failed(error: BaseException, claim: Claim, settings: Settings) -> Outcome:
    """The outcome of an agent that raised. An exception inside of a group (of a
    TaskGroup, for example) means what it means outside of one."""
    # The errors of a model's SDK or another client that say that its service is overloaded or away.
    decision = decisive_of([error_of_service(leaf) for leaf in leaves(error)])
    text = clean(_describe(decision, len(leaves(error))))[:MAX_ERROR_CHARS]
    trace = clean("".join(traceback.format_exception(error)))[-MAX_TRACEBACK_CHARS:]
    if isinstance(decision, (Rejected, *REFUSALS)):
        return Outcome("rejected", error=text, traceback=trace)
    if isinstance(decision, Deferred):
        return Outcome("deferred", error=text, delay_seconds=decision.seconds)
    if isinstance(decision, Overloaded):
        return overloaded(text, claim, settings, asked_seconds=decision.seconds)
    delay = decision.seconds if isinstance(decision, RetryAfter) else backoff(claim.failures, settings)
    return Outcome("error", error=text, traceback=trace, delay_seconds=delay)


def overloaded(reason: str, claim: Claim, settings: Settings, *, asked_seconds: float = 0.0) -> Outcome:
    """The outcome while a service that the agent needs is overloaded."""
    return put_off(reason, claim.overloaded_seconds or 0.0, settings, asked_seconds=asked_seconds)


def broken(error: Exception, failures: int, settings: Settings) -> Outcome:
    """The outcome of an attempt in which our own code raised: a failure, so that it is not repeated for ever."""
    text = f"The attempt broke: {type(error).__name__}."
    return Outcome("error", error=text, delay_seconds=backoff(failures, settings))


def lost(exit_code: int | None, losses: int, settings: Settings) -> Outcome:
    """The agent's own process ended before the agent did. `exit_code`: negative for a signal, None if unknown. `losses`
    counts the earlier ones."""
    end = "was lost" if exit_code is None else f"ended with exit code {exit_code}"
    if exit_code is not None and exit_code < 0:
        name = f" ({signal.Signals(-exit_code).name})" if -exit_code in set(signal.Signals) else ""
        end = f"was killed by signal {-exit_code}{name}"
    return Outcome("lost", error=f"The agent's process {end}.", delay_seconds=backoff(losses, settings))


def unknown(agent: str, attempt: int, settings: Settings) -> Outcome:
    """The outcome for an agent that this worker does not have; newer workers may have it."""
    return deferred(f"This worker has no agent {agent!r}.", backoff(attempt - 1, settings))


def deferred(reason: str, delay_seconds: float) -> Outcome:
    """The outcome when this worker cannot run the agent now: tried again later, without a failure."""
    return Outcome("deferred", error=clean(reason)[:MAX_ERROR_CHARS], delay_seconds=delay_seconds)


def backoff(failures: int, settings: Settings) -> float:
    """Seconds to the next attempt: exponential with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015)."""
    return random.uniform(0, min(settings.retry_max_seconds, settings.retry_base_seconds * 2.0 ** min(failures, 30)))


def encode(value: Any) -> str:
    """JSON text that PostgreSQL accepts: without U+0000 and lone surrogates. Raises TypeError for other values, and
    ValueError for one that is nested too deeply or holds too large a number for its readers."""
    text = encode_clean(value)
    if reason := unreadable(text):
        raise ValueError(f"it {reason}")
    return text


def encode_once(value: Any, what: str) -> str:
    """JSON text of what an agent's work came to. Raises Rejected if it is not JSON: another attempt would pay for the
    same."""
    try:
        return encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise Rejected(f"{what} is not JSON: {reason}.") from error


def _describe(decision: BaseException, count: int) -> str:
    """`count`: the exceptions of the group from which it is."""
    text = _describe_one(decision)
    return text if count == 1 or isinstance(decision, Rejected | RetryAfter) else f"{text} (and {count - 1} more)"


def _describe_one(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "The agent cancelled itself."
    name, text = type(error).__name__, said(error)
    if isinstance(error, Unacceptable):
        return f"A call of the agent's context is refused: {text.rstrip('.')}."
    if isinstance(error, (RetryAfter, Rejected, *REFUSALS)):
        return text or name
    return f"{name}: {text}" if text else name
