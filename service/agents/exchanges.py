"""The exchanges that an agent reads: those that came with its message, and how many fit."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from service.agents.contract import Exchange, Rejected

BYTES_PER_TOKEN = 4  # roughly, in English text


class _Metadata(msgspec.Struct):
    history: list[Exchange] = []


def given_with(metadata: str | Mapping[str, Any]) -> list[Exchange]:
    """What the client says went before the thread: `history` of the metadata, which is JSON text or its value. Raises
    Rejected."""
    if isinstance(metadata, str) and '"history"' not in metadata:
        return []
    try:
        if isinstance(metadata, str):
            return msgspec.json.decode(metadata, type=_Metadata).history
        return msgspec.convert(metadata, _Metadata).history
    except msgspec.ValidationError:
        raise Rejected("metadata.history must be a list of objects with message and result.") from None


def tokens(value: object) -> int:
    """Roughly how many tokens a model counts for it."""
    size = len(value.encode()) if isinstance(value, str) else len(msgspec.json.encode(value))
    return -(-size // BYTES_PER_TOKEN)


def fitting(exchanges: Sequence[Exchange], budget_tokens: int) -> Sequence[Exchange]:
    """The latest whole exchanges that fit."""
    first = len(exchanges)
    for exchange in reversed(exchanges):
        budget_tokens -= tokens(exchange.message) + tokens(exchange.result) + sum(map(tokens, exchange.tools))
        if budget_tokens < 0:
            break
        first -= 1
    return exchanges[first:]
