"""The calls of workers in the state machine over the SQL functions and their model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from service.leases.model import Claim
from tests.support.sql_client import OUTCOMES, SqlClient
from tests.support.sql_model_rows import GRACE, HOUR, INTERVAL, LEASE, MAX_LOSSES, RANKS, Holder
from tests.support.state_machine import Call, Machine
from tests.support.state_machine_sessions import QUEUES, WORKERS

FINISHES = (*OUTCOMES, "lost")


class WorkerMachine(Machine):
    """The machine with clients and workers."""

    @rule(
        worker=st.sampled_from(WORKERS),
        quantity=st.integers(1, 4),
        queues=st.permutations(("default", "side", "late")),
        first_lane=st.sampled_from(RANKS),
    )
    def claim(self, worker: str, quantity: int, queues: list[str], first_lane: str) -> None:
        ready = self.model.claimable(queues, first_lane, self.lane_ids)[:quantity]
        call = self.on.workers[worker].claim(
            quantity, worker=worker, queues=queues, lease_seconds=LEASE * HOUR, first_lane=first_lane
        )
        claims: list[Claim] = self.run(call)
        for message, claim in zip(ready, claims, strict=False):
            self.model.claim(message, worker, claim.lease, self.now)
            self.holders.append(Holder(message.sent, worker, claim, claim.last_seq + 1))
        assert [self.model.messages.get(claim.message_id) for claim in claims] == ready
        for message, claim in zip(ready, claims, strict=True):
            assert (claim.attempt, claim.failures, claim.losses, claim.thread_id, claim.ord) == (
                message.attempt,
                message.failures,
                message.losses,
                message.thread,
                message.ord,
            )
            assert claim.last_seq == len(message.log)

    @rule(worker=st.sampled_from(WORKERS), quantity=st.integers(1, 4))
    def claim_in_order(self, worker: str, quantity: int) -> None:
        self.claim(worker=worker, quantity=quantity, queues=[*QUEUES], first_lane="high")

    @rule(worker=st.sampled_from(WORKERS), quantity=st.integers(1, 4), outcome=st.sampled_from(FINISHES))
    def work(self, worker: str, quantity: int, outcome: str) -> None:
        before = len(self.holders)
        self.claim(worker=worker, quantity=quantity, queues=[*QUEUES], first_lane="high")
        if holders := self.holders[before:]:
            self.ask(*self.finishing(holders, outcome, 1, None, 0, patient=False))

    def choose(self, data: st.DataObject, at_most: int) -> list[Holder]:
        """Some claims: of the live ones, or of all, zombies included."""
        live = [holder for holder in self.holders if self.model.held_by(holder)]
        if not live or data.draw(st.integers(0, 3), "zombies if 3") == 3:
            live = self.holders[-12:]
        return data.draw(st.lists(st.sampled_from(live), min_size=1, max_size=at_most, unique=True))

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), slip=st.sampled_from((0, 0, 0, -1, 1)), many=st.integers(0, 2))
    def append(self, data: st.DataObject, slip: int, many: int) -> None:
        """`slip`: -1 repeats an event, 1 leaves one out."""
        items = [(h, h.seq + slip, self.chunks(h, many)) for h in self.choose(data, 2)]
        self.ask(self.appending(items, patient=False), lambda: [self.model.append(*item) for item in items])

    def chunks(self, holder: Holder, many: int) -> list[str]:
        self.made += 1
        return [f"{holder}: {self.made}.{n}" for n in range(many)]

    async def appending(self, items: Sequence[tuple[Holder, int, list[str]]], patient: bool) -> list[str]:
        sql_client = self.on.workers[items[0][0].worker]
        statuses = await sql_client.append(*[(h.claim, first, chunks) for h, first, chunks in items], patient=patient)
        for status, (holder, first_seq, chunks) in zip(statuses, items, strict=True):
            if status == "ok":
                holder.seq = max(holder.seq, first_seq + len(chunks))
        return statuses

    @precondition(lambda self: self.holders)
    @rule(
        data=st.data(),
        outcome=st.sampled_from(FINISHES),
        delay=st.integers(0, 2),
        slip=st.sampled_from((0, 0, 0, -1, 1)),
        many=st.integers(0, 2),
    )
    def finish(self, data: st.DataObject, outcome: str, delay: int, slip: int, many: int) -> None:
        holders = self.choose(data, 3)
        first_seq = holders[0].seq + slip if len(holders) == 1 else None
        self.ask(*self.finishing(holders, outcome, delay, first_seq, many if first_seq else 0, patient=False))

    def finishing(
        self, holders: list[Holder], outcome: str, delay: int, first_seq: int | None, many: int, patient: bool
    ) -> tuple[Call, Callable[[], list[str]]]:
        chunks = self.chunks(holders[0], many)
        result = f"by {holders}"
        backs_off = outcome in ("error", "deferred", "overloaded", "lost")
        call = self.on.workers[holders[0].worker].finish(
            *[holder.claim for holder in holders],
            outcome=outcome,
            result=result,
            delay=delay * HOUR if backs_off else None,
            first_seq=first_seq,
            chunks=chunks,
            patient=patient,
            max_losses=MAX_LOSSES,
        )
        return call, lambda: [
            self.model.finish(h, first_seq or h.claim.last_seq + 1, chunks, self.now, outcome, delay, result)
            for h in holders
        ]

    @rule(data=st.data(), worker=st.sampled_from(WORKERS), grace=st.sampled_from((0, GRACE)))
    def beat(self, data: st.DataObject, worker: str, grace: int) -> None:
        own = {holder.sent: holder for holder in self.holders if holder.worker == worker}
        named = (
            [holder for holder in [*own.values()][-6:] if data.draw(st.booleans(), f"names {holder}")] if own else []
        )
        self.heartbeat(self.on.workers[worker], worker, named, grace)

    def heartbeat(self, sql_client: SqlClient, worker: str, named: list[Holder], grace: int) -> None:
        self.ask(
            sql_client.heartbeat(
                worker,
                *[holder.claim for holder in named],
                interval=INTERVAL * HOUR,
                lease_seconds=LEASE * HOUR,
                grace=grace * HOUR,
                server_started=self.on.server_started,
            ),
            lambda: self.model.beat(worker, named, grace, self.now),
        )

    def hang_up_or_listen(self, worker: str) -> None:
        """Take or release the lock that stands for the worker's listener."""
        what = "pg_advisory_lock" if worker in self.silent else "pg_advisory_unlock"
        self.run(self.on.workers[worker].sql.execute(f"select {what}(treadle.worker_key('{worker}'))"))
        self.silent ^= {worker}

    @rule(worker=st.sampled_from(WORKERS), off=st.sampled_from((False, False, True)))
    def sign_on_or_off(self, worker: str, off: bool) -> None:
        if off:
            self.run(self.on.workers[worker].sql.execute("select treadle.sign_off($1)", worker))
            self.model.sign_off(worker, self.now)
        else:
            self.hang_up_or_listen(worker)
