"""The frames of a chat: JSON texts, told apart by `type`.

client: user_input · cancel · ping
server: agent_output, status   an event of the thread's log: with `id`, exactly one frame for each
        status                 what becomes of the socket and of what it asked: with `status`, and without `id`
        error · pong
"""

import contextlib
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Meta, Raw, Struct

from service.errors import Unprocessable
from service.events.model import Entry
from service.json_input import decode
from service.limits import KEY_RULE, MAX_KEY_CHARS
from service.messages.model import NewInput, NewMessage, Priority

OUTPUT = frozenset({"chunk", "done"})  # the events that carry what the agent says


class UserInput(Struct, tag="user_input", frozen=True, forbid_unknown_fields=True):
    """A message for the thread: `text`, or `message` under the name it has in POST /messages."""

    # The descriptions end the sentence "<field> must be ..." (decoding).
    text: Annotated[Annotated[str, Meta(min_length=1)] | None, Meta(description="a text that is not empty")] = None
    message: Annotated[
        Annotated[str, Meta(min_length=1)] | dict[str, Any] | None,
        Meta(description="a text that is not empty, or an object where the agent takes one"),
    ] = None
    agent: Annotated[str | None, Meta(description="the name of an agent; left out: the default one")] = None
    priority: Annotated[Priority, Meta(description="high, normal or low")] = "normal"
    metadata: Annotated[dict[str, Any] | None, Meta(description="an object")] = None
    key: Annotated[Annotated[str, Meta(min_length=1, max_length=MAX_KEY_CHARS)] | None, Meta(description=KEY_RULE)] = (
        None
    )
    aside: Annotated[
        bool | None, Meta(description="true, false, or left out: then an agent at work decides who answers")
    ] = None

    def of_thread(self, thread_id: str) -> NewMessage:
        """The message as POST /messages would take it; raises Unprocessable."""
        given = [said for said in (self.text, self.message) if said is not None]
        if len(given) != 1:
            raise Unprocessable("Either text or message must be given.")
        return NewMessage(
            given[0],
            priority=self.priority,
            thread_id=thread_id,
            agent=self.agent,
            metadata=self.metadata,
            aside=bool(self.aside),
        )


class Cancel(Struct, tag="cancel", frozen=True, forbid_unknown_fields=True):
    message_id: Annotated[UUID, Meta(description="a message's id (a UUID)")]


class Input(NewInput, tag="input", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The answer to the question that a message waits with."""

    message_id: Annotated[UUID, Meta(description="a message's id (a UUID)")]


class Ping(Struct, tag="ping", frozen=True, forbid_unknown_fields=True):
    """Answered with pong: for clients that cannot send a WebSocket's own pings, such as pages."""


Question: TypeAlias = UserInput | Cancel | Input | Ping


def read(frame: str | bytes) -> Question:
    """Raises Invalid, Unprocessable."""
    question: Question = decode(frame, Question, "frame")
    return question


class _Keyed(Struct, frozen=True):
    key: str | None = None


def key_of(frame: str | bytes) -> str | None:
    """The key of a frame that cannot be read as a whole, so that its client knows which one it was."""
    with contextlib.suppress(msgspec.MsgspecError, UnicodeError, RecursionError):
        return msgspec.json.decode(frame, type=_Keyed).key
    return None


class Event(Struct, frozen=True):
    """An event of the thread's log; `id` is its position there, `seq` the one in its message's log."""

    id: int
    message_id: UUID
    seq: int
    event: str
    data: Raw
    created_at: datetime


class Output(Event, tag="agent_output", frozen=True):
    """`chunk` or `done`."""


class Happened(Event, tag="status", frozen=True):
    """Any other event."""


class Status(Struct, tag="status", frozen=True, omit_defaults=True):
    """open: events follow from after `after`, `last` is the last so far, `log` names the log (left out as long as there
    is no thread). accepted: the input under `key` is the message `message_id`; `agent` answers it, for another is at
    work. cancelling: the message is about to be cancelled. answered: its question is. deleted: the thread is; the next
    input begins another log.
    gap: the events before `next` were deleted."""

    status: Literal["open", "accepted", "cancelling", "answered", "deleted", "gap"]
    thread_id: str | None = None
    log: int | None = None
    after: int | None = None
    last: int | None = None
    next: int | None = None
    message_id: UUID | None = None
    key: str | None = None
    queue_position: int | None = None
    agent: str | None = None


class Error(Struct, tag="error", frozen=True, omit_defaults=True):
    """What was asked is refused: `detail` is one sentence; `key` or `message_id` say what it was. With `retry_after`
    (seconds) it may be asked again."""

    detail: str
    key: str | None = None
    message_id: UUID | None = None
    retry_after: int | None = None


class Pong(Struct, tag="pong", frozen=True):
    pass


Answer: TypeAlias = Output | Happened | Status | Error | Pong


def of_log(entry: Entry) -> Output | Happened:
    kind = Output if entry.type in OUTPUT else Happened
    data = Raw(entry.data.encode())
    return kind(entry.position, entry.message_id, entry.seq, entry.type, data, entry.created_at)


def write(answer: Answer) -> str:
    return msgspec.json.encode(answer).decode()
