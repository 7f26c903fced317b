"""The frames of a chat: JSON texts, told apart by `type`.

client: user_input, cancel, input, ping; and auth (service/sockets/admission.py)
server: agent_output, status   an event of the thread's log; it has an `id`, and each event is exactly one frame
        status                 news of the socket or of a request; it has a `status` and no `id`
        error, pong
"""

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias
from uuid import UUID

from msgspec import Meta, Raw, Struct

from service.limits import KEY_RULE, MAX_KEY_CHARS
from service.messages.model import NewInput, OnBusy, Priority

# Frames of the client. The descriptions end the sentence "<field> must be ..." (json_input).

InputKey = Annotated[str, Meta(min_length=1, max_length=MAX_KEY_CHARS)]
MessageIdField = Annotated[UUID, Meta(description="the id of a message (a UUID)")]


class UserInput(Struct, tag="user_input", frozen=True, forbid_unknown_fields=True):
    """A message for the thread: `text`, or `message` as in POST /messages."""

    text: Annotated[Annotated[str, Meta(min_length=1)] | None, Meta(description="a text that is not empty")] = None
    message: Annotated[
        Annotated[str, Meta(min_length=1)] | dict[str, Any] | None,
        Meta(description="a text that is not empty, or an object where the agent takes one"),
    ] = None
    agent: Annotated[str | None, Meta(description="the name of an agent, or left out for the default agent")] = None
    priority: Annotated[Priority, Meta(description="high, normal or low")] = "normal"
    metadata: Annotated[dict[str, Any] | None, Meta(description="an object")] = None
    key: Annotated[InputKey | None, Meta(description=KEY_RULE)] = None
    aside: Annotated[
        bool | None, Meta(description="true, false, or left out so that a busy agent can name another one to answer")
    ] = None
    on_busy: Annotated[
        OnBusy | None,
        Meta(description="enqueue, reject, interrupt, rollback or steer, or left out for enqueue"),
    ] = None


class Cancel(Struct, tag="cancel", frozen=True, forbid_unknown_fields=True):
    message_id: MessageIdField


class Input(NewInput, tag="input", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The answer to the question that a message waits with."""

    message_id: MessageIdField


class Ping(Struct, tag="ping", frozen=True, forbid_unknown_fields=True):
    """Answered with pong. Web pages use it: they cannot send the pings of WebSocket itself."""


ClientFrame: TypeAlias = UserInput | Cancel | Input | Ping


# Frames of the server


class LogEvent(Struct, frozen=True):
    """An event of the thread's log: `id` is its position in the log of the thread, `seq` in the log of its message."""

    id: int
    message_id: UUID
    seq: int
    event: str
    data: Raw
    created_at: datetime


class AgentOutput(LogEvent, tag="agent_output", frozen=True):
    """An event `chunk` or `done`."""


class StatusEvent(LogEvent, tag="status", frozen=True):
    """Any other event."""


class Status(Struct, tag="status", frozen=True, omit_defaults=True):
    """News of the socket or of a request.

    open         events after `after` follow; `last` is the last event so far; `log` names the log (absent while the
                 thread does not exist)
    accepted     the input `key` is stored as the message `message_id`; `agent` is set where another agent than the one
                 that was asked answers it
    cancelling   the cancellation of `message_id` is requested
    answered     the answer to the question of `message_id` is stored
    deleted      the thread was deleted; the next input begins another log
    gap          the events after `after` and before `next` were deleted; with a `next` that is not above `after`, the
                 client's id is of another log, and all events from `next` on follow
    """

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
    """A frame of the client is refused: `detail` is one sentence, `key` or `message_id` is what the frame was about.
    `status` is that of the same refusal over HTTP. With `retry_after` (seconds) the client may send it again. Without
    `key`, `message_id` and `retry_after`, it refuses the oldest frame that is not answered yet, for good."""

    detail: str
    status: int
    key: str | None = None
    message_id: UUID | None = None
    retry_after: int | None = None


class Pong(Struct, tag="pong", frozen=True):
    pass


ServerFrame: TypeAlias = AgentOutput | StatusEvent | Status | Error | Pong
