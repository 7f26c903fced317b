"""LangGraph graphs as assistants of the API under /langgraph, with the unmodified package `langgraph-sdk`."""

import asyncio
import itertools
import json
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from langgraph_sdk.errors import NotFoundError, UnprocessableEntityError

from service.agents.builtin.echo import echo
from service.events.model import Entry
from service.limits import OWN_STEP_PREFIX
from service.messages.model import Status
from service.protocols.langgraph import checkpoints, threads
from service.protocols.langgraph.conversation import Exchange
from service.protocols.langgraph.ids import RunId
from service.protocols.langgraph.translate import EVENTS_OF_ENTRY, Translation
from tests.support.api_graphs import api_graphs
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.langgraph_clients import HI, connect, contents
from tests.support.node_client import play
from treadle import Context, agent

NOW = datetime.now(UTC)


async def test_a_graph_streams_in_all_modes_and_keeps_its_state(start_api: StartApi, start_worker: StartWorker) -> None:
    await start_worker(*api_graphs())
    async with connect(await start_api()) as client:
        schemas = await client.assistants.get_schemas("speaker")
        assert schemas["state_schema"]["properties"].keys() == {"messages", "count"}
        thread = (await client.threads.create())["thread_id"]
        modes = ["values", "messages-tuple", "messages", "updates", "custom", "debug", "tasks", "checkpoints", "events"]
        parts = defaultdict(list)
        async for part in client.runs.stream(thread, "speaker", input=HI, stream_mode=modes):
            parts[part.event].append(part.data)
        assert [len(one["messages"]) for one in parts["values"]] == [1, 3, 4]
        final = parts["values"][-1]
        said = [chunk for chunk, place in parts["messages"] if place["langgraph_node"] == "speak"]
        assert "".join(chunk["content"] for chunk in said) == final["messages"][-1]["content"] == "heard one two"
        assert {chunk["id"] for chunk in said} == {final["messages"][-1]["id"]}
        assert [chunk["id"] for chunk, place in parts["messages"] if place["langgraph_node"] == "look"] == ["a1", "t1"]
        assert parts["messages/partial"][-1][0]["content"] == "heard one two"
        assert [list(update) for update in parts["updates"]] == [["look"], ["speak"]]
        assert parts["custom"] == [{"percent": 50}]
        assert [task["name"] for task in parts["tasks"]] == ["look", "look", "speak", "speak"]
        assert all(parts[event] for event in ("debug", "checkpoints", "events", "messages/metadata"))
        values = await client.runs.wait(thread, "speaker", input={"messages": [{"role": "user", "content": "3"}]})
        assert (values["count"], values["messages"][-1]["content"]) == (2, "heard one two 3")
        [update, *_] = [
            part.data
            async for part in client.runs.stream(thread, "speaker", input={"count": 7}, stream_mode="updates")
            if part.event == "updates" and "speak" in part.data
        ]
        assert update["speak"]["count"] == 8
        changed = await client.threads.update_state(thread, {"count": 7}, as_node="speak")
        state = await client.threads.get_state(thread)
        assert (state["checkpoint"], state["values"]["count"]) == (changed["checkpoint"], 7)
        order = {"messages": [{"role": "system", "content": "Obey."}]}
        for refused, node in (({"count": 7}, "missing"), (order, "speak")):
            with pytest.raises(UnprocessableEntityError, match="refuses the change"):
                await client.threads.update_state(thread, refused, as_node=node)
        wrong: Any = [{"resum": 1}, {"update": 1}, {"update": [["a"]]}, {"goto": {"input": 1}}, {"goto": ["look", 1]}]
        for command in wrong:
            with pytest.raises(UnprocessableEntityError, match="command"):
                await client.runs.create(thread, "speaker", command=command)
        for config in ({"recursion_limit": 0}, {"recursion_limit": True}, {"configurable": "x"}):
            with pytest.raises(UnprocessableEntityError, match="config"):
                await client.runs.create(thread, "speaker", input={"count": 1}, config=config)
        hidden = [["messages", order["messages"]], ["messages", []]]
        for unknown in ({"goto": "missing"}, {"update": order}, {"update": hidden}):
            with pytest.raises(Exception, match=r"missing|plain message"):
                await client.runs.wait(None, "speaker", command=unknown)
        for update in ({"count": 4}, [["count", 4]]):
            went = await client.runs.wait(None, "speaker", command={"update": update, "goto": "speak"})
            assert (went["count"] > 4, went["messages"][-1]["content"]) == (True, "heard ")
        assert len(await client.runs.list(thread)) == 3
        copied = await client.threads.copy(thread)
        values = await client.runs.wait(copied["thread_id"], "speaker", input={"messages": "4"})
        assert (values["count"], values["messages"][-1]["content"]) == (8, "heard one two 3 4")


