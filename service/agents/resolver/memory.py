"""What a thread remembers of its last query, in Context.memory: the plan, the results of its tasks, and the answer."""

from collections.abc import Mapping
from typing import Any

import msgspec

from service.agents.resolver.plan import Task

MEMORY_KEY = "resolver"  # in Context.memory, which all agents of the thread share
MAX_MEMORY_BYTES = 180_000  # of JSON
MAX_REFINEMENTS = 20  # the latest are kept


class Memory(msgspec.Struct, frozen=True):
    """`message_id` is the message that wrote it; `results` are by the task's id."""

    message_id: str
    query: str
    refinements: tuple[str, ...]
    tasks: tuple[Task, ...]
    results: dict[str, str]
    answer: str


def recall(thread_memory: Mapping[str, Any]) -> Memory | None:
    """The memory in Context.memory; None if it is missing or has another form."""
    try:
        return msgspec.convert(thread_memory.get(MEMORY_KEY), Memory)
    except msgspec.ValidationError:
        return None


def remember(thread_memory: dict[str, Any], memory: Memory) -> None:
    """Store it in Context.memory, shortened to MAX_MEMORY_BYTES."""
    thread_memory[MEMORY_KEY] = msgspec.to_builtins(_shortened(memory))


def cut(text: str, size: int) -> str:
    """The first `size` characters of the text, with a note that says how many follow."""
    if len(text) <= size:
        return text
    return f"{text[:size].rstrip()}\n\n[{len(text) - size:,} more characters were left out here.]"


def _shortened(memory: Memory) -> Memory:
    """Cut all texts at one length, reduced until the whole fits."""
    size = MAX_MEMORY_BYTES
    shortened = memory = msgspec.structs.replace(memory, refinements=memory.refinements[-MAX_REFINEMENTS:])
    while len(msgspec.json.encode(shortened)) > MAX_MEMORY_BYTES:
        size = size * 2 // 3
        shortened = Memory(
            memory.message_id,
            cut(memory.query, size),
            tuple(cut(text, size) for text in memory.refinements),
            tuple(msgspec.structs.replace(task, instruction=cut(task.instruction, size)) for task in memory.tasks),
            {name: cut(text, size) for name, text in memory.results.items()},
            cut(memory.answer, size),
        )
    return shortened
