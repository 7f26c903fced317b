"""The scripted model: it shows the team at work without an API key. Plan, progress and results are real; the texts
follow fixed rules, and say so.

`metadata.pace_ms` is the pause before each piece that it streams.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator

import msgspec

from service.agents.contract import Rejected
from service.agents.resolver import scripted_planner
from service.agents.resolver.memory import cut
from service.agents.resolver.model_requests import Clarify, DoTask, MakePlan, ModelRequest, RevisePlan, WriteAnswer
from service.agents.resolver.progress import Progress

DEFAULT_PACE_MS = 150
MAX_PACE_MS = 60_000
PIECE_WORDS = 6
OFFLINE_NOTICE = (
    "This is the scripted offline model: no `ANTHROPIC_API_KEY` or `OPENAI_API_KEY` is set, so nothing was looked up."
)


class Scripted:
    name = "scripted"

    async def stream(self, request: ModelRequest, usage: Counter[str]) -> AsyncGenerator[str, None]:
        pause_seconds = _pace_ms(request) / 1000
        words = re.findall(r"\S+\s*", _answer_to(request))
        for start in range(0, len(words), PIECE_WORDS):
            await asyncio.sleep(pause_seconds)
            yield "".join(words[start : start + PIECE_WORDS])


def _answer_to(request: ModelRequest) -> str:
    match request:
        case MakePlan():
            return _json(tasks=scripted_planner.split(request.query))
        case RevisePlan():
            tasks = scripted_planner.revise(request.instruction, request.memory.tasks)
            if tasks is None:
                return _json(tasks=scripted_planner.split(request.instruction), new=True)
            return _json(tasks=tasks)
        case DoTask():
            return _task_result(request)
        case WriteAnswer():
            return _written_answer(request)
        case Clarify():
            return _clarification(request)


def _json(**fields: object) -> str:
    return msgspec.json.format(msgspec.json.encode(fields), indent=1).decode()


def _task_result(request: DoTask) -> str:
    keywords = scripted_planner.keywords(request.task.instruction)[:4]
    about = ", ".join(f"*{word}*" for word in keywords) or "nothing in particular"
    lines = [f"What a model would find out here: {about}."]
    if request.inputs:
        lines.append(f"It would build on these results: {_listed([title for title, _ in request.inputs])}.")
    lines.append(f"The instruction was: {cut(request.task.instruction, 300)}")
    return "\n".join(f"- {line}" for line in lines)


def _written_answer(request: WriteAnswer) -> str:
    head = f"> {OFFLINE_NOTICE} The plan, the tasks and this text took the same way as with a model."
    if request.refinements:
        head += f"\n\nRewritten, as asked: *{cut(request.refinements[-1], 200)}*"
    return "\n\n".join([head, *(f"### {title}\n\n{text}" for title, text in request.results)])


def _clarification(request: Clarify) -> str:
    progress = request.progress
    if progress is None:
        last = f"The last thing you asked here was: “{cut(request.earlier[-1][0], 200)}”." if request.earlier else ""
        return f"{last or 'Nothing was asked in this thread yet.'} Nothing is under way. ({OFFLINE_NOTICE})"
    if progress.stage == "other":
        work = cut(progress.other_work, 500)
        return f"An agent is at work on “{cut(progress.query, 200)}”. Its steps so far: {work} ({OFFLINE_NOTICE})"
    parts = (_described(progress), _about_named_task(request.question, progress), f"({OFFLINE_NOTICE})")
    return "\n\n".join(filter(None, parts))


def _described(progress: Progress) -> str:
    if not progress.tasks:
        return f"I am the clarifier. The plan for “{cut(progress.query, 200)}” is being made."
    finished = [task.title for task in progress.tasks if task.id in progress.finished]
    running = [task.title for task in progress.tasks if task.id in progress.running]
    waiting = [task.title for task in progress.waiting]
    head = "The answer is there" if progress.stage == "over" else "The team is at work"
    lines = [f"{head}: {len(finished)} of {len(progress.tasks)} tasks are finished."]
    for name, titles in (("Finished", finished), ("Running", running), ("Still to come", waiting)):
        if titles:
            lines.append(f"- {name}: {_listed(titles)}")
    if progress.stage == "answer":
        lines.append("- The answer is being written now.")
    return "\n".join(lines)


def _about_named_task(question: str, progress: Progress) -> str:
    """The state or result of the task that the question is about; empty if it names none."""
    named = scripted_planner.named_tasks(question, progress.tasks)
    task = next((task for task in progress.tasks if task.id in named), None)
    if task is None:
        return ""
    if task.id in progress.finished:
        return f"The result of “{task.title}”:\n\n{cut(progress.finished[task.id], 600)}"
    return f"“{task.title}” {'runs right now' if task.id in progress.running else 'has not begun yet'}."


def _listed(titles: list[str]) -> str:
    return ", ".join(f"“{title}”" for title in titles)


def _pace_ms(request: ModelRequest) -> float:
    value = request.metadata.get("pace_ms", DEFAULT_PACE_MS)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_PACE_MS:
        raise Rejected(f"metadata.pace_ms must be a number from 0 to {MAX_PACE_MS}.")
    return value
