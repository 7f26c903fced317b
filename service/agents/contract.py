"""The contract between Treadle and an agent: all that user code needs to import.

    @agent("summarise", timeout=120)
    async def summarise(context: Context, request: str) -> str: ...

An agent takes a Context and its input, and returns its result. Input and result are text (`str`), or msgspec Structs
(or any type that msgspec knows), as the annotations say. A sync function runs in a thread. What it raises decides what
comes next:

    any exception         the attempt failed; retried with backoff while attempts are left
    RetryAfter(seconds)   the same, after that delay
    Rejected              failed for good: trying again would not help
"""

import functools
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, get_type_hints

import msgspec

MAX_RETRY_SECONDS = 31_622_400  # 366 days
MAX_TIMEOUT_SECONDS = 604_800  # 7 days
MAX_ATTEMPTS = 1000


class RetryAfter(Exception):
    """The attempt failed; try again after `seconds` (at most 366 days)."""

    seconds = 0.0  # of a subclass that does not say

    def __init__(self, seconds: float, reason: str = "") -> None:
        super().__init__(reason or f"Asked to be retried after {seconds:g} seconds.")
        self.seconds = min(max(0.0, seconds), MAX_RETRY_SECONDS)


class Rejected(Exception):
    """The message cannot be answered, now or later; no further attempt is made."""


class Turn(msgspec.Struct, frozen=True):
    """An earlier message of the thread: what was asked, what was answered (text, or the decoded JSON)."""

    message: Any
    result: Any


class Context(Protocol):
    """What an agent is given. In a sync agent the same methods exist without `await`."""

    message_id: str
    thread_id: str | None
    attempt: int  # executions begun, this one included
    metadata: Mapping[str, Any]
    deadline: datetime  # when this attempt times out
    log: logging.LoggerAdapter[logging.Logger]

    @property
    def cancelled(self) -> bool:
        """Whether the attempt is to end: cancelled, timed out, or its lease lost. For sync agents, which nobody can
        interrupt."""

    async def emit(self, chunk: str) -> None:
        """Stream a piece of text. Returns once it is buffered; waits while a megabyte is unsent.

        After the end of the attempt (the agent did not heed its cancellation) it raises CancelledError.
        """

    async def event(self, type: str, data: Any) -> None:
        """Stream an event of any other type, e.g. `progress` or `tool`; `data` is anything JSON.

        Raises ValueError for a type that the service itself writes and for data of more than MAX_EVENT_BYTES.
        """

    async def step(self, name: str, function: Callable[[], Any]) -> Any:
        """Run `function` once for this message, however often it is attempted, and return its result.

        The result is in the log (an event `step` with `name` and `result`, which readers see) before this returns: a
        later attempt, or a redriven life, is given it without running the function again. It must be JSON; it comes
        back as the type that the function's annotation says, else as plain JSON. `name` (1 to 200 characters) is unique
        in the message. Steps may run side by side (asyncio.gather). A function that is no coroutine function runs in a
        thread. What it raises is raised here, and nothing is stored.

        Raises ValueError for a name that is taken and a result of more than MAX_EVENT_BYTES.
        """

    async def history(self, limit: int = 50) -> Sequence[Turn]:
        """The last completed messages of the thread before this one, oldest first; empty without a thread."""

    def usage(self, **counts: Any) -> None:
        """Store what the answer cost with the message, e.g. tokens; anything JSON."""


class Agent:
    """A registered agent; calling it calls the function. Unset limits are the service's settings.

    Raises ValueError or TypeError for what cannot be an agent.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        *,
        queue: str = "default",
        timeout: float | None = None,
        max_attempts: int | None = None,
        description: str | None = None,
    ) -> None:
        if not name or len(name) > 100:
            raise ValueError("an agent's name has 1 to 100 characters")
        if timeout is not None and not 0 < timeout <= MAX_TIMEOUT_SECONDS:
            raise ValueError(f"the agent's timeout must be above 0 and at most {MAX_TIMEOUT_SECONDS} seconds")
        if max_attempts is not None and not 1 <= max_attempts <= MAX_ATTEMPTS:
            raise ValueError(f"the agent's max_attempts must be between 1 and {MAX_ATTEMPTS}")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"the agent {name!r} is a generator: emit what it yields, and return the result")
        self.name = name
        self.function = function
        self.queue = queue
        self.timeout = timeout
        self.max_attempts = max_attempts
        self.description = description or (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ")
        self.is_async = inspect.iscoroutinefunction(function)
        self.input_type = _input_type(function)
        # JSON Schema of the input; None where the agent takes text.
        self.input_schema = None if self.input_type is str else msgspec.json.schema(self.input_type)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def decode(self, body: Any) -> Any:
        """The input as the agent declares it; raises Rejected where the message does not fit."""
        try:
            return msgspec.convert(body, self.input_type, str_keys=True)
        except msgspec.ValidationError as error:
            raise Rejected(f"The message does not fit the agent's input: {error}.") from None


def agent(
    name: str,
    *,
    queue: str = "default",
    timeout: float | None = None,
    max_attempts: int | None = None,
    description: str | None = None,
) -> Callable[[Callable[..., Any]], Agent]:
    """Make a function an agent. `timeout` in seconds for one attempt; the description is the docstring's first
    paragraph."""

    def decorate(function: Callable[..., Any]) -> Agent:
        return Agent(name, function, queue=queue, timeout=timeout, max_attempts=max_attempts, description=description)

    return decorate


def _input_type(function: Callable[..., Any]) -> Any:
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != 2:
        name = getattr(function, "__qualname__", repr(function))
        raise TypeError(f"an agent takes a context and its input; {name} takes {len(parameters)} arguments")
    while isinstance(function, functools.partial):
        function = function.func
    hints = get_type_hints(function)
    declared = hints.get(parameters[1].name, str)
    return str if declared is Any or declared is str else declared
