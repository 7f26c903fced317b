"""The package `treadle`, which authors of agents import."""

import inspect
import subprocess
import sys
import typing
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
import pytest

import treadle
from service.agents.limits import LimitOptions, Limits
from tests.support.graphs import chain_graph
from treadle import Agent, adapters, agent, resolver
from treadle.adapters import autogen_agent, claude_agent, http_agent, langgraph_agent

LIMITS: LimitOptions = {
    "queue": "own",
    "timeout": 60,
    "max_attempts": 2,
    "max_losses": 4,
    "description": "Answers.",
    "run_in": "process",
    "concurrency": 3,
    "idle_timeout": 0,
    "while_busy": "clarifier",
}


def decorated(name: str, **limits: Any) -> Agent:
    @agent(name, **limits)
    async def answer(context: treadle.Context, text: str) -> str:
        """Answers."""
        return text

    return answer


FACTORIES: list[Callable[..., Agent]] = [
    decorated,
    claude_agent,
    lambda name, **limits: http_agent(name, "http://localhost/", **limits),
    lambda name, **limits: langgraph_agent(name, chain_graph(dict, answer=lambda state: state).compile(), **limits),
    lambda name, **limits: autogen_agent(name, lambda kit: None, **limits),
    lambda name, **limits: resolver.team(SilentModel(), name, **limits)[0],
]
NAMES = ["agent", "claude_agent", "http_agent", "langgraph_agent", "autogen_agent", "team"]


class SilentModel:
    name = "none"

    async def stream(self, request: resolver.ModelRequest, usage: Counter[str]) -> AsyncGenerator[str, None]:
        yield ""


def test_the_public_names_of_treadle() -> None:
    assert treadle.__all__ == [
        *("Agent", "AsyncClient", "ChildFailed", "Client", "Context", "Exchange", "LimitOptions", "Limits"),
        *("Overloaded", "Rejected", "RetryAfter", "UnderWay", "Worker", "agent"),
    ]
    assert adapters.__all__ == [
        *("AgentOutput", "ClaudeAgent", "ClaudeInput", "Kit", "ModelInput", "OpenAIAgent"),
        *("ToolCall", "ToolResult", "UserInput"),
        *("a2a_agent", "autogen_agent", "autogen_core_agent", "claude_agent", "http_agent", "langgraph_agent"),
        *("openai_agent", "openai_agents_agent", "pydantic_ai_agent"),
    ]
    for module in (treadle, adapters, resolver):
        assert all(hasattr(module, name) for name in module.__all__)
        assert all(inspect.getdoc(getattr(module, name)) for name in module.__all__ if name != "Ask")


def test_importing_treadle_imports_no_framework() -> None:
    unwanted = [
        "langgraph",
        "langchain_core",
        "autogen_core",
        "autogen_agentchat",
        "litestar",
        "asyncpg",
        "anthropic",
        "openai",
    ]
    program = (
        "import sys, treadle, treadle.adapters, treadle.resolver;"
        f"print([name for name in {unwanted} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("package", "make", "text"),
    [
        ("langgraph", FACTORIES[3], "LangGraph is not installed: run pip install 'treadle[langgraph]'."),
        ("autogen_agentchat", FACTORIES[4], "AutoGen is not installed: run pip install 'treadle[autogen]'."),
    ],
)
def test_a_missing_framework_names_the_extra_to_install(
    package: str, make: Callable[..., Agent], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError) as caught:
        make("x")
    assert str(caught.value) == text


def test_the_options_are_the_fields_of_limits() -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(Limits)}
    assert typing.get_type_hints(LimitOptions) == fields


@pytest.mark.parametrize("make", FACTORIES, ids=NAMES)
def test_every_factory_takes_every_limit(make: Callable[..., Agent]) -> None:
    assert make("x", **LIMITS).limits == Limits(**LIMITS)
    described = make("x").limits
    assert described.description
    assert described.queue == "default"


@pytest.mark.parametrize("make", FACTORIES, ids=NAMES)
@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"timeout": 0}, "timeout must be above 0 and at most 604800 seconds"),
        ({"timeout": float("nan")}, "timeout must be above 0"),
        ({"max_attempts": 1001}, "max_attempts must be between 1 and 1000"),
        ({"max_losses": 0}, "max_losses must be between 1 and 1000"),
        ({"topics": "plan.in"}, "topics must be a list of up to 100 names or patterns, not 'plan.in'"),
        ({"topics": ["a b"]}, "topics must be a list of up to 100 names or patterns"),
        ({"topics": ["plan*"]}, "topics must be a list of up to 100 names or patterns"),
        ({"run_in": "thread"}, "run_in must be worker or process, not 'thread'"),
        ({"concurrency": 0, "queue": "own"}, "concurrency must be between 1 and 100000"),
        ({"concurrency": 1}, "needs a queue of its own: set queue to another name"),
        ({"queue": None}, "queue must be a name, not None"),
        ({"run_in": None}, "run_in must be worker or process, not None"),
        ({"idle_timeout": None}, "idle_timeout must be between 0 and 604800 seconds"),
        ({"idle_timeout": -1}, "idle_timeout must be between 0 and 604800 seconds"),
    ],
)
def test_every_factory_checks_every_limit(make: Callable[..., Agent], option: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make("x", **option)


@pytest.mark.parametrize("make", FACTORIES, ids=NAMES)
def test_an_unknown_option_is_refused(make: Callable[..., Agent]) -> None:
    with pytest.raises(TypeError, match="timout"):
        make("x", timout=3)
