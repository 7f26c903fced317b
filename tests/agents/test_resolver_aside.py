"""The clarifier: it answers while others are at work, from what they have done so far."""

from typing import Any

from service.agents.contract import RetryAfter
from service.agents.resolver.model_requests import Clarify
from tests.conftest import Client, StartApi, StartWorker, until
from tests.support.scripted_team import QUERY, Journal, answered, ask, happened
from tests.support.sse_reader import Script

QUESTION = {"agent": "clarifier", "aside": True}


async def clarified(api: Client, question: str = "How far are you?", **fields: Any) -> str:
    row = await answered(api, question, **QUESTION, **fields)
    assert row["state"] == "completed", row
    return str(row["result"])


async def test_it_answers_while_the_team_is_at_work(resolving: Client, journal: Journal) -> None:
    journal.hold("planner", "task t2", "task t3", "aggregator")
    message_id = await ask(resolving)

    await journal.holds("planner")
    assert "The plan for “Describe the bread." in await clarified(resolving)
    assert (journal.picture.stage, journal.picture.query, journal.picture.tasks) == ("plan", QUERY, ())

    journal.let_go("planner")
    await journal.holds("task t2")
    await happened(resolving, message_id, "progress", task="t1", state="done")
    said = await clarified(resolving, "What about the bread?")
    assert "The team is at work: 1 of 3 tasks are finished." in said
    assert "- Finished: “Describe the bread”\n- Running: “Describe the butter”\n- Still to come: “Then compare" in said
    assert "Of “Describe the bread” it is known:\n\n- What a model would find out here: *Describe*, *bread*." in said
    assert "“Describe the butter” runs right now." in await clarified(resolving, "And the butter?")

    journal.let_go("task t2", "task t3")
    await journal.holds("aggregator")
    assert "The answer is being written now." in await clarified(resolving)
    assert journal.picture.finished.keys() == {"t1", "t2", "t3"}
    assert (await resolving.status(message_id))["state"] == "processing"
    journal.let_go()
    assert (await resolving.settled(message_id))["state"] == "completed"


async def test_it_knows_what_a_refinement_kept(resolving: Client, journal: Journal) -> None:
    first = await answered(resolving)
    journal.hold("planner", "task t2")
    message_id = await ask(resolving, "The butter must be salted")
    await journal.holds("planner")
    await clarified(resolving)
    assert (journal.picture.stage, journal.picture.answer) == ("plan", first["result"])
    assert journal.picture.query == f"{QUERY}\nThen: The butter must be salted"
    journal.let_go("planner")
    await journal.holds("task t2")
    await clarified(resolving)
    assert journal.picture.query == f"{QUERY}\nThen: The butter must be salted"
    assert (journal.picture.finished.keys(), journal.picture.running) == ({"t1"}, ("t2",))
    journal.let_go()
    assert (await resolving.settled(message_id))["state"] == "completed"


async def test_between_attempts_nothing_runs(resolving: Client, journal: Journal) -> None:
    journal.fail("task t2", RetryAfter(1000, "Later."))
    message_id = await ask(resolving)
    await until(lambda: resolving.status(message_id), lambda status: status["hold"] == "backoff")
    await clarified(resolving)
    assert (journal.picture.stage, journal.picture.finished.keys(), journal.picture.running) == ("task", {"t1"}, ())


async def test_when_nothing_is_under_way_it_answers_from_memory(resolving: Client, journal: Journal) -> None:
    assert "Nothing was asked in this thread yet." in await clarified(resolving)
    row = await answered(resolving)
    said = await clarified(resolving, "Which bread?")
    assert "The answer is there: 3 of 3 tasks are finished." in said
    assert "Of “Describe the bread” it is known:" in said
    assert (journal.picture.stage, journal.picture.answer) == ("over", row["result"])
    assert row["result"] in journal.last(Clarify).prompt()


async def test_it_answers_in_its_turn_and_without_a_thread(resolving: Client) -> None:
    assert "Nothing was asked" in (await answered(resolving, "What is up?", agent="clarifier"))["result"]
    assert "Nothing was asked" in (await answered(resolving, "Hm?", agent="clarifier", thread_id=None))["result"]


async def test_it_tells_of_other_agents_what_they_left(
    start_api: StartApi, start_worker: StartWorker, journal: Journal, script: Script
) -> None:
    await start_worker(script.agent, *journal.agents)
    api = await start_api()
    message_id = await ask(api, "Look around", agent="script")
    script.say(message_id, ("progress", {"percent": 40}))
    await happened(api, message_id, "progress", percent=40)
    said = await clarified(api)
    assert "An agent is at work on “Look around”." in said
    assert '"percent":40' in said
    script.say(message_id, None)
    assert (await api.settled(message_id))["state"] == "completed"
