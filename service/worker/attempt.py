"""One attempt at one message, as a pipeline: decode, run the agent, close the log, finish."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from service.agents.contract import Agent, Rejected
from service.agents.registry import Registry
from service.batching import Batcher
from service.config import Settings
from service.queues.leases import Append, Appended, Finish, Finished
from service.queues.model import Claim
from service.worker.context import AttemptContext, SyncContext, Turns
from service.worker.outbox import Outbox
from service.worker.outcome import CANCELLED, RELEASED, Outcome, broken, completed, encode, failed, unknown
from service.worker.sync import SyncRunner

log = logging.getLogger(__name__)

CANCEL_GRACE = 0.5  # seconds an agent gets to clean up before its message goes on without it


class Tools(msgspec.Struct, frozen=True):
    """What every attempt of a worker shares."""

    settings: Settings
    registry: Registry
    turns: Turns
    appends: Batcher[Append, Appended]
    finishes: Batcher[Finish, Finished]
    sync: SyncRunner


class Attempt:
    """`ended` is called when the agent's part is over: what follows waits for PostgreSQL only."""

    def __init__(self, claim: Claim, tools: Tools, ended: Callable[[], None]) -> None:
        self.claim = claim
        self._ended = ended
        self._tools = tools
        # Why the attempt is to end early: 'cancelled', 'lost', 'released', or what went wrong.
        self._reason: str | Exception | None = None
        self._over = asyncio.get_running_loop().create_future()  # done when the agent is, or when there is a reason
        self._outbox = Outbox(claim.message_id, claim.lease, claim.last_seq + 1, tools.appends, self.stop)
        self._usage: dict[str, Any] = {}

    def stop(self, reason: str | Exception) -> None:
        """End it early; the first reason counts."""
        if self._reason is None:
            self._reason = reason
            self._end()

    async def run(self) -> str:
        """Returns the message's new state, or 'lost' where the lease was not ours any more."""
        try:
            outcome = await self._execute()
        except Exception as error:
            log.exception("an attempt broke", extra={"message_id": str(self.claim.message_id)})
            outcome = broken(error, self.claim.failures, self._tools.settings)
        finally:
            self._ended()
        first_seq, unsent = await self._outbox.close()
        if outcome is None:
            return "lost"
        if outcome.kind == "completed" and isinstance(self._reason, Exception):
            outcome = self._failed(self._reason)  # events did not get into the log: an answer without them is none
        finish = Finish(
            self.claim.message_id,
            self.claim.lease,
            outcome.kind,
            outcome.result,
            outcome.error,
            outcome.traceback,
            outcome.delay,
            encode(self._usage) if self._usage else None,
            first_seq,
            unsent,
        )
        try:
            finished = await self._tools.finishes.submit(finish)
        except Exception as error:  # PostgreSQL does not take the result or an event: the attempt failed
            refused = self._failed(error)
            finished = await self._tools.finishes.submit(
                msgspec.structs.replace(
                    finish,
                    outcome=refused.kind,
                    result=None,
                    error=refused.error,
                    traceback=None,
                    delay=refused.delay,
                    usage=None,
                    events=[],
                )
            )
        return finished.status

    def _end(self, _: object = None) -> None:
        if not self._over.done():
            self._over.set_result(None)

    async def _execute(self) -> Outcome | None:
        """Run the agent to its end, its timeout, or the first reason to stop it; None where the lease is lost."""
        agent = self._tools.registry.get(self.claim.agent)
        if agent is None:
            return unknown(self.claim.agent, self.claim.attempt, self._tools.settings)
        if self._reason is not None:
            return self._interrupted(self._reason)
        task = asyncio.create_task(self._call(agent))
        task.add_done_callback(self._end)
        seconds = self.claim.timeout_seconds
        timer = asyncio.get_running_loop().call_later(seconds, self._end)
        try:
            await self._over
        finally:
            timer.cancel()
        if task.done() and not task.cancelled():
            return task.result()
        if task.done() and self._reason is None:
            return self._failed(asyncio.CancelledError())
        if self._reason is None:
            self._reason = TimeoutError(f"the attempt took longer than {seconds:g} seconds")
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_GRACE)
        if not task.done():
            log.warning(
                "an agent ignores its cancellation",
                extra={"message_id": str(self.claim.message_id), "agent": agent.name},
            )
            task.add_done_callback(lambda ignored: ignored.cancelled() or ignored.exception())
        return self._interrupted(self._reason)

    def _interrupted(self, reason: str | Exception) -> Outcome | None:
        if isinstance(reason, Exception):
            return self._failed(reason)
        return {"cancelled": CANCELLED, "released": RELEASED}.get(reason)

    async def _call(self, agent: Agent) -> Outcome:
        """The agent's outcome; nothing it raises, SystemExit included, gets further than this."""
        try:
            context = AttemptContext(
                self.claim,
                _read(self.claim.metadata),
                self._outbox,
                self._tools.turns,
                max_event_bytes=self._tools.settings.max_event_bytes,
                stopped=lambda: self._reason is not None,
                usage=self._usage,
            )
            request = agent.decode(_read(self.claim.body))
            if agent.is_async:
                return completed(await agent(context, request))
            return await self._tools.sync.run(
                self._call_sync, agent, SyncContext(context, asyncio.get_running_loop()), request
            )
        except asyncio.CancelledError as error:
            if self._reason is not None:
                raise
            return self._failed(error)
        except BaseException as error:
            return self._failed(error)

    def _call_sync(self, agent: Agent, context: SyncContext, request: Any) -> Outcome:
        """In a thread. What the agent raises stays here: no future can carry StopIteration."""
        try:
            return completed(agent(context, request))
        except BaseException as error:
            return self._failed(error)

    def _failed(self, error: BaseException) -> Outcome:
        return failed(error, self.claim.failures, self._tools.settings)


def _read(text: str) -> Any:
    """JSON of a message; raises Rejected where it came from SQL and is more than Python takes (1e999, deep nests)."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Rejected(f"The message cannot be read: {error}.") from None
