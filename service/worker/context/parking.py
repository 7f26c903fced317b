"""What an agent waits for: messages that it sent, or a person's answer. The attempt ends, and the message is parked."""

import asyncio
from typing import Any, NoReturn
from uuid import UUID

import msgspec

from service.agents.contract import ChildFailed, Unacceptable
from service.json_input import same_json
from service.leases.model import Outcome, ParkKind, SentMessage
from service.worker.context.scope import AttemptScope


async def gather(
    scope: AttemptScope, messages: tuple[str, ...], *, return_exceptions: bool, in_thread: bool
) -> list[Any]:
    await scope.require_running()
    children = await _children(scope, messages)
    for child in children:
        _check(scope, child)
    if waiting := [child.message_id for child in children if child.state in {"queued", "processing"}]:
        await _park(scope, "children", {"children": waiting}, waiting, in_thread=in_thread)
    results = [_result(child) for child in children]
    if not return_exceptions:
        for result in results:
            if isinstance(result, ChildFailed):
                raise result
    return results


async def ask(scope: AttemptScope, question: Any, name: str | None, *, in_thread: bool) -> Any:
    """The person's answer. Raises Rejected if a person has answered another question in its place."""
    await scope.require_running()
    earlier = await scope.earlier_results()
    asked = msgspec.json.decode(scope.fit(question, "a question"))

    def compare(name: str) -> bool | None:
        if name not in earlier.inputs:
            return None
        before = earlier.questions.get(name)
        return before is None or same_json(msgspec.json.decode(before), asked)

    name = scope.names.claim("input", name, compare)
    answer = earlier.inputs.get(name)
    if answer is None:
        await _park(scope, "input", {"name": name, "question": question}, in_thread=in_thread)
    return msgspec.json.decode(answer)


async def _children(scope: AttemptScope, message_ids: tuple[str, ...]) -> list[SentMessage]:
    """Their states; messages that are not submitted yet are `queued`."""
    own = scope.claim.message_id
    ids = [_id(message_id) for message_id in message_ids if message_id not in scope.unsent]
    found = {
        str(child.message_id): child
        for child in (await scope.backend.queries.children(scope.claim.message_id, ids) if ids else ())
    }
    for message_id, child in found.items():
        if child.state == "deleted" and await _has_sent(scope, message_id):
            found[message_id] = msgspec.structs.replace(child, parent=own)
    return [
        SentMessage(UUID(message_id), "queued", parent=own, thread_id=scope.sent[message_id])
        if message_id in scope.unsent
        else found[str(UUID(message_id))]
        for message_id in message_ids
    ]


async def _has_sent(scope: AttemptScope, message_id: str) -> bool:
    """Whether this attempt or an earlier one of the message has sent it."""
    return message_id in scope.sent or message_id in (await scope.earlier_results()).sent


def _check(scope: AttemptScope, child: SentMessage) -> None:
    claim = scope.claim
    if child.parent != claim.message_id:
        raise Unacceptable(f"gather takes what send returned, not '{child.message_id}'")
    if claim.thread_id is not None and child.thread_id == claim.thread_id and not claim.aside:
        turn = f"this one's turn in the thread {claim.thread_id!r}"
        raise Unacceptable(f"the message {child.message_id} waits for {turn}: send it to another thread")


async def _park(
    scope: AttemptScope,
    kind: ParkKind,
    data: dict[str, Any],
    children: list[UUID] | None = None,
    *,
    in_thread: bool,
) -> NoReturn:
    if scope.unsent:
        data["sent"] = list(scope.unsent)
    text = scope.fit(data, "a question" if kind == "input" else "a wait")
    scope.backend.park(Outcome(kind, result=text, sends=scope.take_unsent(), children=children))
    if not in_thread:
        # The attempt cancels the agent here. An exception would not do: frameworks handle exceptions.
        await asyncio.get_running_loop().create_future()
    raise asyncio.CancelledError


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except (ValueError, AttributeError, TypeError):
        raise Unacceptable(f"gather takes what send returned, not {text!r}") from None


def _result(child: SentMessage) -> Any:
    if child.state == "completed":
        return msgspec.json.decode(child.result or "null")
    return ChildFailed(str(child.message_id), child.state, child.error)
