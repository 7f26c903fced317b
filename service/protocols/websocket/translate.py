"""Between frames and what the stores take and give: pure functions."""

import contextlib
import hashlib
import re

import msgspec
from msgspec import Raw, Struct

from service.errors import Unprocessable
from service.events.model import Entry
from service.json_input import decode
from service.messages.model import NewMessage
from service.protocols.websocket.model import AgentOutput, ClientFrame, ServerFrame, StatusEvent, UserInput

OUTPUT_EVENTS = frozenset({"chunk", "done"})  # they carry what the agent says


def decode_frame(frame: str | bytes) -> ClientFrame:
    """Raises Invalid, Unprocessable."""
    decoded: ClientFrame = decode(frame, ClientFrame, "frame")
    return decoded


def decode_bare_frame(frame: str | bytes) -> ClientFrame:
    """The same; a text that is no JSON object is what the user says. Raises Invalid, Unprocessable."""
    if isinstance(frame, str) and frame.strip() and not frame.lstrip().startswith("{"):
        return UserInput(text=frame)
    return decode_frame(frame)


def encode_frame(frame: ServerFrame) -> str:
    return msgspec.json.encode(frame).decode()


class _Keyed(Struct, frozen=True):
    key: str | None = None


# The key of a frame that is nested too deeply, or is no JSON at all, where it comes before what cannot be read.
_EARLY_KEY = re.compile(r'\A\s*\{\s*(?:"type"\s*:\s*"\w*"\s*,\s*)?"key"\s*:\s*"([^"\\]{1,255})"')
_EARLY_CHARS = 1_000


def key_of(frame: str | bytes) -> str | None:
    """The key in a frame that is refused, so that its client knows which input the error is about."""
    with contextlib.suppress(msgspec.MsgspecError, UnicodeError, RecursionError):
        return msgspec.json.decode(frame, type=_Keyed).key
    early = frame[:_EARLY_CHARS]
    found = _EARLY_KEY.match(early if isinstance(early, str) else early.decode(errors="replace"))
    return found[1] if found else None


def to_message(given: UserInput, thread_id: str) -> NewMessage:
    """The input as POST /messages takes it; raises Unprocessable."""
    contents = [content for content in (given.text, given.message) if content is not None]
    if len(contents) != 1:
        raise Unprocessable("Send exactly one of text and message.")
    return NewMessage(
        contents[0],
        priority=given.priority,
        thread_id=thread_id,
        agent=given.agent,
        metadata=given.metadata,
        aside=bool(given.aside),
        on_busy=given.on_busy or "enqueue",
    )


def to_idempotency_key(key: str, message: NewMessage) -> tuple[str, bytes]:
    """The Idempotency-Key of an input and the hash of its request. The thread is part of the key, and the prefix keeps
    it apart from the keys of POST /messages."""
    thread_and_key = hashlib.sha256(f"{message.thread_id}\n{key}".encode()).hexdigest()
    request_hash = hashlib.sha256(b"chat\n" + msgspec.json.encode(message, order="sorted")).digest()
    return f"chat {thread_and_key}", request_hash


def from_entry(entry: Entry) -> AgentOutput | StatusEvent:
    """An entry of the log as a frame."""
    kind = AgentOutput if entry.type in OUTPUT_EVENTS else StatusEvent
    return kind(entry.cursor, entry.message_id, entry.seq, entry.type, Raw(entry.data.encode()), entry.created_at)
