"""Messages that an agent sends and records that it publishes: committed with its next step, or with the end of its
attempt."""

from collections.abc import Mapping
from typing import Any, get_args

import msgspec

from service import telemetry
from service.agents.contract import Rejected, Unacceptable
from service.leases.sent_ids import SentId
from service.limits import (
    CHAIN_ENDS,
    DELAY_RULE,
    MAX_BATCH_MESSAGES,
    MAX_DELAY_SECONDS,
    MAX_RECORD_KEY_CHARS,
    MAX_SEND_DEPTH,
    RECORD_KEY_RULE,
    THREAD_ID_RULE,
    is_thread_id,
)
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
    """Remember a message to be submitted; returns its id. Raises Rejected if an earlier attempt has sent something else
    in its place, if it does not fit the input of its agent, or if the chain of messages is too long."""
    await scope.require_running()
    scope.require_commit_with_end("send messages")
    _check_depth(scope)
    _check(scope, thread_id=thread_id, priority=priority, delay=delay, aside=aside)
    given = {"message": message, "agent": agent, "thread_id": thread_id, "metadata": metadata, "aside": aside}
    content = msgspec.json.decode(scope.fit({k: v for k, v in given.items() if v is not None}, "a message"))
    sent_id = SentId(scope.claim.message_id, content, await scope.earlier_results())
    child = sent_id.child(scope.names.claim("send", name, sent_id.is_same))
    is_new = child not in sent_id.earlier.sent
    if is_new and (misfit := await scope.backend.queries.misfit(agent, content["message"])):
        raise Rejected(f"A message to send is refused: {misfit}")
    scope.sent[child] = None if aside else thread_id
    if is_new:
        scope.unsent[child] = {
            "message_id": child,
            "parent": str(scope.claim.message_id),
            "priority": priority,
            "delay_seconds": delay,
            **content,
        }
        if scope.trace_parent is not None:
            scope.unsent[child]["traceparent"] = scope.trace_parent
    return child


async def publish(
    scope: AttemptScope,
    topic: str,
    value: Any,
    *,
    key: str | None,
    headers: Mapping[str, str] | None,
    name: str | None,
) -> str:
    """Remember a record to be published; returns its id. Raises Rejected if an earlier attempt has published something
    else in its place, if it does not fit the schema of its topic, or if the chain of messages is too long."""
    await scope.require_running()
    scope.require_commit_with_end("publish records")
    _check_depth(scope)
    if key is not None and not 1 <= len(key) <= MAX_RECORD_KEY_CHARS:
        raise Unacceptable(f"the key must be {RECORD_KEY_RULE}")
    given = {"topic": topic, "value": value, "key": key, "headers": headers}
    content = msgspec.json.decode(
        scope.fit({k: v for k, v in given.items() if v is not None or k == "value"}, "a record")
    )
    sent_id = SentId(scope.claim.message_id, content, await scope.earlier_results())
    own_name = scope.names.claim("publish", name, lambda name: sent_id.is_same(f"record {name}"))
    record = sent_id.child(f"record {own_name}")
    if record not in sent_id.earlier.sent:
        checked = await scope.backend.queries.check_record(scope.claim.tenant, topic, content["value"])
        if checked.problem is not None:
            raise Rejected(f"A record to publish to {topic!r} is refused: {checked.problem}")
        if len(scope.unsent) >= MAX_BATCH_MESSAGES:
            raise Unacceptable(f"a message publishes at most {MAX_BATCH_MESSAGES} records at once")
        scope.unsent[record] = {"record_id": record, "schema_id": checked.schema_id, **content}
        if checked.value is not msgspec.UNSET:
            scope.unsent[record]["value"] = checked.value
        if scope.trace_parent is not None:
            scope.unsent[record]["traceparent"] = scope.trace_parent
        telemetry.publish(work=scope.claim, topic=topic, record_id=record)
    return record


def _check_depth(scope: AttemptScope) -> None:
    if scope.claim.depth >= MAX_SEND_DEPTH:
        raise Rejected(CHAIN_ENDS)


def _check(scope: AttemptScope, *, thread_id: str | None, priority: str, delay: float, aside: bool) -> None:
    if len(scope.sent) == MAX_BATCH_MESSAGES:
        raise Unacceptable(f"a message sends at most {MAX_BATCH_MESSAGES} others")
    if priority not in PRIORITIES:
        raise Unacceptable(f"the priority is high, normal or low, not {priority!r}")
    if not 0 <= delay <= MAX_DELAY_SECONDS:
        raise Unacceptable(f"delay must be {DELAY_RULE}")
    if thread_id is not None and not is_thread_id(thread_id):
        raise Unacceptable(f"thread_id must be {THREAD_ID_RULE}")
    if aside and thread_id is None:
        raise Unacceptable("an aside needs a thread_id")
