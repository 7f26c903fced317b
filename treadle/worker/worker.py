"""The remote worker: claim until stopped, run an attempt at each message, drain."""

import asyncio
import contextlib
import logging
import signal
from typing import Any
from uuid import UUID

from service.agents.definition import Agent
from service.agents.os_threads import Threads
from treadle.client.errors import ApiError
from treadle.worker.attempt import Attempt
from treadle.worker.protocol import Claim, VerdictKind
from treadle.worker.session import Session

log = logging.getLogger(__name__)

REMOTE_QUEUE = "remote"  # of an agent that names no queue; the workers of the installation claim from `default`
RELEASE_SECONDS = 5.0


class Worker:
    """Runs agents in this program. It needs a key with the scope `work`, and claims messages of the key's tenant.

    Worker(shout, url="http://localhost:8000", concurrency=10).run()
    """

    def __init__(
        self,
        *agents: Agent,
        url: str | None = None,
        key: str | None = None,
        concurrency: int = 10,
        grace_seconds: float = 30.0,
    ) -> None:
        """
        agents         Made with @treadle.agent. One without a queue waits in the queue `remote`.
        url, key       As of treadle.Client.
        concurrency    Messages at once, 1 to 1000. A sync agent runs in a thread, which it keeps if it outlives its
                       attempt; the next one gets another.
        grace_seconds  How long `stop` lets running messages end before they are given back.
        """
        if not agents:
            raise ValueError("a worker needs at least one agent")
        self._agents = {agent.name: agent for agent in agents}
        self._address = (url, key)
        self._concurrency = concurrency
        self._grace_seconds = grace_seconds
        self._attempts: dict[UUID, Attempt] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._releasing = asyncio.Event()
        self._ended = asyncio.Event()
        self.registered = asyncio.Event()

    def run(self) -> None:
        """Work until SIGTERM or Ctrl-C; the second one gives back at once what runs."""
        asyncio.run(self._run_with_signals())

    async def serve(self) -> None:
        """Work until `stop` is called. Raises Unauthorized, Forbidden or Invalid if the server refuses the worker."""
        threads = Threads(self._concurrency)
        threads.serve(asyncio.get_running_loop())
        agents = [_declared(agent) for agent in self._agents.values()]
        session = Session(*self._address, agents, self._concurrency, self._drop)
        session.registered = self.registered
        try:
            await self._claim_until_stopped(session, threads)
            await self._drain()
        finally:
            threads.close_agents()
            await session.close()

    def stop(self) -> None:
        """Claim no more, and let what runs end; the second call gives it back. In the loop of `serve`."""
        if self._stopping.is_set():
            self._releasing.set()
        self._stopping.set()

    async def _run_with_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):  # no signals in a thread
                loop.add_signal_handler(number, self.stop)
        await self.serve()

    async def _claim_until_stopped(self, session: Session, threads: Threads) -> None:
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            while not self._stopping.is_set():
                claiming = asyncio.create_task(self._claim(session, threads))
                try:
                    await asyncio.wait({claiming, stopped}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    claiming.cancel()  # a claim whose answer is not awaited is given back when the worker signs off
                    await asyncio.wait({claiming})
                if not claiming.cancelled():
                    claiming.result()
        finally:
            stopped.cancel()

    async def _claim(self, session: Session, threads: Threads) -> None:
        while (room := self._concurrency - len(self._attempts)) <= 0:
            self._ended.clear()
            await self._ended.wait()
        for claim in await session.claim(room):
            agent, worker_id = self._agents[claim.agent], session.worker_id
            attempt = Attempt(agent, claim, session.calls, worker_id, session.tenant, threads)
            self._attempts[claim.message_id] = attempt
            task = asyncio.create_task(self._run(attempt, claim, session))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, attempt: Attempt, claim: Claim, session: Session) -> None:
        try:
            await attempt.run()
        except ApiError as error:
            log.error("%s: the end was refused: %s", claim.message_id, error)
        except Exception:
            log.exception("an attempt broke")
        finally:
            session.forget(claim)
            if self._attempts.get(claim.message_id) is attempt:
                del self._attempts[claim.message_id]
            self._ended.set()

    async def _drain(self) -> None:
        """Called when no claim waits any more, so that the worker does not take again what it gives back."""
        if not self._tasks:
            return
        ended = asyncio.create_task(asyncio.wait(list(self._tasks)))
        releasing = asyncio.create_task(self._releasing.wait())
        try:
            await asyncio.wait({ended, releasing}, timeout=self._grace_seconds, return_when=asyncio.FIRST_COMPLETED)
            for attempt in self._attempts.values():
                attempt.stop("released")
            await asyncio.wait({ended}, timeout=RELEASE_SECONDS)
        finally:
            ended.cancel()
            releasing.cancel()

    def _drop(self, message_id: UUID, reason: VerdictKind) -> None:
        if message_id in self._attempts:
            self._attempts[message_id].stop(reason)


def _declared(agent: Agent) -> dict[str, Any]:
    limits = agent.limits
    fields = {
        "agent": agent.name,
        "queue": REMOTE_QUEUE if limits.queue == "default" else limits.queue,
        "timeout_seconds": limits.timeout,
        "max_attempts": limits.max_attempts,
        "input": agent.input_schema,
        "description": limits.description,
        "client_state": list(limits.client_state) or None,
    }
    return {name: value for name, value in fields.items() if value is not None}
