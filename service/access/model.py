"""Keys and access tokens as requests and answers have them. The descriptions end sentences "<field> must be ..."."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from service.access.principal import Scope
from service.limits import (
    DEFAULT_GRACE_SECONDS,
    MAX_AGENT_NAME_CHARS,
    MAX_GRACE_SECONDS,
    MAX_KEY_AGENTS,
    MAX_KEY_NAME_CHARS,
    MAX_KEY_SECONDS,
    MAX_SUBJECT_CHARS,
    MAX_TENANT_CHARS,
    MAX_TOKEN_SECONDS,
    PRINTABLE_PATTERN,
    THREAD_ID_RULE,
    ThreadId,
)

DEFAULT_TOKEN_SECONDS = 3600.0

Scopes = Annotated[
    list[Scope],
    Meta(min_length=1, max_length=20, description="a list of submit, read, operate, publish, work and admin"),
]
Name = Annotated[
    str,
    Meta(
        max_length=MAX_KEY_NAME_CHARS,
        pattern=PRINTABLE_PATTERN,
        description=f"a text of at most {MAX_KEY_NAME_CHARS} characters, none of them a control character",
    ),
]
AgentName = Annotated[str, Meta(min_length=1, max_length=MAX_AGENT_NAME_CHARS, pattern=PRINTABLE_PATTERN)]
Agents = Annotated[
    Annotated[list[AgentName], Meta(min_length=1, max_length=MAX_KEY_AGENTS)] | None,
    Meta(description=f"a list of 1 to {MAX_KEY_AGENTS} names of agents, or left out for all agents"),
]
KeySeconds = Annotated[
    Annotated[float, Meta(gt=0, le=MAX_KEY_SECONDS)] | None,
    Meta(description=f"a number of seconds above 0, at most {MAX_KEY_SECONDS}, or left out for a key without an end"),
]
Subject = Annotated[str, Meta(min_length=1, max_length=MAX_SUBJECT_CHARS, pattern=PRINTABLE_PATTERN)]
TenantName = Annotated[str, Meta(min_length=1, max_length=MAX_TENANT_CHARS, pattern=PRINTABLE_PATTERN)]
Tenant = Annotated[
    TenantName | None,
    Meta(description="the name of a tenant, or left out for that of the caller; only `default` names another"),
]


class NewKey(Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be created."""

    scopes: Scopes
    name: Name = ""
    agents: Agents = None
    expires_in: KeySeconds = None
    tenant: Tenant = None


class Rotation(Struct, frozen=True, forbid_unknown_fields=True):
    """How long the old secret stays valid."""

    grace_seconds: Annotated[
        float,
        Meta(ge=0, le=MAX_GRACE_SECONDS, description=f"a number of seconds from 0 to {MAX_GRACE_SECONDS} (30 days)"),
    ] = DEFAULT_GRACE_SECONDS


class CreatedKey(Struct, frozen=True):
    """`key` is the whole key. It is shown this once: only a hash of it is kept."""

    key_id: str
    key: str
    tenant: str
    name: str
    scopes: list[Scope]
    agents: list[str] | None
    expires_at: datetime | None
    former_until: datetime | None = None  # after a rotation: until when the old secret is valid


class Key(Struct, frozen=True):
    """A key without its secret. `former_until`: until then the secret before the last rotation is valid as well."""

    key_id: str
    tenant: str
    name: str
    scopes: list[Scope]
    agents: list[str] | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    former_until: datetime | None
    last_used_at: datetime | None


class Revoked(Struct, frozen=True):
    key_id: str
    revoked_at: datetime


class NewToken(Struct, frozen=True, forbid_unknown_fields=True):
    """An access token for a browser: at least one of `thread_id`, `message_id` and `subject` restricts it."""

    scopes: Scopes
    thread_id: Annotated[ThreadId | None, Meta(description=THREAD_ID_RULE)] = None
    message_id: Annotated[UUID | None, Meta(description="the id of a message (a UUID)")] = None
    subject: Annotated[
        Subject | None, Meta(description=f"the name of a user, of 1 to {MAX_SUBJECT_CHARS} printable characters")
    ] = None
    expires_in: Annotated[
        float,
        Meta(
            gt=0, le=MAX_TOKEN_SECONDS, description=f"a number of seconds above 0, at most {MAX_TOKEN_SECONDS} (7 days)"
        ),
    ] = DEFAULT_TOKEN_SECONDS
    session_id: Annotated[ThreadId | None, Meta(description=THREAD_ID_RULE)] = None  # another name of thread_id

    def __post_init__(self) -> None:
        if self.session_id is not None and self.thread_id in (None, self.session_id):  # else narrow refuses both
            msgspec.structs.force_setattr(self, "thread_id", self.session_id)
            msgspec.structs.force_setattr(self, "session_id", None)


class CreatedToken(Struct, frozen=True):
    token: str
    expires_at: datetime
