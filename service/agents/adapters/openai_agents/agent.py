"""An agent of OpenAI's Agents SDK as an agent: text is streamed, tool calls are events, and a retry repeats no finished
model call and no finished tool call.

    from treadle.adapters import openai_agents_agent

    desk = openai_agents_agent("desk", Agent(name="Desk", instructions="Be kind.", tools=[find_order]), timeout=300)

Each answer of a model and each result of a function tool is a step of the message. A later attempt runs the agent from
its beginning, receives these results, and so reaches the place where the last attempt ended. Tools that need approval
park the message until a person has answered.
"""

from collections.abc import Callable
from typing import Any, Unpack

from service.agents.adapters.frameworks import require
from service.agents.contract import Context
from service.agents.definition import Agent, input_type
from service.agents.limits import LimitOptions
from service.limits import HISTORY_EXCHANGES, HISTORY_TOKENS

DEFAULT_MAX_TURNS = 50


def openai_agents_agent(
    name: str,
    agent: Any,
    *,
    context: Callable[[Context], Any] | None = None,
    input: Callable[[Context, Any], Any] | None = None,
    output: Callable[[Any], Any] | None = None,
    history: int = HISTORY_EXCHANGES,
    history_tokens: int = HISTORY_TOKENS,
    max_turns: int = DEFAULT_MAX_TURNS,
    run_config: Any = None,
    **limits: Unpack[LimitOptions],
) -> Agent:
    """Make an agent of the Agents SDK an agent of Treadle.

    agent           An agents.Agent, or a function that makes one; it is called when the first message arrives.
    context         A function from the message's context to the `context` of a run. Default: the context itself, so
                    that tools reach it as `wrapper.context`.
    input           A function, sync or async, from context and message to the input: a text, or a list of items. The
                    annotation of its message is the agent's input type. Default: the text.
    output          A function from the final output to the result. Default: the output, as JSON.
    history         How many of the thread's last completed messages go before the input.
    history_tokens  The most tokens that they have together; four bytes count as one.
    max_turns       The most turns of a run.
    run_config      An agents.RunConfig. Default: one that sends no traces to OpenAI.
    limits          The options of every agent; see `treadle.Limits`.

    Raises ImportError if the SDK is not installed, ValueError or TypeError for an argument that cannot be used.
    """
    require("agents", framework="The Agents SDK", extra="openai-agents")
    make_input = input or _text
    source: list[Any] = [agent]

    async def answer(own: Context, message: Any) -> Any:
        """Runs an agent of the Agents SDK."""
        from service.agents.adapters.openai_agents.runner import AgentRunner

        if not hasattr(source[0], "clone"):
            source[0] = source[0]()
        runner = AgentRunner(own, source[0], own if context is None else context(own), max_turns, run_config)
        return await runner.run(make_input, message, output, history, history_tokens)

    answer.__annotations__["message"] = input_type(make_input)
    return Agent(name, answer, **limits)


def _text(context: Context, message: str) -> Any:
    return message
