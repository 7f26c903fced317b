"""When a call is repeated, and after how long."""

import random
import time
from collections.abc import Callable

import httpx2
import msgspec

from treadle.client.errors import Conflict, TooManyRequests, TreadleError, Unavailable, api_error

FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 10.0
MAX_DETAIL_CHARS = 500


def backoff(attempt: int) -> float:
    """Seconds before attempt `attempt` (1 is the first repeat): exponential, half of it random."""
    longest = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(attempt - 1, 10))
    return random.uniform(longest / 2, longest)


class Repeats:
    """The attempts of one call. `seconds` bounds how long the call is repeated, counted from the first attempt."""

    def __init__(self, seconds: float, *, repeatable: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """`repeatable`: the call may be sent again though the server may have carried it out."""
        self._repeatable = repeatable
        self._clock = clock
        self._until = clock() + seconds
        self._attempts = 0

    def after_error(self, error: httpx2.TransportError) -> float:
        """Seconds until the call is sent again after an attempt without an answer. Raises Unavailable."""
        reason = str(error) or type(error).__name__
        was_sent = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
        return self._delay(Unavailable(f"The server cannot be reached: {reason}"), self._repeatable or not was_sent)

    def after_refusal(self, answer: httpx2.Response) -> float:
        """Seconds until the call is sent again after an answer without success. Raises what the answer says."""
        error = error_of(answer)
        if isinstance(error, TooManyRequests):
            return self._delay(error, True, error.retry_after)
        if isinstance(error, Conflict) and error.retry_after is not None:
            return self._delay(error, True, error.retry_after)  # another transaction holds the thread or the key
        if isinstance(error, Unavailable):
            return self._delay(error, self._repeatable)
        raise error

    def _delay(self, error: TreadleError, may_repeat: bool, advice: float | None = None) -> float:
        self._attempts += 1
        delay = max(backoff(self._attempts), advice or 0)
        if not may_repeat or self._clock() + delay > self._until:
            raise error
        return delay


def error_of(answer: httpx2.Response) -> TreadleError:
    """The exception for an answer without success, whose body has been read."""
    detail = _detail(answer)
    if answer.status_code in (408, 502, 503, 504):
        return Unavailable(detail)
    return api_error(answer.status_code, detail, _retry_after(answer))


def _detail(answer: httpx2.Response) -> str:
    """The sentence of a problem (RFC 9457), or the beginning of whatever else a proxy answers."""
    try:
        problem = msgspec.json.decode(answer.content)
    except msgspec.DecodeError:
        problem = None
    if isinstance(problem, dict) and isinstance(problem.get("detail"), str):
        return str(problem["detail"])
    text = " ".join(answer.text.split())[:MAX_DETAIL_CHARS]
    return f"The server answered {answer.status_code}{': ' + text if text else ''}"


def _retry_after(answer: httpx2.Response) -> float | None:
    value = answer.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 8 else None
