"""How the scripted model splits a request, and finds what an instruction touches: by rule, from lists, sentences and
the words in them."""

import re
from collections.abc import Iterable
from typing import Any

from service.agents.resolver.plan import Task

MOST = 4  # tasks of a plan
TITLE = 48  # characters

ITEM = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+(\S.*)$", re.M)
SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
JOINT = re.compile(r",?\s+(?:and then|and also|and|then)\s+", re.I)
# What such a part says can only be done when the parts before it are.
BUILDS_ON = re.compile(
    r"^(?:and\s+)?(?:then|finally|after|afterwards|at last|based on|from (?:that|this|these)|with (?:that|this|these)"
    r"|compare|conclude|decide|rank|recommend|summari[sz]e|sum up|use (?:it|that|them|these))\b"
    r"|\b(?:them|these|both|results?)\b",
    re.I,
)
FORM = re.compile(
    r"\b(?:short|brief|long|detail|bullet|list|table|tone|formal|friendl|simpl|translat|rewrite|rephrase|reword|format"
    r"|headings?|heading|style|english|german|french|spanish|word(?:s|ing)?|language|summary|tl;?dr)",
    re.I,
)
ADDS = re.compile(r"\b(?:also|add|include|as well|additionally|plus|too|another)\b", re.I)
ORDINALS = {"first": 0, "second": 1, "third": 2, "fourth": 3, "last": -1}
NUMBERED = re.compile(rf"\b(?:(?:task|part|point|step|number|no\.?|#)\s*(\d+)|({'|'.join(ORDINALS)}))\b", re.I)
COMMON = """
about above after again all also and answer any are ask because been before being between both but can could did
does done each either else every far for from get give had has have her here him his how into its just know less let
like make many may more most much must need new next nor not now off one only other our out over own part please
point put really same say see she should some such task tell than that the their them then there these they thing
this those through time too two under until upon use very want was way well were what when where which while who
whom whose why will with without would write yes yet you your
"""


def keywords(text: str) -> list[str]:
    """Its words that mean something, in their order."""
    common = COMMON.split()
    words = re.findall(r"[^\W\d_][\w-]{2,}", text)
    return list({word.casefold(): word for word in words if word.casefold() not in common}.values())


def split(query: str) -> list[dict[str, Any]]:
    """Two to four tasks, as a planner says them."""
    parts = _parts(query)
    if len(parts) == 1:
        [only] = parts
        return [
            _task("t1", f"Look at: {only}", f"Find out what there is to know about this: {only}"),
            _task("t2", "Look at it from the other side", f"Look for what speaks against it, or is missing: {only}"),
            _task("t3", "Bring both together", f"Weigh what was found about: {only}", ["t1", "t2"]),
        ]
    tasks: list[dict[str, Any]] = []
    for number, part in enumerate(parts, 1):
        after = [task["id"] for task in tasks] if tasks and BUILDS_ON.search(part) else []
        tasks.append(_task(f"t{number}", part, part, after))
    if not any(task["after"] for task in tasks) and len(tasks) < MOST:
        ids = [task["id"] for task in tasks]
        tasks.append(_task(f"t{len(tasks) + 1}", "See how the parts fit together", "Compare the results before.", ids))
    return tasks


def revise(instruction: str, tasks: tuple[Task, ...]) -> list[dict[str, Any]] | None:
    """The revised plan, as a planner says it; None where the instruction has nothing to do with the last one."""
    named = touched(instruction, tasks)
    adds = bool(ADDS.search(instruction))
    if not named and not adds and not FORM.search(instruction):
        return None
    said: list[dict[str, Any]] = []
    for task in tasks:
        if task.id in named and not adds:
            anew = f"{task.instruction}\nThis was asked since: {instruction}"
            said.append(_task(task.id, task.title, anew, list(task.after)))
        else:
            said.append({"id": task.id, "keep": True})
    if adds:
        ids = {task.id for task in tasks}
        number = next(number for number in range(len(tasks) + 1, 1000) if f"t{number}" not in ids)
        said.append(_task(f"t{number}", instruction, instruction))
    return said


def touched(text: str, tasks: Iterable[Task]) -> set[str]:
    """The ids of the tasks that a text names by their number, else of those that share most of its words."""
    tasks = list(tasks)
    numbered = set()
    for number, word in NUMBERED.findall(text):
        place = int(number) - 1 if number else ORDINALS[word.lower()]
        if -1 <= place < len(tasks):
            numbered.add(tasks[place].id)
    if numbered:
        return numbered
    words = {_stem(word) for word in keywords(text)}
    shared = {task.id: len(words & {_stem(word) for word in keywords(task.title)}) for task in tasks}
    most = max(shared.values(), default=0)
    return {name for name, count in shared.items() if count == most > 0}


def _parts(query: str) -> list[str]:
    found = [item.strip() for item in ITEM.findall(query)]
    if len(found) < 2:
        found = [part for part in map(str.strip, SENTENCE.split(query)) if part]
    if len(found) == 1:
        pieces = JOINT.split(found[0])
        # "and" between two words joins no sentences.
        found = pieces if all(len(piece.split()) > 2 for piece in pieces) else found
    found = [part.rstrip(".;,") or part for part in found] or [query]
    return [*found[: MOST - 1], "; ".join(found[MOST - 1 :])] if len(found) > MOST else found


def _task(name: str, title: str, instruction: str, after: list[str] | None = None) -> dict[str, Any]:
    title = " ".join(title.split())
    short = title if len(title) <= TITLE else f"{title[:TITLE].rsplit(' ', 1)[0]} …"
    return {"id": name, "title": short[:1].upper() + short[1:], "instruction": instruction[:4000], "after": after or []}


def _stem(word: str) -> str:
    return word.casefold().rstrip("s")[:7]
