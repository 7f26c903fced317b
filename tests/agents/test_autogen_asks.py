"""AutoGen teams that ask a person, and teams that remember their thread."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from autogen_agentchat.conditions import HandoffTermination, MaxMessageTermination, TextMentionTermination
from autogen_agentchat.teams import DiGraphBuilder, GraphFlow, RoundRobinGroupChat, SelectorGroupChat, Swarm
from autogen_core.models import CreateResult

from service.config import Settings
from service.db.pool import Connection
from tests.support.autogen_models import ReplayModel, assistant, tool_call
from tests.support.fixture_types import StartWorker
from tests.support.inputs import asked_input, give_input
from tests.support.invariants import assert_consistent
from tests.support.messages import log, run, settled, submit, types
from tests.support.waiting import wait_for
from tests.support.worker_processes import lose_lease
from tests.support.workers import running_worker
from treadle import Context
from treadle.adapters import AgentOutput, Kit, UserInput, autogen_agent


def asking(model: Any, **options: Any) -> Any:
    """A function that makes a writer and a person, who speak in turn until a message says APPROVE."""

    def make(kit: Kit) -> RoundRobinGroupChat:
        members: list[Any] = [assistant("writer", kit.model(model)), kit.user("reader", "Reads.")]
        return RoundRobinGroupChat(members, termination_condition=TextMentionTermination("APPROVE"), **options)

    return make


async def test_a_team_waits_for_a_person(sql: Connection, settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Another worker continues the team."""
    model = ReplayModel("A red bicycle", "A bike")
    async with running_worker(sql, settings, autogen_agent("asks", asking(model))):
        message_id = await submit(sql, "Write.", agent="asks", thread_id="t")
        first = await asked_input(sql, message_id)
    assert first["question"] == "A red bicycle"
    async with running_worker(sql, settings, autogen_agent("asks", asking(model))):
        await give_input(sql, message_id, "Shorter", first["name"])
        second = await asked_input(sql, message_id, 2)
        assert second["question"] == "A bike"
        await give_input(sql, message_id, "APPROVE", second["name"])
        row = await settled(sql, message_id)
    assert (first["name"], second["name"]) == ("user reader 1", "user reader 2")
    assert (row["state"], row["attempt"], row["failures"], row["result"]) == ("completed", 3, 0, "APPROVE")
    # The first model call was not repeated; the second one received the person's answer.
    assert [asked[-1] for asked in model.asked] == ["Write.", "Shorter"]
    entries = await log(sql, message_id)
    last = max(number for number, entry in enumerate(entries) if entry.type == "started")
    said = [(entry.data["source"], entry.data["content"]) for entry in entries[last:] if entry.type == "message"]
    assert said == [
        *(("user", "Write."), ("writer", "A red bicycle"), ("reader", "Shorter")),
        *(("writer", "A bike"), ("reader", "APPROVE")),
    ]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]  # parking logs no error
    await assert_consistent(sql)


async def test_a_person_alone_may_answer_anything(sql: Connection, start_worker: StartWorker) -> None:
    await start_worker(autogen_agent("asks", lambda kit: kit.user("person")))
    for given, said in (("yes", "yes"), ({"sure": [True, None]}, '{"sure":[true,null]}')):
        message_id = await submit(sql, "Sure?", agent="asks")
        assert (await asked_input(sql, message_id))["question"] == "Sure?"
        await give_input(sql, message_id, given)
        assert (await settled(sql, message_id))["result"] == said


async def test_a_model_may_select_the_person(sql: Connection, start_worker: StartWorker) -> None:
    model = ReplayModel("person", "Hello Ada")

    def make(kit: Kit) -> SelectorGroupChat:
        own = kit.model(model)
        members: list[Any] = [assistant("writer", own), kit.user("person")]
        return SelectorGroupChat(members, own, termination_condition=MaxMessageTermination(3))

    await start_worker(autogen_agent("asks", make))
    message_id = await submit(sql, "Greet.", agent="asks")
    await asked_input(sql, message_id)
    await give_input(sql, message_id, "I am Ada")
    assert (await settled(sql, message_id))["result"] == "Hello Ada"
    assert len(model.asked) == 2  # after the person only the writer can speak: no selection


