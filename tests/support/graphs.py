"""LangGraph graphs that tests run as agents, and checkpoint savers for them."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from treadle import Agent
from treadle.adapters import langgraph_agent

Checkpoints = Callable[[], AbstractAsyncContextManager[Any]]


async def stored_checkpoints(dsn: str) -> Checkpoints:
    """LangGraph's own saver in the test's database."""
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        await saver.setup()
    return lambda: AsyncPostgresSaver.from_conn_string(dsn)


def failing_checkpoints(dsn: str, step: int, late: bool) -> Checkpoints:
    """A saver that fails once, right before or after it has stored a super-step's checkpoint."""
    failed: list[bool] = []

    class Saver(AsyncPostgresSaver):
        async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
            due = metadata["step"] == step and not failed
            if due:
                failed.append(True)
            if due and not late:
                raise ConnectionError("before the checkpoint")
            stored = await super().aput(config, checkpoint, metadata, new_versions)
            if due:
                raise ConnectionError("after the checkpoint")
            return stored

    return lambda: Saver.from_conn_string(dsn)


def chain_graph(state: Any, **nodes: Any) -> StateGraph[Any, Any, Any, Any]:
    """A graph of these nodes, one after the other."""
    graph: StateGraph[Any, Any, Any, Any] = StateGraph(state)
    before = START
    for name, node in nodes.items():
        graph.add_node(name, node)
        graph.add_edge(before, name)
        before = name
    return graph


class Numbers(TypedDict):
    numbers: Annotated[list[int], lambda old, new: old + new]


class Nodes:
    """Nodes that note their calls; an asking node adds the answers it is given to the numbers."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def plain(self, name: str) -> Any:
        async def node(state: Any) -> dict[str, Any]:
            self.calls.append(name)
            return {"numbers": [len(state["numbers"])]}

        return node

    def asking(self, name: str, *questions: Any) -> Any:
        async def node(state: Any) -> dict[str, Any]:
            self.calls.append(name)
            return {"numbers": [interrupt(question) for question in questions]}

        return node


def graph_agent(graph: Any, checkpointer: Any, **options: Any) -> Agent:
    return langgraph_agent("asks", graph, output="numbers", checkpointer=checkpointer, **options)
