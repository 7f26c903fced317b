"""The adapters for Pydantic AI and the Agents SDK, each with a fake of a model in the framework's form.

They show text, tool events, retries, questions for a person, and cancellation.
"""

from collections.abc import Callable
from typing import Any

import pytest
from agents import Agent as SdkAgent
from agents import function_tool
from agents.tool_context import ToolContext
from pydantic import BaseModel
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import RunContext
from pydantic_ai.models.test import TestModel

from service.agents.adapters.langgraph.asked import Asked
from service.agents.tool_events import ToolSteps
from service.db.pool import Connection
from tests.support.fixture_types import StartWorker
from tests.support.framework_models import Script, SdkModel, Tools, pydantic_model
from tests.support.inputs import asked_input, give_input
from tests.support.messages import settled, submit
from treadle import Agent, Context
from treadle.adapters import autogen_core_agent, openai_agents_agent, pydantic_ai_agent
from treadle.testing import FakeContext


def with_pydantic_ai(script: Script, tools: Tools, **options: Any) -> Agent:
    made: PydanticAgent[Any, str] = PydanticAgent(pydantic_model(script), system_prompt="Be kind.", deps_type=object)
    made.tool_plain(tools.lookup)
    made.tool_plain(requires_approval=True)(tools.buy)
    return pydantic_ai_agent("asks", made, **options)


def with_agents_sdk(script: Script, tools: Tools, **options: Any) -> Agent:
    lookup, buy = function_tool(tools.lookup), function_tool(tools.buy, needs_approval=True)
    made = SdkAgent[Any](name="Desk", instructions="Be kind.", tools=[lookup, buy], model=SdkModel(script))
    return openai_agents_agent("asks", made, **options)


MAKERS = [with_pydantic_ai, with_agents_sdk]
Make = Callable[..., Agent]


@pytest.fixture(params=MAKERS, ids=["pydantic-ai", "openai-agents"])
def make(request: pytest.FixtureRequest) -> Make:
    return request.param  # type: ignore[no-any-return]


async def test_text_and_tool_events_stream_and_a_retry_repeats_nothing(make: Make, private_text: str) -> None:
    tools = Tools()
    script = Script(("lookup", '{"word": "sky"}'), ConnectionError("away"), "The sky is blue.")
    agent = make(script, tools)
    first = FakeContext(history=[("Hello", "Hi!"), ({"content": "Which form?"}, {"form": "json"})])
    with pytest.raises(ConnectionError, match="away"):
        await agent(first, private_text)
    second = FakeContext(steps=first.steps, history=[("Hello", "Hi!")])
    assert str(await agent(second, private_text)).strip() == "The sky is blue."
    assert tools.calls == ["lookup sky"]
    assert len(script.asked) == 3  # the first answer was stored
    assert second.chunks == ["The ", "sky ", "is ", "blue. "]
    for context in (first, second):
        call, outcome = (data for type, data in context.events if type == "tool")
        assert (call["name"], call["input"]) == ("lookup", {"word": "sky"})
        assert (outcome["name"], outcome["output"], outcome["id"]) == ("lookup", "sky is blue", call["id"])
    assert set(second.counts) >= {"input_tokens", "output_tokens"}
    said = str(script.asked[0])
    places = [said.index(part) for part in ("Be kind.", "Hello", "Hi!", "Which form?", '{"form":"json"}', private_text)]
    assert places == sorted(places)


async def test_the_history_has_a_budget(make: Make) -> None:
    script = Script("Well.")
    agent = make(script, Tools(), history_tokens=100)
    await agent(FakeContext(history=[("x" * 400, "old"), ("y" * 200, "new"), ("z1", "newest")]), "Hi")
    said = str(script.asked[0])
    assert ("xxxx" in said, "yyyy" in said, "newest" in said) == (False, True, True)


