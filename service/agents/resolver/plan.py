"""A plan: subtasks, and which of them need the results of which. What a model says is read leniently and checked
strictly."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

MAX_TASKS = 12
MAX_ID = 40  # characters
MAX_TITLE = 200
MAX_INSTRUCTION = 4000


class BadPlan(ValueError):
    """What the planner said is no plan; says why, for the planner and for people."""


class Task(msgspec.Struct, frozen=True):
    """A subtask; `after` are the ids of the tasks whose results it is given."""

    id: str
    title: str
    instruction: str
    after: tuple[str, ...] = ()


class Draft(msgspec.Struct, frozen=True):
    """A plan as the planner made it. `kept` are the tasks whose results of the last plan still hold; `new` says that
    the last plan has nothing to do with it."""

    tasks: tuple[Task, ...]
    kept: tuple[str, ...] = ()
    new: bool = False


class _SaidTask(msgspec.Struct):
    id: str | int
    title: str | None = None
    instruction: str | None = None
    after: list[str | int] | None = None
    keep: bool = False


class _Said(msgspec.Struct):
    tasks: list[_SaidTask]
    new: bool = False


def read(text: str, last: Iterable[Task] = ()) -> Draft:
    """The plan in a model's answer: JSON, in a code fence or among words. With the tasks of the `last` plan, those may
    be kept, and need only their id. Raises BadPlan."""
    said = _decoded(text)
    known = {} if said.new else {task.id: task for task in last}
    ids = [_id(task.id) for task in said.tasks]
    if not 1 <= len(ids) <= MAX_TASKS:
        raise BadPlan(f"it has {len(ids)} tasks, and 1 to {MAX_TASKS} are allowed")
    if twice := next((name for name in ids if ids.count(name) > 1), None):
        raise BadPlan(f"two tasks have the id {twice!r}")
    tasks = tuple(_task(task, known, ids) for task in said.tasks)
    for task in tasks:
        if missing := next((name for name in task.after if name not in ids), None):
            raise BadPlan(f"the task {task.id!r} is after {missing!r}, which is no task")
    _check_order(tasks)
    kept = {_id(task.id) for task in said.tasks if task.keep and not said.new}
    return Draft(tasks, tuple(sorted(_unmoved(tasks, kept))), said.new)


def ready(tasks: Iterable[Task], finished: Mapping[str, Any], begun: Collection[str]) -> list[Task]:
    """The tasks that may begin: not begun, and all that they are after is finished."""
    return [
        task
        for task in tasks
        if task.id not in begun and task.id not in finished and all(name in finished for name in task.after)
    ]


def _decoded(text: str) -> _Said:
    problems = []
    spans = [(text.find(first), text.rfind(last)) for first, last in (("{", "}"), ("[", "]"))]
    outer = max(spans, key=lambda span: span[1] - span[0])
    for start, end in sorted(spans):
        within = outer[0] < start and end < outer[1]  # only a part of the answer
        if 0 <= start < end and not within:
            try:
                said = msgspec.json.decode(text[start : end + 1], type=_Said | list[_SaidTask])
            except msgspec.MsgspecError as error:
                problems.append(f"its JSON is not as asked for ({error})")
            else:
                return _Said(said) if isinstance(said, list) else said
    raise BadPlan(problems[0] if problems else "there is no JSON in it")


def _id(said: str | int) -> str:
    name = str(said).strip()
    if not 1 <= len(name) <= MAX_ID or not name.isprintable():
        raise BadPlan(f"the id {name[:MAX_ID]!r} is not 1 to {MAX_ID} printable characters")
    return name


def _task(said: _SaidTask, known: Mapping[str, Task], ids: list[str]) -> Task:
    name = _id(said.id)
    if said.keep and known:
        if name not in known:
            raise BadPlan(f"it keeps the task {name!r}, which the last plan does not have")
        # As it was; of what it was after, only what is left.
        return msgspec.structs.replace(known[name], after=tuple(one for one in known[name].after if one in ids))
    instruction = (said.instruction or "").strip()
    if not instruction:
        raise BadPlan(f"the task {name!r} has no instruction")
    title = " ".join((said.title or instruction).split())[:MAX_TITLE]
    after = tuple(dict.fromkeys(_id(one) for one in said.after or ()))
    return Task(name, title, instruction[:MAX_INSTRUCTION], after)


def _check_order(tasks: tuple[Task, ...]) -> None:
    done: dict[str, None] = {}
    while some := ready(tasks, done, ()):
        done |= {task.id: None for task in some}
    if circle := [repr(task.id) for task in tasks if task.id not in done]:
        raise BadPlan(f"the tasks {', '.join(circle)} wait for each other")


def _unmoved(tasks: tuple[Task, ...], kept: set[str]) -> set[str]:
    """Those of the kept tasks that are after kept ones only: what is after a task done anew is done anew, too."""
    while moved := {task.id for task in tasks if task.id in kept and not kept.issuperset(task.after)}:
        kept = kept - moved
    return kept
