"""The thread's history as pairs of texts, for frameworks that take a conversation."""

from typing import Any

import msgspec

from service.agents.contract import Context


async def text_exchanges(context: Context, limit: int, max_tokens: int) -> list[tuple[str, str]]:
    """The requests and answers before, oldest first. An object counts by its `content`, a result that is no text as
    JSON."""
    if not limit:
        return []
    found: list[tuple[str, str]] = []
    for exchange in await context.history(limit, max_tokens=max_tokens):
        question = exchange.message.get("content") if isinstance(exchange.message, dict) else exchange.message
        if isinstance(question, str) and question and exchange.result not in (None, ""):
            found.append((question, _text(exchange.result)))
    return found


def _text(result: Any) -> str:
    return result if isinstance(result, str) else msgspec.json.encode(result).decode()
