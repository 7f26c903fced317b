"""Who sees what: callers that may not meet, and the threads and messages that they make."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

EVERY_SCOPE = ("submit", "read", "operate", "publish")


class Caller(msgspec.Struct, frozen=True):
    """A principal with its credential, or (`in_sql`) with a session of its tenant's login role. Fields that are not
    None restrict it. `unowned`: of one thread, while that belongs to no subject. `dead`: the key or token has ended."""

    name: str
    tenant: str
    credential: str = ""
    scopes: tuple[str, ...] = EVERY_SCOPE
    subject: str | None = None
    agents: tuple[str, ...] | None = None
    thread: str | None = None
    message: UUID | None = None
    unowned: bool = False
    dead: bool = False

    @property
    def restrictions(self) -> tuple[Any, ...]:
        return self.subject, self.agents, self.thread, self.message, self.unowned

    @property
    def reach(self) -> dict[str, Any] | None:
        given = {"owner": self.subject, "agents": self.agents, "thread_id": self.thread}
        found: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        found |= {"owner": None} if self.unowned else {}
        found |= {"message_id": str(self.message)} if self.message else {}
        return found or None


class Thread(msgspec.Struct):
    tenant: str
    owner: str | None
    agents: set[str]


class Message(msgspec.Struct):
    id: UUID
    tenant: str
    owner: str | None
    agent: str
    thread: str | None
    secret: str
    may_be_cancelled: bool = False


def _owns(caller: Caller, tenant: str, owner: str | None) -> bool:
    return caller.tenant == tenant and caller.subject in {None, owner} and not (caller.unowned and owner is not None)


def sees_message(caller: Caller, message: Message) -> bool:
    return (
        _owns(caller, message.tenant, message.owner)
        and (caller.agents is None or message.agent in caller.agents)
        and caller.thread in {None, message.thread}
        and caller.message in {None, message.id}
    )


def sees_thread(caller: Caller, name: str, thread: Thread) -> bool:
    return (
        _owns(caller, thread.tenant, thread.owner)
        and (caller.agents is None or thread.agents <= set(caller.agents))
        and caller.thread in {None, name}
        and caller.message is None
    )