async def test_a_person_approves_or_denies_and_a_cancel_ends_the_model(
    make: Make, sql: Connection, start_worker: StartWorker, private_text: str
) -> None:
    tools, script = Tools(), Script(("buy", '{"what": "a bicycle"}'), "Done.")
    await start_worker(make(script, tools))
    message_id = await submit(sql, private_text, agent="asks", thread_id="t")
    asked = await asked_input(sql, message_id)
    [call] = asked["question"]["approve"]
    assert (call["name"], call["input"], tools.calls) == ("buy", {"what": "a bicycle"}, [])
    await give_input(sql, message_id, "yes", asked["name"])
    row = await settled(sql, message_id)
    assert (str(row["result"]).strip(), row["attempt"], row["failures"]) == ("Done.", 2, 0)
    assert (tools.calls, len(script.asked)) == (["buy a bicycle"], 2)

    script.says += [("buy", '{"what": "a car"}'), "As you wish."]
    message_id = await submit(sql, "And a car", agent="asks", thread_id="t")
    await asked_input(sql, message_id)
    await give_input(sql, message_id, ["Too dear for us"])
    assert str((await settled(sql, message_id))["result"]).strip() == "As you wish."
    assert tools.calls == ["buy a bicycle"]
    assert "Too dear for us" in str(script.asked[-1])

    script.says.append("hang")
    message_id = await submit(sql, "Hang", agent="asks", thread_id="t")
    await script.hangs.wait()
    await sql.fetchval("select treadle.cancel($1)", message_id)
    assert (await settled(sql, message_id))["state"] == "cancelled"
    await script.ended.wait()


class City(BaseModel):
    name: str


async def test_pydantic_ai_gives_structures_and_reaches_the_context() -> None:
    made: PydanticAgent[Context, City] = PydanticAgent(TestModel(custom_output_args={"name": "Rome"}), output_type=City)

    @made.tool
    async def remember(ctx: RunContext[Context], what: str) -> str:
        ctx.deps.memory["what"] = what
        return "remembered"

    context = FakeContext()
    agent = pydantic_ai_agent("city", lambda: made, output=lambda city: {"city": city.name})
    assert await agent(context, "Which?") == {"city": "Rome"}
    assert "what" in context.memory


async def test_the_agents_sdk_hands_over_and_reaches_the_context() -> None:
    script = Script(("transfer_to_other", "{}"), "I am the other.")

    @function_tool
    async def unused(wrapper: ToolContext[Context]) -> str:
        return wrapper.context.message_id

    other = SdkAgent[Any](name="Other", model=SdkModel(script), tools=[unused])
    first = SdkAgent[Any](name="First", model=SdkModel(script), handoffs=[other])
    other.handoffs = [first]  # a circle
    context = FakeContext()
    agent = openai_agents_agent("first", lambda: first, output=lambda output: {"said": output})
    assert await agent(context, "Hi") == {"said": "I am the other."}
    assert ("progress", {"agent": "Other"}) in context.events


@pytest.mark.parametrize(
    ("make", "extra"),
    [(pydantic_ai_agent, "pydantic-ai"), (openai_agents_agent, "openai-agents"), (autogen_core_agent, "autogen")],
)
def test_a_missing_framework_names_the_extra(make: Any, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    options = {"recipient": "x"} if make is autogen_core_agent else {}
    with pytest.raises(ImportError, match=rf"pip install 'treadle\[{extra}\]'"):
        make("x", lambda: None, **options)


def test_a_call_id_that_is_repeated_names_another_step() -> None:
    """Some servers of models begin the numbers of calls again in each answer."""
    steps = ToolSteps()
    assert [steps.name("look", "call_0"), steps.name("look", "call_0"), steps.name("add", "call_0")] == [
        "tool look call_0",
        "tool look call_0 2",
        "tool add call_0",
    ]


def test_a_client_names_neither_the_user_nor_what_langgraph_sets() -> None:
    asked = Asked(config={"configurable": {"langgraph_auth_user_id": "root", "__pregel_x": 1, "tone": "warm"}})
    assert asked.options == {"configurable": {"tone": "warm"}}
