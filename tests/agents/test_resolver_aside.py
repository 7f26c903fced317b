"""The clarifier: it answers while other agents work, from their steps and progress."""

from typing import Any

from service.agents.resolver.model_requests import Clarify
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.scripted_agent import ScriptedAgent
from tests.support.scripted_model import QUERY, ScriptedModel, ask_and_settle, ask_resolver, has_event
from tests.support.waiting import until
from treadle import RetryAfter

QUESTION = {"agent": "clarifier", "aside": True}


async def clarified(api: Client, question: str = "How far are you?", **fields: Any) -> str:
    row = await ask_and_settle(api, question, **QUESTION, **fields)
    assert row["state"] == "completed", row
    return str(row["result"])


async def begun(api: Client, model: ScriptedModel, message_id: str, name: str) -> None:
    """Wait until the model holds the request of this name, and the log says that its stage has begun.

    The clarifier reads the log. An event is buffered before the model is asked, and stored later.
    """
    await model.holds(name)
    stages = {"planner": {"stage": "plan"}, "aggregator": {"stage": "answer"}}
    data = stages.get(name) or {"stage": "task", "task": name.removeprefix("task ")}
    await has_event(api, message_id, "progress", state="started", **data)


async def test_the_clarifier_answers_while_the_team_works(resolver_api: Client, model: ScriptedModel) -> None:
    model.hold("planner", "task t2", "task t3", "aggregator")
    message_id = await ask_resolver(resolver_api)

    await begun(resolver_api, model, message_id, "planner")
    assert "The plan for “Describe the bread." in await clarified(resolver_api)
    assert (model.progress.stage, model.progress.query, model.progress.tasks) == ("plan", QUERY, ())

    model.let_go("planner")
    await begun(resolver_api, model, message_id, "task t2")
    await has_event(resolver_api, message_id, "progress", task="t1", state="done")
    said = await clarified(resolver_api, "What about the bread?")
    assert "The team is at work: 1 of 3 tasks are finished." in said
    assert "- Finished: “Describe the bread”\n- Running: “Describe the butter”\n- Still to come: “Then compare" in said
    assert "The result of “Describe the bread”:\n\n- What a model would find out here: *Describe*, *bread*." in said
    assert "“Describe the butter” runs right now." in await clarified(resolver_api, "And the butter?")

    model.let_go("task t2", "task t3")
    await begun(resolver_api, model, message_id, "aggregator")
    assert "The answer is being written now." in await clarified(resolver_api)
    assert model.progress.finished.keys() == {"t1", "t2", "t3"}
    assert (await resolver_api.status(message_id))["state"] == "processing"
    model.let_go()
    assert (await resolver_api.settled(message_id))["state"] == "completed"


async def test_the_clarifier_sees_the_kept_results_of_a_refinement(resolver_api: Client, model: ScriptedModel) -> None:
    first = await ask_and_settle(resolver_api)
    model.hold("planner", "task t2")
    message_id = await ask_resolver(resolver_api, "The butter must be salted")
    await begun(resolver_api, model, message_id, "planner")
    await clarified(resolver_api)
    assert (model.progress.stage, model.progress.answer) == ("plan", first["result"])
    assert model.progress.query == f"{QUERY}\nThen: The butter must be salted"
    model.let_go("planner")
    await begun(resolver_api, model, message_id, "task t2")
    await clarified(resolver_api)
    assert model.progress.query == f"{QUERY}\nThen: The butter must be salted"
    assert (model.progress.finished.keys(), model.progress.running) == ({"t1"}, ("t2",))
    model.let_go()
    assert (await resolver_api.settled(message_id))["state"] == "completed"


async def test_the_clarifier_sees_no_running_task_between_attempts(resolver_api: Client, model: ScriptedModel) -> None:
    model.fail("task t2", RetryAfter(1000, "Later."))
    message_id = await ask_resolver(resolver_api)
    await until(lambda: resolver_api.status(message_id), lambda status: status["hold"] == "backoff")
    await clarified(resolver_api)
    assert (model.progress.stage, model.progress.finished.keys(), model.progress.running) == ("task", {"t1"}, ())


async def test_the_clarifier_answers_from_memory_if_nothing_is_under_way(
    resolver_api: Client, model: ScriptedModel
) -> None:
    assert "Nothing was asked in this thread yet." in await clarified(resolver_api)
    row = await ask_and_settle(resolver_api)
    said = await clarified(resolver_api, "Which bread?")
    assert "The answer is there: 3 of 3 tasks are finished." in said
    assert "The result of “Describe the bread”:" in said
    assert (model.progress.stage, model.progress.answer) == ("over", row["result"])
    assert row["result"] in model.last(Clarify).prompt()


async def test_the_clarifier_answers_in_its_turn_and_without_a_thread(resolver_api: Client) -> None:
    assert "Nothing was asked" in (await ask_and_settle(resolver_api, "What is up?", agent="clarifier"))["result"]
    assert (
        "Nothing was asked" in (await ask_and_settle(resolver_api, "Hm?", agent="clarifier", thread_id=None))["result"]
    )


async def test_the_clarifier_sees_the_steps_of_other_agents(
    start_api: StartApi, start_worker: StartWorker, model: ScriptedModel, script: ScriptedAgent
) -> None:
    await start_worker(script.agent, *model.agents)
    api = await start_api()
    message_id = await ask_resolver(api, "Look around", agent="script")
    script.say(message_id, ("progress", {"percent": 40}))
    await has_event(api, message_id, "progress", percent=40)
    said = await clarified(api)
    assert "An agent is at work on “Look around”." in said
    assert '"percent":40' in said
    script.say(message_id, None)
    assert (await api.settled(message_id))["state"] == "completed"
