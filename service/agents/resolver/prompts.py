"""What the model is told: a system prompt for each role, and how what it works on is laid out."""

from collections.abc import Iterable

import msgspec

from service.agents.resolver.plan import MAX_TASKS, Task
from service.agents.resolver.progress import Picture

TASKS = """
{"tasks": [{"id": "short-name", "title": "a few words", "instruction": "what to do", "after": ["id", ...]}, ...]}

- 1 to MAX tasks, as few as do the work well; one is enough for a simple request.
- Tasks run side by side, unless one is `after` others: then it is given their results. Name there what a task needs,
  and nothing else. No circles.
- Each instruction stands alone: whoever carries it out sees the request, this instruction, and the results it is after.
- The answer itself is written afterwards, from all results: plan no task for that.

Answer with the JSON object alone.
""".replace("MAX", str(MAX_TASKS))

PLANNER = f"""
You are the planner of a team. You split a request into subtasks that others carry out. Your plan is JSON:
{TASKS}""".strip()

REVISER = (
    f"""
You are the planner of a team. It has answered a request, and the person comes back with a new instruction. Decide which
results still hold and what has to be done, and give the revised plan, as JSON:
{TASKS}""".strip()
    + """

In a revised plan:
- {"id": "...", "keep": true} keeps a task of the last plan with its result; give it no other field. Keep whatever the
  instruction does not touch.
- A task to be done anew has its old id and its whole new instruction. Tasks after it are done anew by themselves.
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
is not in the results. Do not mention tasks or the team. Where an answer was given before, write it anew as the last
instruction asks, and keep what that does not touch.""".strip()

CLARIFIER = """
You belong to a team that works on a request, and you talk to the person meanwhile. You are given what was asked, the
plan, what is finished, what runs and what waits. Answer the question from that, briefly and to the point: say what is
known already and what is still to come. Do not do the work yourself, and promise no changes: a change can be asked for
when the answer is there.""".strip()


def sections(*parts: tuple[str, str]) -> str:
    """Each part under its heading; the empty ones left out."""
    return "\n\n".join(f"# {heading}\n\n{text}" for heading, text in parts if text.strip())


def exchanges(earlier: Iterable[tuple[str, str]]) -> str:
    return "\n\n".join(f"Person: {asked}\n\nAssistant: {answered}" for asked, answered in earlier)


def listed(texts: Iterable[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def plan(tasks: Iterable[Task]) -> str:
    return msgspec.json.format(msgspec.json.encode(tuple(tasks)), indent=1).decode()


def again(said: str | None, problem: str | None) -> Iterable[tuple[str, str]]:
    """For a second try."""
    if problem:
        yield "your first plan", said or ""
        yield "why it cannot be used", f"As a plan: {problem}. Give the whole plan again, as JSON alone."


def picture(found: Picture | None) -> Iterable[tuple[str, str]]:
    if found is None:
        return
    yield "request", found.query
    yield "where the team is", found.told()
    for task in found.tasks:
        yield f"result of: {task.title}", found.finished.get(task.id, "")
    yield "what the agent left so far", found.other
    yield "answer that was given", found.answer
