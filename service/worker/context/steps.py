"""Durable steps: run a function once for a message, however often it is attempted."""

import functools
from collections.abc import Callable
from typing import Any, get_type_hints

import msgspec

from service.agents.thread_bridge import call_anywhere
from service.leases.model import EventToAppend
from service.worker.context.scope import AttemptScope, within_step
from service.worker.outcome import encode


async def run(scope: AttemptScope, name: str, function: Callable[[], Any]) -> Any:
    """The stored result of an earlier attempt, or the function's own once it is stored."""
    name, result = await find(scope, name)
    if result is None:
        with within_step(name):
            answer = await call_anywhere(function)
        result = await keep(scope, name, answer)
    return as_returned(function, result)


async def find(scope: AttemptScope, name: str) -> tuple[str, str | None]:
    """The step's name as it is stored, and its result as JSON text if an earlier attempt finished it."""
    name = scope.claim_name("step", name)
    return name, (await scope.earlier_results()).steps.get(name)


async def keep(scope: AttemptScope, name: str, answer: Any) -> str:
    """Store the result, with the messages that were sent before it; returns it as JSON text."""
    result = encode(answer)
    step: dict[str, Any] = {"name": name, "result": msgspec.Raw(result.encode())}
    if scope.unsent:
        step["sent"] = list(scope.unsent)
    event = EventToAppend("step", scope.fit(step, "a step"), scope.take_unsent())
    await scope.backend.events.save(event)
    return result


def as_returned(function: Callable[[], Any], result: str) -> Any:
    """The result of a step, JSON text, as the type that the function's annotation says."""
    return msgspec.json.decode(result, type=_return_type(function))


def _return_type(function: Callable[[], Any]) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return get_type_hints(function).get("return", Any)
    except (NameError, TypeError):  # an annotation that names nothing at run time; a callable without hints
        return Any
