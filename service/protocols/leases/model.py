"""The JSON of remote workers."""

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from service.leases.model import OutcomeKind, VerdictKind
from service.limits import (
    ATTEMPTS_RULE,
    DELAY_RULE,
    MAX_AGENT_NAME_CHARS,
    MAX_ATTEMPTS,
    MAX_DELAY_SECONDS,
    MAX_EVENT_TYPE_CHARS,
    MAX_POLL_SECONDS,
    MAX_TIMEOUT_SECONDS,
    QUEUE_NAME_PATTERN,
    REMOTE_QUEUE,
    TIMEOUT_RULE,
)
from service.messages.model import Priority, State
from service.protocols.leases.model_sends import (
    AskedQuestion,
    Children,
    LeaseField,
    MessageIdField,
    Records,
    Sends,
)

MAX_AGENTS = 100  # of one worker
MAX_REMOTE_CONCURRENCY = 1_000
MAX_CLAIMED_MESSAGES = 100  # by one call
MAX_EVENTS = 500  # of one call
MAX_HOST_CHARS = 255

Ending: TypeAlias = Literal["completed", "failed", "retry", "overloaded", "released", "input", "children"]
OUTCOMES: dict[Ending, OutcomeKind] = {
    "completed": "completed",
    "input": "input",
    "children": "children",
    "failed": "rejected",
    "retry": "error",
    "overloaded": "overloaded",
    "released": "released",
}

# The descriptions end the sentence "<field> must be ..." (json_input).
Sequence = Annotated[int, Meta(ge=1, le=2**31 - 1, description="the number of the first event that is sent, from 1")]


