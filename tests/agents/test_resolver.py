"""The resolver: plan, concurrent tasks, answer; and a retry that repeats no finished stage."""

import asyncio
from pathlib import Path
from typing import Any, cast

from service.agents.resolver.memory import Memory, recall
from service.agents.resolver.model_requests import DoTask, MakePlan, WriteAnswer
from service.agents.resolver.plan import MAX_TASKS, Task
from service.agents.resolver.step_results import PlanResult, TextResult
from service.agents.resolver.work import MAX_PARALLEL_TASKS, Work
from service.config import Settings
from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.gates import open_gate
from tests.support.messages import settled, submit
from tests.support.scripted_model import QUERY, ScriptedModel, ask_and_settle, ask_resolver, task
from tests.support.sse_reader import stored_log
from tests.support.waiting import until
from tests.support.worker_processes import WorkerProcesses, exit_code
from treadle import Context, Rejected, RetryAfter


async def progress(api: Client, message_id: str) -> list[tuple[str, ...]]:
    """The progress of a message's last attempt: stage, state, task."""
    events = await stored_log(api, message_id)
    begun = max(number for number, event in enumerate(events) if event.type == "started")
    said = [event.data for event in events[begun:] if event.type == "progress"]
    return [
        tuple(filter(None, (data["stage"], data["state"], data.get("task"), "earlier" if "earlier" in data else "")))
        for data in said
    ]


async def test_a_query_is_planned_executed_and_answered(
    resolver_api: Client, model: ScriptedModel, sql: Connection
) -> None:
    row = await ask_and_settle(resolver_api)
    assert (row["state"], row["attempt"]) == ("completed", 1)
    assert model.asked[0] == "planner"
    assert sorted(model.asked[1:3]) == ["task t1", "task t2"]
    assert model.asked[3:] == ["task t3", "aggregator"]
    assert "scripted offline model" in row["result"]
    for title in ("### Describe the bread", "### Describe the butter", "### Then compare them"):
        assert title in row["result"]
    assert row["usage"] == {"model": "scripted", "calls": 5}

    events = await stored_log(resolver_api, row["message_id"])
    assert "".join(event.data["chunk"] for event in events if event.type == "chunk") == row["result"]
    [plan] = [event.data for event in events if event.type == "plan"]
    assert plan["query"] == QUERY
    assert [(one["id"], one["after"], one["kept"]) for one in plan["tasks"]] == [
        ("t1", [], False),
        ("t2", [], False),
        ("t3", ["t1", "t2"], False),
    ]
    steps = [event.data["name"] for event in events if event.type == "step"]
    assert (steps[0], steps[3:]) == ("plan", ["task t3", "answer"])
    told = await progress(resolver_api, row["message_id"])
    assert told[:2] == [("plan", "started"), ("plan", "done")]
    assert sorted(told[2:6]) == [("task", state, name) for state in ("done", "started") for name in ("t1", "t2")]
    assert told[6:] == [
        *(("task", "started", "t3"), ("task", "done", "t3")),
        *(("answer", "started"), ("answer", "done")),
    ]
    state = await sql.fetchval("select memory -> 'resolver' from treadle.threads where thread_id = 't'")
    assert (state["message_id"], state["query"], state["answer"]) == (row["message_id"], QUERY, row["result"])
    assert state["results"].keys() == {"t1", "t2", "t3"}


async def test_the_resolver_answers_without_a_thread(resolver_api: Client) -> None:
    assert (await ask_and_settle(resolver_api, thread_id=None))["state"] == "completed"


async def test_the_planner_receives_the_earlier_conversation(resolver_api: Client, model: ScriptedModel) -> None:
    await ask_and_settle(resolver_api, agent="clarifier", message="What is up?")
    await ask_and_settle(resolver_api)
    [[asked, said]] = model.last(MakePlan).earlier
    assert asked == "What is up?"
    assert "Nothing was asked" in said


async def test_a_task_receives_only_the_results_it_comes_after(resolver_api: Client, model: ScriptedModel) -> None:
    model.plans = ScriptedModel([task("a"), task("b"), task("c", "b"), task("d", "c", "a")]).plans
    row = await ask_and_settle(resolver_api)
    assert row["state"] == "completed"
    given = {one.task.id: [title for title, _ in one.inputs] for one in model.requests if isinstance(one, DoTask)}
    assert given == {"a": [], "b": [], "c": ["Title b"], "d": ["Title a", "Title c"]}
    assert all(text for one in model.requests if isinstance(one, DoTask) for _, text in one.inputs)
    assert [title for title, _ in model.last(WriteAnswer).results] == ["Title a", "Title b", "Title c", "Title d"]


