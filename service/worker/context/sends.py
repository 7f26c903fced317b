"""Messages that an agent sends: committed with its next step, or with the end of its attempt."""

import hashlib
from collections.abc import Mapping
from typing import Any, get_args
from uuid import UUID

import msgspec

from service.limits import DELAY_RULE, MAX_BATCH_MESSAGES, MAX_DELAY_SECONDS, THREAD_ID_RULE, is_thread_id
from service.messages.model import Priority
from service.worker.context.scope import AttemptScope

PRIORITIES = frozenset(get_args(Priority))


async def send(
    scope: AttemptScope,
    message: Any,
    *,
    agent: str | None,
    thread_id: str | None,
    priority: str,
    metadata: Mapping[str, Any] | None,
    delay: float,
    aside: bool,
    name: str | None,
) -> str:
    """Remember a message to be submitted; returns its id."""
    _check(scope, thread_id=thread_id, priority=priority, delay=delay, aside=aside)
    child = _child_id(scope.claim.message_id, scope.claim_name("send", name))
    submission = {
        "message_id": child,
        "parent": str(scope.claim.message_id),
        "message": message,
        "agent": agent,
        "thread_id": thread_id,
        "priority": priority,
        "metadata": metadata,
        "delay_seconds": delay,
        "aside": aside,
    }
    given = {key: value for key, value in submission.items() if value is not None}
    text = scope.fit(given, "a message")
    scope.sent[child] = None if aside else thread_id
    if child not in (await scope.earlier_results()).sent:
        scope.unsent[child] = msgspec.json.decode(text)
    return child


def _check(scope: AttemptScope, *, thread_id: str | None, priority: str, delay: float, aside: bool) -> None:
    if len(scope.sent) == MAX_BATCH_MESSAGES:
        raise ValueError(f"a message sends at most {MAX_BATCH_MESSAGES} others")
    if priority not in PRIORITIES:
        raise ValueError(f"the priority is high, normal or low, not {priority!r}")
    if not 0 <= delay <= MAX_DELAY_SECONDS:
        raise ValueError(f"delay must be {DELAY_RULE}")
    if thread_id is not None and not is_thread_id(thread_id):
        raise ValueError(f"thread_id must be {THREAD_ID_RULE}")
    if aside and thread_id is None:
        raise ValueError("an aside needs a thread_id")


def _child_id(parent: UUID, name: str) -> str:
    """A UUIDv7 with the parent's time, the same in every attempt (RFC 9562, 5.7: all bits but the time are free)."""
    digest = hashlib.sha256(parent.bytes + name.encode()).digest()
    value = int.from_bytes(parent.bytes[:6] + digest[:10], "big")
    return str(UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62))
