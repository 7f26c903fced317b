"""A runtime of AutoGen core (RoutedAgent, ClosureAgent) as an agent.

    from treadle.adapters import Kit, autogen_core_agent

    async def make(kit: Kit) -> SingleThreadedAgentRuntime:
        runtime = kit.runtime()
        await Writer.register(runtime, "writer", lambda: Writer(kit.model(client)))
        return runtime

    writer = autogen_core_agent("writer", make, recipient="writer")

The function makes a new runtime for each attempt. As in a team, each model call through `kit.model` and each tool call
through `kit.tool` is a step of the message, so that a later attempt repeats none that has finished. Agents stream text
with `kit.context.emit`, and ask a person with `kit.context.input`.
"""

import inspect
from collections.abc import Callable, Collection
from typing import Any, Unpack

from service.agents.adapters.autogen.agent import default_task
from service.agents.adapters.autogen.kit import Kit
from service.agents.adapters.frameworks import require
from service.agents.contract import Context
from service.agents.definition import Agent, input_type
from service.agents.limits import LimitOptions

OUTPUT_TOPIC = "output"


def autogen_core_agent(
    name: str,
    make: Callable[[Kit], Any],
    *,
    recipient: Any,
    input: Callable[[Context, Any], Any] | None = None,
    output: Callable[[Any], Any] | None = None,
    output_topics: Collection[str] = (OUTPUT_TOPIC,),
    **limits: Unpack[LimitOptions],
) -> Agent:
    """Make a runtime of AutoGen core an agent.

    make           A function, sync or async, from a Kit to a new runtime with its agents; called for each attempt.
    recipient      Who receives the message: an AgentId, or the type of an agent, which answers; or a TopicId, to which
                   the message is published.
    input          A function, sync or async, from context and message to the object that is sent. The annotation of its
                   message is the agent's input type. Default: AutoGen's TextMessage, from a text or a UserInput. A type
                   of yours is a dataclass or a Pydantic model, because AutoGen takes no others.
    output         A function from the answer, or from what was published last to an output topic, to the result.
                   Default: its `content`, or the object as JSON.
    output_topics  The types of topics whose messages are events `message` of the log. With a TopicId as the recipient,
                   the last of these messages is the answer.
    limits         The options of every agent; see `treadle.Limits`.

    Raises ImportError if AutoGen is not installed, ValueError or TypeError for an argument that cannot be used.
    """
    require("autogen_core", framework="AutoGen", extra="autogen")
    make_message = input or default_task
    topics = tuple(output_topics)

    async def answer(context: Context, message: Any) -> Any:
        """Runs agents of AutoGen core."""
        from service.agents.adapters.autogen.core_runner import CoreRunner

        sent = make_message(context, message)
        runner = CoreRunner(Kit(context), recipient=recipient, output=output, output_topics=topics)
        return await runner.run(make, await sent if inspect.isawaitable(sent) else sent)

    answer.__annotations__["message"] = input_type(make_message)
    return Agent(name, answer, **limits)
