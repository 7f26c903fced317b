"""The JSON of the audit."""

from datetime import datetime
from typing import Any

from msgspec import Struct


class Act(Struct, frozen=True):
    """`target`: the id or the name of what was acted on. `action`: what was done to what, such as `key.revoke`."""

    at: datetime
    tenant: str
    principal: str
    action: str
    target: str
    details: dict[str, Any]


class AuditPage(Struct, frozen=True):
    """A page of the audit, the newest act first; `next_cursor` is null on the last page."""

    acts: list[Act]
    next_cursor: str | None
