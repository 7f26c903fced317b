"""A registered worker: it keeps its registration and its heartbeat, and claims messages."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from treadle.client.errors import Conflict, NotFound, TooManyRequests, TreadleError, Unavailable
from treadle.worker.heartbeat import Heartbeat
from treadle.worker.protocol import Claim, Leases, Registration, Verdict, VerdictKind

log = logging.getLogger(__name__)

CLAIM_WAIT_SECONDS = 30.0
MAX_CLAIMED_MESSAGES = 100
RETRY_SECONDS = 1.0
CALL_REPEAT_SECONDS = 5.0


class Session:
    """`drop` is called in the loop for each message that must be dropped: its claim is lost, or the message cancelled.

    `held` has the claims that the worker works on; the session adds them, and its user removes them with `forget`.
    """

    def __init__(
        self,
        url: str | None,
        key: str | None,
        agents: Sequence[dict[str, Any]],
        concurrency: int,
        drop: Callable[[UUID, VerdictKind], None],
    ) -> None:
        self._address = (url, key)
        self._agents = agents
        self._concurrency = concurrency
        self._drop = drop
        self._registration: Registration | None = None
        self._leases: dict[UUID, UUID] = {}  # the heartbeat's thread copies it
        self._claiming: asyncio.Future[list[Claim]] | None = None
        self.calls = self.connect()
        self.held: dict[UUID, Claim] = {}
        self.registered = asyncio.Event()
        self._heartbeat = Heartbeat(self)

    @property
    def worker_id(self) -> str:
        """Where it has no registration at the moment, its calls are answered as those of a lost worker."""
        return self._registration.worker_id if self._registration is not None else "none"

    @property
    def tenant(self) -> str:
        return self._registration.tenant if self._registration is not None else "default"

    async def claim(self, quantity: int) -> list[Claim]:
        """Wait for up to so many messages, for a while. It registers where needed. Raises Unauthorized, Forbidden or
        Invalid if the server refuses the worker."""
        try:
            if self._registration is None:
                self._registration = await self._register()
                self._heartbeat.start(self._registration)
                self.registered.set()
            claims = await self._claim_as(self._registration.worker_id, min(quantity, MAX_CLAIMED_MESSAGES))
        except NotFound:
            self.declare_lost(self.worker_id)
            return []
        except (Unavailable, TooManyRequests, Conflict) as error:  # Conflict: of a registration
            log.warning("claim failed: %s", error)
            await asyncio.sleep(RETRY_SECONDS)
            return []
        self.held |= {claim.message_id: claim for claim in claims}
        self._leases |= {claim.message_id: claim.lease for claim in claims}
        return claims

    async def _claim_as(self, worker_id: str, quantity: int) -> list[Claim]:
        """None once the server has taken the worker for dead: where the network drops packets, no answer comes."""
        self._claiming = asyncio.ensure_future(self.calls.claim(worker_id, quantity, CLAIM_WAIT_SECONDS))
        try:
            return await self._claiming
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling() > 0:  # not by `declare_lost`
                raise
            return []

    def forget(self, claim: Claim) -> None:
        """The claim has ended, or is lost."""
        if self.held.get(claim.message_id) is claim:
            del self.held[claim.message_id]
            self._leases.pop(claim.message_id, None)

    async def close(self) -> None:
        """Sign off: what it still holds goes to other workers at once."""
        self._heartbeat.stop()
        registration, self._registration = self._registration, None  # a heartbeat under way finds it signed off
        with contextlib.suppress(TreadleError):
            if registration is not None:
                await self.calls.deregister(registration.worker_id)
        await self.calls.close()

    def connect(self) -> Leases:
        url, key = self._address
        return Leases(url, key=key, repeat_seconds=CALL_REPEAT_SECONDS)

    def held_leases(self) -> dict[UUID, UUID]:
        return self._leases.copy()

    def obey(self, verdicts: Sequence[Verdict]) -> None:
        for verdict in verdicts:
            claim = self.held.get(verdict.message_id)
            if claim is not None and claim.lease == verdict.lease:
                self._drop(verdict.message_id, verdict.verdict)

    def declare_lost(self, worker_id: str) -> None:
        """The server has taken the worker for dead: what it holds is lost, and it registers again."""
        if self._registration is None or self._registration.worker_id != worker_id:
            return
        log.warning("worker %s was taken for dead; it registers again", worker_id)
        self._registration = None
        if self._claiming is not None:
            self._claiming.cancel()
        for message_id in list(self.held):
            self._drop(message_id, "lost")

    async def _register(self) -> Registration:
        registration = await self.calls.register(self._agents, self._concurrency, socket.gethostname(), os.getpid())
        log.info("worker %s registered", registration.worker_id)
        return registration
