"""An agent of one's own. Start a worker with it from this repository's folder:

    AGENTS=examples.summarise make up

and ask it for a summary; the input is an object, checked against `Summarise` before the agent sees it:

    curl -X POST localhost:8000/messages -H 'Content-Type: application/json' \
        -d '{"agent": "summarise", "message": {"text": "...", "sentences": 2}}'

It calls no model, so that it runs anywhere: it picks the sentences whose words the text uses most (H. P. Luhn, "The
Automatic Creation of Literature Abstracts", IBM Journal, 1958).
"""

import re
from collections import Counter
from typing import Annotated

from msgspec import Meta, Struct

from treadle import Context, Rejected, agent


class Summarise(Struct):
    """The input: msgspec checks types and limits, and `GET /agents` shows their JSON Schema."""

    text: Annotated[str, Meta(min_length=1)]
    sentences: Annotated[int, Meta(ge=1, le=20)] = 3


class Summary(Struct):
    """The result: stored as JSON with the message, and sent with the `done` event."""

    summary: str
    kept: int
    of: int


@agent("summarise", timeout=30, max_attempts=2)
async def summarise(context: Context, request: Summarise) -> Summary:
    """Shortens a text to its weightiest sentences."""
    sentences = re.findall(r"[^.!?]*\w[^.!?]*[.!?]*", request.text)
    if not sentences:
        raise Rejected("The text has no words.")  # trying again would not help; any other exception is retried

    weights = Counter(_words(request.text))

    def weight(sentence: str) -> float:
        words = _words(sentence)
        return sum(weights[word] for word in words) / max(1, len(words))

    await context.event("progress", {"sentences": len(sentences)})  # an event of a type of our own
    chosen = set(sorted(range(len(sentences)), key=lambda n: -weight(sentences[n]))[: request.sentences])
    kept: list[str] = []
    for number in sorted(chosen):
        sentence = sentences[number].strip()
        await context.emit(sentence if not kept else f" {sentence}")  # who follows the stream reads it as it comes
        kept.append(sentence)
    return Summary(" ".join(kept), len(kept), len(sentences))


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text.lower()) if len(word) > 3]
