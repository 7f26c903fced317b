"""A model that is none: it lets the team be seen at work without a key. Plan, progress and results are real; what it
says of the subject is made up by rule, and it says so.

metadata.pace_ms is the pause before each piece it streams.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator

import msgspec

from service.agents.contract import Rejected
from service.agents.resolver import scripted_planner as splitting
from service.agents.resolver.memory import cut
from service.agents.resolver.model_requests import Ask, Clarify, DoTask, MakePlan, RevisePlan, WriteAnswer
from service.agents.resolver.progress import Picture

PACE_MS = 150
WORDS = 6  # in a piece
PLAINLY = "This is the scripted offline model: no `ANTHROPIC_API_KEY` is set, so nothing was looked up."


class Scripted:
    name = "scripted"

    async def stream(self, ask: Ask, usage: Counter[str]) -> AsyncGenerator[str, None]:
        pause = _pace(ask) / 1000
        for piece in re.findall(rf"(?:\s*\S+){{1,{WORDS}}}\s*", _said(ask)):
            await asyncio.sleep(pause)
            yield piece


def _said(ask: Ask) -> str:
    match ask:
        case MakePlan():
            return _json(tasks=splitting.split(ask.query))
        case RevisePlan():
            tasks = splitting.revise(ask.instruction, ask.memory.tasks)
            if tasks is None:
                return _json(tasks=splitting.split(ask.instruction), new=True)
            return _json(tasks=tasks)
        case DoTask():
            return _result(ask)
        case WriteAnswer():
            return _answer(ask)
        case Clarify():
            return _clarified(ask)


def _json(**said: object) -> str:
    return msgspec.json.format(msgspec.json.encode(said), indent=1).decode()


def _result(ask: DoTask) -> str:
    about = ", ".join(f"*{word}*" for word in splitting.keywords(ask.task.instruction)[:4]) or "nothing in particular"
    lines = [f"What a model would find out here: {about}."]
    if ask.parts:
        lines.append(f"It would build on {_listed([title for title, _ in ask.parts])}, which it was given.")
    lines.append(f"The instruction was: {cut(ask.task.instruction, 300)}")
    return "\n".join(f"- {line}" for line in lines)


def _answer(ask: WriteAnswer) -> str:
    head = f"> {PLAINLY} The plan, the tasks and this text went the way they go with a model."
    if ask.refinements:
        head += f"\n\nWritten anew, as asked: *{cut(ask.refinements[-1], 200)}*"
    return "\n\n".join([head, *(f"### {title}\n\n{text}" for title, text in ask.parts)])


def _clarified(ask: Clarify) -> str:
    picture = ask.picture
    if picture is None:
        said = f"The last thing you asked here was: “{cut(ask.earlier[-1][0], 200)}”." if ask.earlier else ""
        return f"{said or 'Nothing was asked in this thread yet.'} Nothing is under way. ({PLAINLY})"
    if picture.stage == "other":
        left = cut(picture.other, 500)
        return f"An agent is at work on “{cut(picture.query, 200)}”. So far it left: {left} ({PLAINLY})"
    return "\n\n".join(filter(None, (_where(picture), _touching(ask.question, picture), f"({PLAINLY})")))


def _where(picture: Picture) -> str:
    if not picture.tasks:
        return f"I am the clarifier. The plan for “{cut(picture.query, 200)}” is being made."
    done = [task.title for task in picture.tasks if task.id in picture.finished]
    running = [task.title for task in picture.tasks if task.id in picture.running]
    waiting = [task.title for task in picture.waiting]
    head = "The answer is there" if picture.stage == "over" else "The team is at work"
    lines = [f"{head}: {len(done)} of {len(picture.tasks)} tasks are finished."]
    for name, titles in (("Finished", done), ("Running", running), ("Still to come", waiting)):
        if titles:
            lines.append(f"- {name}: {_listed(titles)}")
    if picture.stage == "answer":
        lines.append("- The answer is being written now.")
    return "\n".join(lines)


def _touching(question: str, picture: Picture) -> str:
    """What is known of the task that the question is about."""
    named = splitting.touched(question, picture.tasks)
    task = next((task for task in picture.tasks if task.id in named), None)
    if task is None:
        return ""
    if task.id in picture.finished:
        return f"Of “{task.title}” it is known:\n\n{cut(picture.finished[task.id], 600)}"
    return f"“{task.title}” {'runs right now' if task.id in picture.running else 'has not begun yet'}."


def _listed(titles: list[str]) -> str:
    return ", ".join(f"“{title}”" for title in titles)


def _pace(ask: Ask) -> float:
    value = ask.metadata.get("pace_ms", PACE_MS)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 60_000:
        raise Rejected("metadata.pace_ms must be a number from 0 to 60000.")
    return value