async def test_two_people_may_be_asked_concurrently(sql: Connection, start_worker: StartWorker) -> None:
    model = ReplayModel("Both agree")

    def make(kit: Kit) -> GraphFlow:
        ada, bob, writer = kit.user("ada"), kit.user("bob"), assistant("writer", kit.model(model))
        start = kit.user("start")
        graph = DiGraphBuilder().add_node(start).add_node(ada).add_node(bob).add_node(writer)
        for person in (ada, bob):
            graph.add_edge(start, person).add_edge(person, writer)
        return GraphFlow([start, ada, bob, writer], graph.build())

    await start_worker(autogen_agent("asks", make, output=lambda result: sorted(_texts(result))))
    message_id = await submit(sql, "Vote.", agent="asks")
    for count, given in enumerate(("Go.", "yes", "yes"), 1):
        await asked_input(sql, message_id, count)
        await give_input(sql, message_id, given)
    row = await settled(sql, message_id)
    assert {"ada: yes", "bob: yes", "writer: Both agree"} < set(row["result"])
    names = [entry.data["name"] for entry in await log(sql, message_id) if entry.type == "parked"]
    assert sorted(names) == ["user ada 1", "user bob 1", "user start 1"]


def _texts(result: Any) -> list[str]:
    return [f"{item.source}: {item.to_text()}" for item in result.messages]


async def test_an_answer_outlives_the_attempt_that_received_it(sql: Connection, start_worker: StartWorker) -> None:
    reached = asyncio.Event()
    model = ReplayModel("A red bicycle", "A bike")

    class Slow(ReplayModel):
        async def create(self, messages: Sequence[Any], **options: Any) -> CreateResult:
            if len(model.asked) == 1 and not reached.is_set():
                reached.set()
                await asyncio.Event().wait()
            return await model.create(messages, **options)

    await start_worker(autogen_agent("asks", asking(Slow(), max_turns=3)))
    message_id = await submit(sql, "Write.", agent="asks")
    await asked_input(sql, message_id)
    await give_input(sql, message_id, "Shorter")
    await wait_for(reached)
    await lose_lease(sql, message_id)
    row = await settled(sql, message_id)
    assert (row["state"], row["result"], len(model.asked)) == ("completed", "A bike", 2)
    assert (await types(sql, message_id)).count("parked") == 1


# The memory of a team


def pair(model: Any) -> Any:
    """A function that makes a writer and a critic, who speak in turn until the critic says APPROVE."""

    def make(kit: Kit) -> RoundRobinGroupChat:
        own = kit.model(model)
        over = TextMentionTermination("APPROVE", sources=["critic"])
        return RoundRobinGroupChat([assistant("writer", own), assistant("critic", own)], termination_condition=over)

    return make


async def states(sql: Connection) -> dict[str, Any]:
    return {row["thread_id"]: row["memory"] for row in await sql.fetch("select thread_id, memory from treadle.threads")}


async def test_a_team_remembers_its_thread(sql: Connection, start_worker: StartWorker) -> None:
    model = ReplayModel("one", "no", "two", "APPROVE", "three", "APPROVE", "alone", "APPROVE", "aside", "APPROVE")
    await start_worker(autogen_agent("pair", pair(model), keep_state=True))
    assert (await run(sql, "First.", agent="pair", thread_id="t"))["result"] == "APPROVE"
    row = await run(sql, "Second.", agent="pair", thread_id="t")
    # The first message's APPROVE does not end the second message, and each has only its own messages.
    assert row["usage"]["stop_reason"] == "Text 'APPROVE' mentioned"
    said = [entry.data["content"] for entry in await log(sql, row["message_id"]) if entry.type == "message"]
    assert said == ["Second.", "three", "APPROVE"]
    assert model.asked[-2:] == [
        ["You are writer.", "First.", "one", "no", "two", "APPROVE", "Second."],
        ["You are critic.", "First.", "one", "no", "two", "APPROVE", "Second.", "three"],
    ]
    await run(sql, "Third.", agent="pair", thread_id="other")
    assert model.asked[-2] == ["You are writer.", "Third."]
    await run(sql, "Fourth.", agent="pair")
    assert model.asked[-2] == ["You are writer.", "Fourth."]
    kept = await states(sql)
    assert kept.keys() == {"t", "other"}
    assert kept["t"].keys() == {"pair"}
    assert "Second." in str(kept["t"]["pair"])
    await assert_consistent(sql)


