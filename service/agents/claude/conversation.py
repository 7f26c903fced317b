"""The messages of a request: the thread's history first, of which a refused request leaves out more and more."""

import re
from typing import Any

NAMED_MESSAGE = re.compile(r"messages\.(\d{1,6})\b")  # how the API names the message that it refuses


class Conversation:
    """`messages` is changed in place. It begins with the history: pairs of user and assistant."""

    def __init__(self, history: list[dict[str, Any]], message: dict[str, Any]) -> None:
        self.messages = [*history, message]
        self._history = len(history)

    def leave_out(self, reason: str) -> dict[str, Any] | None:
        """Shorten the history of a request that was refused for this reason: at first its pictures and documents, then
        the older half of it, again and again. Returns what was left out, None if the history is not the reason."""
        named = NAMED_MESSAGE.search(reason)
        if not self._history or (named and int(named[1]) >= self._history):
            return None
        kept = self.messages[: self._history]
        texts = [text for message in kept if (text := _as_text(message)) is not message]
        if texts:
            kept = [_as_text(message) for message in kept]
            left_out = {"attachments_of_messages": len(texts)}
        else:
            kept = kept[-(self._history // 4 * 2) :] if self._history >= 4 else []
            left_out = {"exchanges": (self._history - len(kept)) // 2}
        self.messages[: self._history] = kept
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
