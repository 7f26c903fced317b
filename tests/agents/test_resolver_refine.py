"""Refining an answer: affected tasks run again, the other results come from the thread's memory."""

from service.agents.resolver.model_requests import MakePlan, WriteAnswer
from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.scripted_model import QUERY, ScriptedModel, ask_and_settle
from tests.support.sse_reader import stored_log
from treadle import Rejected


async def test_a_refinement_repeats_only_affected_tasks(resolver_api: Client, model: ScriptedModel) -> None:
    first = await ask_and_settle(resolver_api)
    model.requests.clear()
    row = await ask_and_settle(resolver_api, "The butter must be salted")
    assert (row["state"], model.asked) == ("completed", ["planner", "task t2", "task t3", "aggregator"])
    write = model.last(WriteAnswer)
    assert (write.query, write.refinements, write.last_answer) == (
        QUERY,
        ("The butter must be salted",),
        first["result"],
    )
    assert [title for title, _ in write.results] == ["Describe the bread", "Describe the butter", "Then compare them"]
    [plan] = [event.data for event in await stored_log(resolver_api, row["message_id"]) if event.type == "plan"]
    assert [one["kept"] for one in plan["tasks"]] == [True, False, False]
    assert plan["refinements"] == ["The butter must be salted"]

    model.requests.clear()
    row = await ask_and_settle(resolver_api, "Make it shorter")
    assert (row["state"], model.asked) == ("completed", ["planner", "aggregator"])
    assert model.last(WriteAnswer).refinements == ("The butter must be salted", "Make it shorter")

    model.requests.clear()
    row = await ask_and_settle(resolver_api, "Also describe the jam")
    assert (row["state"], model.asked) == ("completed", ["planner", "task t4", "aggregator"])


async def test_an_unrelated_message_is_a_new_query(resolver_api: Client, model: ScriptedModel, sql: Connection) -> None:
    await ask_and_settle(resolver_api)
    model.requests.clear()
    row = await ask_and_settle(resolver_api, "Who won the cup final? Who lost it?")
    assert len(model.asked) == 5
    assert (row["state"], model.last(WriteAnswer).refinements) == ("completed", ())
    state = await sql.fetchval("select memory -> 'resolver' from treadle.threads where thread_id = 't'")
    assert (state["query"], state["refinements"]) == ("Who won the cup final? Who lost it?", [])


async def test_threads_do_not_share_their_memory(resolver_api: Client, model: ScriptedModel) -> None:
    await ask_and_settle(resolver_api)
    model.requests.clear()
    await ask_and_settle(resolver_api, "Make it shorter", thread_id="u")
    assert isinstance(model.requests[0], MakePlan)


async def test_a_late_redrive_of_a_refinement_does_not_mix_results(resolver_api: Client, model: ScriptedModel) -> None:
    """Another query came in between, so the kept results are missing and their tasks run again."""
    await ask_and_settle(resolver_api)
    model.fail("task t2", Rejected("No butter."))
    late = await ask_and_settle(resolver_api, "The butter must be salted")
    assert late["state"] == "failed"
    other = await ask_and_settle(resolver_api, "Who won the cup final? Who lost it?")
    model.requests.clear()
    assert (await resolver_api.post(f"/messages/{late['message_id']}/redrive")).status_code == 202
    row = await resolver_api.settled(late["message_id"])
    assert row["state"] == "completed"
    assert sorted(model.asked[:2]) == ["task t1", "task t2"]
    assert model.asked[2:] == ["task t3", "aggregator"]
    write = model.last(WriteAnswer)
    assert (write.query, write.last_answer) == (QUERY, "")
    assert other["result"] not in row["result"]