async def test_a_swarm_that_hands_over_to_the_user_hears_the_answer(sql: Connection, start_worker: StartWorker) -> None:
    def swarm(kit: Kit) -> Swarm:
        members: list[Any] = [
            assistant("clerk", kit.model(model), handoffs=["pilot", "user"]),
            assistant("pilot", kit.model(model), handoffs=["user"]),
        ]
        return Swarm(members, termination_condition=HandoffTermination("user") | MaxMessageTermination(9))

    to_user = tool_call("transfer_to_user", "{}")
    model = ReplayModel(to_user, tool_call("transfer_to_pilot", "{}"), to_user, to_user)
    await start_worker(autogen_agent("clerk", swarm, keep_state=True, output=AgentOutput.of))
    for said, speaker in (("Fly.", "clerk"), ("To Oslo.", "pilot"), ("Now.", "pilot")):
        row = await run(sql, said, agent="clerk", thread_id="t", max_attempts=1)
        assert (row["state"], row["result"]["source"]) == ("completed", speaker), row["error"]
        assert any(said in asked for asked in model.asked)


async def test_a_retry_begins_with_the_threads_memory(sql: Connection, start_worker: StartWorker) -> None:
    model = ReplayModel("one", "APPROVE", "two", RuntimeError("overloaded"), "APPROVE", "three", "APPROVE")
    await start_worker(autogen_agent("pair", pair(model), keep_state=True, max_attempts=2))
    await run(sql, "First.", agent="pair", thread_id="t")
    row = await run(sql, "Second.", agent="pair", thread_id="t")
    assert (row["attempt"], row["result"]) == (2, "APPROVE")
    before = ["You are critic.", "First.", "one", "APPROVE", "Second.", "two"]
    assert model.asked[-2:] == [before, before]
    await run(sql, "Third.", agent="pair", thread_id="t")
    assert model.asked[-1] == [*before, "APPROVE", "Third.", "three"]


class Refusal(Exception):
    status_code = 400


async def test_a_state_beyond_the_models_window_is_dropped(sql: Connection, start_worker: StartWorker) -> None:
    model = ReplayModel("one", "APPROVE", Refusal("too long"), "two", "APPROVE", "three", Refusal("a tool ran"))
    await start_worker(autogen_agent("pair", pair(model), keep_state=True, max_attempts=1))
    await run(sql, "First.", agent="pair", thread_id="t")
    row = await run(sql, "Second.", agent="pair", thread_id="t")
    assert (row["state"], row["result"]) == ("completed", "APPROVE")
    assert [len(asked) for asked in model.asked[2:4]] == [5, 2]  # with the state, and without
    [dropped] = [entry.data for entry in await log(sql, row["message_id"]) if entry.type == "state_dropped"]
    assert dropped == {"reason": "the model refuses the request: too long"}
    assert "First." not in str(await states(sql))
    row = await run(sql, "Third.", agent="pair", thread_id="t")  # calls were made and stored
    assert (row["state"], row["error"]) == ("failed", "Refusal: a tool ran")


async def test_a_failed_message_does_not_change_the_memory(sql: Connection, start_worker: StartWorker) -> None:
    model = ReplayModel("one", "APPROVE", "two", RuntimeError("no"), "three", "APPROVE")
    await start_worker(autogen_agent("pair", pair(model), keep_state=True, max_attempts=1))
    await run(sql, "First.", agent="pair", thread_id="t")
    assert (await run(sql, "Second.", agent="pair", thread_id="t"))["state"] == "failed"
    await run(sql, "Third.", agent="pair", thread_id="t")
    assert model.asked[-2] == ["You are writer.", "First.", "one", "APPROVE", "Third."]


async def test_a_parked_team_remembers_the_answer(sql: Connection, start_worker: StartWorker) -> None:
    model = ReplayModel("one", "two")
    await start_worker(autogen_agent("asks", asking(model, max_turns=2), keep_state=True))
    for count, text in enumerate(("First.", "Second.")):
        message_id = await submit(sql, text, agent="asks", thread_id="t")
        await asked_input(sql, message_id)
        await give_input(sql, message_id, f"answer {count}")
        assert (await settled(sql, message_id))["result"] == f"answer {count}"
    assert model.asked[-1] == ["You are writer.", "First.", "one", "answer 0", "Second."]


