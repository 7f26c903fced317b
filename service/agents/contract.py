"""The contract between Treadle and an agent: what an agent receives, and what it may raise.

    from treadle import Context, agent

    @agent("summarise", timeout=120)
    async def summarise(context: Context, request: str) -> str: ...

An agent is a function of a Context and an input, and it returns a result. Input and result are text (`str`), msgspec
Structs, or any other type that msgspec can convert; the annotations say which. A sync function runs in a thread. The
exception that an agent raises decides what happens next:

    Rejected              The message fails for good; a further attempt would not help.
    RetryAfter(seconds)   The attempt failed; the next one begins after this delay.
    Overloaded            A service that the agent needs is overloaded: the message is put off, without a failure.
    any other exception   The attempt failed; it is retried with backoff until max_attempts failures.

A call of the context that can never succeed (its value is too large, for example, or its agent is not registered) is
rejected as well. In an ExceptionGroup they mean the same; Rejected decides before RetryAfter, and that before any other
exception.

An agent that waits for other messages (`gather`) or for a person (`input`) is parked: its attempt ends, and a new
attempt begins when the answer is there. Steps that have finished are not run again.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

import msgspec

from service.limits import HISTORY_EXCHANGES, MAX_DELAY_SECONDS


class RetryAfter(Exception):
    """The attempt failed; try again after `seconds`, a number or a timedelta (at least 0, at most 366 days)."""

    seconds = 0.0  # the default of a subclass that does not call __init__

    def __init__(self, seconds: float | timedelta, reason: str = "") -> None:
        self.seconds = _bounded_seconds(seconds, reason)
        super().__init__(reason or f"Asked to be retried after {self.seconds:g} seconds.")


def _bounded_seconds(seconds: Any, reason: str) -> float:
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    try:
        number = float(seconds)
    except OverflowError:  # a whole number of 309 digits or more
        number = math.inf if seconds > 0 else 0.0
    except (TypeError, ValueError):
        said = f" (Its reason: {reason})" if reason else ""
        raise TypeError(f"a delay is a number of seconds or a timedelta, not {seconds!r:.100}{said}") from None
    return min(max(0.0, number), MAX_DELAY_SECONDS)  # of NaN: 0


class Overloaded(RetryAfter):
    """A service that the agent needs is overloaded or away. The message is put off without a failure, until
    OVERLOAD_PATIENCE is over.

    `seconds`: how long the service asks to wait, if it says so. The worker may wait longer.
    """

    def __init__(self, reason: str = "", seconds: float | timedelta = 0.0) -> None:
        super().__init__(seconds, reason or "A service that the agent needs is overloaded.")


class Deferred(RetryAfter):
    """The message is put off for `seconds`, without a failure, and as often as the agent raises this."""


class Rejected(Exception):
    """The message cannot be answered, now or later: it fails, and no further attempt is made."""


class Unacceptable(Rejected, ValueError, TypeError):
    """A call of the context is refused, now or later: a value is too large or not JSON, for example. An agent that
    expects it may catch ValueError."""


class ChildFailed(Rejected):
    """A message that `gather` waited for did not complete: its `state` is failed, cancelled, or deleted (it no longer
    exists)."""

    def __init__(self, message_id: str, state: str, error: str | None) -> None:
        super().__init__(f"The message {message_id} is {state}{f': {error}' if error else '.'}")
        self.message_id = message_id
        self.state = state
        self.error = error


class Exchange(msgspec.Struct, frozen=True):
    """An earlier message of the thread with its result: text, or the decoded JSON. `tools` is the data of its `tool`
    events, if the history was read with them."""

    message: Any
    result: Any
    tools: Sequence[Any] = ()


class UnderWay(msgspec.Struct, frozen=True):
    """The message whose turn it is in the thread: its text or JSON, the results of its finished steps by name, and the
    data of its last `progress` events, oldest first."""

    message_id: str
    agent: str
    message: Any
    steps: Mapping[str, Any]
    progress: Sequence[Any]


class Context(Protocol):
    """The message that an agent answers, and what the agent can do with it.

    A sync agent has the same methods, and calls them without `await`.

    Once the attempt must end, every call that begins something (`step`, `send`, `publish`, `gather`, `input`,
    `instance`, `history`, `incoming`, `under_way`) raises asyncio.CancelledError, which `except Exception` does not
    catch. The first argument of the one that interrupts an async agent is `cancelled` if the message was cancelled;
    after any other, another attempt may follow.
    """

    message_id: str
    thread_id: str | None
    tenant: str  # equal thread ids of two tenants are two threads: an agent's own caches need both
    attempt: int  # the number of this attempt, from 1
    metadata: Mapping[str, Any]
    deadline: datetime  # when this attempt times out
    log: logging.LoggerAdapter[logging.Logger]
    # A small JSON object of the thread. Changes are saved in the transaction that completes the message. It is empty
    # without a thread. An aside can read it; its changes are not saved.
    memory: dict[str, Any]

    @property
    def cancelled(self) -> bool:
        """Whether the attempt must end: it was cancelled, it timed out, or its lease is lost.

        Sync agents check it, because the worker cannot interrupt a thread.
        """

    async def emit(self, chunk: str) -> None:
        """Stream a piece of text. Returns when it is buffered; waits while a megabyte is unsent.

        Raises CancelledError after the end of the attempt, if the agent ignored its cancellation.
        """

    async def event(self, type: str, data: Any) -> None:
        """Stream an event of another type, for example `progress` or `tool`. `data` is any JSON value.

        Raises ValueError for a type that the service itself writes, for more than MAX_EVENT_BYTES of data, and for data
        that are not JSON. Uncaught, it fails the message at once: another attempt would pay for the same. So does the
        ValueError of any other call of the context, except for a name that this attempt has used before.
        """

    async def step(self, name: str, function: Callable[[], Any]) -> Any:
        """Run `function` once for this message, however many attempts it takes, and return its result.

        The result is in the log, as an event `step` that clients can read, before this call returns. A later attempt
        and a redriven message receive it without running the function again. The result must be JSON; it is returned
        as the type of the function's return annotation, else as plain JSON. `name` (1 to 200 characters) is unique in
        the message. Steps may run concurrently (asyncio.gather). A function that is not a coroutine function runs in a
        thread. If the function raises, nothing is stored, and this call raises the same exception.

        Raises ValueError for a name used before in this attempt, TypeError for a result that does not fit the
        annotation, and Rejected for one that is not JSON or has more than MAX_EVENT_BYTES: another attempt would pay
        for the same. An annotation without a JSON form is rejected before the function runs.
        """

    async def send(
        self,
        message: Any,
        *,
        agent: str | None = None,
        thread_id: str | None = None,
        priority: str = "normal",
        metadata: Mapping[str, Any] | None = None,
        delay: float = 0.0,
        aside: bool = False,
        name: str | None = None,
    ) -> str:
        """Submit another message, and return its id. `delay` is in seconds.

        The message is committed with the next step, `gather` or `input`, or with the completion of this message. If the
        attempt ends before that, the message is not sent. Each message is sent once, however many attempts this one
        takes: a later attempt finds it by its `name`, else by its content.

        Raises Rejected if an earlier attempt has sent another message under this name, or in this one's place: make
        what may differ between attempts in a step. Also if the message does not fit the input type of its agent, and if
        32 messages lie above this one, each sent by the one before, or made by a subscription of a record that the one
        before published.
        The message fails, too, if no worker has ever registered the agent: start the worker of the agent that is sent
        to before that of the agent that sends. Raises ValueError if another argument is refused (see `event`).
        If the queue holds MAX_QUEUE_SIZE messages, the attempt fails and is tried again later.
        """

    async def publish(
        self,
        topic: str,
        value: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> str:
        """Publish a record to a topic of the tenant, and return its id.

        It is committed as a sent message is: with the next step, `gather` or `input`, or with the completion of this
        message; once, however many attempts this one takes. A message that a subscription delivers `exactly_once`
        commits what it publishes and sends with its completion only, and does so outside of its steps.

        Raises Rejected if an earlier attempt has published another record under this name, or in this one's place. Also
        if the value does not fit the schema of the topic, and if 32 messages lie above this one (see `send`). The
        message fails if there is no such topic.
        """

    async def gather(self, *messages: str, return_exceptions: bool = False) -> list[Any]:
        """Wait for messages that this one has sent, and return their results in the order of the ids.

        Until all of them are over, this message is parked and uses no worker; cancelling it cancels them too. Raises
        ChildFailed for the first message that did not complete; with `return_exceptions` the exception takes the place
        of the result. Raises ValueError for a message that this one did not send, and for a message in the same thread,
        because its turn could not come before this one ends.
        """

    async def input(self, question: Any = None, *, name: str | None = None) -> Any:
        """Ask a person, and return the answer (`POST /messages/{id}/input`). The message is parked until then.

        `question` is any JSON value; clients see it in the event `parked`. A later attempt finds the answer by the
        question's `name`, else by the question itself.

        Raises Rejected if another question was answered under this name, or in this one's place.
        """

    async def instance(self, make: Callable[[], Any]) -> Any:
        """Return the object that `make` created for an earlier message of this agent and thread in this worker, or
        call `make` (a function or coroutine function) now.

        The worker drops the object after the agent's `idle_timeout` without use, on
        `DELETE /instances/{agent}/{thread_id}`, and when the worker ends; it then calls `aclose()` or `close()`, if the
        object has one. This is only a cache: another worker may run the next message. Without a thread, the object
        lives for this message only.
        """

    def memory_fits(self) -> bool:
        """Whether the memory is small enough to be stored (MAX_EVENT_BYTES)."""

    async def incoming(self) -> Sequence[Any]:
        """What clients have said to this message while it runs (`on_busy`: `steer`), since the last call: texts, or
        objects. A later attempt receives all of it again. What the agent does not ask for runs after it, as messages of
        their own. Empty without a thread, and for an aside.
        """

    async def under_way(self) -> UnderWay | None:
        """The message whose turn it is in this thread, for asides. None if no message has the turn."""

    async def history(
        self, limit: int = HISTORY_EXCHANGES, *, max_tokens: int | None = None, system: str = "", tools: bool = False
    ) -> Sequence[Exchange]:
        """The last completed messages of the thread before this one, oldest first; as many as have at most 20 MB of
        JSON together. Before them go the exchanges that the client sent in `metadata["history"]`, a list of
        {"message", "result"}. Without a thread there are only those.

        With `max_tokens`, only the latest whole exchanges that fit into this number together with the prompt `system`;
        four bytes of text or JSON count as one token. With `tools`, each exchange has the data of its `tool` events.
        """

    def usage(self, /, **counts: Any) -> None:
        """Store with the message what the answer cost, for example tokens. Any JSON values.

        A later call replaces values of the same name that the same step has counted, or, outside of steps, the same
        attempt. The numbers of all steps and attempts are added; of other values the last one holds. A step that an
        earlier attempt has finished is not counted again.
        """
