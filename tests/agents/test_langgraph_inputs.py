"""What a client asks of a LangGraph graph that the graph cannot take: one attempt finds it, and no node runs."""

import operator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from langgraph.graph import MessagesState
from langgraph.runtime import Runtime
from pydantic import BaseModel, ValidationError

from tests.support.graphs import chain_graph
from treadle import Agent, Context, Rejected
from treadle.adapters import langgraph_agent
from treadle.testing import FakeContext


class Limits(BaseModel):
    most: int


@dataclass
class Person:
    name: str

    def __post_init__(self) -> None:
        if not self.name:
            raise LookupError("It has no name.")


def _agent(context_schema: Any, seen: list[Any]) -> Agent:
    async def look(state: MessagesState, runtime: Runtime[Any]) -> dict[str, Any]:
        seen.append(runtime.context)
        return {}

    graph = chain_graph(MessagesState, look=look)
    graph.context_schema = context_schema
    return langgraph_agent("looks", graph.compile(), output=lambda state: len(state["messages"]))


def _asked(**asked: Any) -> FakeContext:
    return FakeContext(metadata={"langgraph": asked})


@pytest.mark.parametrize(
    ("schema", "given"),
    [
        (Limits, {"most": "many"}),
        (Limits, {}),
        (Person, {"nope": 1}),
        (Person, {"self": 1}),
        (Person, {"name": ""}),
    ],
)
async def test_a_context_that_does_not_fit_is_rejected(schema: Any, given: Any) -> None:
    seen: list[Any] = []
    with pytest.raises(Rejected, match="context does not fit the graph's context_schema"):
        await _agent(schema, seen)(_asked(context=given), "Hi")
    assert seen == []


@pytest.mark.parametrize(
    ("schema", "given", "made"),
    [
        (Limits, {"most": "3"}, Limits(most=3)),
        (Person, {"name": "Ann"}, Person("Ann")),
        (Person, None, None),
        (dict, {"any": 1}, {"any": 1}),
        (None, {"any": 1}, {"any": 1}),
    ],
)
async def test_a_context_reaches_the_nodes(schema: Any, given: Any, made: Any) -> None:
    seen: list[Any] = []
    assert await _agent(schema, seen)(_asked(context=given), "Hi") == 1
    assert seen == [made]


UNREADABLE: list[Any] = [7, [["user"]], {"role": "user"}, [None], {"role": "user", "content": 7}]


@pytest.mark.parametrize("said", UNREADABLE, ids=str)
@pytest.mark.parametrize("way", ["input", "command", "update"])
async def test_messages_that_langchain_cannot_read_are_rejected(way: str, said: Any) -> None:
    seen: list[Any] = []
    values = {"messages": said}
    ways: dict[str, Any] = {"command": {"command": {"update": values}}, "update": {"update": {"values": values}}}
    with pytest.raises(Rejected, match="LangChain cannot read messages"):
        await _agent(None, seen)(_asked(**ways.get(way, {})), values if way == "input" else {})
    assert seen == []


@pytest.mark.parametrize("said", ["Hi", ["Hi", ["user", "Ho"], {"role": "assistant", "content": "Hey"}]], ids=str)
async def test_other_messages_are_read(said: Any) -> None:
    assert await _agent(None, [])(FakeContext(), {"messages": said}) == (1 if said == "Hi" else 3)


@pytest.mark.parametrize("given", [["Hi", "Ho"], [["user", "Hi"], ["user", "Ho"]], [{"role": "user"}]], ids=str)
async def test_a_state_that_is_a_list_has_no_names(given: Any) -> None:
    """Only the update of a command can be a list of names and values."""

    async def count(state: list[Any]) -> list[Any]:
        return [len(state)]

    def listed(context: Context, message: list[Any]) -> list[Any]:
        return message

    graph = chain_graph(Annotated[list, operator.add], count=count)
    agent = langgraph_agent("counts", graph.compile(), input=listed, output=lambda state: state[-1])
    assert await agent(FakeContext(), given) == len(given)


class Order(BaseModel):
    pieces: int
    note: str = ""


@pytest.mark.parametrize("given", [{"pieces": "many"}, {"note": "x"}, {}], ids=str)
async def test_an_input_that_does_not_fit_the_state_is_rejected(given: Any) -> None:
    async def never(state: Order) -> None:
        raise AssertionError

    agent = langgraph_agent("orders", chain_graph(Order, never=never).compile())
    with pytest.raises(Rejected, match=r"input does not fit the graph's state: .* for Order"):
        await agent(FakeContext(), given)


async def test_what_a_node_makes_of_the_state_is_an_ordinary_failure() -> None:
    async def make(state: Order) -> Any:
        return Order(pieces="many")  # type: ignore[arg-type]

    agent = langgraph_agent("orders", chain_graph(Order, make=make).compile())
    with pytest.raises(ValidationError, match="for Order"):
        await agent(FakeContext(), {"pieces": 1})
