"""The JSON of what attempts of remote workers send, publish, ask and read."""

from typing import Annotated, Any, TypeAlias
from uuid import UUID

from msgspec import Meta, Struct

from service.leases.model import SentMessageState
from service.limits import (
    DELAY_RULE,
    HISTORY_EXCHANGES,
    MAX_BATCH_MESSAGES,
    MAX_DELAY_SECONDS,
    MAX_PAGE_ITEMS,
    MAX_STEP_NAME_CHARS,
    PAGE_RULE,
    THREAD_ID_RULE,
    ThreadId,
)
from service.messages.model import Priority
from service.topics.model import RecordHeaders, RecordKey

# The descriptions end the sentence "<field> must be ..." (json_input).
MessageIdField = Annotated[UUID, Meta(description="the id of a message (a UUID)")]
LeaseField = Annotated[UUID, Meta(description="the lease that the claim answered (a UUID)")]
Name: TypeAlias = Annotated[
    str,
    Meta(min_length=1, max_length=MAX_STEP_NAME_CHARS, description=f"a text of 1 to {MAX_STEP_NAME_CHARS} characters"),
]


class SentMessage(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A message that an attempt sends. `name` is its own among those that the attempt sends, and the same in every
    attempt."""

    name: Name
    message: Annotated[
        Annotated[str, Meta(min_length=1)] | dict[str, Any],
        Meta(description="a text that is not empty, or an object where the agent takes one"),
    ]
    agent: Annotated[str | None, Meta(description="the name of an agent, or left out for the default agent")] = None
    thread_id: Annotated[ThreadId | None, Meta(description=THREAD_ID_RULE)] = None
    priority: Annotated[Priority, Meta(description="high, normal or low")] = "normal"
    metadata: Annotated[dict[str, Any] | None, Meta(description="an object")] = None
    delay_seconds: Annotated[float, Meta(ge=0, le=MAX_DELAY_SECONDS, description=DELAY_RULE)] = 0.0
    aside: Annotated[bool, Meta(description="true or false; with true the message takes no turn in its thread")] = False


class SentRecord(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A record that an attempt publishes. `name`: as of SentMessage."""

    name: Name
    topic: Annotated[str, Meta(min_length=1, description="the name of a topic")]
    value: Annotated[Any, Meta(description="any JSON")]
    key: RecordKey = None
    headers: RecordHeaders = None


Sends: TypeAlias = Annotated[
    list[SentMessage],
    Meta(max_length=MAX_BATCH_MESSAGES, description=f"a list of up to {MAX_BATCH_MESSAGES} messages to send"),
]
Records: TypeAlias = Annotated[
    list[SentRecord],
    Meta(max_length=MAX_BATCH_MESSAGES, description=f"a list of up to {MAX_BATCH_MESSAGES} records to publish"),
]


Children: TypeAlias = Annotated[
    list[UUID],
    Meta(max_length=MAX_BATCH_MESSAGES, description=f"a list of up to {MAX_BATCH_MESSAGES} ids of messages"),
]


MAX_USED_NUMBERS = 100_000  # of what one attempt sends without a name
MAX_NUMBER = 99_999_999
UsedNumbers: TypeAlias = Annotated[
    Annotated[list[Annotated[int, Meta(ge=1, le=MAX_NUMBER)]], Meta(max_length=MAX_USED_NUMBERS)] | None,
    Meta(description=f"a list of up to {MAX_USED_NUMBERS} whole numbers from 1 to {MAX_NUMBER}, or null"),
]


class NewSend(Struct, frozen=True, forbid_unknown_fields=True):
    """What an attempt is about to send. With `used_numbers`, those that the attempt has used, the name gets a number:
    that under which an earlier attempt sent the same, else the next one."""

    message_id: MessageIdField
    lease: LeaseField
    send: Annotated[SentMessage, Meta(description="an object with name, message and more")]
    used_numbers: UsedNumbers = None


class NewPublication(Struct, frozen=True, forbid_unknown_fields=True):
    """What an attempt is about to publish. `used_numbers`: as of NewSend."""

    message_id: MessageIdField
    lease: LeaseField
    record: Annotated[SentRecord, Meta(description="an object with name, topic, value and more")]
    used_numbers: UsedNumbers = None


class PlacedMessage(Struct, frozen=True):
    """The id that the message to send has, and its name, with its number. Not `is_new`: an earlier attempt has sent it,
    and it is not sent again."""

    message_id: UUID
    is_new: bool
    name: str


class PlacedRecord(Struct, frozen=True):
    """The id that the record to publish has; `is_new` and `name` as of PlacedMessage."""

    record_id: UUID
    is_new: bool
    name: str


class NewHistory(Struct, frozen=True, forbid_unknown_fields=True):
    """What an attempt reads of its thread."""

    message_id: MessageIdField
    lease: LeaseField
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE_ITEMS, description=PAGE_RULE)] = HISTORY_EXCHANGES
    tools: Annotated[bool, Meta(description="true or false; with true each has the data of its tool events")] = False


class PastExchange(Struct, frozen=True):
    """A message of the thread and its result, and the data of its `tool` events."""

    message: Any
    result: Any
    tools: list[dict[str, Any]]


class PastExchanges(Struct, frozen=True):
    """The last completed messages before this one, oldest first."""

    exchanges: list[PastExchange]


class NewWait(Struct, frozen=True, forbid_unknown_fields=True):
    """Which messages an attempt waits for: ids that `send` told."""

    message_id: MessageIdField
    lease: LeaseField
    children: Children


class WaitedMessage(Struct, frozen=True):
    """A message that an attempt waits for. `state` is `deleted` for one that does not exist any more; `parent` is the
    message that sent it, and `thread_id` the thread whose turn it takes."""

    message_id: UUID
    state: SentMessageState
    result: Any
    error: str | None
    parent: UUID | None
    thread_id: str | None


class WaitedMessages(Struct, frozen=True):
    """In the order of the call."""

    messages: list[WaitedMessage]


class AskedQuestion(Struct, frozen=True, forbid_unknown_fields=True):
    """`name`: under which a later attempt finds the answer."""

    name: Name
    question: Annotated[Any, Meta(description="any JSON")] = None
