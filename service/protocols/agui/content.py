"""What the agent says in a run: texts, calls of tools and reasoning, as events and as messages of the conversation."""

from collections.abc import Iterator
from typing import Any

import msgspec

from service.events.answers import StreamedText, as_text
from service.protocols.agui.ids import Run
from service.protocols.agui.model import Event, Message


class ToolData(msgspec.Struct, frozen=True):
    """Data of an event `tool`: a call, or with `output` its result."""

    id: str
    name: str = ""
    input: Any = msgspec.UNSET
    output: Any = msgspec.UNSET
    failed: bool = False


class Told:
    """The messages that a run adds to the conversation: counted, and only kept in `messages` if they are wanted."""

    def __init__(self, *, wanted: bool) -> None:
        self.messages: list[Message] = []
        self._wanted = wanted
        self._count = 0  # those since `keep`
        self._kept = 0  # of `messages`: those before

    def add(self, **message: Any) -> None:
        self._count += 1
        if self._wanted:
            self.messages.append(message)

    def add_call(self, call: dict[str, Any]) -> None:
        """To the last message."""
        if self._wanted:
            self.messages[-1].setdefault("toolCalls", []).append(call)

    def keep(self) -> None:
        self._count, self._kept = 0, len(self.messages)

    def drop(self) -> bool:
        """Forgets those since `keep`. Returns whether there were any."""
        dropped, self._count = self._count > 0, 0
        del self.messages[self._kept :]
        return dropped


class Content:
    """`dropped` says that messages were streamed which are no part of the conversation. `wants_messages`: `told` keeps
    those that are."""

    def __init__(self, run: Run, *, wants_messages: bool) -> None:
        self.told = Told(wanted=wants_messages)
        self.dropped = False
        self._run = run
        self._texts = 0  # that were opened
        self._streamed: StreamedText | None = None  # the open text; None: no text is open
        self._calls: dict[str, str] = {}  # of tools of the agent: its id for the last one, and the id that clients see
        self._ids: set[str] = set()

    def add(self, text: str) -> Iterator[Event]:
        if not text:
            return
        if self._streamed is None:
            self._streamed = StreamedText()
            self._texts += 1
            yield {"type": "TEXT_MESSAGE_START", "messageId": self._text_id, "role": "assistant"}
        self._streamed.add(text)
        yield {"type": "TEXT_MESSAGE_CONTENT", "messageId": self._text_id, "delta": text}

    def answer(self, result: Any) -> Iterator[Event]:
        """The end of the text that was streamed, or the result as a text of its own."""
        other = (self._streamed or StreamedText()).answer(result)
        if other is None:
            yield from self.close()
            return
        if self._streamed is not None:
            yield from self._drop_text()
        yield from self.add(other)
        yield from self.close()

    def close(self) -> Iterator[Event]:
        if self._streamed is not None:
            self.told.add(id=self._text_id, role="assistant", content=self._streamed.text)
            self._streamed = None
            yield {"type": "TEXT_MESSAGE_END", "messageId": self._text_id}

    def keep(self) -> Iterator[Event]:
        """The attempt is over, and what it has said is a part of the conversation."""
        yield from self.close()
        self.told.keep()

    def drop(self) -> Iterator[Event]:
        """The attempt is over, and what it has said is no part of the conversation."""
        if self._streamed is not None:
            yield from self._drop_text()
        self.dropped |= self.told.drop()
        self._calls = {}

    def call(self, call: str, name: str, arguments: str, parent: str | None = None) -> Iterator[Event]:
        """A call of a tool, which belongs to the text `parent`."""
        made = {"id": call, "type": "function", "function": {"name": name, "arguments": arguments}}
        of = {} if parent is None else {"parentMessageId": parent}
        if of:
            self.told.add_call(made)
        else:
            self.told.add(id=call, role="assistant", toolCalls=[made])
        yield {"type": "TOOL_CALL_START", "toolCallId": call, "toolCallName": name, **of}
        yield {"type": "TOOL_CALL_ARGS", "toolCallId": call, "delta": arguments}
        yield {"type": "TOOL_CALL_END", "toolCallId": call}

    def tool(self, data: ToolData, seq: int) -> Iterator[Event]:
        """What an entry tells of a tool of the agent."""
        if data.output is msgspec.UNSET or data.id not in self._calls:
            parent = self.open_text
            yield from self.close()
            call = self._calls[data.id] = data.id if data.id not in self._ids else f"{data.id}_{seq}"
            self._ids.add(call)
            arguments = {} if data.input is msgspec.UNSET else data.input
            yield from self.call(call, data.name, msgspec.json.encode(arguments).decode(), parent)
        if data.output is not msgspec.UNSET:
            call, content = self._calls[data.id], as_text(data.output)
            names = {"toolCallId": call, "content": content}
            failed = {"error": content} if data.failed else {}
            self.told.add(id=f"{call}_result_{seq}", role="tool", **names, **failed)
            yield {"type": "TOOL_CALL_RESULT", "messageId": f"{call}_result_{seq}", **names}

    def reason(self, text: str, seq: int) -> Iterator[Event]:
        yield from self.close()
        of = {"messageId": f"reason_{self._run.message_id.hex}_{seq}"}
        self.told.add(id=of["messageId"], role="reasoning", content=text)
        yield {"type": "REASONING_START", **of}
        yield {"type": "REASONING_MESSAGE_START", **of, "role": "reasoning"}
        yield {"type": "REASONING_MESSAGE_CONTENT", **of, "delta": text}
        yield {"type": "REASONING_MESSAGE_END", **of}
        yield {"type": "REASONING_END", **of}

    @property
    def open_text(self) -> str | None:
        """The id of the text that is open."""
        return None if self._streamed is None else self._text_id

    def _drop_text(self) -> Iterator[Event]:
        self._streamed, self.dropped = None, True
        yield {"type": "TEXT_MESSAGE_END", "messageId": self._text_id}

    @property
    def _text_id(self) -> str:
        return self._run.text(self._texts)
