"""What an attempt of a remote worker sends: the ids, and the rows as treadle.append_and_send reads them."""

import itertools
from collections.abc import Sequence, Set
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from service.config import Settings
from service.errors import Unprocessable
from service.leases.sent_ids import SentId
from service.limits import CHAIN_ENDS, MAX_BATCH_MESSAGES, MAX_SEND_DEPTH
from service.messages.model import NewMessage
from service.messages.validation import validate_messages, validate_metadata
from service.protocols.leases.earlier import Sender
from service.protocols.leases.model_sends import SentMessage, SentRecord
from service.telemetry import TRACE_PARENT
from service.trace_ids import own_trace, trace_of

EXACTLY_ONCE = "exactly_once"
RECORD = "record "  # before the names of records, among those of messages
AT_ITS_END = "A message that is delivered exactly once sends and publishes with its end only, not with a step."
OTHER_CONTENT_DETAIL = (
    "This attempt {} another {} as {!r} than an earlier attempt did: make its content in a step, or give each its own"
    " name, so that it is the same in every attempt."
)


class Placed(NamedTuple):
    """Not `is_new`: an earlier attempt has sent it."""

    id: UUID
    is_new: bool
    row: dict[str, Any]
    name: str


def place_message(
    sender: Sender, parent: UUID, sent: SentMessage, settings: Settings, used_numbers: Sequence[int] | None = None
) -> Placed:
    """`used_numbers`: the name gets another one. Raises Unprocessable."""
    _check_depth(sender)
    validate_messages(
        [NewMessage(sent.message, thread_id=sent.thread_id, metadata=sent.metadata, aside=sent.aside)],
        settings,
        in_batch=False,
    )
    named = {"agent": sent.agent, "thread_id": sent.thread_id, "metadata": sent.metadata}
    content = {"message": sent.message, "aside": sent.aside} | {k: v for k, v in named.items() if v is not None}
    placed = _placed(sender, parent, content, sent.name, settings, used_numbers, kind="message")
    fields = {"parent": str(parent), "priority": sent.priority, "delay_seconds": sent.delay_seconds}
    return placed._replace(row={"message_id": str(placed.id), **fields, **content, **_trace(sender, parent)})


def place_record(
    sender: Sender, parent: UUID, sent: SentRecord, settings: Settings, used_numbers: Sequence[int] | None = None
) -> Placed:
    """As place_message. Raises Unprocessable."""
    _check_depth(sender)
    validate_metadata({"value": sent.value})
    named = {"key": sent.key, "headers": sent.headers}
    content = {"topic": sent.topic, "value": sent.value} | {k: v for k, v in named.items() if v is not None}
    placed = _placed(sender, parent, content, f"{RECORD}{sent.name}", settings, used_numbers, kind="record")
    return placed._replace(
        name=placed.name.removeprefix(RECORD), row={"record_id": str(placed.id), **content, **_trace(sender, parent)}
    )


def place_all(
    sender: Sender, parent: UUID, sends: Sequence[SentMessage], records: Sequence[SentRecord], settings: Settings
) -> list[Placed]:
    """Those that earlier attempts have not sent. Raises Unprocessable."""
    if len(sends) + len(records) > MAX_BATCH_MESSAGES:
        raise Unprocessable(f"sends and records have at most {MAX_BATCH_MESSAGES} elements together.")
    placed = [place_message(sender, parent, sent, settings) for sent in sends]
    placed += [place_record(sender, parent, sent, settings) for sent in records]
    if len({one.id for one in placed}) < len(placed):
        raise Unprocessable("Two of sends, or of records, have one name; give each its own.")
    return [one for one in placed if one.is_new]


def encode_rows(placed: Sequence[Placed]) -> str:
    return msgspec.json.encode([one.row for one in placed]).decode()


def _check_depth(sender: Sender) -> None:
    if sender.depth >= MAX_SEND_DEPTH:
        raise Unprocessable(CHAIN_ENDS)


def _placed(
    sender: Sender,
    parent: UUID,
    content: dict[str, Any],
    name: str,
    settings: Settings,
    used_numbers: Sequence[int] | None,
    *,
    kind: str,
) -> Placed:
    if (size := len(msgspec.json.encode(content))) > settings.max_event_bytes:
        raise Unprocessable(f"The {kind} {name!r} has {size} bytes; at most {settings.max_event_bytes} are allowed.")
    sent_id = SentId(parent, content, sender.earlier)
    if used_numbers is not None:
        name = _numbered(sent_id, name, frozenset(used_numbers), kind)
    elif sent_id.is_same(name) is False:
        raise _differs(kind, name)
    id = sent_id.child(name)
    return Placed(UUID(id), id not in sender.earlier.sent, {}, name)


def _numbered(sent_id: SentId, prefix: str, used: Set[int], kind: str) -> str:
    """The name with the number under which an earlier attempt sent the same, else with the next one. Raises
    Unprocessable where earlier attempts sent something else only."""
    another: str | None = None  # the first name that an earlier attempt used for something else
    for number in itertools.count(1):
        name = f"{prefix} {number}"
        if number in used:
            continue
        is_same = sent_id.is_same(name)
        if is_same is None and another is not None:
            raise _differs(kind, another)
        if is_same is not False:
            return name
        another = another or name
    raise AssertionError("unreachable")


def _differs(kind: str, name: str) -> Unprocessable:
    return Unprocessable(OTHER_CONTENT_DETAIL.format("sends" if kind == "message" else "publishes", kind, name))


def _trace(sender: Sender, parent: UUID) -> dict[str, str]:
    """The span of the worker's program that the header of the call names, if it belongs to the trace of the message
    (`parent`); else the trace of the submit."""
    submitted, own = sender.traceparent, TRACE_PARENT.get()
    trace = own_trace(parent) if submitted is None else trace_of(submitted)
    chosen = own if own is not None and trace_of(own) == trace else submitted
    return {} if chosen is None else {"traceparent": chosen}
