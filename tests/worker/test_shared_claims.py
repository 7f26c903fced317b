"""While several tenants share the lanes, claims are small, and one may begin while another is in flight."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from service.config import Settings
from service.errors import Unavailable
from service.leases.model import Claimed
from service.worker.agent_filter import AgentFilter
from service.worker.claimer import CLAIM_BATCH_MESSAGES, SHARED_CLAIM_BATCH_MESSAGES, Claimer
from service.worker.traces import NoTraces
from tests.support.waiting import let_the_loop_read, until
from tests.support.workers import never_replaced

ROOM = 130


class Claim:
    def __init__(self, tenant: str) -> None:
        self.message_id, self.lease, self.tenant = uuid4(), uuid4(), tenant


class SlowTraces:
    """The traces of claims are found when the test says so."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer = asyncio.Event()

    async def begin(self, claims: Sequence[Any]) -> None:
        if claims:
            self.asked += 1
            await self.answer.wait()


class Attempts:
    """Stands for attempts that never end."""

    places = ROOM

    def __init__(self) -> None:
        self.leases: dict[Any, Any] = {}
        self.wake_for_room = False
        self.started: list[Any] = []

    def room(self) -> int:
        return self.places - len(self.started)

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
async def claiming(settings: Settings, traces: Any = None) -> AsyncIterator[tuple[Store, Attempts, asyncio.Event]]:
    """A claimer whose first claim is in flight."""
    store, attempts, work = Store(), Attempts(), asyncio.Event()
    parts: Any = {"store": store, "attempts": attempts}
    claimer = Claimer(
        worker="w",
        settings=settings,
        lease_seconds=60.0,
        work=work,
        traces=traces or NoTraces(),
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


async def test_tenants_share_small_claims_of_which_two_may_be_in_flight(settings: Settings) -> None:
    """A message that arrives while a claim of a flood is in flight does not wait for its end."""
    async with claiming(settings) as (store, attempts, work):
        store.answer(["flood"] * (CLAIM_BATCH_MESSAGES - 1) + ["quiet"])
        await until(lambda: store.asked == [SHARED_CLAIM_BATCH_MESSAGES])
        work.set()
        await until(lambda: len(store.asked) == 2)
        places = ROOM - CLAIM_BATCH_MESSAGES - SHARED_CLAIM_BATCH_MESSAGES
        assert store.asked == [SHARED_CLAIM_BATCH_MESSAGES, places]  # together no more than there is room for
        store.answer(["flood"] * SHARED_CLAIM_BATCH_MESSAGES)
        store.answer(["quiet"])
        await until(lambda: len(attempts.started) == ROOM - places + 1)


async def test_a_hint_begins_one_claim_not_two(settings: Settings) -> None:
    async with claiming(settings) as (store, attempts, work):
        store.answer(["one", "other"])
        await until(lambda: len(attempts.started) == 2)
        for count in range(3, 10):
            work.set()
            await until(lambda: store.asked)
            await let_the_loop_read()
            assert store.asked == [SHARED_CLAIM_BATCH_MESSAGES]
            store.answer(["one"])
            await until(lambda count=count: len(attempts.started) == count)  # type: ignore[misc]
            await let_the_loop_read()
            assert not store.asked


async def test_it_ends_while_two_claims_are_in_flight(settings: Settings) -> None:
    async with claiming(settings) as (store, attempts, work):
        store.answer(["one", "other"])
        await until(lambda: len(attempts.started) == 2)
        work.set()
        await until(lambda: store.asked)
        work.set()
        await until(lambda: len(store.asked) == 2)


async def test_a_hint_is_kept_while_a_claim_in_flight_has_all_room(settings: Settings) -> None:
    """That claim may have begun before the message was there."""
    async with claiming(settings) as (store, _, work):
        store.answer(["flood"] * (CLAIM_BATCH_MESSAGES - 1) + ["quiet"])
        await until(lambda: store.asked == [SHARED_CLAIM_BATCH_MESSAGES])
        store.answer(["flood"] * SHARED_CLAIM_BATCH_MESSAGES)
        rest = ROOM - CLAIM_BATCH_MESSAGES - SHARED_CLAIM_BATCH_MESSAGES
        await until(lambda: store.asked == [rest])
        work.set()
        await let_the_loop_read()
        assert store.asked == [rest]
        store.answer(["flood"])
        await until(lambda: store.asked == [rest - 1])


async def test_places_are_taken_until_the_attempts_have_begun(settings: Settings) -> None:
    """Between the answer of a claim and the start of its attempts, their traces are looked up."""
    traces = SlowTraces()
    async with claiming(settings, traces) as (store, attempts, work):
        store.answer(["flood", "quiet"])
        await until(lambda: traces.asked == 1)
        traces.answer.set()
        await until(lambda: len(attempts.started) == 2)
        work.set()
        await until(lambda: store.asked == [SHARED_CLAIM_BATCH_MESSAGES])
        traces.answer.clear()
        store.answer(["flood"] * SHARED_CLAIM_BATCH_MESSAGES)
        await until(lambda: traces.asked == 2)
        attempts.places = SHARED_CLAIM_BATCH_MESSAGES + 3
        work.set()
        await until(lambda: store.asked)
        assert store.asked == [1]
        traces.answer.set()


async def test_it_ends_when_a_claim_fails_as_it_is_stopped(settings: Settings) -> None:
    async with claiming(settings) as (store, attempts, work):
        store.answer(["one", "other"])
        await until(lambda: len(attempts.started) == 2)
        work.set()
        await until(lambda: store.asked)
        store.in_flight.pop(0)[1].set_exception(Unavailable("away"))
