"""Ids of the dialect. Each names a message and a place in its log, so that nothing else has to be stored.

msg_<message>_<seq>_<n>     the n-th text of the run that goes on after this place of the log (0: its begin)
int_<message>_<seq>_<n>     the n-th interrupt of the question at this place of the log
call_<message>_<seq>_<n>    the n-th call of a tool that this question is
"""

import re
from typing import NamedTuple
from uuid import UUID

_PART = re.compile("(?:int|call)_([0-9a-f]{32})_([1-9][0-9]{0,9})_([0-9]{1,2})")
_OWN = re.compile("(?:msg|call)_[0-9a-f]{32}(?:_[0-9]+){0,2}")


class Asked(NamedTuple):
    """What a client calls its run. `offered`: the names of the tools that it runs itself."""

    thread_id: str
    run_id: str
    parent_run_id: str | None
    offered: frozenset[str]


class Run(NamedTuple):
    """`after`: the seq of the question after whose answer the run begins; 0: it begins with the message."""

    message_id: UUID
    after: int = 0

    def text(self, number: int) -> str:
        """The id of a text."""
        return f"msg_{self.message_id.hex}_{self.after}_{number}"


class QuestionPart(NamedTuple):
    """A part of a question: the message, the seq of the question, and the number of the part."""

    message_id: UUID
    asked: int
    number: int

    @property
    def interrupt(self) -> str:
        return f"int_{self.message_id.hex}_{self.asked}_{self.number}"

    @property
    def call(self) -> str:
        return f"call_{self.message_id.hex}_{self.asked}_{self.number}"


def parse_part(text: str) -> QuestionPart | None:
    """None for an id that another server made."""
    found = _PART.fullmatch(text)
    return QuestionPart(UUID(found[1]), int(found[2]), int(found[3])) if found else None


def is_own(message_id: str) -> bool:
    """Whether this server gave a message of the assistant its id."""
    return _OWN.fullmatch(message_id) is not None
