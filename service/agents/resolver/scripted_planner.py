"""The planner of the scripted model. It splits a request by its lists and sentences, and finds the tasks that an
instruction names by its words."""

import re
from collections.abc import Iterable
from typing import Any

from service.agents.resolver.plan import MAX_INSTRUCTION_CHARS, MAX_TASKS, Task

MAX_PARTS = 4
MAX_SHORT_TITLE_CHARS = 48
STEM_CHARS = 7

# All of these are linear: no quantifier of white space stands where a match can begin anywhere.
LIST_MARKER = re.compile(r"[-*•]|\d{1,2}[.)]")
SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\n+")
CONJUNCTION = re.compile(r"(,? (?:and then|and also|and|then) )", re.I)  # in text with single spaces
MAX_ITEM_WORDS = 3  # of an item in a list such as "Apple, Google, and Tesla"
# A part that matches needs the results of the parts before it.
NEEDS_EARLIER_PARTS = re.compile(
    r"^(?:and )?(?:then|finally|after|afterwards|at last|based on|from (?:that|this|these)|with (?:that|this|these)"
    r"|compare|conclude|decide|rank|recommend|summari[sz]e|sum up|use (?:it|that|them|these))\b"
    r"|\b(?:them|these|both|results?)\b",
    re.I,
)
CHANGES_FORM = re.compile(
    r"\b(?:short|brief|long|detail|bullet|list|table|tone|formal|friendl|simpl|translat|rewrite|rephrase|reword|format"
    r"|headings?|heading|style|english|german|french|spanish|word(?:s|ing)?|language|summary|tl;?dr)",
    re.I,
)
ADDS_TASK = re.compile(r"\b(?:also|add|include|as well|additionally|plus|too|another)\b", re.I)
NARROWS = re.compile(
    r"\b(?:only|just|focus|narrow|limit|restrict|concentrate|specifically|in particular|nothing but|stick to)", re.I
)
ORDINALS = {"first": 0, "second": 1, "third": 2, "fourth": 3, "last": -1}
NUMBERED_TASK = re.compile(
    rf"\b(?:(?:task|part|point|step|number|no\.?|#) ?(\d{{1,4}})|({'|'.join(ORDINALS)}))\b", re.I
)
COMMON_WORDS = frozenset(
    """
about above after again all also and answer any are ask because been before being between both but can could did
does done each either else every far for from get give had has have her here him his how into its just know less let
like make many may more most much must need new next nor not now off one only other our out over own part please
point put really same say see she should some such task tell than that the their them then there these they thing
this those through time too two under until upon use very want was way well were what when where which while who
whom whose why will with without would write yes yet you your
""".split()  # noqa: SIM905 - hundreds of quotes would hide the words
)


def keywords(text: str) -> list[str]:
    """The words that are not common words, in their order, each once."""
    words = re.findall(r"[^\W\d_][\w-]{2,}", text)
    return list({word.casefold(): word for word in words if word.casefold() not in COMMON_WORDS}.values())


def split(query: str) -> list[dict[str, Any]]:
    """A plan of two to four tasks, in the planner's JSON form."""
    parts = _parts(query)
    if len(parts) == 1:
        [only] = parts
        return [
            _task("t1", f"Look at: {only}", f"Collect the facts about this: {only}"),
            _task("t2", "Look at it from the other side", f"Look for arguments against it, and for gaps: {only}"),
            _task("t3", "Bring both together", f"Weigh the results about: {only}", ["t1", "t2"]),
        ]
    tasks: list[dict[str, Any]] = []
    for number, part in enumerate(parts, 1):
        after = [task["id"] for task in tasks] if tasks and NEEDS_EARLIER_PARTS.search(part) else []
        tasks.append(_task(f"t{number}", part, part, after))
    if not any(task["after"] for task in tasks) and len(tasks) < MAX_PARTS:
        ids = [task["id"] for task in tasks]
        tasks.append(_task(f"t{len(tasks) + 1}", "See how the parts fit together", "Compare the results before.", ids))
    return tasks


def revise(instruction: str, tasks: tuple[Task, ...]) -> list[dict[str, Any]] | None:
    """The revised plan, in the planner's JSON form; None if the instruction has nothing to do with the last plan."""
    adds = bool(ADDS_TASK.search(instruction))
    named = named_tasks(instruction, tasks)
    if NARROWS.search(instruction) and not adds and (named or not CHANGES_FORM.search(instruction)):
        return _narrowed(instruction, tasks, named)
    if not named and not adds and not CHANGES_FORM.search(instruction):
        return None
    revised: list[dict[str, Any]] = []
    for task in tasks:
        if task.id in named and not adds:
            changed = f"{task.instruction}\nLater instruction: {instruction}"
            revised.append(_task(task.id, task.title, changed, list(task.after)))
        else:
            revised.append({"id": task.id, "keep": True})
    if adds:
        revised.append(_task(_free_id(tasks), instruction, instruction))
    return revised


