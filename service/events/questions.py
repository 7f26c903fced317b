"""Questions that a message asks its client, and their answers, for clients of other protocols."""

from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from service.access.principal import Principal
from service.errors import Busy, Conflict, Unprocessable
from service.events.answers import answers_calls, calls_of, is_question
from service.events.follower import Follower
from service.events.model import Entry
from service.json_input import same_json
from service.messages.model import NewInput
from service.messages.store import MessageStore


class Asked(NamedTuple):
    """A question by its name, and the seq of its entry."""

    seq: int
    name: str
    question: Any


class _Parked(msgspec.Struct, frozen=True):
    name: str
    question: Any = None


class _Answered(msgspec.Struct, frozen=True):
    input: Any = None


def _asked(entry: Entry) -> Asked:
    parked = msgspec.json.decode(entry.data, type=_Parked)
    return Asked(entry.seq, parked.name, parked.question)


def match_answers(question: Any, by_number: dict[int, Any]) -> Any:
    """What the agent receives, from the answers to the parts of its question by their numbers. Raises Unprocessable
    unless all parts have one."""
    if by_number.keys() != set(range(len(calls_of(question)))):
        raise Unprocessable("Send an answer to every function call or interrupt of the question, once.")
    values = [by_number[number] for number in sorted(by_number)]
    return values if answers_calls(question) else values[0]


async def question_at(follower: Follower, message_id: UUID, seq: int) -> Asked | None:
    """The question at this place of the log. The caller has looked the message up for its principal."""
    async for entry in follower.read(message_id, seq - 1):
        if entry.seq == seq and is_question(entry):
            return _asked(entry)
        break
    return None


async def is_last_question(follower: Follower, message_id: UUID, seq: int) -> bool:
    """Whether the log ends with a question at this place. The caller has looked the message up for its principal."""
    found = False
    async for entry in follower.read(message_id, seq - 1):
        found = entry.seq == seq and is_question(entry)
        if not found:
            break
    return found


async def last_question(follower: Follower, message_id: UUID, after: int) -> Asked | None:
    """The last question in the log after seq `after`, answered or not. The caller has looked the message up for its
    principal."""
    last = None
    async for entry in follower.read(message_id, after):
        last = entry if is_question(entry) else last
    return None if last is None else _asked(last)


async def give_answer(
    follower: Follower, messages: MessageStore, principal: Principal, message_id: UUID, asked: int, given: NewInput
) -> None:
    """Answer the question at the place `asked`; it may be repeated. Raises NotFound, Busy, and Conflict if the question
    has another answer, or will have none."""
    try:
        await messages.input(principal, message_id, given)
    except Busy:
        raise
    except Conflict:
        async for entry in follower.read(message_id, asked):
            if entry.type == "input" and same_json(msgspec.json.decode(entry.data, type=_Answered).input, given.input):
                return
            break
        raise
