"""The resolver's plans, their revisions, the memory of a thread, and the scripted planner."""

import json
from typing import Any

import msgspec
import pytest

from service.agents.resolver import scripted_planner
from service.agents.resolver.memory import MAX_MEMORY_BYTES, MEMORY_KEY, Memory, recall, remember
from service.agents.resolver.plan import BadPlan, Task, read, ready


def said(*tasks: Any, **fields: Any) -> str:
    return json.dumps({"tasks": tasks, **fields})


def task(name: Any, *after: Any, **fields: Any) -> dict[str, Any]:
    return {"id": name, "title": f"Title {name}", "instruction": f"Do {name}.", "after": list(after), **fields}


LAST = tuple(Task(name, name, f"Do {name}.", after) for name, after in (("a", ()), ("b", ()), ("c", ("a",))))


@pytest.mark.parametrize(
    "text",
    [
        said(task("a"), task("b", "a")),
        f"```json\n{said(task('a'), task('b', 'a'))}\n```",
        f"Here is my plan:\n```\n{said(task('a'), task('b', 'a'))}\n```\nIs it good?",
        f"Sure! {json.dumps([task('a'), task('b', 'a')])}",
        said(task("a", id=" a "), task("b", "a", " a"), comment="an unknown field"),
    ],
    ids=["plain", "fenced", "among words", "a list", "untidy"],
)
def test_a_plan_is_found_in_the_models_answer(text: str) -> None:
    draft = read(text)
    assert draft.tasks == (Task("a", "Title a", "Do a."), Task("b", "Title b", "Do b.", ("a",)))
    assert (draft.kept, draft.new) == ((), False)


def test_numbers_are_ids_and_a_missing_title_is_made() -> None:
    [one, two] = read(said({"id": 1, "instruction": "Look  it up."}, task(2, 1))).tasks
    assert one == Task("1", "Look it up.", "Look  it up.")
    assert two.after == ("1",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("I cannot plan that.", "it contains no JSON"),
        ('{"tasks": ', "it contains no JSON"),
        ("{tasks}", "its JSON does not have the required form (JSON is malformed: "),
        ('{"plan": []}', "its JSON does not have the required form (Object missing required field `tasks`)"),
        (said(), "it has 0 tasks, and 1 to 12 are allowed"),
        (said(*(task(n) for n in range(13))), "it has 13 tasks, and 1 to 12 are allowed"),
        (said(task("a"), task("a")), "two tasks have the id 'a'"),
        (said(task(1), task("1")), "two tasks have the id '1'"),
        (said(task("a", "z")), "the task 'a' is after 'z', which is not a task"),
        (said(task("a", "a")), "the tasks 'a' wait for each other"),
        (said(task("a"), task("b", "c"), task("c", "a", "b")), "the tasks 'b', 'c' wait for each other"),
        (said(task("a", instruction=" ")), "the task 'a' has no instruction"),
        (said(task("x" * 41)), "is not 1 to 40 printable characters"),
        (said(task("a\nb")), "is not 1 to 40 printable characters"),
        (said({"id": "a", "keep": True}), "the task 'a' has no instruction"),
    ],
)
def test_an_invalid_plan_is_refused(text: str, problem: str) -> None:
    with pytest.raises(BadPlan) as refused:
        read(text)
    assert problem in str(refused.value)


def test_twelve_consecutive_tasks_are_a_plan() -> None:
    tasks = read(said(task(0), *(task(n, n - 1) for n in range(1, 12)))).tasks
    assert len(tasks) == 12
    assert [one.id for one in ready(tasks, {"0": "x"}, {"5"})] == ["1"]


def test_tasks_begin_when_their_inputs_have_finished() -> None:
    assert [one.id for one in ready(LAST, {}, ())] == ["a", "b"]
    assert [one.id for one in ready(LAST, {}, {"a"})] == ["b"]
    assert [one.id for one in ready(LAST, {"a": "x"}, {"b"})] == ["c"]
    assert ready(LAST, {"a": "x", "b": "x", "c": "x"}, ()) == []


