"""Refining an answer: what the instruction touches is done anew, the rest is remembered."""

from service.agents.contract import Rejected
from service.agents.resolver.model_requests import MakePlan, WriteAnswer
from service.db.pool import Connection
from tests.conftest import Client
from tests.support.scripted_team import QUERY, Journal, answered
from tests.support.sse_reader import log


async def test_a_refinement_does_anew_what_it_touches(resolving: Client, journal: Journal) -> None:
    first = await answered(resolving)
    journal.asks.clear()
    row = await answered(resolving, "The butter must be salted")
    assert (row["state"], journal.asked) == ("completed", ["planner", "task t2", "task t3", "aggregator"])
    write = journal.last(WriteAnswer)
    assert (write.query, write.refinements, write.last) == (QUERY, ("The butter must be salted",), first["result"])
    assert [title for title, _ in write.parts] == ["Describe the bread", "Describe the butter", "Then compare them"]
    [plan] = [event.data for event in await log(resolving, row["message_id"]) if event.type == "plan"]
    assert [one["kept"] for one in plan["tasks"]] == [True, False, False]
    assert plan["refinements"] == ["The butter must be salted"]

    journal.asks.clear()
    row = await answered(resolving, "Make it shorter")
    assert (row["state"], journal.asked) == ("completed", ["planner", "aggregator"])
    assert journal.last(WriteAnswer).refinements == ("The butter must be salted", "Make it shorter")

    journal.asks.clear()
    row = await answered(resolving, "Also describe the jam")
    assert (row["state"], journal.asked) == ("completed", ["planner", "task t4", "aggregator"])


async def test_what_is_unrelated_is_a_query_of_its_own(resolving: Client, journal: Journal, sql: Connection) -> None:
    await answered(resolving)
    journal.asks.clear()
    row = await answered(resolving, "Who won the cup final? Who lost it?")
    assert len(journal.asked) == 5
    assert (row["state"], journal.last(WriteAnswer).refinements) == ("completed", ())
    state = await sql.fetchval("select memory -> 'resolver' from treadle.threads where thread_id = 't'")
    assert (state["query"], state["refinements"]) == ("Who won the cup final? Who lost it?", [])


async def test_threads_do_not_share_what_they_remember(resolving: Client, journal: Journal) -> None:
    await answered(resolving)
    journal.asks.clear()
    await answered(resolving, "Make it shorter", thread_id="u")
    assert isinstance(journal.asks[0], MakePlan)


async def test_a_refinement_redriven_late_does_not_mix_results(resolving: Client, journal: Journal) -> None:
    """Another query came between: what the refinement kept is gone, and is done again."""
    await answered(resolving)
    journal.fail("task t2", Rejected("No butter."))
    late = await answered(resolving, "The butter must be salted")
    assert late["state"] == "failed"
    other = await answered(resolving, "Who won the cup final? Who lost it?")
    journal.asks.clear()
    assert (await resolving.post(f"/messages/{late['message_id']}/redrive")).status_code == 202
    row = await resolving.settled(late["message_id"])
    assert row["state"] == "completed"
    assert sorted(journal.asked[:2]) == ["task t1", "task t2"]
    assert journal.asked[2:] == ["task t3", "aggregator"]
    write = journal.last(WriteAnswer)
    assert (write.query, write.last) == (QUERY, "")
    assert other["result"] not in row["result"]
