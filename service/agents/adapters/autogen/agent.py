"""An AutoGen team, or a single AutoGen agent, as an agent: messages are streamed, and a retry repeats no finished model
call.

    from treadle.adapters import Kit, autogen_agent

    def writers(kit: Kit) -> RoundRobinGroupChat:
        model = kit.model(OpenAIChatCompletionClient(model="..."))
        ...

    story = autogen_agent("story", writers, timeout=300)

The function makes a new team for each attempt. AutoGen warns that the state of a running team may not be consistent, so
that state is not stored. Instead, each model call through `kit.model` and each tool call through `kit.tool` is a step
of the message. A later attempt runs the team from its beginning, receives the results of these steps at no cost, and so
reaches the place where the last attempt ended. The team's own rules (who speaks next, when to stop) stay in force.

A question for a person (`kit.user`) works the same way: the message is parked until the answer arrives, and the next
attempt runs the team to that question again. `keep_state` keeps the team's state between the messages of a thread.
"""

import inspect
from collections.abc import Callable, Collection
from typing import Any, Unpack

from service.agents.adapters.autogen.kit import Kit
from service.agents.adapters.autogen.messages import UserInput, last_content
from service.agents.adapters.autogen.runner import Runner
from service.agents.adapters.frameworks import require
from service.agents.contract import Context
from service.agents.definition import Agent, input_type
from service.agents.limits import LimitOptions


def autogen_agent(
    name: str,
    make: Callable[[Kit], Any],
    *,
    input: Callable[[Context, Any], Any] | None = None,
    output: Callable[[Any], Any] | None = None,
    speakers: Collection[str] | None = None,
    keep_state: bool = False,
    **limits: Unpack[LimitOptions],
) -> Agent:
    """Make a team an agent.

    make        A function, sync or async, from a Kit to a new team or agent; called for each attempt.
    input       A function, sync or async, from context and message to the team's task. The annotation of its message is
                the agent's input type. Default: the task is the text, or the text of a UserInput.
    output      A function from AutoGen's TaskResult to the result, for example AgentOutput.of. Default: the text of the
                last message, or its content if that is structured.
    speakers    The agents whose tokens (model_client_stream=True) are the answer. Default: all.
    keep_state  Begin each message of a thread with the team's state after the last one. The state is saved in the
                thread's memory, under the agent's name, when a message completes.
    limits      The options of every agent; see `treadle.Limits`.

    Raises ImportError if AutoGen is not installed, ValueError or TypeError for an argument that cannot be used.
    """
    framework = require("autogen_agentchat", framework="AutoGen", extra="autogen")
    make_task = input or default_task
    memory_key = name if keep_state else None

    async def answer(context: Context, message: Any) -> Any:
        """Runs an AutoGen team."""
        task = make_task(context, message)
        runner = Runner(Kit(context), output=output or last_content, speakers=speakers, memory_key=memory_key)
        return await runner.run(make, await task if inspect.isawaitable(task) else task)

    answer.__annotations__["message"] = input_type(make_task)
    made = Agent(name, answer, **limits)
    made.settings["framework"] = framework
    return made


def default_task(context: Context, message: str | UserInput) -> Any:
    """AutoGen's TextMessage for a message."""
    from autogen_agentchat.messages import TextMessage

    content = UserInput(message) if isinstance(message, str) else message
    return TextMessage(content=content.content, source=content.source)
