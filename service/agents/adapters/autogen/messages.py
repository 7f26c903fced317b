"""The input and output of a team's agent, and the content of AutoGen's messages."""

from typing import Any

import msgspec

from service.agents.tool_events import plain


class UserInput(msgspec.Struct, frozen=True):
    """A message with its author's name. A message that is only a text comes from `user`."""

    content: str
    source: str = "user"


class AgentOutput(msgspec.Struct, frozen=True, omit_defaults=True):
    """Data of a `message` event: a message of the team, or of the person it asked. `type` is AutoGen's, for example
    TextMessage. As an agent's result (`output=AgentOutput.of`), it is the last message and the reason of the stop."""

    source: str
    type: str
    content: Any
    stop_reason: str | None = None

    @classmethod
    def of(cls, result: Any) -> "AgentOutput":
        """The last message of AutoGen's TaskResult. Raises ValueError if the team has said nothing."""
        if (message := _last_message(result)) is None:
            raise ValueError("The team has said nothing.")
        return cls(message.source, message.type, message_content(message), result.stop_reason)


def last_content(result: Any) -> Any:
    """The content of the last message of AutoGen's TaskResult; None if the team has said nothing."""
    message = _last_message(result)
    return None if message is None else message_content(message)


def message_content(message: Any) -> Any:
    """The text of a message, or its structured content as JSON."""
    is_structured = hasattr(getattr(message, "content", None), "model_dump")
    return plain(message.content) if is_structured else message.to_text()


def _last_message(result: Any) -> Any:
    return next((message for message in reversed(result.messages) if hasattr(message, "to_model_text")), None)
