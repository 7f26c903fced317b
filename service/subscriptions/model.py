"""The JSON of subscriptions."""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from service.limits import (
    DEFAULT_MAX_IN_FLIGHT,
    MAX_AGENT_NAME_CHARS,
    MAX_IN_FLIGHT,
    MAX_OFFSET,
    MAX_PATTERNS,
    MAX_TOPIC_CHARS,
    START_RULE,
)

Delivery = Literal["at_least_once", "at_most_once", "exactly_once"]

Pattern = Annotated[str, Meta(min_length=1, max_length=MAX_TOPIC_CHARS)]
START = Annotated[str | Annotated[int, Meta(ge=0, le=MAX_OFFSET)], Meta(description=START_RULE)]


class Filter(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the value and the headers of a record must contain (jsonb `@>`); None: anything."""

    value: Any = None
    headers: dict[str, str] | None = None


class NewSubscription(Struct, frozen=True, forbid_unknown_fields=True, rename={"start": "from"}):
    """A subscription as it is declared: a field that is left out gets its default. `start` (in JSON: `from`) counts
    for topics that it does not read yet."""

    # The descriptions end the sentence "<field> must be ..." (json_input).
    topics: Annotated[
        Pattern | Annotated[list[Pattern], Meta(min_length=1, max_length=MAX_PATTERNS)],
        Meta(description=f"a name or pattern of topics, or a list of 1 to {MAX_PATTERNS} of them"),
    ]
    agent: Annotated[str, Meta(min_length=1, max_length=MAX_AGENT_NAME_CHARS, description="the name of an agent")]
    start: START = "latest"
    delivery: Annotated[Delivery, Meta(description="at_least_once, at_most_once or exactly_once")] = "at_least_once"
    max_in_flight: Annotated[
        int, Meta(ge=1, le=MAX_IN_FLIGHT, description=f"a whole number from 1 to {MAX_IN_FLIGHT}")
    ] = DEFAULT_MAX_IN_FLIGHT
    filter: Annotated[Filter | None, Meta(description="an object with value, headers or both, or null")] = None
    dead_letter: Annotated[bool, Meta(description="true or false")] = True


class NewPosition(Struct, frozen=True, forbid_unknown_fields=True, rename={"start": "to"}):
    """Where a subscription goes on (in JSON: `to`), in one topic or (null) in all that it reads."""

    start: START
    topic: Annotated[str | None, Meta(description="the name of a topic that it reads, or null for all")] = None


class Position(Struct, frozen=True):
    topic: str
    next_offset: int
    lag: int


class Subscription(Struct, frozen=True):
    """`lag`: records that are not delivered yet. `open`: messages that are queued or processing. The other counts are
    of all times: messages that completed, failed (and left a dead letter), were cancelled, or failed and were dropped;
    records that the filter left out, and that retention deleted before they were delivered."""

    subscription: str
    topics: list[str]
    agent: str
    delivery: Delivery
    max_in_flight: int
    filter: dict[str, Any] | None
    dead_letter: bool
    paused: bool
    created_at: datetime
    lag: int
    open: int
    completed: int
    failed: int
    cancelled: int
    dropped: int
    filtered: int
    expired: int
    positions: list[Position]
