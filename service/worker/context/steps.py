"""Durable steps: run a function once for a message, however often it is attempted."""

import time
from collections.abc import Callable
from typing import Any

import msgspec

from service import telemetry
from service.agents.contract import Rejected
from service.agents.json_types import as_stored, read, return_type, unreadable
from service.agents.step_names import within_step
from service.agents.thread_bridge import call_anywhere
from service.leases.model import EventToAppend
from service.worker.context.scope import AttemptScope
from service.worker.outcome import encode_once


class Step:
    """One step of an attempt. Raises Rejected if the function's annotation has no JSON form: the function would run,
    and its result could not be kept."""

    def __init__(self, scope: AttemptScope, name: str, function: Callable[[], Any]) -> None:
        self._scope = scope
        self._name = name
        self._declared = return_type(function)
        self._began_at = time.monotonic()
        if problem := unreadable(self._declared):
            raise Rejected(f"The step {name!r} cannot be stored: its function's annotation says that {problem}.")

    async def find(self) -> str | None:
        """The result as JSON text if an earlier attempt finished the step. Claims the step's name."""
        await self._scope.require_running()
        self._name = self._scope.names.claim("step", self._name)
        return (await self._scope.earlier_results()).steps.get(self._name)

    @property
    def name(self) -> str:
        """As it is stored."""
        return self._name

    def stored(self, result: str) -> Any:
        """The result of an earlier attempt as the type that the annotation declares."""
        try:
            return read(result, self._declared)
        except TypeError as error:
            raise TypeError(
                f"the stored result of the step {self._name!r} does not fit its annotation: {error}"
            ) from None

    async def keep(self, answer: Any) -> Any:
        """Store the result, with the messages that were sent before it (unless they are committed with the completion
        only); returns it as every later attempt reads it.

        Raises TypeError if the result does not fit the annotation, Rejected if it is not JSON or is too large; nothing
        is stored then.
        """
        result = encode_once(answer, f"The result of the step {self._name!r}")
        try:
            value = read(as_stored(result), self._declared)
        except TypeError as error:
            raise TypeError(f"the step {self._name!r} returned what its annotation does not allow: {error}") from None
        step: dict[str, Any] = {"name": self._name, "result": msgspec.Raw(result.encode())}
        if used := self._scope.usage_of(self._name):
            step["usage"] = used
        commits_sends = self._scope.claim.delivery != "exactly_once"
        if self._scope.unsent and commits_sends:
            step["sent"] = list(self._scope.unsent)
        try:
            data = self._scope.fit(step, "a step")
        except ValueError as error:
            raise Rejected(f"The result of the step {self._name!r} cannot be stored: {error}.") from None
        sends = self._scope.take_unsent() if commits_sends else None
        await self._scope.backend.events.save(EventToAppend("step", data, sends))
        seconds = time.monotonic() - self._began_at
        telemetry.step(work=self._scope.claim, name=self._name, seconds=seconds)
        return value


async def run(scope: AttemptScope, name: str, function: Callable[[], Any]) -> Any:
    """The stored result of an earlier attempt, or the function's own once it is stored."""
    step = Step(scope, name, function)
    result = await step.find()
    if result is not None:
        return step.stored(result)
    with within_step(step.name):
        answer = await call_anywhere(function)
    return await step.keep(answer)
