"""The moments of Treadle, each named once. The place where one happens calls it; metrics, logs and tests listen.

A moment that has no listener costs a tenth of a microsecond. Listeners run at once, in the caller's thread: they only
count or remember. A moment of a batch is called once for all of it.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Generic, ParamSpec, Protocol
from uuid import UUID

log = logging.getLogger(__name__)

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


class Moment(Generic[Measured]):
    """Calls its listeners with what was measured. A listener that raises is logged; the work goes on."""

    def __init__(self, signature: Callable[Measured, None]) -> None:
        self.name = signature.__name__
        self.__doc__ = signature.__doc__
        self._listeners: tuple[Callable[Measured, None], ...] = ()

    def __call__(self, *args: Measured.args, **kwargs: Measured.kwargs) -> None:
        for listener in self._listeners:
            try:
                listener(*args, **kwargs)
            except Exception:
                log.exception("a listener of telemetry failed", extra={"moment": self.name})

    def listen(self, listener: Callable[Measured, None]) -> Callable[[], None]:
        """Call the listener at each such moment, until the returned function is called."""
        self._listeners += (listener,)

        def stop() -> None:
            self._listeners = tuple(other for other in self._listeners if other is not listener)

        return stop


# What clients ask for.


@Moment
def submit(*, tenant: str, messages: Sequence[Asked], answers: Sequence[Answered], seconds: float) -> None:
    """One call submitted these messages, in this order; PostgreSQL answered after so many seconds."""


@Moment
def cancel(*, tenant: str, message_id: UUID, answer: str) -> None:
    """A client cancelled a message: it is `cancelled`, or the cancel was `requested` of its worker."""


@Moment
def redrive(*, tenant: str, message_id: UUID) -> None:
    """A client queued a failed message again."""


@Moment
def request(*, method: str, route: str | None, status: int, seconds: float) -> None:
    """An HTTP request was answered; `seconds`: to the head of the answer. `route`: its template, or None."""


@Moment
def stream(*, kind: str, opened: bool) -> None:
    """A stream of a `message` or of a `thread` was opened, or has ended."""


@Moment
def socket(*, opened: bool) -> None:
    """A WebSocket was opened, or has ended."""


# What a worker does with a message.


@Moment
def claim(*, works: Sequence[Work], room: int, seconds: float) -> None:
    """A worker asked for as many messages as it has room for, and has leased these."""


@Moment
def first_chunk(*, work: Work, seconds: float) -> None:
    """An attempt emitted its first chunk, so many seconds after it began."""


@Moment
def run(*, work: Work, outcome: str, seconds: float) -> None:
    """The agent's part of an attempt is over; `outcome`: an OutcomeKind."""


@Moment
def append(*, appends: int, events: int, seconds: float) -> None:
    """One call wrote events of so many attempts into their logs."""


@Moment
def settle(*, attempts: int, events: int, seconds: float) -> None:
    """One call ended so many attempts, and wrote their last events."""


@Moment
def finish(*, work: Work, outcome: str, status: str, seconds: float) -> None:
    """An attempt is over; `status`: the message's new state; `seconds`: since the attempt began."""


@Moment
def retry(*, work: Work, outcome: str, delay_seconds: float) -> None:
    """Another attempt follows an attempt that failed, was put off, or whose process died."""


@Moment
def loss(*, work: Work) -> None:
    """A worker ends an attempt whose lease it no longer holds."""


# The chores of all workers.


@Moment
def reap(*, works: Sequence[LostWork]) -> None:
    """Messages were taken back from dead workers."""


@Moment
def admit(*, messages: int) -> None:
    """Messages whose delay or backoff has ended were put into their lanes."""


# Below all of them.


@Moment
def database_call(*, pool: str, seconds: float, error: str | None) -> None:
    """A call of a connection pool was answered, or failed with an error of this class; `seconds`: with the wait for a
    connection, and with repetitions."""
