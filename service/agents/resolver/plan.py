"""A plan: tasks, and which of them need the results of which. A model's plan is read leniently and checked strictly."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

MAX_TASKS = 12
MAX_ID_CHARS = 40
MAX_TITLE_CHARS = 200
MAX_INSTRUCTION_CHARS = 4000


class BadPlan(ValueError):
    """The planner's answer is not a valid plan. The text says why; the planner and people read it."""


class Task(msgspec.Struct, frozen=True):
    """A part of the query. `after` are the ids of the tasks whose results it needs."""

    id: str
    title: str
    instruction: str
    after: tuple[str, ...] = ()


class Draft(msgspec.Struct, frozen=True):
    """A valid plan. `kept` are the tasks whose results from the last plan stay valid. `new`: the instruction does not
    concern the last plan."""

    tasks: tuple[Task, ...]
    kept: tuple[str, ...] = ()
    new: bool = False


class _RawTask(msgspec.Struct):
    id: str | int
    title: str | None = None
    instruction: str | None = None
    after: list[str | int] | None = None
    keep: bool = False


class _RawPlan(msgspec.Struct):
    tasks: list[_RawTask]
    new: bool = False


def read(text: str, last: Iterable[Task] = ()) -> Draft:
    """Read the plan in a model's answer: JSON, which may stand in a code fence or among words. Tasks of the `last` plan
    may be kept; those need only their id. Raises BadPlan."""
    raw = _decoded(text)
    known = {} if raw.new else {task.id: task for task in last}
    ids = [_id(task.id) for task in raw.tasks]
    if not 1 <= len(ids) <= MAX_TASKS:
        raise BadPlan(f"it has {len(ids)} tasks, and 1 to {MAX_TASKS} are allowed")
    if twice := next((name for name in ids if ids.count(name) > 1), None):
        raise BadPlan(f"two tasks have the id {twice!r}")
    tasks = tuple(_task(task, known, ids) for task in raw.tasks)
    for task in tasks:
        if missing := next((name for name in task.after if name not in ids), None):
            raise BadPlan(f"the task {task.id!r} is after {missing!r}, which is not a task")
    _check_order(tasks)
    kept = {_id(task.id) for task in raw.tasks if task.keep and not raw.new}
    return Draft(tasks, tuple(sorted(_still_valid(tasks, kept))), raw.new)


def ready(tasks: Iterable[Task], finished: Mapping[str, Any], running: Collection[str]) -> list[Task]:
    """The tasks that may begin: those that neither run nor have finished, and whose `after` tasks have all finished."""
    return [
        task
        for task in tasks
        if task.id not in running and task.id not in finished and all(name in finished for name in task.after)
    ]


def _decoded(text: str) -> _RawPlan:
    problems = []
    spans = [(text.find(first), text.rfind(last)) for first, last in (("{", "}"), ("[", "]"))]
    outer = max(spans, key=lambda span: span[1] - span[0])
    for start, end in sorted(spans):
        within = outer[0] < start and end < outer[1]  # inside the larger span: only a part of the plan
        if 0 <= start < end and not within:
            try:
                raw = msgspec.json.decode(text[start : end + 1], type=_RawPlan | list[_RawTask])
            except (msgspec.MsgspecError, RecursionError) as error:
                problems.append(f"its JSON does not have the required form ({error})")
            else:
                return _RawPlan(raw) if isinstance(raw, list) else raw
    raise BadPlan(problems[0] if problems else "it contains no JSON")


def _id(raw: str | int) -> str:
    name = str(raw).strip()
    if not 1 <= len(name) <= MAX_ID_CHARS or not name.isprintable():
        raise BadPlan(f"the id {name[:MAX_ID_CHARS]!r} is not 1 to {MAX_ID_CHARS} printable characters")
    return name


def _task(raw: _RawTask, known: Mapping[str, Task], ids: list[str]) -> Task:
    name = _id(raw.id)
    if raw.keep and known:
        if name not in known:
            raise BadPlan(f"it keeps the task {name!r}, which the last plan does not have")
        after = tuple(other for other in known[name].after if other in ids)
        return msgspec.structs.replace(known[name], after=after)
    instruction = (raw.instruction or "").strip()
    if not instruction:
        raise BadPlan(f"the task {name!r} has no instruction")
    title = " ".join((raw.title or instruction).split())[:MAX_TITLE_CHARS]
    after = tuple(dict.fromkeys(_id(other) for other in raw.after or ()))
    return Task(name, title, instruction[:MAX_INSTRUCTION_CHARS], after)


def _check_order(tasks: tuple[Task, ...]) -> None:
    finished: dict[str, None] = {}
    while runnable := ready(tasks, finished, ()):
        finished |= {task.id: None for task in runnable}
    if circle := [repr(task.id) for task in tasks if task.id not in finished]:
        raise BadPlan(f"the tasks {', '.join(circle)} wait for each other")


def _still_valid(tasks: tuple[Task, ...], kept: set[str]) -> set[str]:
    """The kept tasks without those that come after a task that runs again, because these must run again too."""
    while outdated := {task.id for task in tasks if task.id in kept and not kept.issuperset(task.after)}:
        kept = kept - outdated
    return kept
