"""An agent in plain Python with a typed input and a typed result.

Start Treadle with the agent, in this repository's folder:

    AGENTS=examples.summarise make up

Ask for a summary. The message is a JSON object, which Treadle checks against `Summarise` before the agent runs:

    curl -X POST localhost:8000/messages -H 'Content-Type: application/json' \
        -d '{"agent": "summarise", "message": {"text": "...", "sentences": 2}}'

The agent calls no model, so the example needs no API key. It picks the sentences whose words are most frequent in the
text (H. P. Luhn, "The Automatic Creation of Literature Abstracts", IBM Journal, 1958).
"""

import re
from collections import Counter
from typing import Annotated

from msgspec import Meta, Struct

from treadle import Context, Rejected, agent


class Summarise(Struct):
    """The input. msgspec checks its types and limits; `GET /agents` shows its JSON Schema."""

    text: Annotated[str, Meta(min_length=1)]
    sentences: Annotated[int, Meta(ge=1, le=20)] = 3


class Summary(Struct):
    """The result. It is stored with the message as JSON, and sent in the `done` event."""

    summary: str
    kept: int
    of: int


@agent("summarise", timeout=30, max_attempts=2)
async def summarise(context: Context, request: Summarise) -> Summary:
    """Shortens a text to its most important sentences."""
    sentences = re.findall(r"[^.!?]*\w[^.!?]*[.!?]*", request.text)
    if not sentences:
        raise Rejected("The text has no words.")  # no retry; any other exception is retried

    weights = Counter(_words(request.text))

    def weight(sentence: str) -> float:
        words = _words(sentence)
        return sum(weights[word] for word in words) / max(1, len(words))

    await context.event("progress", {"sentences": len(sentences)})  # an event of your own type
    chosen = set(sorted(range(len(sentences)), key=lambda n: -weight(sentences[n]))[: request.sentences])
    kept: list[str] = []
    for number in sorted(chosen):
        sentence = sentences[number].strip()
        await context.emit(sentence if not kept else f" {sentence}")  # streamed to the client at once
        kept.append(sentence)
    return Summary(" ".join(kept), len(kept), len(sentences))


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text.lower()) if len(word) > 3]