async def test_a_single_agent_remembers_its_thread(sql: Connection, start_worker: StartWorker) -> None:
    model = ReplayModel("one", "two")
    await start_worker(autogen_agent("alone", lambda kit: assistant("writer", kit.model(model)), keep_state=True))
    await run(sql, "First.", agent="alone", thread_id="t")
    await run(sql, "Second.", agent="alone", thread_id="t")
    assert model.asked[-1] == ["You are writer.", "First.", "one", "Second."]


async def test_a_teams_memory_is_limited(sql: Connection, start_worker: StartWorker) -> None:
    """A state that is too large is dropped, and the thread goes on."""
    model = ReplayModel("x" * 700, "APPROVE", "two", "APPROVE")
    await start_worker(autogen_agent("pair", pair(model), keep_state=True, max_attempts=1), max_event_bytes=2000)
    row = await run(sql, "First.", agent="pair", thread_id="t")
    assert (row["state"], row["result"]) == ("completed", "APPROVE")
    assert await dropped(sql, row) == ["it is larger than a thread's memory may be"]
    assert (await run(sql, "Second.", agent="pair", thread_id="t"))["result"] == "APPROVE"
    assert model.asked[-2] == ["You are writer.", "Second."]


async def dropped(sql: Connection, row: dict[str, Any]) -> list[str]:
    """The reasons for which the message dropped the state of its team."""
    return [entry.data["reason"] for entry in await log(sql, row["message_id"]) if entry.type == "state_dropped"]


async def test_a_team_of_other_agents_begins_without_the_saved_state(
    sql: Connection, start_worker: StartWorker
) -> None:
    def other(kit: Kit) -> RoundRobinGroupChat:
        return RoundRobinGroupChat([assistant("poet", kit.model(ReplayModel("x", "x")))], max_turns=1)

    model = ReplayModel("one", "APPROVE")
    makers = [pair(model), other]

    def make(kit: Kit) -> RoundRobinGroupChat:
        team: RoundRobinGroupChat = makers[0](kit)
        return team

    await start_worker(autogen_agent("pair", make, keep_state=True, max_attempts=1))
    await run(sql, "First.", agent="pair", thread_id="t")
    del makers[0]  # a release
    row = await run(sql, "Second.", agent="pair", thread_id="t")
    assert (row["state"], row["result"]) == ("completed", "x")
    assert await dropped(sql, row) == ["the team cannot load it: Agent state for poet not found in the saved state."]
    assert (await run(sql, "Third.", agent="pair", thread_id="t"))["result"] == "x"


async def test_messages_and_results_have_types(sql: Connection, start_worker: StartWorker) -> None:
    async def task(context: Context, message: UserInput) -> str:
        return f"{message.source}: {message.content}"

    async def make(kit: Kit) -> Any:
        seen.append([str(message.content) for message in await kit.history()])
        return pair(model)(kit)

    seen: list[list[str]] = []
    model = ReplayModel("one", "APPROVE", "two", "APPROVE")
    typed = autogen_agent("typed", make, input=task, output=AgentOutput.of)
    assert typed.input_schema is not None
    await start_worker(typed)
    row = await run(sql, {"content": "Write.", "source": "Ada"}, agent="typed", thread_id="t")
    assert row["result"] == {
        "source": "critic",
        "type": "TextMessage",
        "content": "APPROVE",
        "stop_reason": "Text 'APPROVE' mentioned",
    }
    assert model.asked[0][-1] == "Ada: Write."
    await run(sql, {"content": "Again."}, agent="typed", thread_id="t")
    assert (seen, model.asked[2][-1]) == ([[], ["Write.", "APPROVE"]], "user: Again.")


def test_agent_output_of_a_silent_team_raises() -> None:
    class Nothing:
        messages: Sequence[Any] = ()
        stop_reason = None

    with pytest.raises(ValueError, match="said nothing"):
        AgentOutput.of(Nothing())
