"""From the JSON of remote workers to what the log and the lease functions take, and back."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from service.config import Settings
from service.errors import Unprocessable
from service.events.model import RESERVED_TYPES
from service.json_input import unreadable
from service.leases.model import EventToAppend, Outcome, RemoteClaim, SentMessage
from service.limits import MAX_ERROR_CHARS, MAX_STEP_NAME_CHARS, OWN_STEP_PREFIX
from service.messages.validation import validate_metadata
from service.protocols.leases.earlier import Earlier
from service.protocols.leases.model import (
    OUTCOMES,
    ClaimedMessage,
    NewEnding,
    NewEvent,
    RemoteAgent,
)
from service.protocols.leases.model_sends import WaitedMessage
from service.protocols.leases.sends import Placed, encode_rows

CHUNK = "chunk"
STEP = "step"
WITH_ERROR = ("failed", "retry", "overloaded")
WITH_SENDS = ("completed", "input", "children")
RELEASED_ERROR = "The worker gave the message back."


def require_each_once(agents: Sequence[RemoteAgent]) -> None:
    """Raises Unprocessable where two agents have one name."""
    names = [agent.agent for agent in agents]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise Unprocessable(f"agents[{number}] has the name of an agent before it; name each agent once.")


def agent_row(agent: RemoteAgent, settings: Settings) -> dict[str, Any]:
    """An agent as treadle.register_agents reads it."""
    return {
        "agent": agent.agent,
        "queue": agent.queue,
        "timeout_seconds": agent.timeout_seconds or settings.processing_timeout,
        "max_attempts": agent.max_attempts or settings.max_attempts,
        "input": agent.input,
        "description": agent.description,
        "settings": {"client_state": agent.client_state} if agent.client_state else {},
    }


def claimed_message(claim: RemoteClaim, earlier: Earlier, traceparent: str | None) -> ClaimedMessage:
    """JSON from PostgreSQL is passed on as it is."""
    return ClaimedMessage(
        message_id=claim.message_id,
        lease=claim.lease,
        agent=claim.agent,
        queue=claim.queue,
        priority=claim.priority,
        message=Raw(claim.body.encode()),
        metadata=Raw(claim.metadata.encode()),
        thread_id=claim.thread_id,
        ord=claim.ord,
        aside=claim.aside,
        memory=_readable(claim.memory),
        steps=earlier.steps,
        inputs=earlier.inputs,
        questions=earlier.questions,
        attempt=claim.attempt,
        max_attempts=claim.max_attempts,
        failures=claim.failures,
        losses=claim.losses,
        timeout_seconds=claim.timeout_seconds,
        last_seq=claim.last_seq,
        created_at=claim.created_at,
        traceparent=traceparent,
    )


def waited_message(child: SentMessage) -> WaitedMessage:
    """JSON from PostgreSQL is passed on as it is."""
    result = None if child.result is None else Raw(child.result.encode())
    return WaitedMessage(child.message_id, child.state, result, child.error, child.parent, child.thread_id)


def events_to_append(events: Sequence[NewEvent], settings: Settings) -> list[EventToAppend]:
    """Raises Unprocessable."""
    return [_event(number, event, settings.max_event_bytes) for number, event in enumerate(events)]


def outcome_of(ending: NewEnding, settings: Settings, placed: Sequence[Placed] = ()) -> Outcome:
    """`placed`: what it sends. Raises Unprocessable."""
    sends = encode_rows(placed) if placed else None
    if (ending.question is None) == (ending.outcome == "input"):
        raise Unprocessable("question is missing." if ending.question is None else "question is for the outcome input.")
    if (ending.sends or ending.records) and ending.outcome not in WITH_SENDS:
        raise Unprocessable("Only the outcomes completed, input and children have sends and records.")
    validate_metadata(ending.memory)
    if ending.memory is not None and ending.outcome != "completed":
        raise Unprocessable("Only a completed attempt saves the memory of its thread.")
    if bool(ending.children) != (ending.outcome == "children"):
        raise Unprocessable("children must be ids of messages with the outcome children, and left out with others.")
    sent = {"sent": [str(one.id) for one in placed]} if placed else {}
    if ending.question is not None:
        asked = {"name": ending.question.name, "question": ending.question.question, **sent}
        return Outcome("input", result=_fitting("question", asked, settings.max_event_bytes), sends=sends)
    if ending.children:
        waits = _fitting("children", {"children": ending.children, **sent}, settings.max_event_bytes)
        return Outcome("children", result=waits, sends=sends, children=ending.children)
    if (ending.result is UNSET) == (ending.outcome == "completed"):
        raise Unprocessable(
            "result is missing." if ending.result is UNSET else "Only a completed attempt has a result."
        )
    if ending.outcome in WITH_ERROR and not ending.error:
        raise Unprocessable("error is missing: say in one sentence what failed.")
    if ending.outcome not in ("retry", "overloaded") and ending.retry_after is not None:
        raise Unprocessable("Only the outcomes retry and overloaded have a retry_after.")
    return Outcome(
        OUTCOMES[ending.outcome],
        result=_fitting("result", ending.result, settings.max_result_bytes) if ending.result is not UNSET else None,
        error=RELEASED_ERROR if ending.outcome == "released" else ending.error and ending.error[:MAX_ERROR_CHARS],
        delay_seconds=ending.retry_after,
        sends=sends,
        memory=json_or_none("memory", ending.memory, settings.max_event_bytes),
    )


def step_that_sends(events: Sequence[EventToAppend], placed: Sequence[Placed]) -> list[EventToAppend]:
    """The step with what it sends; `placed` may be empty. Raises Unprocessable unless the only event is a step."""
    if [event.type for event in events] != [STEP]:
        raise Unprocessable("With sends or records, events must be one step: they are committed with it.")
    if not placed:
        return list(events)
    data = msgspec.json.decode(events[0].data, type=dict[str, Raw])
    sent = Raw(msgspec.json.encode([str(one.id) for one in placed]))
    return [EventToAppend(STEP, msgspec.json.encode({**data, "sent": sent}).decode(), sends=encode_rows(placed))]


def _readable(memory: str | None) -> Raw | None:
    """None for a memory that no worker can read: one such claim would fail all claims of its answer."""
    return None if memory is None or memory[:1] != "{" or unreadable(memory) else Raw(memory.encode())


def json_or_none(name: str, value: Any, limit: int) -> str | None:
    """Raises Unprocessable."""
    return None if value is None else _fitting(name, value, limit)


def _event(number: int, event: NewEvent, limit: int) -> EventToAppend:
    place = f"events[{number}]"
    if event.type == CHUNK:
        return EventToAppend(CHUNK, _fitting(place, _chunk(place, event.data), limit))
    if event.type == STEP:
        return EventToAppend(STEP, _fitting(place, _step(place, event.data), limit))
    if event.type in RESERVED_TYPES or not event.type.isprintable():
        raise Unprocessable(f"{place}: workers cannot write events of the type {event.type!r}: choose another one.")
    return EventToAppend(event.type, _fitting(place, event.data, limit))


def _chunk(place: str, data: Any) -> dict[str, Any]:
    if isinstance(data, dict):
        chunk, index = data.get("chunk"), data.get("index")
        is_whole = data.keys() <= {"type", "chunk", "index"} and data.get("type", "content") == "content"
        if is_whole and isinstance(chunk, str) and type(index) is int and index >= 0:
            return {"type": "content", "chunk": chunk, "index": index}
    raise Unprocessable(f'{place}: the data of a chunk is {{"chunk": "<text>", "index": <whole number from 0>}}.')


def _step(place: str, data: Any) -> dict[str, Any]:
    if isinstance(data, dict) and {"name", "result"} <= data.keys() <= {"name", "result", "usage"}:
        name, usage = data["name"], data.get("usage", {})
        if not isinstance(usage, dict):
            raise Unprocessable(f"{place}: the usage of a step is an object.")
        if isinstance(name, str) and 1 <= len(name) <= MAX_STEP_NAME_CHARS:
            if name.startswith(OWN_STEP_PREFIX):
                raise Unprocessable(f"{place}: the names of steps that begin with {OWN_STEP_PREFIX} are Treadle's own.")
            return data
    raise Unprocessable(
        f'{place}: the data of a step is {{"name": "<1 to {MAX_STEP_NAME_CHARS} characters>", "result": <any JSON>}}'
        ' and, where it used something, "usage".'
    )


def _fitting(name: str, value: Any, limit: int) -> str:
    text = msgspec.json.encode(value)
    if len(text) > limit:
        raise Unprocessable(f"{name} has {len(text)} bytes; at most {limit} are allowed.")
    decoded = text.decode()
    if reason := unreadable(decoded):
        raise Unprocessable(f"{name} {reason}.")
    return decoded