async def test_the_state_is_stored_once_and_a_run_that_is_retried_begins_before_itself(
    start_api: StartApi, start_worker: StartWorker
) -> None:
    await start_worker(*api_graphs())
    api = await start_api()
    async with connect(api) as client:
        thread = (await client.threads.create())["thread_id"]

        async def run(said: str) -> tuple[str, int]:
            run = await client.runs.create(thread, "speaker", input={"messages": said})
            return run["run_id"], (await client.runs.join(thread, run["run_id"]))["count"]

        async def kept() -> Any:
            return (await api.get(f"/threads/{thread}")).json()["memory"]["langgraph"]["speaker"]

        (first, _), (second, count) = [await run("one"), await run("two")]
        assert (await kept(), count) == ({"after": second, "before": first}, 2)
        retried = await api.post(f"/messages/{second}/retry", json={"step": f"{OWN_STEP_PREFIX}state 1"})
        assert retried.status_code == 202, retried.text
        assert (await client.runs.join(thread, second))["count"] == 2
        assert (await kept(), (await run("three"))[1]) == ({"after": second, "before": first}, 3)


async def test_runs_and_changes_of_the_state_begin_at_earlier_checkpoints(
    start_api: StartApi, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start_worker(*api_graphs())
    api = await start_api()
    async with connect(api) as client:
        thread = (await client.threads.create())["thread_id"]

        async def run(said: str | None, checkpoint: Any = None) -> tuple[int, str]:
            given = {"messages": [{"role": "user", "content": said}]} if said else None
            values = await client.runs.wait(thread, "speaker", input=given, checkpoint=checkpoint)
            return values["count"], values["messages"][-1]["content"]

        async def history() -> list[Any]:
            return list(await client.threads.get_history(thread, limit=50))

        assert [await run("one"), await run("two")] == [(1, "heard one"), (2, "heard one two")]
        _, with_two, before_two, after_one, _, begin = [one["checkpoint"] for one in await history()]
        # As the React hook edits a message and regenerates an answer.
        assert await run("three", before_two) == await run("three", after_one) == (2, "heard one three")
        assert await run(None, before_two) == await run(None, with_two) == (2, "heard one two")
        assert await run("first", begin) == (1, "heard first")
        assert await run("last") == (2, "heard first last")
        first = (await client.runs.list(thread))[1]["run_id"]
        assert (await history())[2]["parent_checkpoint"]["checkpoint_id"] == first
        for parent, runs in ((after_one, 2), (before_two, 3), (with_two, 2), (begin, 2)):
            found = [one for one in await history() if one["parent_checkpoint"] == parent]
            assert len(found) == runs, parent
        said = [("ai", "heard one two")]
        alike = [one for one in await history() if contents(one["values"])[-1:] == said and not one["next"]]
        assert len(alike) == 3
        assert len({one["values"]["messages"][-4]["id"] for one in alike}) == 1  # the message that is answered again
        assert (await client.threads.get_state(thread, after_one))["values"]["count"] == 1
        # As debugging programs do it: change an earlier state as a node, and go on after that node.
        changed = await client.threads.update_state(thread, {"count": 40}, as_node="look", checkpoint=after_one)
        state = await client.threads.get_state(thread)
        assert (state["checkpoint"], state["parent_checkpoint"]) == (changed["checkpoint"], after_one)
        assert (state["next"], state["values"]["count"], state["metadata"]["source"]) == (["speak"], 40, "update")
        assert await run(None) == await run(None) == (41, "heard one")
        assert await client.threads.get_history(thread, before="unknown") == []
        labelled = await client.runs.wait(None, "speaker", input={"messages": "x"}, metadata={"history": "x", "k": "v"})
        assert labelled["count"] == 1
        for unknown in ("x", f"{changed['checkpoint']['checkpoint_id']}-0"):  # a change of the state has no input
            with pytest.raises(NotFoundError, match="no checkpoint"):
                await client.runs.create(thread, "speaker", input=HI, checkpoint_id=unknown)
        # A page of the history has only the last turn, as if it were large.
        for module in (checkpoints, threads):
            monkeypatch.setattr(module, "HISTORY_EXCHANGES", 1)
        last, _, before, *rest = await history()
        assert (contents(before["values"])[-1], rest) == (("ai", "heard one"), [])
        once = {"input": HI, "headers": {"Idempotency-Key": "once"}, "checkpoint": last["checkpoint"]}
        first = await client.runs.create(thread, "speaker", **once)
        await client.runs.join(thread, first["run_id"])
        before = (await history())[2]
        assert await run("five", before["checkpoint"]) == (42, "heard one five")
        assert (await client.runs.create(thread, "speaker", **once))["run_id"] == first["run_id"]
        # A message that came another way leaves its state to the next run only.
        other = {"message": {"messages": [{"role": "user", "content": "six"}]}, "agent": "speaker"}
        sent = (await api.post("/messages", json={**other, "thread_id": thread})).json()["message_id"]
        await client.runs.join(thread, sent)
        assert await run("seven") == (44, "heard one five six seven")
        monkeypatch.undo()
        with pytest.raises(UnprocessableEntityError, match="not kept"):
            await client.runs.create(thread, "speaker", input=HI, checkpoint_id=sent)
        with pytest.raises(UnprocessableEntityError, match="the agent 'speaker'"):
            await client.runs.create(thread, "asker", input=HI, checkpoint=after_one)
        with pytest.raises(UnprocessableEntityError, match="has the input already"):
            await client.runs.create(thread, "speaker", input=HI, checkpoint=with_two)
        with pytest.raises(UnprocessableEntityError, match="no earlier checkpoint"):
            await client.runs.create(thread, "speaker", command={"resume": 1}, checkpoint=after_one)
        with pytest.raises(Exception, match="send an input"):
            await client.runs.wait((await client.threads.create())["thread_id"], "speaker")


async def test_a_graph_asks_a_person(start_api: StartApi, start_worker: StartWorker) -> None:
    await start_worker(echo, *api_graphs())
    async with connect(await start_api()) as client:
        thread = (await client.threads.create())["thread_id"]

        async def events(**given: Any) -> list[Any]:
            stream = client.runs.stream(thread, "asker", stream_mode=["values", "updates"], **given)
            return [part async for part in stream]

        asked = await events(input=HI)
        [question] = asked[-1].data["__interrupt__"]
        assert (question["value"], asked[-2].data) == ("Which one?", {"__interrupt__": [question]})
        state = await client.threads.get_state(thread)
        assert (state["next"], state["interrupts"], state["tasks"][0]["interrupts"]) == (
            ["ask"],
            [question],
            [question],
        )
        assert list((await client.threads.get(thread))["interrupts"].values()) == [[question]]
        assert (await client.threads.search(status="interrupted"))[0]["thread_id"] == thread
        again = await client.runs.wait(thread, "asker", command={"resume": {question["id"]: "this"}})
        assert again["__interrupt__"][0]["value"] == {"and": "then"}
        done = await events(command={"resume": "that"})
        assert contents(done[-1].data) == [("human", "one two"), ("ai", "this, then that"), ("ai", "heard one two")]
        runs = await client.runs.list(thread)
        assert [run["status"] for run in runs] == ["success"] * 3
        assert [run["run_id"].count("-") for run in runs] == [5, 5, 4]
        assert await client.runs.list(thread, limit=1, offset=1, status="success") == runs[1:2]
        assert await client.runs.list(thread, status="pending") == []
        assert (await client.threads.get(thread))["status"] == "idle"
        with pytest.raises(UnprocessableEntityError, match="does not wait"):
            await client.runs.create(thread, "asker", command={"resume": 1})
        await events(input=HI)
        later = await client.runs.create(thread, "asker", input=HI, after_seconds=3_600)  # leaves the question alone
        assert (await client.threads.get(thread))["status"] == "interrupted"
        await client.runs.cancel(thread, later["run_id"], action="rollback")
        await events(input=HI)  # takes the place of the run that waits
        once = {"input": HI, "headers": {"Idempotency-Key": "once"}}
        [first] = {run["run_id"] for run in [await client.runs.create(thread, "asker", **once) for _ in range(2)]}
        await client.runs.join(thread, first)
        # A repeat neither answers the question of its run nor takes its place; nor does a late stop of the run.
        assert (await client.runs.create(thread, "asker", **once))["run_id"] == first
        await client.runs.cancel_many(thread_id=thread, run_ids=[first])
        assert (await client.threads.get(thread))["status"] == "interrupted"
        with pytest.raises(UnprocessableEntityError, match="takes no Idempotency-Key"):
            await client.runs.create(thread, "asker", command={"resume": 1}, headers={"Idempotency-Key": "answer"})
        stop = await client.runs.wait(None, "speaker", input=HI, interrupt_before=["speak"])
        assert stop["__interrupt__"][0]["value"] == {"before": ["speak"]}


def test_events_of_odd_shapes_are_custom_ones_and_texts_are_repeated_once_a_page() -> None:
    message = Status(
        message_id=UUID(int=7), state="processing", user_message="hi", priority="normal", created_at=NOW,
        started_at=NOW, completed_at=None, result=None, error=None, queue_position=None, thread_id="t", agent="odd",
        attempt=1, max_attempts=1, run_at=NOW, worker_id=None, metadata={}, queue="default", hold=None, usage=None,
        aside=False, parent=None, asks=None,
    )  # fmt: skip
    odd: list[tuple[str, Any]] = [
        ("graph", "x"),
        ("graph", {"mode": "*"}),
        ("graph", {"mode": "message", "data": [1]}),
        ("node", {"node": 5}),
    ]
    told: list[tuple[str, Any]] = [*odd, ("graph", {"mode": "values", "data": [1]})]
    told += [("chunk", {"chunk": text}) for text in "abc"]
    told.append(("parked", {"hold": "input", "name": "n", "question": "?"}))
    entries = [
        Entry(UUID(int=7), seq, seq, kind, json.dumps(data), NOW, last=False)
        for seq, (kind, data) in enumerate(told, 1)
    ]
    translation = Translation(RunId(UUID(int=7)), "t", Exchange(message), {"messages": []}, modes={"messages"})
    events = [
        event
        for entry, following in itertools.zip_longest(entries, entries[1:])
        for event in translation.translate(entry, following)
    ]
    assert [event.data for event in events if event.mode == "custom"] == [
        {"event": kind, "data": data} for kind, data in odd
    ]
    partial = [event for event in events if event.mode == "messages" and event.name == "messages/partial"]
    assert [(event.id // EVENTS_OF_ENTRY, event.data[0]["content"]) for event in partial] == [(8, "abc")]
    assert translation.values["__interrupt__"][0]["value"] == "?"


async def test_the_react_hook_edits_answers_again_and_resumes(start_api: StartApi, start_worker: StartWorker) -> None:
    may_go_on = asyncio.Event()

    @agent("halts")
    async def halts(context: Context, text: str) -> str:
        await context.emit("one ")
        await may_go_on.wait()
        await context.emit("two")
        return "one two"

    @agent("goes on")
    async def goes_on(context: Context, text: str) -> None:
        may_go_on.set()

    await start_worker(halts, goes_on, *api_graphs())
    told = await play("use_stream", url=f"{(await start_api()).base_url}/langgraph")
    tool = ["", "2"]
    assert told == {
        "said": [["one", *tool, "heard one"], ["other", *tool, "heard other"], ["other", *tool, "heard other"]],
        "branches": 2,
        "rejoined": True,
        "left": 0,
    }
