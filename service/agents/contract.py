"""The contract between Treadle and an agent: all that user code needs to import.

    @agent("summarise", timeout=120)
    async def summarise(context: Context, request: str) -> str: ...

An agent takes a Context and its input, and returns its result. Input and result are text (`str`), or msgspec Structs
(or any type that msgspec knows), as the annotations say. A sync function runs in a thread. What it raises decides what
comes next:

    any exception         the attempt failed; retried with backoff while attempts are left
    RetryAfter(seconds)   the same, after that delay
    Rejected              failed for good: trying again would not help

An agent that waits, for others (`gather`) or for a person (`input`), is parked: its attempt ends there, and a new one
begins when there is an answer. What it has done in steps is not done again.
"""

import functools
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, get_type_hints

import msgspec

from service.limits import (
    MAX_AGENT_NAME_CHARS,
    MAX_ATTEMPTS,
    MAX_CONCURRENCY,
    MAX_DELAY_SECONDS,
    MAX_TIMEOUT_SECONDS,
)

IDLE_TIMEOUT = 7200.0  # seconds


class RetryAfter(Exception):
    """The attempt failed; try again after `seconds` (at most 366 days)."""

    seconds = 0.0  # of a subclass that does not say

    def __init__(self, seconds: float, reason: str = "") -> None:
        super().__init__(reason or f"Asked to be retried after {seconds:g} seconds.")
        self.seconds = min(max(0.0, seconds), MAX_DELAY_SECONDS)


class Rejected(Exception):
    """The message cannot be answered, now or later; no further attempt is made."""


class ChildFailed(Rejected):
    """A message that was waited for failed, was cancelled or is gone. Nothing would be different at another attempt."""

    def __init__(self, message_id: str, state: str, error: str | None) -> None:
        super().__init__(f"The message {message_id} is {state}{f': {error}' if error else '.'}")
        self.message_id = message_id
        self.state = state
        self.error = error


class Exchange(msgspec.Struct, frozen=True):
    """An earlier message of the thread: what was asked, what was answered (text, or the decoded JSON), and, where that
    was asked for, the data of its `tool` events."""

    message: Any
    result: Any
    tools: Sequence[Any] = ()


class UnderWay(msgspec.Struct, frozen=True):
    """The message of the thread whose turn it is: what was asked, the results of its finished steps by name, and the
    data of its last `progress` events, oldest first."""

    message_id: str
    agent: str
    message: Any
    steps: Mapping[str, Any]
    progress: Sequence[Any]


