"""Between agents and tools, and from the log of a message to notifications and the result of a call: pure functions."""

import base64
import re
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from service.errors import Invalid
from service.events.model import Entry
from service.limits import MAX_SEQ, REQUEST_ID_RULE, is_request_id
from service.messages.model import Hold
from service.protocols.mcp.model import INVALID_PARAMS, CallRefused, Notification, RequestId
from service.queues.model import Agent

THREAD = {"type": "string", "description": "The conversation that the message belongs to. Without one it stands alone."}
TEXT = {"type": "string", "minLength": 1, "description": "The request, in plain text."}
_EVENT_ID = re.compile(r"([0-9a-f]{32})\.([0-9]{1,10})\.([A-Za-z0-9_-]{1,4100})")  # two ids of six bytes a character


class EventId(NamedTuple):
    """What the id of an event says: the message, the seq that the client has seen, and the request that it belongs
    to, with its progress token (None: the client wants no progress)."""

    message_id: UUID
    seq: int
    request: RequestId
    token: RequestId | None

    def __str__(self) -> str:
        asked = base64.urlsafe_b64encode(msgspec.json.encode([self.request, self.token])).decode().rstrip("=")
        return f"{self.message_id.hex}.{self.seq}.{asked}"


def parse_event_id(text: str) -> EventId:
    """Raises Invalid."""
    found = _EVENT_ID.fullmatch(text)
    try:
        if found is not None and int(found[2]) <= MAX_SEQ:
            padded = found[3] + "=" * (-len(found[3]) % 4)
            asked = msgspec.json.decode(base64.urlsafe_b64decode(padded), type=tuple[RequestId, RequestId | None])
            return EventId(UUID(found[1]), int(found[2]), *asked)
    except (ValueError, msgspec.MsgspecError):
        pass
    raise Invalid("Last-Event-ID must be the id of the last event received.")


def tool_of(agent: Agent) -> dict[str, Any]:
    """The arguments are `message`, as the agent declares its input, and `thread_id`."""
    declared: dict[str, Any] = TEXT
    if agent.input is not None:
        declared = msgspec.json.decode(msgspec.json.encode(agent.input))  # the store leaves its JSON as it is
    definitions = declared.get("$defs")
    declared = {name: value for name, value in declared.items() if name != "$defs"}
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"message": declared, "thread_id": THREAD},
        "required": ["message"],
    }
    if definitions:
        schema["$defs"] = definitions
    return {"name": agent.agent, "description": agent.description or agent.agent, "inputSchema": schema}


class CallArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    message: Any
    thread_id: str | None = None
    session_id: str | None = None  # another name of thread_id


class ToolCall(msgspec.Struct, frozen=True):
    """The params of tools/call."""

    name: str
    arguments: CallArguments
    meta: dict[str, Any] = msgspec.field(default_factory=dict, name="_meta")

    @property
    def token(self) -> RequestId | None:
        """The client's progress token."""
        token = self.meta.get("progressToken")
        return token if isinstance(token, str | int) and not isinstance(token, bool) else None


def read_call(params: dict[str, Any]) -> ToolCall:
    """Raises CallRefused."""
    try:
        call = msgspec.convert(params, ToolCall)
    except msgspec.ValidationError as error:
        raise CallRefused(INVALID_PARAMS, f"The call of the tool cannot be read: {error}.") from None
    if call.token is not None and not is_request_id(call.token):
        raise CallRefused(INVALID_PARAMS, f"progressToken must be {REQUEST_ID_RULE}.")
    return call


class _Data(msgspec.Struct):
    chunk: str = ""
    hold: Hold | None = None
    question: Any = None
    result: Any = None
    error: str | None = None


def progress_of(entry: Entry, token: RequestId | None) -> Notification | None:
    """None where the client wants no progress, or the entry tells of no progress."""
    if token is None or entry.type not in {"started", "chunk", "progress", "retry"}:
        return None
    params: dict[str, Any] = {"progressToken": token, "progress": entry.seq}
    if entry.type == "chunk":
        params["message"] = msgspec.json.decode(entry.data, type=_Data).chunk
    elif entry.type == "progress":
        params["message"] = entry.data
    elif entry.type == "retry":
        params["message"] = "Another attempt begins."
    return Notification("notifications/progress", params)


def result_of(entry: Entry) -> dict[str, Any] | None:
    """The result of the call, if the message is over with this entry or asks a question."""
    data = msgspec.json.decode(entry.data, type=_Data) if entry.last or entry.type == "parked" else _Data()
    if entry.last and entry.type == "done":
        return _result(data.result)
    if entry.last:
        return _failed("The call was cancelled." if entry.type == "cancelled" else data.error or "The agent failed.")
    if data.hold == "input":
        asked = msgspec.json.encode(data.question).decode()
        answer = f"POST /messages/{entry.message_id}/input answers it."
        return _failed(f"The agent waits for an answer to its question: {asked}. {answer}")
    return None


def _result(value: Any) -> dict[str, Any]:
    found = _text(value if isinstance(value, str) else msgspec.json.encode(value).decode())
    return {**found, "structuredContent": value} if isinstance(value, dict) else found


def _text(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], "isError": False}


def _failed(text: str) -> dict[str, Any]:
    return {**_text(text), "isError": True}
