"""What the model receives: a system prompt for each role, and the layout of its requests."""

from collections.abc import Iterable

import msgspec

from service.agents.resolver.plan import MAX_TASKS, Task
from service.agents.resolver.progress import Progress

PLAN_FORMAT = """
{"tasks": [{"id": "short-name", "title": "a few words", "instruction": "what to do", "after": ["id", ...]}, ...]}

- 1 to MAX tasks, as few as do the work well; one is enough for a simple request.
- Tasks run side by side, unless one is `after` others: then it receives their results. Name there the tasks whose
  results it needs, and no others. No circles.
- Each instruction stands alone: its executor sees the request, this instruction, and the results it is after.
- The answer itself is written afterwards, from all results: plan no task for that.

Answer with the JSON object alone.
""".replace("MAX", str(MAX_TASKS))

PLANNER = f"""
You are the planner of a team. You split a request into subtasks that others carry out. Your plan is JSON:
{PLAN_FORMAT}""".strip()

REVISER = (
    f"""
You are the planner of a team. It has answered a request, and the person comes back with a new instruction. Decide which
results still hold and what has to be done, and give the revised plan, as JSON:
{PLAN_FORMAT}""".strip()
    + """

In a revised plan:
- {"id": "...", "keep": true} keeps a task of the last plan with its result; give it no other field. Keep every
  task that the instruction does not touch.
- A task to be done again has its old id and its whole new instruction. Tasks after it are done again automatically.
- New tasks have new ids. A task that is no longer wanted is left out.
- Where only the wording, length, form or language of the answer is to change, keep all tasks.
- Where the instruction has nothing to do with the request, answer {"new": true, "tasks": [...]}, with a plan for it."""
)

EXECUTOR = """
You are one of a team that works on a request. Carry out your task, and nothing beyond it. Others do the other parts,
and an editor makes one answer of all results: so write what you found, in Markdown, without greeting, introduction or
closing words. Say plainly what you do not know.""".strip()

AGGREGATOR = """
You are the editor of a team that worked on a request. Write the answer from the results of its tasks: one whole, in
Markdown, in the language of the request. Repeat nothing, resolve contradictions or name them, and invent nothing that
is not in the results. Do not mention tasks or the team. Where an answer was given before, rewrite it as the last
instruction asks, and keep everything that the instruction does not touch.""".strip()

CLARIFIER = """
You belong to a team that works on a request, and you talk to the person while it works. You receive the request, the
plan, the finished results, and the tasks that run or wait. Answer the question from these, briefly and to the point:
say which results are known already and which are still to come. Do not do the work yourself, and promise no changes:
the person can ask for a change when the answer is there.""".strip()


def sections(*parts: tuple[str, str]) -> str:
    """Each text under its heading, without the empty ones."""
    return "\n\n".join(f"# {heading}\n\n{text}" for heading, text in parts if text.strip())


def exchanges(earlier: Iterable[tuple[str, str]]) -> str:
    return "\n\n".join(f"Person: {message}\n\nAssistant: {answer}" for message, answer in earlier)


def listed(texts: Iterable[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def plan(tasks: Iterable[Task]) -> str:
    return msgspec.json.format(msgspec.json.encode(tuple(tasks)), indent=1).decode()


def correction(invalid_plan: str | None, problem: str | None) -> Iterable[tuple[str, str]]:
    """The sections that ask for a valid plan after an invalid one."""
    if problem:
        yield "your first plan", invalid_plan or ""
        yield "why it cannot be used", f"As a plan: {problem}. Give the whole plan again, as JSON alone."


def progress(current: Progress | None) -> Iterable[tuple[str, str]]:
    if current is None:
        return
    yield "request", current.query
    yield "where the team is", current.described()
    for task in current.tasks:
        yield f"result of: {task.title}", current.finished.get(task.id, "")
    yield "steps and progress of the agent so far", current.other_work
    yield "answer that was given", current.answer