def keep(*names: str) -> list[dict[str, Any]]:
    return [{"id": name, "keep": True} for name in names]


@pytest.mark.parametrize(
    ("tasks", "kept"),
    [
        (keep("a", "b", "c"), ["a", "b", "c"]),
        ([*keep("a", "c"), task("b")], ["a", "c"]),
        ([task("a"), *keep("b", "c")], ["b"]),  # c is after a
        ([*keep("c")], ["c"]),  # its result stays valid although task a is left out
        ([*keep("a", "b", "c"), task("d", "b", "c")], ["a", "b", "c"]),
        ([task("a"), *keep("c", "b"), task("d", "c")], ["b"]),
    ],
    ids=["all", "one is repeated", "a later task is repeated too", "one is left out", "a new one", "all at once"],
)
def test_a_revision_keeps_unaffected_tasks(tasks: list[dict[str, Any]], kept: list[str]) -> None:
    draft = read(said(*tasks), LAST)
    assert list(draft.kept) == kept
    ids = {one["id"] for one in tasks}
    assert {one.id for one in draft.tasks} == ids
    for one in draft.tasks:
        if one.id in kept:
            [before] = [old for old in LAST if old.id == one.id]
            assert (one.title, one.instruction) == (before.title, before.instruction)
            assert set(one.after) == set(before.after) & ids


def test_a_revision_may_not_keep_an_unknown_task() -> None:
    with pytest.raises(BadPlan, match="it keeps the task 'z', which the last plan does not have"):
        read(said(*keep("a", "z")), LAST)


def test_a_new_plan_keeps_nothing() -> None:
    draft = read(said(task("a"), new=True), LAST)
    assert (draft.new, draft.kept, draft.tasks) == (True, (), (Task("a", "Title a", "Do a."),))
    with pytest.raises(BadPlan, match="no instruction"):
        read(said(*keep("a"), new=True), LAST)


# The memory of a thread


def memory(**fields: Any) -> Memory:
    known = {
        "message_id": "m",
        "query": "q",
        "refinements": ("r",),
        "tasks": LAST,
        "results": {"a": "x"},
        "answer": "y",
    }
    return Memory(**known | fields)


def test_a_stored_memory_is_recalled() -> None:
    state: dict[str, Any] = {"others": 1}
    remember(state, memory())
    assert state["others"] == 1
    assert recall(msgspec.json.decode(msgspec.json.encode(state))) == memory()


@pytest.mark.parametrize("state", [{}, {MEMORY_KEY: None}, {MEMORY_KEY: {"query": "q"}}, {MEMORY_KEY: [1]}])
def test_an_invalid_memory_is_ignored(state: dict[str, Any]) -> None:
    assert recall(state) is None


@pytest.mark.parametrize("letter", ["x", "ü", "\x01", "\N{BICYCLE}"])
def test_a_memory_stays_small(letter: str) -> None:
    long = letter * 40_000
    tasks = tuple(Task(f"t{n}", f"Title {n}", letter * 4000) for n in range(12))
    results = {"t0": "short", **{f"t{n}": long for n in range(1, 12)}}
    state: dict[str, Any] = {}
    remember(state, memory(query=long, refinements=(long,) * 30, tasks=tasks, results=results, answer=long))
    size = len(msgspec.json.encode(state))
    assert size < 200_000
    assert size > MAX_MEMORY_BYTES / 2
    found = recall(state)
    assert found is not None
    assert found.results["t0"] == "short"
    assert found.results["t1"].endswith("more characters were left out here.]")
    assert len(found.refinements) == 20
    assert [one.id for one in found.tasks] == [one.id for one in tasks]


# The scripted planner


def plan_of(query: str) -> list[tuple[str, tuple[str, ...]]]:
    draft = read(json.dumps({"tasks": scripted_planner.split(query)}))
    return [(one.title, one.after) for one in draft.tasks]


