"""Finds nodes that checkpoints wait for and that the graph does not have: a release has renamed or removed them.

LangGraph itself ignores such nodes, and would end the graph with half a result.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from langgraph.types import StateSnapshot

from service.agents.contract import Rejected

BRANCH, JOIN, SENDS = "branch:to:", "join:", "__pregel_tasks"  # LangGraph's channels of nodes that are due


async def refuse_lost_nodes(graph: Any, saver: Any, saved: StateSnapshot) -> None:
    """Raises Rejected if this graph, or a graph inside it, has lost a node that its last checkpoint waits for."""
    checkpoint = await saver.aget_tuple(saved.config)
    values: Mapping[str, Any] = checkpoint.checkpoint["channel_values"] if checkpoint else {}
    for node in _due(values):
        if node not in graph.nodes:
            raise Rejected(
                f"The checkpoints of this message continue at the node {node!r}, which the graph does not have: keep"
                " the names of nodes while messages are open."
            )
    inner = {name: subgraph async for name, subgraph in graph.aget_subgraphs()}
    for task in saved.tasks:
        if isinstance(task.state, StateSnapshot) and task.state.created_at and task.name in inner:
            await refuse_lost_nodes(inner[task.name], saver, task.state)


def _due(values: Mapping[str, Any]) -> Iterator[str]:
    """The nodes that have something to do, by the channels of a checkpoint."""
    for channel, value in values.items():
        if channel.startswith(BRANCH):
            yield channel.removeprefix(BRANCH)
        elif channel.startswith(JOIN) and value:  # the nodes before it that have ended
            yield channel.rpartition(":")[2]
    for send in values.get(SENDS) or ():
        yield send.node
