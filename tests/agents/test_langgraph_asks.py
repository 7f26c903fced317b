"""LangGraph graphs that ask a person: the message is parked, and continues where the graph stopped."""

import asyncio
import warnings
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from service.config import Settings
from service.db.pool import Connection
from tests.support.fixture_types import StartWorker
from tests.support.graphs import (
    Checkpoints,
    Nodes,
    Numbers,
    chain_graph,
    graph_agent,
    stored_checkpoints,
)
from tests.support.inputs import asked_input, give_input
from tests.support.invariants import assert_consistent
from tests.support.messages import run, settled, submit, types
from tests.support.workers import running_worker
from treadle import Agent
from treadle.adapters import langgraph_agent


@pytest.fixture
async def checkpoints(dsn: str) -> Checkpoints:
    return await stored_checkpoints(dsn)


@pytest.mark.parametrize("given", [7, "seven", {}, {"sure": True}, [1, 2], None, False], ids=str)
async def test_an_interrupt_parks_the_message_until_it_is_answered(
    sql: Connection, settings: Settings, checkpoints: Checkpoints, given: Any
) -> None:
    """Another worker continues the graph."""

    def made() -> Agent:
        graph = chain_graph(
            Numbers, one=nodes.plain("one"), ask=nodes.asking("ask", {"how": "many"}), end=nodes.plain("end")
        )
        return graph_agent(graph, checkpoints)

    nodes = Nodes()
    async with running_worker(sql, settings, made()):
        message_id = await submit(sql, {"numbers": []}, agent="asks", thread_id="t")
        asked = await asked_input(sql, message_id)
    assert asked["question"] == {"how": "many"}
    assert asked["name"].startswith("interrupt ")
    assert nodes.calls == ["one", "ask"]
    async with running_worker(sql, settings, made()):
        await give_input(sql, message_id, given, asked["name"])
        row = await settled(sql, message_id)
    assert (row["state"], row["attempt"], row["failures"], row["result"]) == ("completed", 2, 0, [0, given, 2])
    assert nodes.calls == ["one", "ask", "ask", "end"]
    assert await types(sql, message_id) == [
        *("queued", "started", "node", "parked", "input"),
        *("started", "node", "node", "done"),
    ]
    await assert_consistent(sql)


async def test_concurrent_interrupts_are_asked_in_turn(
    sql: Connection, start_worker: StartWorker, checkpoints: Checkpoints
) -> None:
    nodes = Nodes()
    graph: Any = StateGraph(Numbers)
    graph.add_node("a", nodes.asking("a", "a?"))
    graph.add_node("b", nodes.plain("b"))
    graph.add_node("c", nodes.asking("c", "c?"))
    graph.add_node("end", nodes.plain("end"))
    for name in "abc":
        graph.add_edge(START, name)
    graph.add_edge(["a", "b", "c"], "end")
    await start_worker(graph_agent(graph, checkpoints))
    message_id = await submit(sql, {"numbers": []}, agent="asks")
    answers = {"a?": 10, "c?": 30}
    first = await asked_input(sql, message_id)
    await give_input(sql, message_id, answers.pop(first["question"]))
    second = await asked_input(sql, message_id, 2)
    assert nodes.calls == ["a", "b", "c"]
    await give_input(sql, message_id, answers.pop(second["question"]))
    row = await settled(sql, message_id)
    assert (row["result"], nodes.calls) == ([10, 0, 30, 3], ["a", "b", "c", "a", "c", "end"])


def tools_agent(checkpoints: Checkpoints, *tools: Any) -> Agent:
    """A graph whose model calls each of the tools in one step; its result are the tools' answers."""
    with warnings.catch_warnings():  # LangGraph's own module uses names that LangGraph has moved
        warnings.simplefilter("ignore")
        from langgraph.prebuilt import ToolNode

    async def wants(state: Any) -> dict[str, Any]:
        calls: list[Any] = [{"name": one.name, "args": {}, "id": one.name, "type": "tool_call"} for one in tools]
        return {"messages": [AIMessage("", tool_calls=calls)]}

    def answers(state: Any) -> Any:
        return [message.content for message in state["messages"] if message.type == "tool"]

    graph = chain_graph(MessagesState, model=wants, tools=ToolNode(tools))
    return langgraph_agent("asks", graph, checkpointer=checkpoints, output=answers)