@pytest.mark.parametrize(
    ("query", "plan"),
    [
        (
            "Plan a weekend in Lisbon:\n- find a hotel\n- find three museums\n- rank them",
            [("Find a hotel", ()), ("Find three museums", ()), ("Rank them", ("t1", "t2"))],
        ),
        (
            "Describe PGMQ. Describe Kafka. Then compare them.",
            [("Describe PGMQ", ()), ("Describe Kafka", ()), ("Then compare them", ("t1", "t2"))],
        ),
        (
            "list the risks of this plan and estimate what it costs",
            [
                ("List the risks of this plan", ()),
                ("Estimate what it costs", ()),
                ("See how the parts fit together", ("t1", "t2")),
            ],
        ),
        (
            "Analyse the shares of Apple, Google, and Tesla in 2024 and then write a letter",
            [
                ("Analyse the shares of Apple, Google, and Tesla …", ()),
                ("Write a letter", ()),
                ("See how the parts fit together", ("t1", "t2")),
            ],
        ),
        (
            "Describe the prices of Ford and Tesla this year; list what they sell",
            [
                ("Describe the prices of Ford and Tesla this year", ()),
                ("List what they sell", ()),
                ("See how the parts fit together", ("t1", "t2")),
            ],
        ),
        (
            "Bread and butter",
            [
                ("Look at: Bread and butter", ()),
                ("Look at it from the other side", ()),
                ("Bring both together", ("t1", "t2")),
            ],
        ),
    ],
    ids=["items", "sentences", "and", "a list", "names", "one thing"],
)
def test_the_scripted_planner_splits(query: str, plan: list[Any]) -> None:
    assert plan_of(query) == plan


def test_common_words_are_no_keywords() -> None:
    assert scripted_planner.keywords("Whom do I write to, whose goods?") == ["goods"]


@pytest.mark.parametrize("query", [" ", "?", ".", "a " * 5000, "\n".join(f"- item {n}" for n in range(50)), "- \n- x"])
def test_the_scripted_planner_plans_anything(query: str) -> None:
    assert 2 <= len(plan_of(query)) <= 4


SHOP = tuple(
    Task(name, title, title, after)
    for name, title, after in (
        ("t1", "Find a location for the shop", ()),
        ("t2", "Estimate the costs of renting", ()),
        ("t3", "Compare the results", ("t1", "t2")),
    )
)


@pytest.mark.parametrize(
    ("instruction", "tasks", "kept"),
    [
        ("Only the costs of renting, please", ["t2"], []),
        ("Just compare the results", ["t1", "t2", "t3"], ["t1", "t2"]),
        ("Focus on quiet streets", ["t1", "t2", "t3", "t4"], ["t1", "t2", "t3"]),
    ],
)
def test_the_scripted_planner_narrows(instruction: str, tasks: list[str], kept: list[str]) -> None:
    draft = read(json.dumps({"tasks": scripted_planner.revise(instruction, SHOP)}), SHOP)
    assert [task.id for task in draft.tasks] == tasks
    assert list(draft.kept) == kept
    changed = [task for task in draft.tasks if task.id not in kept]
    assert all(instruction in task.instruction for task in changed)


@pytest.mark.parametrize(
    ("instruction", "kept"),
    [
        ("Make it shorter, please", ["t1", "t2", "t3"]),
        ("The costs should be in dollars", ["t1"]),
        ("Do the first one again", ["t2"]),
        ("part 2 is wrong", ["t1"]),
        ("Also look at insurance", ["t1", "t2", "t3"]),
        ("Who won the cup final of 1994?", None),
    ],
)
def test_the_scripted_planner_revises(instruction: str, kept: list[str] | None) -> None:
    tasks = scripted_planner.revise(instruction, SHOP)
    if tasks is None:
        assert kept is None
        return
    draft = read(json.dumps({"tasks": tasks}), SHOP)
    assert list(draft.kept) == kept
    assert len(draft.tasks) == (4 if "Also" in instruction else 3)