async def test_independent_tasks_run_concurrently(resolver_api: Client, model: ScriptedModel) -> None:
    names = [f"{n:x}" for n in range(MAX_TASKS - 1)]
    model.plans = ScriptedModel([*(task(name) for name in names), task("end", *names)]).plans
    tasks = [f"task {name}" for name in names]
    model.hold(*tasks, "task end")
    message_id = await ask_resolver(resolver_api)
    await model.holds(*tasks[:MAX_PARALLEL_TASKS])  # the most at a time
    model.let_go(tasks[1])
    await model.holds(tasks[0], *tasks[2 : MAX_PARALLEL_TASKS + 1])  # the next task takes the free place
    model.let_go(*tasks)
    await model.holds("task end")  # after all others
    assert len(model.asked) == 1 + MAX_TASKS
    model.let_go()
    assert (await resolver_api.settled(message_id))["state"] == "completed"


# Invalid plans


async def test_the_planner_is_asked_again_after_an_invalid_plan(resolver_api: Client, model: ScriptedModel) -> None:
    model.plans = ScriptedModel([task("a", "b"), task("b", "a")], [task("a")]).plans
    row = await ask_and_settle(resolver_api)
    assert (row["state"], model.asked) == ("completed", ["planner", "planner", "task a", "aggregator"])
    again = model.last(MakePlan)
    assert again.problem == "the tasks 'a', 'b' wait for each other"
    assert '"after": ["b"]' in again.invalid_plan
    assert "As a plan: the tasks 'a', 'b' wait for each other." in again.prompt()
    assert row["usage"]["calls"] == 4


async def test_a_second_invalid_plan_rejects_the_message(resolver_api: Client, model: ScriptedModel) -> None:
    model.plans = ["Let me think.", "I would rather not."]
    row = await ask_and_settle(resolver_api)
    assert (row["state"], row["attempt"], model.asked) == ("failed", 1, ["planner", "planner"])
    assert row["error"] == "The planner was asked 2 times and gave no valid plan: it contains no JSON."


async def test_an_empty_answer_of_the_model_is_a_failure(resolver_api: Client, model: ScriptedModel) -> None:
    model.plans = [" "]
    row = await ask_and_settle(resolver_api)
    assert (row["state"], row["attempt"]) == ("completed", 2)
    [retry] = [event.data for event in await stored_log(resolver_api, row["message_id"]) if event.type == "retry"]
    assert retry["error"] == "RuntimeError: The model gave an empty answer as the planner."


async def test_invalid_metadata_is_rejected(resolver_api: Client) -> None:
    for pace in (-1, "fast", True, 1e9):
        row = await ask_and_settle(resolver_api, metadata={"pace_ms": pace})
        assert (row["state"], row["error"]) == ("failed", "metadata.pace_ms must be a number from 0 to 60000.")


# Failures, cancellation, killed workers


async def test_a_retry_runs_only_unfinished_tasks(resolver_api: Client, model: ScriptedModel) -> None:
    model.plans = ScriptedModel([task("a"), task("b"), task("c", "a"), task("d", "c"), task("e", "b")]).plans
    model.hold("task b")
    model.fail("task c", RetryAfter(0, "Not now."))
    message_id = await ask_resolver(resolver_api)
    await model.holds("task b")
    await model.failed("task c")
    model.let_go()  # task b finishes, and no further task begins
    row = await resolver_api.settled(message_id)
    assert (row["state"], row["attempt"]) == ("completed", 2)
    assert (model.asked[0], sorted(model.asked[1:4])) == ("planner", ["task a", "task b", "task c"])
    assert model.asked[4] == "task c"  # in the second attempt
    assert sorted(model.asked[5:]) == ["aggregator", "task d", "task e"]
    assert row["usage"]["calls"] == 7  # the calls whose step was stored
    told = await progress(resolver_api, message_id)
    assert told[0] == ("plan", "done", "earlier")
    assert sorted(told[1:3]) == [("task", "done", "a", "earlier"), ("task", "done", "b", "earlier")]
    assert [one for one in told if "d" in one] == [("task", "started", "d"), ("task", "done", "d")]
    plans = [event.data for event in await stored_log(resolver_api, message_id) if event.type == "plan"]
    assert plans == [plans[0]] * 2


