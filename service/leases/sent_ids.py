"""The ids of what a message sends: the same in every attempt."""

import hashlib
import itertools
from typing import Any
from uuid import UUID

import msgspec

from service.leases.model import EarlierResults

CONTENT_DIGITS = 8  # the last ones of an id


class SentId:
    """Gives a message that its parent sends, or a record that it publishes, its id.

    The id says what was sent and under which name, so that a later attempt can compare: it is a UUIDv7 with the
    parent's time, 42 bits of the name, and 32 bits of the content (RFC 9562, 5.7: all bits but the time are free).
    """

    def __init__(self, parent: UUID, content: dict[str, Any], earlier: EarlierResults) -> None:
        """Of `earlier`, what earlier attempts have sent counts."""
        self.earlier = earlier
        self._parent = parent
        self._content = hashlib.sha256(msgspec.json.encode(content, order="sorted")).digest()[:4]
        self._by_name = {child[:-CONTENT_DIGITS]: child for child in earlier.sent}

    def child(self, name: str) -> str:
        return self._find(name)[0]

    def is_same(self, name: str) -> bool | None:
        """Whether an earlier attempt has sent this under this name; None if it has sent nothing under it."""
        child, before = self._find(name)
        return None if before is None else before == child

    def _find(self, name: str) -> tuple[str, str | None]:
        """The id, and the id of what was sent under the name before. A message that was cancelled before its parent was
        redriven is sent once more, under another id; so is what was sent after a step from which the parent was
        retried."""
        for retry in range(self.earlier.retries + 1):
            in_retry = f"{name}\0retry {retry}" if retry else name
            for life in itertools.count():
                child = self._id(f"{in_retry}\0{life}" if life else in_retry)
                before = self._by_name.get(child[:-CONTENT_DIGITS])
                if before is None and retry < self.earlier.retries:
                    break  # not sent, or forgotten
                if before is None or before not in self.earlier.cancelled:
                    return child, before
        raise AssertionError("unreachable")

    def _id(self, name: str) -> str:
        digest = hashlib.sha256(self._parent.bytes + name.encode()).digest()
        value = int.from_bytes(self._parent.bytes[:6] + digest[:6] + self._content, "big")
        return str(UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62))
