"""One attempt at one message: call the agent, and tell the server how it ended."""

import asyncio
import itertools
import logging
import traceback
from typing import Any, Literal

import msgspec

from service.agents.contract import Overloaded, Rejected, RetryAfter
from service.agents.definition import Agent
from service.agents.raised import decisive, said
from service.agents.texts import clean, encode_clean
from service.agents.thread_bridge import ThreadBridge
from treadle.client.errors import ApiError
from treadle.worker.buffer import EventBuffer
from treadle.worker.calls import Calls
from treadle.worker.context import Asked, RemoteContext, SyncContext, Waiting
from treadle.worker.protocol import Claim, Ending, Event, LeaseLost, Leases
from treadle.worker.traces import go_on_with

log = logging.getLogger(__name__)

Reason = Literal["lost", "cancelled", "released"] | Asked | Waiting
MAX_ERROR_CHARS = 2_000


class Attempt:
    def __init__(self, agent: Agent, claim: Claim, leases: Leases, worker: str, tenant: str) -> None:
        self.claim = claim
        self._agent = agent
        self._leases = leases
        self._worker = worker
        self._buffer = EventBuffer(leases, worker, claim, self.stop)
        self._context = RemoteContext(
            claim,
            tenant,
            self._buffer,
            Calls(leases, worker, claim, self.stop),
            stop=self.stop,
            client_state=agent.limits.client_state,
        )
        self._reason: Reason | Exception | None = None
        self._task: asyncio.Task[Any] | None = None

    def stop(self, reason: Reason | Exception) -> None:
        """End it early; the first reason counts."""
        if self._reason is None:
            self._reason = reason
            self._context.cancelled = True
            if self._task is not None:
                self._task.cancel()

    async def run(self) -> None:
        """Returns when the server knows the end, or when the lease is lost."""
        go_on_with(self.claim.traceparent)
        outcome, fields = await self._execute()
        first_seq, events = await self._buffer.close()
        if self._reason == "lost":
            return
        if self._context.counts:
            fields["usage"] = self._context.counts
        if outcome in ("completed", "input", "children"):
            fields |= self._context.unsent_with(events).fields()
        else:
            events = _without_sends(events)
        try:
            await self._finish(outcome, fields, first_seq, events)
        except LeaseLost as error:
            log.warning("%s: %s", self.claim.message_id, error)

    async def _finish(self, outcome: Ending, fields: dict[str, Any], first_seq: int, events: list[Any]) -> None:
        try:
            await self._leases.finish(self._worker, self.claim, outcome, first_seq=first_seq, events=events, **fields)
        except (ApiError, TypeError, ValueError, OverflowError) as error:  # the result or an event is not accepted
            failure = {"error": clean(str(error))[:MAX_ERROR_CHARS]}
            await self._leases.finish(self._worker, self.claim, "failed", first_seq=first_seq, events=[], **failure)

    async def _execute(self) -> tuple[Ending, dict[str, Any]]:
        self._task = asyncio.current_task()
        timeout = self.claim.timeout_seconds
        try:
            if self._reason is None:
                async with asyncio.timeout(timeout):
                    result = self._encode(await self._call())
                    return "completed", {"result": result, **self._context.changed_memory()}
        except asyncio.CancelledError as error:
            if self._reason is None:
                if self._is_cancelled():  # by the program
                    raise
                return self._failed(error, timeout)
            self._uncancel()
        except BaseException as error:
            if self._reason is None:
                return self._failed(error, timeout)
        finally:
            self._task = None
        return self._stopped()

    def _is_cancelled(self) -> bool:
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0

    def _uncancel(self) -> None:
        task = asyncio.current_task()
        while task is not None and task.cancelling():
            task.uncancel()

    async def _call(self) -> Any:
        request = self._agent.decode(self.claim.message)
        if self._agent.is_async:
            return await self._agent(self._context, request)
        bridge = ThreadBridge()
        try:
            return await asyncio.to_thread(self._agent, SyncContext(self._context, bridge), request)
        finally:
            bridge.close()

    def _encode(self, result: Any) -> msgspec.Raw:
        try:
            return msgspec.Raw(encode_clean(result).encode())
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise Rejected(f"The agent's result is not JSON: {error}.") from error

    def _stopped(self) -> tuple[Ending, dict[str, Any]]:
        if self._reason == "released":
            return "released", {}
        if isinstance(self._reason, Asked):
            return "input", {"question": {"name": self._reason.name, "question": self._reason.question}}
        if isinstance(self._reason, Waiting):
            return "children", {"children": self._reason.children}
        if isinstance(self._reason, Exception):
            return "failed", {"error": clean(said(self._reason))[:MAX_ERROR_CHARS]}
        return "failed", {"error": "Cancelled."}

    def _failed(self, error: BaseException, timeout: float) -> tuple[Ending, dict[str, Any]]:
        decision = decisive(error)
        log.debug("%s", "".join(traceback.format_exception(error)))
        own = isinstance(decision, Rejected | RetryAfter)
        text = clean(said(decision) if own else f"{type(decision).__name__}: {said(decision)}")
        if isinstance(error, TimeoutError) and not said(error):
            text = f"The attempt took longer than {timeout:g} seconds."
        if isinstance(decision, asyncio.CancelledError):
            text = "The agent cancelled itself."
        fields: dict[str, Any] = {"error": text[:MAX_ERROR_CHARS] or type(decision).__name__}
        if isinstance(decision, Rejected):
            return "failed", fields
        if isinstance(decision, RetryAfter) and (decision.seconds or not isinstance(decision, Overloaded)):
            fields["retry_after"] = decision.seconds
        return "retry", fields


def _without_sends(events: list[Event]) -> list[Event]:
    """Those before the first step that sends: it counts only together with what it sends."""
    return list(itertools.takewhile(lambda event: event.sends is None, events))