async def test_a_rejected_task_ends_the_message(resolver_api: Client, model: ScriptedModel) -> None:
    model.fail("task t1", Rejected("No bread."))
    row = await ask_and_settle(resolver_api)
    assert (row["state"], row["attempt"], row["error"]) == ("failed", 1, "No bread.")
    assert "task t3" not in model.asked


async def test_an_answer_that_broke_off_is_written_again(resolver_api: Client, model: ScriptedModel) -> None:
    model.fail("aggregator", ConnectionError("It broke off."))
    row = await ask_and_settle(resolver_api)
    assert (row["state"], row["attempt"]) == ("completed", 2)
    assert model.asked.count("aggregator") == 2
    assert len(model.asked) == 6


async def test_cancelling_interrupts_all_running_tasks(resolver_api: Client, model: ScriptedModel) -> None:
    model.hold("task t1", "task t2")
    message_id = await ask_resolver(resolver_api)
    await model.holds("task t1", "task t2")
    assert (await resolver_api.delete(f"/messages/{message_id}")).status_code == 202
    assert (await resolver_api.settled(message_id))["state"] == "cancelled"
    await model.holds()
    assert sorted(model.interrupted) == ["task t1", "task t2"]


async def test_a_killed_worker_loses_no_finished_task(settings: Settings, sql: Connection, tmp_path: Path) -> None:
    """Two real workers, one after the other: the second runs only the tasks that the first did not finish."""
    notes, go = tmp_path / "notes", tmp_path / "go"
    processes = WorkerProcesses(settings, tmp_path / "log")
    environ = {"AGENTS": "tests.support.isolated_team", "TEST_NOTES": str(notes), "TEST_GO": str(go)}
    try:
        first = await processes.start(sql, **environ)
        message_id = await submit(sql, QUERY, agent="noted", thread_id="t", metadata={"pace_ms": 0})
        await until(lambda: _noted(notes), lambda noted: "task t3" in noted)  # the model waits in this task
        first.kill()
        await exit_code(first)
        open_gate(go)
        await processes.start(sql, **environ)
        row = await settled(sql, message_id)
        assert (row["state"], row["losses"], row["attempt"]) == ("completed", 1, 2)
    finally:
        await asyncio.to_thread(processes.end)
    noted = _noted(notes)
    assert noted[0] == "planner"
    assert sorted(noted[1:3]) == ["task t1", "task t2"]
    assert noted[3:] == ["task t3", "task t3", "aggregator"]
    assert row["usage"]["calls"] == 5


def _noted(notes: Path) -> list[str]:
    return notes.read_text().splitlines() if notes.exists() else []


class Replayed:
    """The part of a Context that `Work` uses, for a message whose steps have all finished in an earlier attempt."""

    message_id, thread_id, attempt = "m", "t", 2

    def __init__(self, steps: dict[str, Any]) -> None:
        self.memory: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.told: list[Any] = []
        self.spent: dict[str, Any] = {}
        self._steps = steps

    async def step(self, name: str, function: Any) -> Any:
        return self._steps[name]

    async def emit(self, chunk: str) -> None:
        self.told.append(chunk)

    async def event(self, type: str, data: Any) -> None:
        self.told.append((type, data.get("stage"), data.get("state"), data.get("task"), data.get("earlier")))

    def usage(self, **counts: Any) -> None:
        self.spent = counts


async def test_an_attempt_after_the_last_step_calls_no_model(model: ScriptedModel) -> None:
    """The worker died after the answer was stored and before the message was completed."""
    context = Replayed(
        {
            "plan": PlanResult("q", (Task("a", "A", "Do a."),)),
            "task a": TextResult("of a"),
            "answer": TextResult("# The answer"),
        }
    )
    assert await Work(cast(Context, context), model).run("q") == "# The answer"
    assert model.asked == []
    assert context.told == [
        ("plan", None, None, None, None),
        ("progress", "plan", "done", None, True),
        ("progress", "task", "done", "a", True),
        "# The answer",
        ("progress", "answer", "done", None, True),
    ]
    assert context.spent == {}  # the attempts that called it have counted it
    assert recall(context.memory) == Memory("m", "q", (), (Task("a", "A", "Do a."),), {"a": "of a"}, "# The answer")
