"""What an agent reads of its thread."""

from collections.abc import Sequence

from service.agents.contract import Exchange, UnderWay
from service.agents.exchanges import BYTES_PER_TOKEN, fitting, given_with, tokens
from service.limits import HISTORY_BYTES
from service.worker.context.scope import AttemptScope


async def history(
    scope: AttemptScope, limit: int, *, max_tokens: int | None, system: str, tools: bool
) -> Sequence[Exchange]:
    await scope.require_running()
    given = given_with(scope.claim.metadata)[-limit:] if limit > 0 else []
    budget = None if max_tokens is None else max_tokens - tokens(system)
    # PostgreSQL reads no more than twice of what fits: its text of a JSON value can be longer than ours.
    max_bytes = HISTORY_BYTES
    if budget is not None:
        max_bytes = min(HISTORY_BYTES, max(0, budget) * 2 * BYTES_PER_TOKEN)
    exchanges = [*given, *await _of_thread(scope, limit, tools, max_bytes)][-limit:] if limit > 0 else []
    return exchanges if budget is None else fitting(exchanges, budget)


async def _of_thread(scope: AttemptScope, limit: int, tools: bool, max_bytes: int) -> list[Exchange]:
    claim = scope.claim
    if claim.thread is None or claim.ord is None:
        return []
    found = await scope.backend.queries.exchanges(claim.thread, claim.ord, limit, tools, max_bytes)
    return [Exchange(exchange.message, exchange.result, exchange.tools) for exchange in found]


async def under_way(scope: AttemptScope) -> UnderWay | None:
    """The message whose turn it is in the thread; None if it is this one, or none has the turn."""
    await scope.require_running()
    if scope.claim.thread is None:
        return None
    found = await scope.backend.queries.turn_in_progress(scope.claim.thread)
    if found is None or found.message_id == scope.claim.message_id:
        return None
    return UnderWay(str(found.message_id), found.agent, found.message, found.steps, found.progress)
