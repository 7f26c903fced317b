"""While several tenants share the lanes, claims are small."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import msgspec

from service.config import Settings
from service.errors import Unavailable
from service.leases.model import Claimed
from service.worker.agent_filter import AgentFilter
from service.worker.claimer import CLAIM_BATCH_MESSAGES, SHARED_CLAIM_BATCH_MESSAGES, Claimer
from service.worker.traces import NoTraces
from tests.support.waiting import LIMIT_SECONDS, let_the_loop_read, until
from tests.support.workers import never_replaced

ROOM = CLAIM_BATCH_MESSAGES + 30


class Claim:
    def __init__(self, tenant: str) -> None:
        self.message_id, self.lease, self.tenant = uuid4(), uuid4(), tenant


class Attempts:
    """Stands for attempts that never end."""

    def __init__(self) -> None:
        self.leases: dict[Any, Any] = {}
        self.wake_for_room = False
        self.started: list[Any] = []

    def room(self) -> int:
        return ROOM - len(self.started)

    def room_bytes(self) -> int:
        return 1_000_000

    def start(self, claim: Any) -> None:
        self.started.append(claim)


class Store:
    """A claim is in flight until the test answers it."""

    def __init__(self) -> None:
        self.in_flight: list[tuple[int, asyncio.Future[Claimed]]] = []

    async def claim(self, *, quantity: int, **_: Any) -> Claimed:
        answer: asyncio.Future[Claimed] = asyncio.get_running_loop().create_future()
        self.in_flight.append((quantity, answer))
        return await answer

    @property
    def asked(self) -> list[int]:
        """For how many messages the claims in flight ask."""
        return [quantity for quantity, _ in self.in_flight]

    def answer(self, tenants: Sequence[str]) -> None:
        """Let the oldest claim bring a message of each."""
        claims: list[Any] = [Claim(tenant) for tenant in tenants]
        self.in_flight.pop(0)[1].set_result(Claimed(claims, 0))


@asynccontextmanager
async def claiming(settings: Settings) -> AsyncIterator[tuple[Store, Attempts, asyncio.Event]]:
    """A claimer whose first claim is in flight."""
    store, attempts, work = Store(), Attempts(), asyncio.Event()
    parts: Any = {"store": store, "attempts": attempts}
    claimer = Claimer(
        worker="w",
        settings=settings,
        lease_seconds=60.0,
        work=work,
        traces=NoTraces(),
        agent_filter=AgentFilter((), never_replaced),
        **parts,
    )
    task = asyncio.create_task(claimer.run())
    await until(lambda: store.asked)
    try:
        yield store, attempts, work
    finally:
        claimer.stop()
        while store.in_flight:
            store.answer([])
        await task
        assert not store.in_flight


async def test_a_single_tenant_is_claimed_in_large_batches_one_after_the_other(settings: Settings) -> None:
    async with claiming(settings) as (store, attempts, work):
        work.set()
        store.answer(["a"] * CLAIM_BATCH_MESSAGES)
        await until(lambda: store.asked == [ROOM - CLAIM_BATCH_MESSAGES])
        work.set()
        store.answer(["a"])
        await until(lambda: len(attempts.started) == CLAIM_BATCH_MESSAGES + 1 and store.asked)
        assert store.asked == [ROOM - CLAIM_BATCH_MESSAGES - 1]


async def test_tenants_share_small_claims(settings: Settings) -> None:
    """A message that arrives while a claim of a flood is in flight does not wait for a long one."""
    async with claiming(settings) as (store, attempts, work):
        work.set()
        store.answer(["flood"] * 9 + ["quiet"])
        await until(lambda: store.asked == [SHARED_CLAIM_BATCH_MESSAGES])
        work.set()
        await let_the_loop_read()
        assert store.asked == [SHARED_CLAIM_BATCH_MESSAGES]  # one after the other
        store.answer(["flood"] * SHARED_CLAIM_BATCH_MESSAGES)
        await until(lambda: len(attempts.started) == 10 + SHARED_CLAIM_BATCH_MESSAGES)
        await until(lambda: store.asked == [SHARED_CLAIM_BATCH_MESSAGES])


async def test_a_hint_is_kept_while_a_claim_in_flight_has_all_room(settings: Settings) -> None:
    """That claim may have begun before the message was there."""
    async with claiming(settings) as (store, _, work):
        store.answer(["flood"] * (CLAIM_BATCH_MESSAGES - 1) + ["quiet"])
        rest = ROOM - CLAIM_BATCH_MESSAGES
        await until(lambda: store.asked == [rest])
        work.set()
        await let_the_loop_read()
        assert store.asked == [rest]
        store.answer(["flood"])
        await until(lambda: store.asked == [rest - 1])


async def test_it_ends_when_a_claim_fails_as_it_is_stopped(settings: Settings) -> None:
    patient = msgspec.structs.replace(settings, poll_interval=600.0)
    async with asyncio.timeout(LIMIT_SECONDS), claiming(patient) as (store, attempts, work):
        store.answer(["one"])
        await until(lambda: attempts.started)
        work.set()
        await until(lambda: store.asked)
        store.in_flight.pop(0)[1].set_exception(Unavailable("away"))
