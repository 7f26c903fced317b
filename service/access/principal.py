"""The caller of a request: its tenant, its scopes and its restrictions."""

import getpass
from typing import Any, Literal, TypeAlias, get_args
from uuid import UUID

import msgspec

DEFAULT_TENANT = "default"  # of an installation that has no other, and of its operators

Scope: TypeAlias = Literal["submit", "read", "operate", "publish", "work", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
ALL_SCOPES: frozenset[Scope] = frozenset(SCOPES)

# Each route declares what it needs, as the option `scope` of its handler: a scope, or one of these.
OPEN_SCOPE = "open"  # neither a key nor a token
ANY_SCOPE = "any"  # a key or a token with whatever scope


class Principal(msgspec.Struct, frozen=True):
    """A caller that has proved who it is. Every field from `subject` to `message_id` that is not None restricts it:
    rows outside are to it as if they did not exist.

    `name` is for the audit and the log, such as `key 4f2a (ci)`. `expires_at`: seconds since 1970; None: never.
    `tenant_since` is set where nothing but the tenant's name binds the principal to it, as in a JWT.
    """

    tenant: str
    scopes: frozenset[Scope]
    name: str
    subject: str | None = None  # the owner of all that it sees and submits
    agents: tuple[str, ...] | None = None
    thread_id: str | None = None
    message_id: UUID | None = None
    key_id: str | None = None  # of the key that it showed, or that made its token
    expires_at: float | None = None
    tenant_since: int | None = None  # the creation of the tenant that it is for, in microseconds since 1970

    @property
    def is_operator(self) -> bool:
        """Whether it may also see and change what belongs to the installation: queues, workers, other tenants."""
        return self.tenant == DEFAULT_TENANT and self.reach is None

    @property
    def operates_tenant(self) -> bool:
        """Whether it may also see what would let others act for the tenant. Tokens of browsers may not."""
        return self.reach is None and not self.scopes.isdisjoint(("operate", "admin"))

    def thread_key(self, thread_id: str | None) -> str | None:
        """Names a thread among those of all tenants, as Busy.held does; None for none."""
        return None if thread_id is None else f"{self.tenant}/{thread_id}"

    @property
    def restrictions(self) -> dict[str, Any]:
        """The restrictions by name. A token of a thread that belongs to no subject loses the thread when it is begun
        again for a subject."""
        found = {
            "owner": self.subject,
            "agents": self.agents,
            "thread_id": self.thread_id,
            "message_id": self.message_id,
        }
        given = {name: value for name, value in found.items() if value is not None}
        return {"owner": None} | given if self.thread_id is not None else given

    @property
    def reach(self) -> str | None:
        """The restrictions as the SQL functions take them (`reach`): JSON text, or None where there are none."""
        if self.subject is None and self.agents is None and self.thread_id is None and self.message_id is None:
            return None
        return msgspec.json.encode(self.restrictions).decode()


def _command_line() -> str:
    """The name of the person at the terminal, for the audit."""
    try:
        return f"command line ({getpass.getuser()})"
    except (KeyError, OSError):  # a container's user may have no name
        return "command line"


# Its `key_id` belongs to no key, so that a token that is made while AUTH is off is worth nothing once it is on.
AUTH_OFF = Principal(DEFAULT_TENANT, ALL_SCOPES, "auth off", key_id="auth off")
COMMAND_LINE = Principal(DEFAULT_TENANT, ALL_SCOPES, _command_line())