@pytest.mark.parametrize("same_text", [False, True])
async def test_each_tool_of_a_step_receives_its_own_answer(
    sql: Connection, start_worker: StartWorker, checkpoints: Checkpoints, same_text: bool
) -> None:
    """The second tool is the first one to ask, if both run at the same time."""
    ran: list[str] = []
    second_asks = asyncio.Event()

    @tool
    async def wire() -> str:
        """Wires money."""
        if len(ran) < 2:
            await asyncio.wait({asyncio.ensure_future(second_asks.wait())}, timeout=0.2)
        ran.append("wire")
        return f"wire: {interrupt('Sure?' if same_text else 'Wire?')}"

    @tool
    async def mail() -> str:
        """Sends a mail."""
        ran.append("mail")
        second_asks.set()
        return f"mail: {interrupt('Sure?' if same_text else 'Mail?')}"

    await start_worker(tools_agent(checkpoints, wire, mail))
    message_id = await submit(sql, {"messages": []}, agent="asks")
    first = await asked_input(sql, message_id)
    await give_input(sql, message_id, "NO", first["name"])
    second = await asked_input(sql, message_id, 2)
    await give_input(sql, message_id, "YES", second["name"])
    row = await settled(sql, message_id)
    assert (row["state"], row["result"]) == ("completed", ["wire: NO", "mail: YES"]), row["error"]
    if not same_text:
        assert (first["question"], second["question"]) == ("Wire?", "Mail?")


async def test_each_graph_of_a_tool_receives_its_own_answers(
    sql: Connection, start_worker: StartWorker, checkpoints: Checkpoints
) -> None:
    """The graph of the second tool is the first one to start, but only in the first attempt."""
    nodes = Nodes()
    mail_started = asyncio.Event()

    @tool
    async def wire() -> str:
        """Wires money."""
        await mail_started.wait()
        graph: Any = chain_graph(Numbers, ask=nodes.asking("wire", "Wire?", "Wire it?")).compile()
        return f"wire: {(await graph.ainvoke({'numbers': []}))['numbers']}"

    @tool
    async def mail() -> str:
        """Sends a mail."""
        graph: Any = chain_graph(Numbers, first=nodes.plain("first"), ask=started("Mail?", "Mail it?")).compile()
        return f"mail: {(await graph.ainvoke({'numbers': []}))['numbers']}"

    def started(*questions: str) -> Any:
        async def ask(state: Numbers) -> Any:
            mail_started.set()
            return {"numbers": [interrupt(question) for question in questions]}

        return ask

    await start_worker(tools_agent(checkpoints, wire, mail))
    message_id = await submit(sql, {"messages": []}, agent="asks")
    asked = []
    for count in range(1, 5):
        asked.append((await asked_input(sql, message_id, count))["question"])
        await give_input(sql, message_id, asked[-1].upper())
    row = await settled(sql, message_id)
    assert sorted(asked) == ["Mail it?", "Mail?", "Wire it?", "Wire?"]
    assert row["result"] == ["wire: ['WIRE?', 'WIRE IT?']", "mail: [0, 'MAIL?', 'MAIL IT?']"], row["error"]


async def test_a_node_may_ask_the_same_question_twice(
    sql: Connection, start_worker: StartWorker, checkpoints: Checkpoints
) -> None:
    nodes = Nodes()
    await start_worker(graph_agent(chain_graph(Numbers, ask=nodes.asking("ask", "?", "?", "?")), checkpoints))
    message_id = await submit(sql, {"numbers": []}, agent="asks")
    names = []
    for given in (1, 2, 3):
        names.append((await asked_input(sql, message_id, given))["name"])
        await give_input(sql, message_id, given)
    assert (await settled(sql, message_id))["result"] == [1, 2, 3]
    assert names == [names[0], f"{names[0]} 2", f"{names[0]} 3"]


async def test_a_node_that_asks_several_questions_at_once_is_refused(
    sql: Connection, start_worker: StartWorker, checkpoints: Checkpoints
) -> None:
    """LangGraph hands their answers out in the order of the calls, and a person might approve the wrong one."""

    async def confirm(what: str) -> str:
        return str(interrupt(f"{what}?"))

    async def ask(state: Numbers) -> dict[str, Any]:
        return {"numbers": [*await asyncio.gather(confirm("wire"), confirm("mail"))]}

    await start_worker(graph_agent(chain_graph(Numbers, ask=ask), checkpoints))
    row = await run(sql, {"numbers": []}, agent="asks")
    assert (row["state"], row["attempt"]) == ("failed", 1)
    assert row["error"].startswith("A node of the graph asks several questions at the same time")


