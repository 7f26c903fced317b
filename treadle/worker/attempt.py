"""One attempt at one message: call the agent, and tell the server how it ended."""

import asyncio
import contextvars
import itertools
import logging
import traceback
from typing import Any

import msgspec

from service.agents.contract import Overloaded, Rejected, RetryAfter
from service.agents.definition import Agent
from service.agents.http_errors import error_of_service
from service.agents.os_threads import Threads
from service.agents.raised import decisive_of, leaves, said
from service.agents.texts import clean
from service.agents.thread_bridge import ThreadBridge
from treadle.client.errors import ApiError
from treadle.worker.buffer import EventBuffer
from treadle.worker.calls import Calls
from treadle.worker.context import RemoteContext, encode_once
from treadle.worker.protocol import Asked, Claim, Ending, Event, LeaseLost, Leases, StopReason, Waiting
from treadle.worker.sync_context import SyncContext
from treadle.worker.traces import go_on_with

log = logging.getLogger(__name__)

MAX_ERROR_CHARS = 2_000
CANCEL_GRACE_SECONDS = 0.5  # which an agent gets to clean up before its message goes on without it
WITH_SENDS = ("completed", "input", "children")

End = tuple[Ending, dict[str, Any]]
"""The outcome, and the other fields of the call that ends the attempt."""


class Attempt:
    def __init__(self, agent: Agent, claim: Claim, leases: Leases, worker: str, tenant: str, threads: Threads) -> None:
        self.claim = claim
        self._agent = agent
        self._leases = leases
        self._worker = worker
        self._threads = threads
        self._buffer = EventBuffer(leases, worker, claim, self)
        calls = Calls(leases, worker, claim, self)
        client_state = agent.limits.client_state
        self._context = RemoteContext(claim, tenant, self._buffer, calls, self, client_state=client_state)
        self._reason: StopReason | Exception | None = None
        self._over = asyncio.get_running_loop().create_future()  # resolved when the agent has ended or has to end
        self._is_closed = False

    @property
    def is_stopped(self) -> bool:
        return self._is_closed or self._reason is not None

    def stop(self, reason: StopReason | Exception) -> None:
        """End it early; the first reason counts."""
        if self._reason is None:
            self._reason = reason
            self._end()

    async def run(self) -> None:
        """Returns when the server knows the end, or when the lease is lost."""
        go_on_with(self.claim.traceparent)
        try:
            outcome, fields = await self._execute()
        finally:
            self._is_closed = True
        first_seq, events = await self._buffer.close()
        if self._reason == "lost":
            return
        if isinstance(self._reason, Exception) and outcome in WITH_SENDS:  # its events are not in the log
            outcome, fields = self._stopped(self._reason)
        if self._context.counts:
            fields["usage"] = self._context.counts
        if outcome in WITH_SENDS:
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

    async def _execute(self) -> End:
        """Run the agent until it ends, times out or is stopped. One that ignores its cancellation goes on without its
        message; its context refuses every further call."""
        if self._reason is not None:
            return self._stopped(self._reason)
        task = asyncio.create_task(self._invoke())
        task.add_done_callback(self._end)
        timer = asyncio.get_running_loop().call_later(self.claim.timeout_seconds, self.stop, "timeout")
        try:
            await self._over
            if task.done() and self._reason in (None, "released", "timeout"):
                return self._failed(asyncio.CancelledError()) if task.cancelled() else task.result()
        finally:
            timer.cancel()
            task.cancel(self._reason if isinstance(self._reason, str) else None)
        await asyncio.wait({task}, timeout=CANCEL_GRACE_SECONDS)
        if not task.done():
            log.warning("%s: the agent %s ignores its cancellation", self.claim.message_id, self._agent.name)
        assert self._reason is not None
        return self._stopped(self._reason)

    async def _invoke(self) -> End:
        """An exception of the agent, SystemExit included, becomes an end; only a CancelledError of an attempt that must
        end is raised."""
        try:
            result = encode_once(await self._call(), "The agent's result")
            return "completed", {"result": msgspec.Raw(result.encode()), **self._context.changed_memory()}
        except asyncio.CancelledError as error:
            if self._context.cancelled:
                raise
            return self._failed(error)
        except BaseException as error:
            return self._failed(error)

    async def _call(self) -> Any:
        request = self._agent.decode(self.claim.message)
        if self._agent.is_async:
            return await self._agent(self._context, request)
        bridge = ThreadBridge()
        try:
            call = contextvars.copy_context().run  # so that the trace goes on in the thread
            return await self._threads.run_agent(call, self._agent, SyncContext(self._context, bridge), request)
        finally:
            bridge.close()

    def _end(self, _: object = None) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _stopped(self, reason: StopReason | Exception) -> End:
        if reason == "released":
            return "released", {}
        if isinstance(reason, Asked):
            return "input", {"question": {"name": reason.name, "question": reason.question}}
        if isinstance(reason, Waiting):
            return "children", {"children": reason.children}
        if reason == "timeout":
            return "retry", {"error": f"The attempt took longer than {self.claim.timeout_seconds:g} seconds."}
        if isinstance(reason, Exception):
            return "failed", {"error": clean(said(reason))[:MAX_ERROR_CHARS] or type(reason).__name__}
        return "failed", {"error": "Cancelled."}

    def _failed(self, error: BaseException) -> End:
        decision = decisive_of([error_of_service(leaf) for leaf in leaves(error)])
        log.debug("%s", "".join(traceback.format_exception(error)))
        own = isinstance(decision, Rejected | RetryAfter)
        text = clean(said(decision) if own else f"{type(decision).__name__}: {said(decision)}")
        if isinstance(decision, asyncio.CancelledError):
            text = "The agent cancelled itself."
        fields: dict[str, Any] = {"error": text[:MAX_ERROR_CHARS] or type(decision).__name__}
        if isinstance(decision, Rejected):
            return "failed", fields
        if isinstance(decision, RetryAfter):
            fields["retry_after"] = decision.seconds
        return "overloaded" if isinstance(decision, Overloaded) else "retry", fields


def _without_sends(events: list[Event]) -> list[Event]:
    """Those before the first step that sends: it counts only together with what it sends."""
    return list(itertools.takewhile(lambda event: event.sends is None, events))
