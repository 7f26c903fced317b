"""Ids of the dialect. Each names a message, and perhaps a place in its log, so that nothing else has to be stored.

resp_<message>              the response that begins with the message
resp_<message>_<seq>        the response that goes on after the question at this place of the log
call_<message>_<seq>_<n>    the n-th function call of the question at this place
msg_<message>_<seq>_<n>     the n-th item of a response; in a conversation, msg_<message> is the answer
item_<message>_<n>          the n-th item of the input; in a conversation, item_<message> is what the user said
"""

import re
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import uuid_utils.compat as uuid

from service.errors import NotFound

_HEX, _SEQ = "([0-9a-f]{32})", "([1-9][0-9]{0,9})"
_RESPONSE = re.compile(f"resp_{_HEX}(?:_{_SEQ})?")
_CALL = re.compile(f"call_{_HEX}_{_SEQ}_([0-9]{{1,2}})")
_ITEM = re.compile(f"(?:msg|item)_{_HEX}(?:_[0-9]{{1,10}}){{0,2}}")
_CONVERSATION = re.compile(f"conv_{_HEX}")


class ResponseId(NamedTuple):
    """`after`: the seq of the question after whose answer the response begins; 0: it begins with the message."""

    message_id: UUID
    after: int = 0

    def __str__(self) -> str:
        return f"resp_{self.message_id.hex}" + (f"_{self.after}" if self.after else "")

    def item(self, number: int) -> str:
        """The id of one of its output items."""
        return f"msg_{self.message_id.hex}_{self.after}_{number}"


class CallId(NamedTuple):
    """`asked`: the seq of the question that the call is a part of."""

    message_id: UUID
    asked: int
    number: int

    def __str__(self) -> str:
        return f"call_{self.message_id.hex}_{self.asked}_{self.number}"


def parse_response(text: str) -> ResponseId:
    """Raises NotFound."""
    found = _RESPONSE.fullmatch(text)
    if found is None:
        raise NotFound(f"There is no response {text[:100]!r}.")
    return ResponseId(UUID(found[1]), int(found[2] or 0))


def parse_call(text: str) -> CallId | None:
    """None for the id of a call that another server made."""
    found = _CALL.fullmatch(text)
    return CallId(UUID(found[1]), int(found[2]), int(found[3])) if found else None


def message_of_item(text: str) -> UUID | None:
    """The message that an item belongs to; None for the id of an item that another server made."""
    found = _ITEM.fullmatch(text)
    return UUID(found[1]) if found else None


def new_conversation() -> str:
    return f"conv_{uuid.uuid7().hex}"


def begun_at(conversation: str) -> datetime | None:
    """When `new_conversation` made the id; None for another one."""
    found = _CONVERSATION.fullmatch(conversation)
    if found is None or (made := UUID(found[1])).version != 7:
        return None
    try:
        return datetime.fromtimestamp((made.int >> 80) / 1000, UTC)
    except ValueError:  # of a year that no calendar here has
        return None
