"""Tools of claude_agent: their definitions, and their calls."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from service.agents.rounds.tools import MAX_OUTPUT_CHARS, Tool
from service.db.pool import Connection
from tests.support.claude_runs import StartClaudeAgent, ask_claude, event_data, tool_results
from tests.support.fake_anthropic import FakeAnthropic, tool_calls
from treadle import Context, Rejected, RetryAfter
from treadle.adapters import claude_agent

# The definition that the model receives


class Order(msgspec.Struct):
    number: Annotated[int, Meta(ge=1)]
    goods: list[str] = []


async def find(context: Context, order: Order, *, where: Annotated[str, Meta(description="a town")] = "Rome") -> str:
    """Finds an order.

    In a town.
    """
    return f"{order.number} in {where}"


def clock() -> None: ...


def test_a_typed_function_is_a_tool() -> None:
    assert Tool(find).definition == {
        "name": "find",
        "description": "Finds an order.\n\nIn a town.",
        "input_schema": {
            "type": "object",
            "properties": {
                "order": {"$ref": "#/$defs/Order"},
                "where": {"type": "string", "description": "a town", "default": "Rome"},
            },
            "required": ["order"],
            "additionalProperties": False,
            "$defs": {
                "Order": {
                    "title": "Order",
                    "type": "object",
                    "properties": {
                        "number": {"type": "integer", "minimum": 1},
                        "goods": {"type": "array", "items": {"type": "string"}, "default": []},
                    },
                    "required": ["number"],
                }
            },
        },
    }
    empty = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    assert Tool(clock).definition == {"name": "clock", "description": "", "input_schema": empty}


def untyped(city) -> str: ...  # type: ignore[no-untyped-def, empty-body]


def many(*cities: str) -> str: ...  # type: ignore[empty-body]


def odd(city: Callable[[], None]) -> str: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ([untyped], "the tool untyped: its parameter city has no type"),
        ([many], "the tool many: its parameter cities cannot be passed by name"),
        ([odd], "the tool odd: "),
        ([lambda: 1], "a tool is a function whose name has 1 to 64 letters, digits and _, not <function"),
        ([clock, clock], "two tools have the name 'clock': rename one"),
        ([clock, {"type": "x", "name": "clock"}], "two tools have the name 'clock': rename one"),
    ],
)
def test_invalid_tools_are_refused_when_the_agent_is_made(tools: list[Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        claude_agent("x", tools=tools)
    assert str(caught.value).startswith(said)


# Calls


async def test_the_model_receives_the_errors_of_tools(
    sql: Connection, fake_claude: FakeAnthropic, start_claude: StartClaudeAgent
) -> None:
    def fails(how: str) -> Any:
        match how:
            case "raises":
                raise LookupError("No such city.")
            case "exits":
                raise SystemExit(4)
            case "ends":
                raise StopIteration
            case "is long":
                return "x" * (MAX_OUTPUT_CHARS + 1)
            case _:
                return {"odd": "\ud800"}

    async def fails_too() -> None:
        raise SystemExit(5)

    ways = ("raises", "exits", "ends", "is long", "is odd")
    fake_claude.script.append(
        tool_calls(
            *((how, "fails", {"how": how}) for how in ways),
            ("type", "fails", {"how": 1}),
            ("more", "fails", {"how": "raises", "x": 1}),
            ("none", "flies", {}),
            ("async", "fails_too", {}),
        )
    )
    await start_claude(fails, fails_too)
    message = await ask_claude(sql)
    assert (message["state"], message["result"]) == ("completed", "Hello, world")
    found = {result["tool_use_id"]: result["content"] for result in tool_results(fake_claude, 1)}
    assert all(result["is_error"] for result in tool_results(fake_claude, 1))
    assert found.pop("is odd").startswith("UnicodeEncodeError: ")
    assert found == {
        "raises": "LookupError: No such city.",
        "exits": "SystemExit: 4",
        "ends": "StopIteration",
        "is long": "The result has 100001 characters; at most 100000 are allowed.",
        "type": "The arguments do not fit: Expected `str`, got `int` - at `$.how`.",
        "more": "The arguments do not fit: Object contains unknown field `x`.",
        "none": "There is no tool 'flies'.",
        "async": "SystemExit: 5",
    }
    told = [event for event in await event_data(sql, message, "tool") if "output" in event]
    assert len(told) == 9
    assert all(event["failed"] for event in told)


async def test_a_tool_may_reject_the_message(
    sql: Connection, fake_claude: FakeAnthropic, start_claude: StartClaudeAgent
) -> None:
    ended = asyncio.Event()

    async def refuses() -> None:
        raise Rejected("Not to be done.")

    async def beside() -> str:
        await asyncio.sleep(0)
        ended.set()
        return "done"

    fake_claude.script.append(tool_calls(("a", "refuses", {}), ("b", "beside", {})))
    await start_claude(refuses, beside)
    message = await ask_claude(sql)
    assert (message["state"], message["attempt"], message["error"]) == ("failed", 1, "Not to be done.")
    assert ended.is_set()
    assert "tool 1.2 beside" in [step["name"] for step in await event_data(sql, message, "step")]
    assert message["usage"]["output_tokens"] == 22
    assert len(fake_claude.requests) == 1


async def test_a_tool_may_delay_the_message(
    sql: Connection, fake_claude: FakeAnthropic, start_claude: StartClaudeAgent
) -> None:
    calls: list[str] = []

    async def busy() -> str:
        calls.append("busy")
        if len(calls) < 3:
            raise RetryAfter(0.01, "Later.")
        return "now"

    async def beside() -> str:
        calls.append("beside")
        return "done"

    fake_claude.script.append(tool_calls(("a", "busy", {}), ("b", "beside", {})))
    await start_claude(busy, beside)
    message = await ask_claude(sql)
    assert (message["result"], message["attempt"], calls) == ("Hello, world", 2, ["busy", "beside", "busy"])
    assert [retry["error"] for retry in await event_data(sql, message, "retry")] == ["Later."]
    assert [result["content"] for result in tool_results(fake_claude, 1)] == ["now", "done"]
