"""The moments of Treadle, each named once. The place where one happens calls it; metrics, logs and tests listen.

A moment that has no listener costs a tenth of a microsecond. Listeners run at once, in the caller's thread: they only
count or remember. A moment of a batch is called once for all of it.
"""

import functools
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, ParamSpec, Protocol, cast
from uuid import UUID

log = logging.getLogger(__name__)

# The W3C trace context of what runs now: that of a request, or of an attempt. A message that is submitted keeps it.
TRACE_PARENT: ContextVar[str | None] = ContextVar("trace_parent", default=None)
IS_TRACE_PARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

Measured = ParamSpec("Measured")


class Work(Protocol):
    """A message under lease, as its worker claimed it."""

    @property
    def message_id(self) -> UUID: ...
    @property
    def tenant(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def agent(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def created_at(self) -> datetime: ...


class Asked(Protocol):
    """A message that a client submits; `agent`: None for the default agent."""

    @property
    def agent(self) -> str | None: ...


class Answered(Protocol):
    """What PostgreSQL answered to it; `state`: also `busy` and `refused`, if it was not written."""

    @property
    def message_id(self) -> UUID | None: ...
    @property
    def state(self) -> str: ...
    @property
    def queue(self) -> str | None: ...


class LostWork(Protocol):
    """A message that was taken back from a dead worker."""

    @property
    def message_id(self) -> UUID: ...
    @property
    def queue(self) -> str: ...


class Moment(Protocol[Measured]):
    """Calls its listeners with what was measured. A listener that raises is logged; the work goes on."""

    __name__: str

    def __call__(self, *args: Measured.args, **measured: Measured.kwargs) -> None: ...

    def listen(self, listener: Callable[Measured, None]) -> Callable[[], None]:
        """Call the listener at each such moment, until the returned function is called."""


MOMENTS: list[Moment[Any]] = []


def moment(signature: Callable[Measured, None]) -> Moment[Measured]:
    """The moment whose name, meaning and measurements are those of a function without a body."""
    listeners: list[Any] = []

    # A plain function: to call an object with `__call__` takes three times as long.
    @functools.wraps(signature)
    def happen(**measured: Any) -> None:
        for listener in listeners:
            try:
                listener(**measured)
            except Exception:
                log.exception("a listener of telemetry failed", extra={"moment": signature.__name__})

    def listen(listener: Any) -> Callable[[], None]:
        listeners.append(listener)
        return lambda: listeners.remove(listener)

    happen.listen = listen  # type: ignore[attr-defined]  # a Moment is a function with this attribute
    found = cast("Moment[Measured]", happen)
    MOMENTS.append(found)
    return found


@contextmanager
def listening(*stops: Callable[[], None]) -> Iterator[None]:
    """Meanwhile listeners are called; `stops`: what the `listen` of their moments returned."""
    with ExitStack() as ends:
        for stop in stops:
            ends.callback(stop)
        yield


# What clients ask for.


@moment
def submit(*, tenant: str, messages: Sequence[Asked], answers: Sequence[Answered], seconds: float) -> None:
    """One call submitted these messages, in this order; PostgreSQL answered after so many seconds."""


@moment
def cancel(*, tenant: str, message_id: UUID, answer: str) -> None:
    """A client cancelled a message: it is `cancelled`, or the cancel was `requested` of its worker."""


@moment
def redrive(*, tenant: str, message_id: UUID) -> None:
    """A client queued a failed message again."""


@moment
def request(*, method: str, route: str | None, status: int, seconds: float) -> None:
    """An HTTP request was answered; `seconds`: to the head of the answer. `route`: its template, or None."""


@moment
def stream(*, kind: str, opened: bool) -> None:
    """A stream of a `message`, a `thread`, a `topic` or of `changes` was opened, or has ended."""


@moment
def socket(*, opened: bool) -> None:
    """A WebSocket was opened, or has ended."""


# What a worker does with a message.


@moment
def claim(*, works: Sequence[Work], room: int, seconds: float) -> None:
    """A worker asked for as many messages as it has room for, and has leased these."""


@moment
def first_chunk(*, work: Work, seconds: float) -> None:
    """An attempt emitted its first chunk, so many seconds after it began."""


@moment
def run(*, work: Work, outcome: str, seconds: float) -> None:
    """The agent's part of an attempt is over; `outcome`: an OutcomeKind."""


@moment
def step(*, work: Work, name: str, seconds: float) -> None:
    """A step ran and is stored; `seconds`: of both."""


@moment
def tool(*, work: Work, name: str, call: str, failed: bool, seconds: float) -> None:
    """A tool that a model called has answered or `failed`, so many seconds after the event of its call."""


@moment
def model_call(
    *,
    provider: str,
    model: str,
    answered_by: str | None,
    stop_reason: str | None,
    usage: Mapping[str, int],
    error: str | None,
    seconds: float,
) -> None:
    """An agent called a model, in the context of its attempt; `error`: the class of what the call raised."""


@moment
def publish(*, work: Work, topic: str, record_id: str) -> None:
    """An agent has a record to publish, with its next step or its completion."""


@moment
def append(*, appends: int, events: int, seconds: float) -> None:
    """One call wrote events of so many attempts into their logs."""


@moment
def settle(*, attempts: int, events: int, seconds: float) -> None:
    """One call ended so many attempts, and wrote their last events."""


@moment
def finish(*, work: Work, outcome: str, status: str, seconds: float) -> None:
    """An attempt is over; `status`: the message's new state; `seconds`: since the attempt began."""


@moment
def tokens(*, work: Work, usage: str) -> None:
    """An attempt is over whose agent counted what it used: a JSON object, as `context.usage` was given it."""


@moment
def retry(*, work: Work, outcome: str, delay_seconds: float) -> None:
    """Another attempt follows an attempt that failed, was put off, or whose process died."""


@moment
def loss(*, work: Work) -> None:
    """A worker ends an attempt whose lease it no longer holds."""


# The chores of all workers.


@moment
def reap(*, works: Sequence[LostWork]) -> None:
    """Messages were taken back from dead workers."""


@moment
def admit(*, messages: int) -> None:
    """Messages whose delay or backoff has ended were put into their lanes."""


@moment
def route(*, topics: int, seconds: float) -> None:
    """Published records of so many topics got their offsets."""


@moment
def deliver(*, messages: int, seconds: float) -> None:
    """Records became messages of subscriptions."""


# Below all of them.


@moment
def database_call(*, pool: str, seconds: float, error: str | None) -> None:
    """A call of a connection pool was answered, or failed with an error of this class; `seconds`: with the wait for a
    connection, and with repetitions."""
