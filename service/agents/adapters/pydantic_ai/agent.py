"""A Pydantic AI agent as an agent: text is streamed, tool calls are events, and a retry repeats no finished model call
and no finished tool call.

    from treadle.adapters import pydantic_ai_agent

    assistant = pydantic_ai_agent("assistant", Agent("openai:gpt-5.4-mini", tools=[find_order]), timeout=300)

Each answer of the model and each result of a tool is a step of the message. A later attempt runs the agent from its
beginning, receives these results, and so reaches the place where the last attempt ended. Tools that need approval
park the message until a person has answered.
"""

from collections.abc import Callable
from typing import Any, Unpack

from service.agents.adapters.frameworks import require
from service.agents.contract import Context
from service.agents.definition import Agent, input_type
from service.agents.limits import LimitOptions
from service.limits import HISTORY_EXCHANGES, HISTORY_TOKENS


def pydantic_ai_agent(
    name: str,
    agent: Any,
    *,
    deps: Callable[[Context], Any] | None = None,
    input: Callable[[Context, Any], Any] | None = None,
    output: Callable[[Any], Any] | None = None,
    history: int = HISTORY_EXCHANGES,
    history_tokens: int = HISTORY_TOKENS,
    stream: bool = True,
    **limits: Unpack[LimitOptions],
) -> Agent:
    """Make a Pydantic AI agent an agent of Treadle.

    agent           A pydantic_ai.Agent, or a function that makes one; it is called when the first message arrives.
    deps            A function from the context to the `deps` of a run. Default: the context itself, so that tools reach
                    it as `ctx.deps`.
    input           A function, sync or async, from context and message to the user's prompt. The annotation of its
                    message is the agent's input type. Default: the text.
    output          A function from the output of the run to the result. Default: the output, as JSON.
    history         How many of the thread's last completed messages are the conversation.
    history_tokens  The most tokens that they have together; four bytes count as one.
    stream          False for a model that cannot stream.
    limits          The options of every agent; see `treadle.Limits`.

    Raises ImportError if Pydantic AI is not installed, ValueError or TypeError for an argument that cannot be used.
    """
    require("pydantic_ai", framework="Pydantic AI", extra="pydantic-ai")
    make_prompt = input or _text
    source: list[Any] = [agent]

    async def answer(context: Context, message: Any) -> Any:
        """Runs a Pydantic AI agent."""
        from service.agents.adapters.pydantic_ai.runner import Runner

        if not hasattr(source[0], "override"):
            source[0] = source[0]()
        runner = Runner(context, source[0], context if deps is None else deps(context), stream=stream)
        return await runner.run(make_prompt, message, output, history, history_tokens)

    answer.__annotations__["message"] = input_type(make_prompt)
    return Agent(name, answer, **limits)


def _text(context: Context, message: str) -> Any:
    return message
