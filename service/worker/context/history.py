"""What an agent reads of its thread."""

from collections.abc import Sequence

import msgspec

from service.agents.contract import Exchange, Rejected, UnderWay
from service.limits import HISTORY_BYTES
from service.worker.context.scope import AttemptScope
from service.worker.outcome import encode

BYTES_PER_TOKEN = 4  # roughly, in English text


class _Metadata(msgspec.Struct):
    history: list[Exchange] = []


async def history(
    scope: AttemptScope, limit: int, *, max_tokens: int | None, system: str, tools: bool
) -> Sequence[Exchange]:
    await scope.require_running()
    given = _given(scope.claim.metadata)[-limit:] if limit > 0 else []
    budget = None if max_tokens is None else max_tokens - tokens(system)
    # PostgreSQL reads no more than twice of what fits: its text of a JSON value can be longer than ours.
    max_bytes = HISTORY_BYTES
    if budget is not None:
        max_bytes = min(HISTORY_BYTES, max(0, budget) * 2 * BYTES_PER_TOKEN)
    exchanges = [*given, *await _of_thread(scope, limit, tools, max_bytes)][-limit:] if limit > 0 else []
    return exchanges if budget is None else _fitting(exchanges, budget)


async def _of_thread(scope: AttemptScope, limit: int, tools: bool, max_bytes: int) -> list[Exchange]:
    claim = scope.claim
    if claim.thread is None or claim.ord is None:
        return []
    found = await scope.backend.queries.exchanges(claim.thread, claim.ord, limit, tools, max_bytes)
    return [Exchange(exchange.message, exchange.result, exchange.tools) for exchange in found]


def _given(metadata: str) -> list[Exchange]:
    """What the client says went before the thread: `metadata.history`. Raises Rejected."""
    if '"history"' not in metadata:
        return []
    try:
        return msgspec.json.decode(metadata, type=_Metadata).history
    except msgspec.ValidationError:
        raise Rejected("metadata.history must be a list of objects with message and result.") from None


async def under_way(scope: AttemptScope) -> UnderWay | None:
    """The message whose turn it is in the thread; None if it is this one, or none has the turn."""
    await scope.require_running()
    if scope.claim.thread is None:
        return None
    found = await scope.backend.queries.turn_in_progress(scope.claim.thread)
    if found is None or found.message_id == scope.claim.message_id:
        return None
    return UnderWay(str(found.message_id), found.agent, found.message, found.steps, found.progress)


def tokens(value: object) -> int:
    """Roughly how many tokens a model counts for it."""
    size = len(value.encode()) if isinstance(value, str) else len(encode(value))
    return -(-size // BYTES_PER_TOKEN)


def _fitting(exchanges: list[Exchange], budget_tokens: int) -> list[Exchange]:
    """The latest whole exchanges that fit."""
    first = len(exchanges)
    for exchange in reversed(exchanges):
        budget_tokens -= tokens(exchange.message) + tokens(exchange.result) + sum(map(tokens, exchange.tools))
        if budget_tokens < 0:
            break
        first -= 1
    return exchanges[first:]
