"""An agent that another system offers over A2A: each message is a task of that system.

    from treadle.adapters import a2a_agent

    partner = a2a_agent("partner", "https://partner.example/a2a/research/")

The task is begun in a durable step. So an attempt that is lost, or a worker that stops, costs nothing: the next attempt
follows the same task. A task that asks for input parks the message, and goes on with the answer. A message that is
cancelled while it runs cancels its task.
"""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

from service.agents.adapters.frameworks import require
from service.agents.contract import Context
from service.agents.definition import Agent
from service.agents.limits import LimitOptions

if TYPE_CHECKING:
    from service.agents.adapters.a2a.remote import Remote


def a2a_agent(
    name: str, url: str, *, headers: Mapping[str, str] | None = None, **limits: Unpack[LimitOptions]
) -> Agent:
    """Make the A2A agent whose card is below `url` an agent.

    headers   Sent with each call, for example an Authorization.
    limits    The options of every agent; see `treadle.Limits`.

    Texts of the task are streamed as the answer; other parts become events `artifact`, and what the task says while it
    works becomes events `progress`. The result is the text, or the data of the only part; with both it is an object
    {text, parts}. The messages of a thread share a context of the other system.

    A task that fails, is rejected or cancelled rejects the message, as do errors that another attempt would not change.
    The agent retries after 408, 409, 425, 5xx and a connection that breaks; 429, 503 and a server that cannot be
    reached put the message off without a failure.

    Raises ImportError if the package a2a-sdk is not installed, ValueError for a limit that is out of range.
    """
    require("a2a", framework="a2a-sdk", extra="a2a")

    @functools.cache
    def remote() -> "Remote":
        from service.agents.adapters.a2a.remote import Remote  # slow, and only workers with such an agent need it

        return Remote(name, url, dict(headers or {}))

    async def answer(context: Context, message: str | dict[str, Any] | list[Any]) -> Any:
        """Asks an agent over A2A."""
        return await remote().run(context, message)

    return Agent(name, answer, **limits)
