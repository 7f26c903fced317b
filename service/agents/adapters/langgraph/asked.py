"""What a client of LangGraph's own API asks of a run; it travels in `metadata["langgraph"]` of the message."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

import msgspec

from service.agents.adapters.langgraph.inputs import refuse_orders_in
from service.agents.contract import Rejected

END = "__end__"  # LangGraph's name for the end of a graph
MEMORY_KEY = "langgraph"  # in the thread's memory: the states of graphs by the name of the agent
SEED = "treadle_seed"  # in the metadata of a checkpoint: the state before the message
PASSED_ON = ("debug", "tasks", "checkpoints")  # modes whose events are LangGraph's own
RESERVED = ("thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map")  # of `configurable`
# Of `configurable`, too: what LangGraph itself sets, and the user that its server has authenticated.
RESERVED_PREFIXES = ("__pregel_", "langgraph_auth_")


class Asked(msgspec.Struct, frozen=True):
    stream_mode: tuple[str, ...] = ("values",)
    stream_subgraphs: bool = False
    command: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    context: dict[str, Any] | None = None
    interrupt_before: Any = None
    interrupt_after: Any = None
    update: dict[str, Any] | None = None
    checkpoint: str | None = None  # the message after whose state it begins (empty: no state); None: the last one
    resumes: bool = False  # it has no input: the graph goes on with the nodes that are due

    @property
    def modes(self) -> list[str]:
        return [mode for mode in PASSED_ON if mode in self.stream_mode]

    @property
    def wants_values(self) -> bool:
        return "values" in self.stream_mode

    @property
    def wants_messages(self) -> bool:
        return not {"messages", "messages-tuple"}.isdisjoint(self.stream_mode)

    @property
    def options(self) -> dict[str, Any]:
        """The `config` of the run, but for the names that Treadle gives, and for values that LangGraph's API refuses:
        a message of before that check may have them."""
        given = self.config or {}
        own = given.get("configurable")
        configurable = {
            name: value
            for name, value in (own if isinstance(own, dict) else {}).items()
            if name not in RESERVED and not name.startswith(RESERVED_PREFIXES)
        }
        limit = given.get("recursion_limit")
        has_limit = type(limit) is int and limit > 0
        return {"configurable": configurable} | ({"recursion_limit": limit} if has_limit else {})

    def context_of(self, graph: Any) -> Any:
        """The `context`, as LangGraph makes it for the graph's context_schema. Raises Rejected if it does not fit."""
        schema = getattr(graph, "context_schema", None)
        is_class = is_dataclass(schema) or hasattr(schema, "model_validate")
        if self.context is None or schema is None or not is_class:
            return self.context
        try:
            return schema(**self.context)
        except Exception as error:  # of Pydantic, or of the author's class
            raise Rejected(f"The context does not fit the graph's context_schema: {error}") from error

    def breakpoints(self, graph: Any) -> dict[str, Any]:
        """Raises Rejected for a node that the graph does not have."""
        given = {"interrupt_before_nodes": self.interrupt_before, "interrupt_after_nodes": self.interrupt_after}
        for nodes in given.values():
            for node in nodes if isinstance(nodes, list) else ():
                if node not in graph.nodes:
                    raise Rejected(f"A breakpoint names the node {node!r}, which the graph does not have.")
        return {name: nodes for name, nodes in given.items() if nodes}

    def start(self, graph: Any) -> Any:
        """A Command, where the client gives one in place of an input; else None. Raises Rejected."""
        from langgraph.types import Command, Send

        command = self.command or {}
        update, goto = command.get("update"), command.get("goto")
        if update is None and goto is None:
            return None
        update = _pairs(update)
        places = []
        for place in goto if isinstance(goto, list) else [] if goto is None else [goto]:
            node = place.get("node") if isinstance(place, dict) else place
            if not isinstance(node, str) or (node not in graph.nodes and node != END):
                raise Rejected(f"command.goto names the node {node!r}, which the graph does not have.")
            if isinstance(place, dict):
                refuse_orders_in(place.get("input"))
            places.append(Send(node, place.get("input")) if isinstance(place, dict) else node)
        return Command(update=update, goto=places)


def _pairs(update: Any) -> list[tuple[str, Any]] | None:
    """As LangGraph takes them: it leaves out an update by lists. Raises Rejected."""
    if update is None:
        return None
    given = list(update.items()) if isinstance(update, dict) else update
    if not isinstance(given, list) or not all(_is_pair(pair) for pair in given):
        raise Rejected("command.update must be an object, or a list of pairs of a name and a value.")
    for name, value in given:
        refuse_orders_in({name: value})
    return [(name, value) for name, value in given]


def _is_pair(item: Any) -> bool:
    return isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[0], str)


def asked_of(metadata: Mapping[str, Any]) -> Asked | None:
    """None for a message that came another way. Raises Rejected."""
    if "langgraph" not in metadata:
        return None
    try:
        return msgspec.convert(metadata["langgraph"], Asked)
    except msgspec.ValidationError as error:
        raise Rejected(f"metadata.langgraph is not what a run of LangGraph's API has: {error}.") from None
