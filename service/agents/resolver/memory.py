"""What a thread remembers of its last query, in Context.memory: the plan, what its tasks came to, and the answer."""

from collections.abc import Mapping
from typing import Any

import msgspec

from service.agents.resolver.plan import Task

KEY = "resolver"  # of Context.memory, which the thread's agents share
LIMIT = 180_000  # bytes of JSON
REFINEMENTS = 20  # the last ones


class Memory(msgspec.Struct, frozen=True):
    """`message_id` is the message that left it."""

    message_id: str
    query: str
    refinements: tuple[str, ...]
    tasks: tuple[Task, ...]
    results: dict[str, str]  # by the task's id
    answer: str


def recall(state: Mapping[str, Any]) -> Memory | None:
    """None where there is none, or none that we can read."""
    try:
        return msgspec.convert(state.get(KEY), Memory)
    except msgspec.ValidationError:
        return None


def remember(state: dict[str, Any], memory: Memory) -> None:
    """Put it in the state, cut to LIMIT."""
    state[KEY] = msgspec.to_builtins(_fitting(memory))


def cut(text: str, size: int) -> str:
    """The text, at most `size` characters of it; a note says where the rest was."""
    if len(text) <= size:
        return text
    return f"{text[:size].rstrip()}\n\n[{len(text) - size:,} more characters were left out here.]"


def _fitting(memory: Memory) -> Memory:
    """All texts cut at the same length, the greatest of some at which the whole fits."""
    size = LIMIT
    small = memory = msgspec.structs.replace(memory, refinements=memory.refinements[-REFINEMENTS:])
    while len(msgspec.json.encode(small)) > LIMIT:
        size = size * 2 // 3
        small = Memory(
            memory.message_id,
            cut(memory.query, size),
            tuple(cut(text, size) for text in memory.refinements),
            tuple(msgspec.structs.replace(task, instruction=cut(task.instruction, size)) for task in memory.tasks),
            {name: cut(text, size) for name, text in memory.results.items()},
            cut(memory.answer, size),
        )
    return small
