"""The caller of a request: its tenant, its scopes and its restrictions."""

from typing import Literal, TypeAlias, get_args
from uuid import UUID

import msgspec

DEFAULT_TENANT = "default"  # of an installation that has no other, and of its operators

Scope: TypeAlias = Literal["submit", "read", "operate", "publish", "work", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
ALL_SCOPES: frozenset[Scope] = frozenset(SCOPES)


class Principal(msgspec.Struct, frozen=True):
    """A caller that has proved who it is. Every field from `subject` to `message_id` that is not None restricts it:
    rows outside are to it as if they did not exist.

    `name` is for the audit and the log, such as `key 4f2a (ci)`. `expires_at`: seconds since 1970; None: never.
    """

    tenant: str
    scopes: frozenset[Scope]
    name: str
    subject: str | None = None  # the owner of all that it sees and submits
    agents: tuple[str, ...] | None = None
    thread_id: str | None = None
    message_id: UUID | None = None
    expires_at: float | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it may see all rows of the tenant `default`."""
        return self.tenant == DEFAULT_TENANT and self.only is None

    @property
    def only(self) -> str | None:
        """The restrictions as the SQL functions take them (`only`): JSON text, or None where there are none."""
        restrictions = {
            "owner": self.subject,
            "agents": self.agents,
            "thread_id": self.thread_id,
            "message_id": self.message_id,
        }
        given = {name: value for name, value in restrictions.items() if value is not None}
        return msgspec.json.encode(given).decode() if given else None


def unrestricted(name: str, tenant: str = DEFAULT_TENANT) -> Principal:
    """A principal that may do everything in its tenant."""
    return Principal(tenant, ALL_SCOPES, name)


AUTH_OFF = unrestricted("auth off")
COMMAND_LINE = unrestricted("command line")
