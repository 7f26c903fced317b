"""Claims of remote workers, which wait for messages.

Workers of one tenant with the same agents and queues form a group. One of them at a time looks for messages: when a
hint names its queue, and each POLL_INTERVAL. When it has found some, the next one looks. So a thousand waiting workers
ask PostgreSQL no more often than one.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator
from itertools import count
from typing import Any, NamedTuple

from service.access.authenticator import Access, check_access
from service.access.principal import Principal
from service.db.notifier import EVERYTHING
from service.errors import NotFound, Unavailable
from service.leases.model import RemoteClaim
from service.messages.model import Priority
from service.patience import client_leaves
from service.protocols.leases.earlier import Earlier
from service.protocols.leases.moments import RemoteMoments
from service.protocols.leases.store import RemoteLeaseStore
from service.waiting import retrieve_exception, wait_for

PORTION_MESSAGES = 10  # that are claimed at once
MAX_CLAIM_BYTES = 10_000_000  # of an answer, also of earlier results, after which it takes no further portion
# In each round of claims one begins at the normal lane and one at the low lane, so that no lane starves.
CLAIMS_PER_ROUND = 16
OTHER_FIRST_LANES: dict[int, Priority] = {7: "normal", 15: "low"}  # by the number of the claim in its round


class ClaimedWork(NamedTuple):
    """A message, and what earlier attempts at it have left."""

    claim: RemoteClaim
    earlier: Earlier

    @property
    def size_bytes(self) -> int:
        claim = self.claim
        own = sum(len(text.encode()) for text in (claim.body, claim.metadata, claim.memory or ""))
        return own + self.earlier.size_bytes


class GroupKey(NamedTuple):
    """Whose messages the workers of a group may claim."""

    tenant: str
    queues: tuple[str, ...]
    agents: tuple[str, ...]


class Group:
    """Workers that wait for the same messages. `turn` is held by the one that looks; the others wait in its line."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.wake = asyncio.Event()
        self.members = 0


class RemoteClaims:
    """The waiting claims of one API process. Intervals in seconds."""

    def __init__(
        self,
        store: RemoteLeaseStore,
        access: Access,
        moments: RemoteMoments,
        *,
        lease_seconds: float,
        poll_interval: float,
    ) -> None:
        self._store = store
        self._access = access
        self._moments = moments
        self._lease_seconds = lease_seconds
        self._poll_interval = poll_interval
        self._groups: dict[GroupKey, Group] = {}
        self._numbers = count()
        self._closing = False

    async def claim(self, principal: Principal, worker: str, quantity: int, wait_seconds: float) -> list[ClaimedWork]:
        """Up to `quantity` messages, as soon as there are any; none after `wait_seconds`, or where the client has gone.
        Raises NotFound for a worker that is not registered, and Unauthorized where the access ends meanwhile."""
        tenant, until = principal.tenant, time.monotonic() + wait_seconds
        claims = await self._look(tenant, worker, quantity)
        if claims or wait_seconds <= 0 or self._closing:
            return claims
        key = await self._store.group(tenant, worker)
        leaves = client_leaves.get()
        with self._joined(GroupKey(tenant, *key)) as group:
            return await _unless(leaves, self._wait(group, principal, worker, quantity, until))

    def receive(self, payload: str) -> None:
        """Wake the groups that a hint on treadle_work names."""
        names = payload.split(",")
        for key, group in self._groups.items():
            if payload == EVERYTHING or not set(key.queues).isdisjoint(names):
                group.wake.set()

    def wake_all(self) -> None:
        self.receive(EVERYTHING)

    def close(self) -> None:
        """Answer every claim that waits; its worker goes on at another process."""
        self._closing = True
        self.wake_all()

    async def _wait(
        self, group: Group, principal: Principal, worker: str, quantity: int, until: float
    ) -> list[ClaimedWork]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(until - time.monotonic()):
                await group.turn.acquire()
            try:
                while not self._closing:
                    group.wake.clear()
                    check_access(self._access, principal)
                    claims = await self._look(principal.tenant, worker, quantity)
                    left = until - time.monotonic()
                    if claims or left <= 0:
                        return claims
                    await wait_for(group.wake, min(self._poll_interval, left))
            finally:
                group.turn.release()
        return []

    async def _look(self, tenant: str, worker: str, quantity: int) -> list[ClaimedWork]:
        """In portions: messages can be large, and the answer has all of them."""
        works: list[ClaimedWork] = []
        size_bytes = 0
        while len(works) < quantity and size_bytes < MAX_CLAIM_BYTES:
            asked = min(PORTION_MESSAGES, quantity - len(works))
            try:
                found = await self._claim(tenant, worker, asked, MAX_CLAIM_BYTES - size_bytes)
            except (NotFound, Unavailable):
                if not works:
                    raise
                break  # the worker gets what it has claimed
            works += found
            size_bytes += sum(work.size_bytes for work in found)
            if len(found) < asked:
                break
        return works

    async def _claim(self, tenant: str, worker: str, quantity: int, room_bytes: int) -> list[ClaimedWork]:
        began = time.monotonic()
        claims = await self._store.claim(
            tenant=tenant,
            worker=worker,
            quantity=quantity,
            lease_seconds=self._lease_seconds,
            first_lane=OTHER_FIRST_LANES.get(next(self._numbers) % CLAIMS_PER_ROUND, "high"),
            room_bytes=room_bytes,
        )
        self._moments.claimed(claims, quantity, began)
        again = [claim.message_id for claim in claims if claim.attempt > 1]
        earlier = await self._store.earlier(again) if again else {}
        return [ClaimedWork(claim, earlier.get(claim.message_id, Earlier())) for claim in claims]

    @contextlib.contextmanager
    def _joined(self, key: GroupKey) -> Iterator[Group]:
        group = self._groups.setdefault(key, Group())
        group.members += 1
        try:
            yield group
        finally:
            group.members -= 1
            if not group.members:
                del self._groups[key]


async def _unless(
    leaves: Callable[[], Coroutine[Any, Any, None]] | None, waiting: Coroutine[Any, Any, list[ClaimedWork]]
) -> list[ClaimedWork]:
    """The claims; none if the client disconnects before."""
    if leaves is None:
        return await waiting
    task, watch = asyncio.create_task(waiting), asyncio.create_task(leaves())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else []
    finally:
        task.add_done_callback(retrieve_exception)
        task.cancel()
        watch.cancel()