async def test_a_node_may_ask_in_a_loop(sql: Connection, start_worker: StartWorker, checkpoints: Checkpoints) -> None:
    nodes = Nodes()
    graph = chain_graph(Numbers, ask=nodes.asking("ask", "more?"))
    graph.add_conditional_edges("ask", lambda state: "ask" if state["numbers"][-1] else "__end__")
    await start_worker(graph_agent(graph, checkpoints))
    message_id = await submit(sql, {"numbers": []}, agent="asks")
    names = set()
    for count, given in enumerate((5, 4, 0), 1):
        names.add((await asked_input(sql, message_id, count))["name"])
        await give_input(sql, message_id, given)
    assert (await settled(sql, message_id))["result"] == [5, 4, 0]
    assert len(names) == 3
    assert nodes.calls == ["ask"] * 6


async def test_an_inner_graph_may_ask(sql: Connection, start_worker: StartWorker, checkpoints: Checkpoints) -> None:
    nodes = Nodes()
    inner = chain_graph(Numbers, first=nodes.plain("first"), ask=nodes.asking("ask", "one?", "two?")).compile()
    graph = chain_graph(Numbers, before=nodes.plain("before"), inner=inner, after=nodes.plain("after"))
    await start_worker(graph_agent(graph, checkpoints, input=None))
    message_id = await submit(sql, {"numbers": []}, agent="asks")
    assert (await asked_input(sql, message_id))["question"] == "one?"
    await give_input(sql, message_id, 10)
    assert (await asked_input(sql, message_id, 2))["question"] == "two?"
    await give_input(sql, message_id, 20)
    row = await settled(sql, message_id)
    assert row["result"][-3:] == [10, 20, len(row["result"]) - 1]
    assert [name for name in nodes.calls if name != "ask"] == ["before", "first", "after"]


async def test_a_graph_created_by_a_node_may_ask(
    sql: Connection, start_worker: StartWorker, checkpoints: Checkpoints
) -> None:
    """LangGraph does not list it among the graph's subgraphs."""
    nodes = Nodes()
    failed: list[bool] = []

    async def ask(state: Numbers) -> dict[str, Any]:
        found = [interrupt("one?")]
        if not failed:
            failed.append(True)
            raise RuntimeError("at first")
        return {"numbers": [*found, interrupt("two?")]}

    async def makes(state: Numbers) -> dict[str, Any]:
        inner = chain_graph(Numbers, first=nodes.plain("first"), ask=ask).compile()
        return {"numbers": (await inner.ainvoke({"numbers": []}))["numbers"]}

    await start_worker(graph_agent(chain_graph(Numbers, makes=makes), checkpoints))
    message_id = await submit(sql, {"numbers": []}, agent="asks")
    for count, (question, given) in enumerate((("one?", 10), ("two?", 20)), 1):
        assert (await asked_input(sql, message_id, count))["question"] == question
        await give_input(sql, message_id, given)
    row = await settled(sql, message_id)
    assert (row["result"], nodes.calls) == ([0, 10, 20], ["first"])
    assert (await types(sql, message_id)).count("retry") == 1


async def test_tasks_of_an_entrypoint_may_ask(
    sql: Connection, start_worker: StartWorker, checkpoints: Checkpoints
) -> None:
    calls: list[str] = []

    @task
    async def slow(number: int) -> int:
        calls.append("slow")
        return number + 1

    @task
    async def ask(question: str) -> Any:
        calls.append(question)
        return interrupt(question), interrupt(question)

    @entrypoint()
    async def work(state: dict[str, Any]) -> Any:
        return [await slow(1), *(await ask("a?")), interrupt("b?")]

    await start_worker(langgraph_agent("asks", work, checkpointer=checkpoints))
    message_id = await submit(sql, {}, agent="asks")
    for count, question in enumerate(("a?", "a?", "b?"), 1):
        assert (await asked_input(sql, message_id, count))["question"] == question
        await give_input(sql, message_id, count)
    assert (await settled(sql, message_id))["result"] == [2, 1, 2, 3]
    assert calls.count("slow") == 1
