"""From requests to messages: pure functions.

A client that keeps the conversation itself sends all of it each time. The last messages of the user are the message of
the agent, those before become its history, and messages of the system and instructions its `metadata.system`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from service.errors import Unprocessable
from service.messages.model import NewMessage, labels
from service.protocols.openai.model import Item, Kept, NewCompletion, NewResponse

Block = dict[str, Any]

MIXED_INPUT_DETAIL = "Send the outputs of function calls without a further message of the user."
NO_USER_MESSAGE_DETAIL = "The input has no message of the user."


class Given(NamedTuple):
    """What a request says. `outputs`: those of function calls, by the id of the call; then there is no message."""

    message: str | dict[str, Any] | None
    system: str
    history: list[dict[str, Any]]
    outputs: dict[str, Any]


def read_response(request: NewResponse, items: str | list[Item] | None) -> Given:
    """`items`: its input, without references. Raises Unprocessable."""
    reader = _Reader()
    if isinstance(request.instructions, str):
        reader.add("system", request.instructions)
    if isinstance(items, str):
        reader.add("user", items)
    reader.add_items(items if isinstance(items, list) else ())
    return reader.read(request.message)


def check_items(items: Sequence[Item]) -> None:
    """Raises Unprocessable for items that no response could have as its input."""
    _Reader().add_items(items)


def read_completion(request: NewCompletion) -> Given:
    """Raises Unprocessable."""
    reader = _Reader()
    for message in request.messages:
        if message.get("role") == "tool":
            reader.add_output(message.get("tool_call_id"), message.get("content"))
        else:
            reader.add(message.get("role"), message.get("content"))
    return reader.read(request.message)


def to_message(request: NewResponse | NewCompletion, given: Given, kept: Kept, thread_id: str | None) -> NewMessage:
    metadata = labels(request.metadata)
    named = {
        "system": given.system,
        "max_tokens": kept.max_output_tokens,
        "history": given.history,
        "tools": _functions(kept.tools or []),
    }
    metadata |= {name: value for name, value in named.items() if value}
    metadata["openai"] = msgspec.to_builtins(kept)
    assert given.message is not None
    return NewMessage(
        given.message, priority=request.priority, thread_id=thread_id, agent=request.model, metadata=metadata
    )


def _functions(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The functions among the tools of a request, which chat completions wrap once more."""
    functions = [tool.get("function", tool) for tool in tools if tool.get("type") == "function"]
    fields = ("name", "description", "parameters")
    return [{name: tool[name] for name in fields if name in tool} for tool in functions if isinstance(tool, dict)]


def keep_response(request: NewResponse, conversation: str | None) -> Kept:
    return Kept(
        instructions=request.instructions,
        tools=request.tools,
        tool_choice=request.tool_choice,
        parallel_tool_calls=request.parallel_tool_calls,
        text=request.text,
        reasoning=request.reasoning,
        max_output_tokens=request.max_output_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        metadata=request.metadata,
        user=request.user,
        input=request.input if isinstance(request.input, list) else None,
        previous_response_id=request.previous_response_id,
        conversation=conversation,
        background=request.background,
        store=request.store,
    )


def keep_completion(request: NewCompletion) -> Kept:
    return Kept(
        tools=request.tools,
        tool_choice=request.tool_choice,
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=request.response_format,
        reasoning=None if request.reasoning_effort is None else {"effort": request.reasoning_effort},
        max_output_tokens=request.max_completion_tokens or request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        metadata=request.metadata,
        user=request.user,
    )


class _Reader:
    """Folds the messages of a conversation."""

    def __init__(self) -> None:
        self._system: list[str] = []
        self._history: list[dict[str, Any]] = []
        self._said: list[Block] = []  # by the user, since the last answer
        self._outputs: dict[str, Any] = {}  # since the last answer
        self._mixed = False

    def add(self, role: Any, content: Any) -> None:
        """Raises Unprocessable."""
        blocks = _blocks(content)
        if role in ("system", "developer"):
            self._system.append(_text(blocks))
        elif role == "user":
            self._mixed = bool(self._outputs)
            self._said += blocks
        elif role == "assistant":
            self._answer(_text(blocks))
        else:
            raise Unprocessable("The role of a message must be user, assistant, system, developer or tool.")

    def add_items(self, items: Sequence[Item]) -> None:
        """Raises Unprocessable."""
        for item in items:
            if item.get("type") == "function_call_output":
                self.add_output(item.get("call_id"), item.get("output"))
            elif item.get("type", "message") == "message":
                self.add(item.get("role"), item.get("content"))

    def add_output(self, call: Any, output: Any) -> None:
        """Raises Unprocessable."""
        if not isinstance(call, str):
            raise Unprocessable("The output of a function call must have the id of the call.")
        self._outputs[call] = output if isinstance(output, str) else _text(_blocks(output))

    def _answer(self, text: str) -> None:
        if not text:  # it calls functions
            return
        if self._said or not self._history:
            self._history.append({"message": _message(self._said), "result": text})
        else:
            self._history[-1]["result"] += f"\n\n{text}"
        self._said, self._outputs, self._mixed = [], {}, False

    def read(self, message: dict[str, Any] | None) -> Given:
        """`message`: what takes the place of the user's last messages. Raises Unprocessable."""
        if self._mixed:
            raise Unprocessable(MIXED_INPUT_DETAIL)
        system = "\n\n".join(self._system)
        if self._outputs and message is None:
            return Given(None, system, self._history, self._outputs)
        said = message or _message(self._said)
        if not said:
            raise Unprocessable(NO_USER_MESSAGE_DETAIL)
        return Given(said, system, self._history, {})


def _message(blocks: Sequence[Block]) -> str | dict[str, Any]:
    """A text where all blocks are texts; else an object as Claude agents take it."""
    return _text(blocks) if all(block["type"] == "text" for block in blocks) else {"content": list(blocks)}


def _text(blocks: Sequence[Block]) -> str:
    return "\n\n".join(block["text"] for block in blocks if block["type"] == "text" and block["text"])


def _blocks(content: Any) -> list[Block]:
    """Raises Unprocessable."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise Unprocessable("The content of a message must be a text or a list of parts.")
    return [_block(part) for part in content]


def _block(part: Item) -> Block:
    """Raises Unprocessable."""
    text = part.get("text", part.get("refusal"))
    if isinstance(text, str):
        return {"type": "text", "text": text}
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    if isinstance(url, str):
        kind, comma, data = url.removeprefix("data:").partition(";base64,")
        if url.startswith("data:") and comma:
            return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}
        return {"type": "image", "source": {"type": "url", "url": url}}
    raise Unprocessable(f"Parts of the type {str(part.get('type'))[:50]!r} are not passed on; send texts and images.")
