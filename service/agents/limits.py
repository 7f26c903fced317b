"""The limits and settings that every agent has, whichever factory makes it: one definition and one set of checks.

service/limits.py has the limits of the whole service, among them the ranges of these settings.
"""

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias, TypedDict, get_args

import msgspec

from service.limits import (
    MAX_ATTEMPTS,
    MAX_CONCURRENCY,
    MAX_PATTERNS,
    MAX_TIMEOUT_SECONDS,
    TOPIC_PATTERN_PATTERN,
    WEBHOOK_QUEUE,
)

IDLE_TIMEOUT_SECONDS = 7200.0

RunIn: TypeAlias = Literal["worker", "process"]


class LimitOptions(TypedDict, total=False):
    """The keyword arguments that every agent factory takes, as in `@agent("x", timeout=60)`.

    `Limits` says what each one means. An option that is left out has its default. So has None where the
    type allows it; elsewhere it raises ValueError.
    """

    queue: str
    timeout: float | None
    max_attempts: int | None
    max_losses: int | None
    description: str | None
    run_in: RunIn
    concurrency: int | None
    idle_timeout: float
    while_busy: str | None
    topics: Sequence[str]
    client_state: Sequence[str]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits and settings of one agent. Raises ValueError for a value that is out of range.

    queue         The queue in which the agent's messages wait.
    timeout       Seconds for one attempt, at most 7 days. Default: the setting PROCESSING_TIMEOUT.
    max_attempts  Failures after which a message is `failed`, at most 1000. Default: the setting MAX_ATTEMPTS.
    max_losses    Workers lost until a message is `failed`, at most 1000. Default: the setting MAX_LOSSES.
    description   One or two sentences for people. Default: the first paragraph of the function's docstring.
    run_in        `worker`: in the worker's event loop or threads. `process`: each message in a process of its own,
                  which the worker can kill.
    concurrency   How many messages of the agent's queue run at once, in all workers together. Such an agent needs a
                  queue of its own. Default: no limit.
    idle_timeout  Seconds without use after which the worker drops an instance (Context.instance). 0: keep none.
    while_busy    The name of the agent that answers chat messages while this one is at work in the thread.
    topics        Names or patterns of topics. A worker with the agent creates the subscription of the agent's name, or
                  changes the topics of it; what it does not say, such as max_in_flight, stays as it is.
    client_state  The fields of the thread's memory that a client of AG-UI may set with the `state` of its run.
    """

    queue: str = "default"
    timeout: float | None = None
    max_attempts: int | None = None
    max_losses: int | None = None
    description: str | None = None
    run_in: RunIn = "worker"
    concurrency: int | None = None
    idle_timeout: float = IDLE_TIMEOUT_SECONDS
    while_busy: str | None = None
    topics: Sequence[str] = ()
    client_state: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.queue is None:
            raise ValueError("the agent's queue must be a name, not None")
        if self.queue == WEBHOOK_QUEUE:
            raise ValueError(f"the queue {WEBHOOK_QUEUE} is for deliveries only: set the agent's queue to another name")
        if self.timeout is not None and not 0 < self.timeout <= MAX_TIMEOUT_SECONDS:
            raise ValueError(f"the agent's timeout must be above 0 and at most {MAX_TIMEOUT_SECONDS} seconds")
        if self.max_attempts is not None and not 1 <= self.max_attempts <= MAX_ATTEMPTS:
            raise ValueError(f"the agent's max_attempts must be between 1 and {MAX_ATTEMPTS}")
        if self.max_losses is not None and not 1 <= self.max_losses <= MAX_ATTEMPTS:
            raise ValueError(f"the agent's max_losses must be between 1 and {MAX_ATTEMPTS}")
        if self.run_in not in get_args(RunIn):
            raise ValueError(f"the agent's run_in must be {' or '.join(get_args(RunIn))}, not {self.run_in!r}")
        if self.concurrency is not None and not 1 <= self.concurrency <= MAX_CONCURRENCY:
            raise ValueError(f"the agent's concurrency must be between 1 and {MAX_CONCURRENCY}")
        if self.concurrency is not None and self.queue == "default":
            raise ValueError("an agent with a concurrency needs a queue of its own: set queue to another name")
        if self.idle_timeout is None or not 0 <= self.idle_timeout <= MAX_TIMEOUT_SECONDS:
            raise ValueError(f"the agent's idle_timeout must be between 0 and {MAX_TIMEOUT_SECONDS} seconds")
        if not _are_names(self.client_state):
            raise ValueError(f"the agent's client_state must be a list of names, not {self.client_state!r}")
        if not _are_patterns(self.topics):
            raise ValueError(
                f"the agent's topics must be a list of up to {MAX_PATTERNS} names or patterns, not {self.topics!r}"
            )


def _are_names(names: object) -> bool:
    return isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)


def _are_patterns(topics: object) -> bool:
    return (
        isinstance(topics, list | tuple)
        and len(topics) <= MAX_PATTERNS
        and all(isinstance(topic, str) and re.match(TOPIC_PATTERN_PATTERN, topic) for topic in topics)
    )