def _narrowed(instruction: str, tasks: tuple[Task, ...], named: set[str]) -> list[dict[str, Any]]:
    """A plan of the tasks that the instruction is about, and of those whose results they need. If it is about none of
    them, the results so far stay, and one more task narrows them."""
    if not named:
        words = {_stem(word) for word in keywords(instruction)}
        about = [task.id for task in tasks if words & {_stem(word) for word in keywords(task.instruction)}]
        named = set(about[:1])
    needed = set(named)
    for task in reversed(tasks):  # a task stands after those that it needs
        if task.id in needed:
            needed |= set(task.after)
    if not named:
        kept: list[dict[str, Any]] = [{"id": task.id, "keep": True} for task in tasks[: MAX_TASKS - 1]]
        return [*kept, _task(_free_id(tasks), instruction, instruction, [task["id"] for task in kept])]
    return [
        _task(task.id, task.title, f"{task.instruction}\nOnly this, as asked later: {instruction}", list(task.after))
        if task.id in named
        else {"id": task.id, "keep": True}
        for task in tasks
        if task.id in needed
    ]


def _free_id(tasks: tuple[Task, ...]) -> str:
    ids = {task.id for task in tasks}
    return f"t{next(number for number in range(len(tasks) + 1, 1000) if f't{number}' not in ids)}"


def named_tasks(text: str, tasks: Iterable[Task]) -> set[str]:
    """The ids of the tasks that a text names by number, else of the tasks that share the most words with it."""
    tasks = list(tasks)
    numbered = set()
    for number, word in NUMBERED_TASK.findall(" ".join(text.split())):
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
    parts = [item for line in query.splitlines() if (item := _list_item(line))]
    if len(parts) < 2:
        parts = [part for part in map(str.strip, SENTENCE_END.split(query)) if part]
    if len(parts) == 1:
        clauses = _clauses(" ".join(parts[0].split()))
        # In "bread and butter" the conjunction joins two words, not two sentences.
        parts = clauses if all(len(clause.split()) > 2 for clause in clauses) else parts
    parts = [part.rstrip(".;,") or part for part in parts] or [query]
    return [*parts[: MAX_PARTS - 1], "; ".join(parts[MAX_PARTS - 1 :])] if len(parts) > MAX_PARTS else parts


def _clauses(text: str) -> list[str]:
    """The text, split at its conjunctions, but not at the last one of a list or between two names."""
    first, *rest = CONJUNCTION.split(text)
    clauses = [first]
    for conjunction, clause in zip(rest[::2], rest[1::2], strict=True):
        if conjunction.strip(", ").casefold() == "and" and _ends_a_list(clauses[-1], clause):
            clauses[-1] += conjunction + clause
        else:
            clauses.append(clause)
    return clauses


def _ends_a_list(before: str, after: str) -> bool:
    """Whether "and" joins the last items of a list, as in "Apple, Google, and Tesla", or two names."""
    comma, item = before.rpartition(",")[1:]
    if comma and 0 < len(item.split()) <= MAX_ITEM_WORDS:
        return True
    last, next_word = before.split()[-1:] or [""], after.split()[:1] or [""]
    return last[0][:1].isupper() and next_word[0][:1].isupper() and len(before.split()) > 1


def _list_item(line: str) -> str | None:
    """The text of a line that begins with a bullet or a number."""
    marker, *text = line.strip().split(None, 1)[:2] or [""]
    return text[0] if text and LIST_MARKER.fullmatch(marker) else None


def _task(name: str, title: str, instruction: str, after: list[str] | None = None) -> dict[str, Any]:
    title = " ".join(title.split())
    if len(title) > MAX_SHORT_TITLE_CHARS:
        title = f"{title[:MAX_SHORT_TITLE_CHARS].rsplit(' ', 1)[0]} …"
    return {
        "id": name,
        "title": title[:1].upper() + title[1:],
        "instruction": instruction[:MAX_INSTRUCTION_CHARS],
        "after": after or [],
    }


def _stem(word: str) -> str:
    return word.casefold().rstrip("s")[:STEM_CHARS]
