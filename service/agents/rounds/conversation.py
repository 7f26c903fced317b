"""The messages of a request: the thread's history first, of which a refused request leaves out more and more."""

import re
from collections.abc import Sequence
from typing import Any

NAMED_MESSAGE = re.compile(r"messages(?:\.|\[)(\d{1,6})\b")  # how the APIs name the message that they refuse


class Conversation:
    """`messages` is changed in place. It begins with the orders of the agent, if the API takes them there, and the
    history: pairs of user and assistant."""

    def __init__(
        self, history: list[dict[str, Any]], message: dict[str, Any], *, orders: Sequence[dict[str, Any]] = ()
    ) -> None:
        self.messages = [*orders, *history, message]
        self._start, self._history = len(orders), len(history)

    def leave_out(self, reason: str) -> dict[str, Any] | None:
        """Shorten the history of a request that was refused for this reason: at first its pictures and documents, then
        the older half of it, again and again. Returns what was left out, None if the history is not the reason."""
        named = NAMED_MESSAGE.search(reason)
        history = slice(self._start, self._start + self._history)
        if not self._history or (named and int(named[1]) >= history.stop):
            return None
        kept = self.messages[history]
        texts = [text for message in kept if (text := _as_text(message)) is not message]
        if texts:
            kept = [_as_text(message) for message in kept]
            left_out = {"attachments_of_messages": len(texts)}
        else:
            kept = kept[-(self._history // 4 * 2) :] if self._history >= 4 else []
            left_out = {"exchanges": (self._history - len(kept)) // 2}
        self.messages[history] = kept
        self._history = len(kept)
        return left_out


def _as_text(message: dict[str, Any]) -> dict[str, Any]:
    """The message with a note in place of each block that is not text; the message itself if it has none."""
    content = message["content"]
    if isinstance(content, str) or all(block["type"] == "text" for block in content):
        return message
    blocks = [
        block if block["type"] == "text" else {"type": "text", "text": f"[{block['type']}, left out]"}
        for block in content
    ]
    return {**message, "content": blocks}