class Context(Protocol):
    """What an agent is given. In a sync agent the same methods exist without `await`."""

    message_id: str
    thread_id: str | None
    attempt: int  # executions begun, this one included
    metadata: Mapping[str, Any]
    deadline: datetime  # when this attempt times out
    log: logging.LoggerAdapter[logging.Logger]
    # A small JSON document of the thread: changes are saved with the message's completion, in one transaction. Always
    # empty without a thread; an aside sees it, and saves nothing.
    memory: dict[str, Any]

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
        """Submit another message, and return its id.

        It is committed with the next step, `gather` or `input`, or with this message's completion; an attempt that ends
        otherwise has sent nothing since. A message is sent once, however often this one is attempted: the n-th send of
        an attempt is the same in the next one. Where their order may differ, give each a `name`.
        """

    async def gather(self, *messages: str, return_exceptions: bool = False) -> list[Any]:
        """The results of messages that this one has sent, in this order.

        While one of them is not over, this message is parked, without a place in a worker. Cancelling it then cancels
        them, too. Raises ChildFailed for the first that is not completed, or, with `return_exceptions`, has that in
        the place of its result. Raises ValueError for a message that this one did not send, and for one in this
        message's own thread, whose turn would never come.
        """

    async def input(self, question: Any = None, *, name: str | None = None) -> Any:
        """What a person answers (`POST /messages/{id}/input`); this message is parked until then.

        `question` is anything JSON: readers see it in the event `parked`. As with sends, the n-th question of an
        attempt is the same in the next one, unless it has a `name`.
        """

    async def instance(self, make: Callable[[], Any]) -> Any:
        """What `make`, a function or coroutine function, made for an earlier message of this agent and thread in this
        worker; made now where there is none.

        It is dropped when it was not used for the agent's `idle_timeout`, with `DELETE /instances/{agent}/{thread_id}`,
        and with the worker; its `aclose()` or `close()`, if it has one, is called then. A cache and no more: the next
        message may go to another worker. Without a thread it is made for this message only.
        """

    async def under_way(self) -> UnderWay | None:
        """What the thread is at, for asides: None where it is nobody's turn."""

    async def history(
        self, limit: int = 50, *, max_tokens: int | None = None, system: str = "", tools: bool = False
    ) -> Sequence[Exchange]:
        """The last completed messages of the thread before this one, oldest first; empty without a thread.

        `tools`: with the data of their `tool` events.

        With `max_tokens`, only the latest whole exchanges that fit into it together with the system prompt. Tokens are
        estimated: one for every four bytes of text or JSON.
        """

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
        run_in: str = "worker",
        concurrency: int | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
        meanwhile: str | None = None,
    ) -> None:
        if not 1 <= len(name) <= MAX_AGENT_NAME_CHARS:
            raise ValueError(f"an agent's name has 1 to {MAX_AGENT_NAME_CHARS} characters")
        if timeout is not None and not 0 < timeout <= MAX_TIMEOUT_SECONDS:
            raise ValueError(f"the agent's timeout must be above 0 and at most {MAX_TIMEOUT_SECONDS} seconds")
        if max_attempts is not None and not 1 <= max_attempts <= MAX_ATTEMPTS:
            raise ValueError(f"the agent's max_attempts must be between 1 and {MAX_ATTEMPTS}")
        if run_in not in {"worker", "process"}:
            raise ValueError(f"the agent's run_in is worker or process, not {run_in!r}")
        if concurrency is not None and not 1 <= concurrency <= MAX_CONCURRENCY:
            raise ValueError(f"the agent's concurrency must be between 1 and {MAX_CONCURRENCY}")
        if concurrency is not None and queue == "default":
            raise ValueError("an agent with a concurrency needs a queue of its own")
        if not 0 <= idle_timeout <= MAX_TIMEOUT_SECONDS:
            raise ValueError(f"the agent's idle_timeout must be between 0 and {MAX_TIMEOUT_SECONDS} seconds")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"the agent {name!r} is a generator: emit what it yields, and return the result")
        self.name = name
        self.function = function
        self.queue = queue
        self.timeout = timeout
        self.max_attempts = max_attempts
        self.run_in = run_in
        self.concurrency = concurrency
        self.idle_timeout = idle_timeout
        self.meanwhile = meanwhile
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
    run_in: str = "worker",
    concurrency: int | None = None,
    idle_timeout: float = IDLE_TIMEOUT,
    meanwhile: str | None = None,
) -> Callable[[Callable[..., Any]], Agent]:
    """Make a function an agent.

    timeout       seconds for one attempt
    description   if none, the docstring's first paragraph
    run_in        `process`: each message in a process of its own, which is killed where it does not heed its end
    concurrency   how many messages of its queue run at once, in all workers together; such an agent has a queue of its
                  own
    idle_timeout  seconds after which an instance that was not used is dropped (Context.instance)
    meanwhile     the agent that answers what is said in a chat while this one is at work in the thread
    """

    def decorate(function: Callable[..., Any]) -> Agent:
        return Agent(
            name,
            function,
            queue=queue,
            timeout=timeout,
            max_attempts=max_attempts,
            description=description,
            run_in=run_in,
            concurrency=concurrency,
            idle_timeout=idle_timeout,
            meanwhile=meanwhile,
        )

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
