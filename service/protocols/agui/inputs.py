"""From the input of a run to a message: pure functions.

The client sends the whole conversation each time. The messages of the user after the last answer are the message of the
agent. What this server answered before is in the thread; other exchanges become history.
"""

from typing import Any, NamedTuple

import msgspec

from service.errors import Unprocessable
from service.messages.model import NewMessage
from service.protocols.agui.ids import Asked, is_own
from service.protocols.agui.model import Message, RunInput

UNKNOWN_ROLE_DETAIL = "The role of a message must be user, assistant, system, developer, tool, reasoning or activity."
NO_USER_MESSAGE_DETAIL = "messages must end with a message of the user, or with the results of tool calls."
KINDS = {"image": "image", "document": "document"}  # content parts that Claude takes as blocks


class Given(NamedTuple):
    """What a run says. `results`: those of tool calls with which it ends, by the id of the call."""

    message: str | dict[str, Any]  # empty for none
    said: list[Message]  # the messages of the user that it was made of
    system: str
    history: list[dict[str, Any]]
    results: dict[str, Any]


class _Exchange:
    """Messages of the user and their answers. `own`: this server gave one of the answers."""

    def __init__(self) -> None:
        self.said: list[Message] = []
        self.answers: list[str] = []
        self.answered = False
        self.own = False

    def foreign(self) -> list[dict[str, Any]]:
        """As an element of the history, unless it is in the thread."""
        answer = "\n\n".join(filter(None, self.answers))
        if self.own or not answer or not self.said:
            return []
        return [{"message": _message(self.said), "result": answer}]


def read_run(run: RunInput) -> Given:
    """Raises Unprocessable."""
    system: list[str] = []
    history: list[dict[str, Any]] = []
    exchange = _Exchange()
    results: dict[str, Any] = {}  # after the last other message
    for message in run.messages:
        role = message.get("role")
        if role in ("reasoning", "activity"):
            continue
        blocks = _blocks(message.get("content"))
        if role in ("system", "developer"):
            system.append(_text(blocks))
        elif role == "user":
            if exchange.answered:
                history += exchange.foreign()
                exchange = _Exchange()
            exchange.said.append(message)
            results = {}
        elif role == "assistant":
            exchange.answered = True
            exchange.own |= is_own(str(message.get("id")))
            exchange.answers += [_text(blocks)]
            results = {}
        elif role == "tool":
            exchange.answered = True
            results[str(message.get("toolCallId"))] = _text(blocks)
        else:
            raise Unprocessable(UNKNOWN_ROLE_DETAIL)
    system += [f"{item.get('description', '')}:\n{item.get('value', '')}" for item in run.context or ()]
    said = [] if exchange.answered else exchange.said
    return Given(_given_message(run) or _message(said), said, "\n\n".join(filter(None, system)), history, results)


def to_message(run: RunInput, given: Given, agent: str, *, max_state_bytes: int) -> NewMessage:
    """Raises Unprocessable."""
    if not given.message:
        raise Unprocessable(NO_USER_MESSAGE_DETAIL)
    if len(msgspec.json.encode(run.state)) > max_state_bytes:
        raise Unprocessable(f"state must have at most {max_state_bytes} bytes.")
    named: dict[str, Any] = {"system": given.system, "history": given.history, "tools": _tools(run)}
    metadata = {name: value for name, value in named.items() if value}
    kept = {
        "runId": run.run_id,
        "parentRunId": run.parent_run_id,
        "state": run.state,
        "context": run.context,
        "forwardedProps": run.forwarded_props,
        "messages": without_nulls(given.said),
    }
    metadata["agui"] = {name: value for name, value in kept.items() if value not in (None, [], {})}
    return NewMessage(given.message, thread_id=run.thread_id, agent=agent, metadata=metadata)


def state_of(metadata: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any] | None:
    """The fields of the state with which the client began the run of a message that its agent, of these settings, takes
    from clients: they are set in the memory of the thread. None: it takes no fields."""
    kept = metadata.get("agui")
    state = kept.get("state") if isinstance(kept, dict) else None
    names = settings.get("client_state")
    if not names:
        return None
    return {name: state[name] for name in names if name in state} if isinstance(state, dict) else {}


def asked_of(run: RunInput) -> Asked:
    """Raises Unprocessable."""
    return Asked(run.thread_id, run.run_id, run.parent_run_id, frozenset(tool["name"] for tool in _tools(run)))


def without_nulls(messages: list[Message]) -> list[Message]:
    """Clients refuse null where they may send it: as a field of a message, or of a part of its content."""
    return [_without_nulls(message) for message in messages]


def _without_nulls(message: Message) -> Message:
    filled = _filled(message)
    if isinstance(parts := filled.get("content"), list):
        filled["content"] = [_filled(part) if isinstance(part, dict) else part for part in parts]
    return filled


def _filled(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _tools(run: RunInput) -> list[dict[str, Any]]:
    fields = ("name", "description", "parameters")
    tools = [{name: tool[name] for name in fields if tool.get(name) is not None} for tool in run.tools or ()]
    if not all(isinstance(tool.get("name"), str) for tool in tools):
        raise Unprocessable("Each of the tools must have a name.")
    return tools


def _given_message(run: RunInput) -> dict[str, Any] | None:
    """`forwardedProps.message`, for an agent whose input is an object."""
    given = run.forwarded_props.get("message") if isinstance(run.forwarded_props, dict) else None
    return given if isinstance(given, dict) else None


def _message(said: list[Message]) -> str | dict[str, Any]:
    """A text where all parts are texts; else an object as Claude agents take it."""
    blocks = [block for message in said for block in _blocks(message.get("content"))]
    return _text(blocks) if all(block["type"] == "text" for block in blocks) else {"content": blocks}


def _text(blocks: list[dict[str, Any]]) -> str:
    return "\n\n".join(block["text"] for block in blocks if block["type"] == "text" and block["text"])


def _blocks(content: Any) -> list[dict[str, Any]]:
    """Raises Unprocessable."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise Unprocessable("The content of a message must be a text or a list of parts.")
    return [_block(part) for part in content]


def _block(part: dict[str, Any]) -> dict[str, Any]:
    """Raises Unprocessable."""
    kind, source = part.get("type"), part.get("source")
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind in KINDS and isinstance(source, dict) and isinstance(source.get("value"), str):
        if source.get("type") == "url":
            return {"type": KINDS[kind], "source": {"type": "url", "url": source["value"]}}
        if source.get("type") == "data":
            media_type = str(source.get("mimeType", ""))
            return {
                "type": KINDS[kind],
                "source": {"type": "base64", "media_type": media_type, "data": source["value"]},
            }
    raise Unprocessable(f"Parts of the type {str(kind)[:50]!r} are not passed on; send texts, images and documents.")
