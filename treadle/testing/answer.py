"""What became of a message in a test."""

from typing import Any

from msgspec import Struct

from treadle.client.model import State


class Event(Struct, frozen=True):
    type: str
    data: Any


class Answer(Struct, frozen=True):
    """The end of a message, and its whole log. `text` is what the last attempt emitted."""

    message_id: str
    state: State
    result: Any
    error: str | None
    attempt: int
    usage: dict[str, Any] | None
    events: list[Event]

    @property
    def text(self) -> str:
        pieces: list[str] = []
        for event in self.events:
            if event.type == "started":
                pieces = []
            elif event.type == "chunk":
                pieces.append(event.data["chunk"])
        return "".join(pieces)

    def data(self, type: str) -> list[Any]:
        """The data of all events of a type, in order."""
        return [event.data for event in self.events if event.type == type]