class RemoteAgent(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An agent that a remote worker has. A worker of another tenant than `default` only names it."""

    agent: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=MAX_AGENT_NAME_CHARS,
            description=f"a text of 1 to {MAX_AGENT_NAME_CHARS} characters",
        ),
    ]
    queue: Annotated[
        str, Meta(pattern=QUEUE_NAME_PATTERN, description="1 to 40 of a-z, 0-9 and _, beginning with a letter")
    ] = REMOTE_QUEUE
    timeout_seconds: Annotated[
        Annotated[float, Meta(gt=0, le=MAX_TIMEOUT_SECONDS)] | None, Meta(description=TIMEOUT_RULE)
    ] = None
    max_attempts: Annotated[Annotated[int, Meta(ge=1, le=MAX_ATTEMPTS)] | None, Meta(description=ATTEMPTS_RULE)] = None
    input: Annotated[
        dict[str, Any] | None, Meta(description="a JSON Schema of its input, or null where it takes text")
    ] = None
    description: Annotated[str, Meta(max_length=2_000, description="a text of at most 2000 characters")] = ""
    client_state: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=MAX_AGENT_NAME_CHARS)]],
        Meta(max_length=MAX_AGENTS, description=f"a list of up to {MAX_AGENTS} names of fields of the thread's memory"),
    ] = []


class NewWorker(Struct, frozen=True, forbid_unknown_fields=True):
    """A remote worker that begins."""

    agents: Annotated[
        list[RemoteAgent],
        Meta(min_length=1, max_length=MAX_AGENTS, description=f"a list of 1 to {MAX_AGENTS} agents"),
    ]
    concurrency: Annotated[
        int,
        Meta(ge=1, le=MAX_REMOTE_CONCURRENCY, description=f"a whole number from 1 to {MAX_REMOTE_CONCURRENCY}"),
    ] = 10
    host: Annotated[
        str, Meta(max_length=MAX_HOST_CHARS, description=f"a text of at most {MAX_HOST_CHARS} characters")
    ] = ""
    pid: Annotated[int, Meta(ge=0, le=2**31 - 1, description="a whole number from 0")] = 0


class RegisteredWorker(Struct, frozen=True):
    """`queues`: from which it claims. It sends a heartbeat each `heartbeat_seconds`; after `silence_seconds` without
    one it is taken for dead."""

    worker_id: str
    tenant: str
    queues: list[str]
    heartbeat_seconds: float
    silence_seconds: float


class NewClaim(Struct, frozen=True, forbid_unknown_fields=True):
    """How many messages the worker has room for, and how long it waits for the first."""

    quantity: Annotated[
        int, Meta(ge=1, le=MAX_CLAIMED_MESSAGES, description=f"a whole number from 1 to {MAX_CLAIMED_MESSAGES}")
    ] = 1
    wait: Annotated[
        float, Meta(ge=0, le=MAX_POLL_SECONDS, description=f"a number of seconds, 0 to {MAX_POLL_SECONDS}")
    ] = 0


class ClaimedMessage(Struct, frozen=True):
    """A message under lease. Its worker numbers the events that it appends from `last_seq` + 1, and ends the attempt
    within `timeout_seconds`. `steps`: the results of the steps that earlier attempts have finished, by name; `inputs`
    and `questions`: the answers to the questions that they asked, and the questions; `memory`: the JSON object that the
    thread keeps. `traceparent`: the W3C trace context that the attempt goes on with, or null."""

    message_id: UUID
    lease: UUID
    agent: str
    queue: str
    priority: Priority
    message: Any
    metadata: Any
    thread_id: str | None
    ord: int | None
    aside: bool
    memory: Any
    steps: dict[str, Any]
    inputs: dict[str, Any]
    questions: dict[str, Any]
    attempt: int
    max_attempts: int
    failures: int
    losses: int
    timeout_seconds: float
    last_seq: int
    created_at: datetime
    traceparent: str | None


class ClaimedMessages(Struct, frozen=True):
    messages: list[ClaimedMessage]


class NewEvent(Struct, frozen=True, forbid_unknown_fields=True):
    """An event of an attempt. The service itself reads two types: `chunk`, a piece of the answer, with `chunk` and
    `index` in `data`; and `step`, which no later attempt runs again, with `name` and `result`, and the `usage` that was
    counted in it: an object whose numbers are added where the worker is lost before the attempt ends."""

    type: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=MAX_EVENT_TYPE_CHARS,
            description=f"a printable text of 1 to {MAX_EVENT_TYPE_CHARS} characters that is no type of the service's"
            " own",
        ),
    ]
    data: Annotated[Any, Meta(description="any JSON")] = None


class NewEvents(Struct, frozen=True, forbid_unknown_fields=True):
    """The next events of an attempt. With `sends` or `records`, `events` is one step: they are committed with it."""

    message_id: MessageIdField
    lease: LeaseField
    first_seq: Sequence
    events: Annotated[
        list[NewEvent],
        Meta(min_length=1, max_length=MAX_EVENTS, description=f"a list of 1 to {MAX_EVENTS} events"),
    ]
    sends: Sends = []
    records: Records = []


class AppendedEvents(Struct, frozen=True):
    """The events are in the log. `cancel_requested`: the message is cancelled; end the attempt."""

    last_seq: int
    cancel_requested: bool


class NewEnding(Struct, frozen=True, forbid_unknown_fields=True):
    """How an attempt ended, with the events that are not in the log yet, of which the first has `first_seq`. With the
    outcome `overloaded`, a service that the agent needs is: the message is put off without a failure, until
    OVERLOAD_PATIENCE is over. With `input`, it waits until a person answers its question; with `children`, until these
    messages, which it has sent, are over. `sends` and `records` are committed with these two and with completed, and
    `memory`, the new memory of the thread, with completed."""

    message_id: MessageIdField
    lease: LeaseField
    attempt: Annotated[int, Meta(ge=1, le=2**31 - 1, description="the number of the attempt, as the claim answered it")]
    outcome: Annotated[Ending, Meta(description="completed, failed, retry, overloaded, released, input or children")]
    first_seq: Sequence
    result: Annotated[Any | UnsetType, Meta(description="any JSON")] = UNSET
    error: Annotated[str | None, Meta(description="a text, or null")] = None
    retry_after: Annotated[Annotated[float, Meta(ge=0, le=MAX_DELAY_SECONDS)] | None, Meta(description=DELAY_RULE)] = (
        None
    )
    usage: Annotated[dict[str, Any] | None, Meta(description="an object, or null")] = None
    events: Annotated[
        list[NewEvent], Meta(max_length=MAX_EVENTS, description=f"a list of up to {MAX_EVENTS} events")
    ] = []
    memory: Annotated[dict[str, Any] | None, Meta(description="an object, or null")] = None
    question: Annotated[AskedQuestion | None, Meta(description="an object with name and question, or null")] = None
    children: Children = []
    sends: Sends = []
    records: Records = []


class EndedAttempt(Struct, frozen=True):
    """What became of the message: `queued` if another attempt follows."""

    message_id: UUID
    state: State


class HeldLease(Struct, frozen=True, forbid_unknown_fields=True):
    message_id: MessageIdField
    lease: LeaseField


class NewHeartbeat(Struct, frozen=True, forbid_unknown_fields=True):
    """The worker lives, and holds these leases."""

    leases: Annotated[
        list[HeldLease],
        Meta(
            max_length=2 * MAX_REMOTE_CONCURRENCY,
            description=f"a list of up to {2 * MAX_REMOTE_CONCURRENCY} objects with message_id and lease",
        ),
    ]


class LeaseVerdict(Struct, frozen=True):
    """The attempt must end: its message is cancelled, or its lease is lost."""

    message_id: UUID
    lease: UUID
    verdict: VerdictKind


class Verdicts(Struct, frozen=True):
    verdicts: list[LeaseVerdict]
