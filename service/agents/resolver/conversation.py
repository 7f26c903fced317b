"""A model's whole answer to one request, and the thread's earlier conversation."""

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from service.agents.contract import Context
from service.agents.resolver.memory import cut
from service.agents.resolver.model_requests import Model, ModelRequest, TextExchange

EARLIER_EXCHANGES = 10  # that the planner of a new query sees
MAX_EARLIER_CHARS = 4000  # of each text


async def complete_text(
    model: Model,
    request: ModelRequest,
    usage: Counter[str],
    emit: Callable[[str], Awaitable[None]] | None = None,
) -> str:
    """The model's answer. `emit` receives each piece as it arrives; what the answer cost is added to `usage`."""
    pieces = []
    usage["calls"] += 1
    async with aclosing(model.stream(request, usage)) as stream:
        async for piece in stream:
            pieces.append(piece)
            if emit is not None:
                await emit(piece)
    text = "".join(pieces)
    if not text.strip():
        raise RuntimeError(f"The model gave an empty answer as the {request.role}.")
    return text


async def earlier_exchanges(context: Context) -> tuple[TextExchange, ...]:
    """The thread's last exchanges in which message and result are text."""
    exchanges = await context.history(EARLIER_EXCHANGES)
    return tuple(
        (cut(exchange.message, MAX_EARLIER_CHARS), cut(exchange.result, MAX_EARLIER_CHARS))
        for exchange in exchanges
        if isinstance(exchange.message, str) and isinstance(exchange.result, str)
    )
