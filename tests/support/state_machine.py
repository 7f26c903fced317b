"""A state machine over the SQL functions and their model: the calls of clients and workers.

The calls of the janitor and of the user are in tests/sql/test_machine.py.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)

from service.leases.model import Claim
from tests.support.sql_client import OUTCOMES, SqlClient
from tests.support.sql_model import Model
from tests.support.sql_model_rows import AGENTS, GRACE, HOUR, INTERVAL, LEASE, MAX_LOSSES, RANKS, Holder, Message, Sent
from tests.support.state_machine_sessions import QUEUES, THREADS, WORKERS, Sessions

# The machine

SUBMISSION = st.fixed_dictionaries(
    {
        "thread": st.sampled_from((*THREADS, None)),
        "agent": st.sampled_from(("echo", "echo", "other", "late")),
        "priority": st.sampled_from(RANKS),
        "aside": st.sampled_from((False, False, True)),
        "delay": st.sampled_from((0, 0, 0, 1, 2)),
        "max_attempts": st.sampled_from((1, 2)),
    }
)
SUBMISSIONS = st.lists(SUBMISSION, min_size=1, max_size=4)
FINISHES = (*OUTCOMES, "lost")
Call = Coroutine[Any, Any, Any]


class Key(NamedTuple):
    """The messages that were submitted with an Idempotency-Key."""

    at: int
    digest: bytes
    sents: list[Sent]
    answer: Any


class Machine(RuleBasedStateMachine):
    def __init__(self, sessions: Sessions) -> None:
        super().__init__()
        self.on = sessions
        self.run(self.on.clean())
        self.now = 0
        self.base: UUID = self.run(
            self.on.watch.sql.fetchval("select treadle.uuid_at(clock_timestamp() - interval '1 second')")
        )
        self.model = Model(self.locked)
        self.made = 0
        self.sent: list[Sent] = []
        self.holders: list[Holder] = []
        self.keys: dict[str, Key] = {}
        self.silent = {*WORKERS}
        self.late = False  # whether the queue `late` was created
        self.lane_ids: dict[UUID, tuple[str, str, int]] = {}
        self.last_lane_ids: dict[tuple[str, str], int] = {}
        self.sound = False  # whether the database was compared with the model since the last step
        # The user's transaction: what the model must do when it commits, and the rows that it holds.
        self.open = False
        self.uncommitted: list[Callable[[], object]] = []
        self.held_threads: set[str] = set()
        self.held: list[Message] = []
        self.drew = False  # whether it has just ended, with lane ids lower than ids that were already seen

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        self.sound = False
        return self.on.loop.run_until_complete(call)

    def locked(self, message: Message) -> bool:
        return message.thread in self.held_threads or message in self.held

    def ask(self, call: Call, expect: Callable[[], object]) -> Any:
        """The answer must be the model's, and the call must not wait for a lock."""
        found = self.run(answered(call))
        expected = expect()
        assert found == expected
        return found

    def new(self, fields: dict[str, Any], id: UUID | None = None) -> Sent:
        if fields["agent"] == "late" and not self.late:
            fields |= {"agent": "echo"}
        self.made += 1
        return Sent(f"m{self.made}", id or UUID(int=self.base.int | 7 << 76 | 2 << 62 | self.made), **fields)

    # Clients

    @initialize(fields=st.lists(SUBMISSION, min_size=4, max_size=8))
    def begin(self, fields: list[dict[str, Any]]) -> None:
        self.submit(fields=fields, again=[], room=None)

    @rule(
        fields=SUBMISSIONS,
        again=st.lists(st.integers(0, 20), max_size=2, unique=True),
        room=st.sampled_from((None, None, None, 1, 5)),
    )
    def submit(self, fields: list[dict[str, Any]], again: list[int], room: int | None) -> None:
        """`again`: also submit these earlier messages again."""
        sents = [sent for n, sent in enumerate(reversed(self.sent)) if n in again] + [self.new(f) for f in fields]
        self.sent += sents[-len(fields) :]
        news = [sent for sent in sents if sent.id not in self.model.messages]
        # While another transaction creates a thread, all new threads are busy.
        fresh = {sent.thread for sent in news if sent.thread and sent.thread not in self.model.threads}
        closed = self.held_threads | (fresh if fresh & self.held_threads else set())

        def expect() -> list[str] | str:
            for queue, arriving in Counter(AGENTS[sent.agent] for sent in news).items():
                if room is not None and arriving + self.model.queued(queue) > room:
                    return "TR429"
            return self.model.submit(sents, self.now, [sent for sent in news if sent.thread in closed])

        self.ask(self.submission(self.on.client, sents, patient=False, max_queue_size=room), expect)

    async def submission(self, sql_client: SqlClient, sents: Sequence[Sent], **arguments: Any) -> list[str]:
        rows = await sql_client.submit_many(*[sent.body() for sent in sents], **arguments)
        return [row["state"] for row in rows]

    @rule(key=st.sampled_from(("k", "l")), fields=SUBMISSIONS, digest=st.sampled_from((b"1", b"1", b"2")))
    def submit_once(self, key: str, fields: list[dict[str, Any]], digest: bytes) -> None:
        known = self.keys.get(key)
        sents = known.sents if known else [self.new(f) for f in fields]
        if any(sent.thread in self.held_threads for sent in sents):
            return  # it would wait
        repeated = known is not None and self.now < known.at + 24
        answer = self.run(answered(self.once(key, digest, sents, repeated)))
        if known and repeated:
            assert answer == (known.answer if digest == known.digest else "TR422")
        else:
            assert [row["state"] for row in answer] == self.model.submit(sents, self.now)
            self.sent += [] if known else sents
            self.keys[key] = Key(self.now, digest, sents, answer)

    async def once(self, key: str, digest: bytes, sents: Sequence[Sent], repeated: bool) -> Any:
        row = await self.on.client.sql.fetchrow(
            "select * from treadle.submit_once($1, $2, $3)", key, digest, json.dumps([sent.body() for sent in sents])
        )
        assert row is not None
        assert row["repeated"] == repeated
        return row["answer"]

    def one_of(self, data: st.DataObject, *states: str) -> Sent:
        """A message in these states, or any message that was ever sent."""
        sents = [message.sent for message in self.model.messages.values() if message.state in states]
        if not sents or data.draw(st.integers(0, 7), "any if 7") == 7:
            sents = self.sent
        return data.draw(st.sampled_from(sents))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        sent = self.one_of(data, "queued", "processing")
        message = self.model.messages.get(sent.id)
        if message and self.locked(message) and not message.lease:
            return  # it would wait
        self.ask(self.on.client.cancel(sent.id), lambda: self.model.cancel(sent.id, self.now))

    @precondition(lambda self: any(m.state == "failed" for m in self.model.messages.values()))
    @rule(data=st.data())
    def redrive(self, data: st.DataObject) -> None:
        sent = self.one_of(data, "failed")
        message = self.model.messages.get(sent.id)
        if message and self.locked(message):
            return  # it would wait
        self.ask(self.on.client.redrive(sent.id), lambda: self.model.redrive(sent.id, self.now))

    @precondition(lambda self: self.model.threads)
    @rule(name=st.sampled_from(THREADS))
    def delete_thread(self, name: str) -> None:
        if name in self.held_threads and name in self.model.threads:
            return  # it would wait
        self.ask(self.deletion(name), lambda: self.model.delete_thread(name))

    async def deletion(self, name: str) -> Any:
        return await self.on.client.sql.fetchval("select treadle.delete_thread($1)", name)

    # Workers

    @rule(
        worker=st.sampled_from(WORKERS),
        quantity=st.integers(1, 4),
        queues=st.permutations(("default", "side", "late")),
        reverse=st.booleans(),
    )
    def claim(self, worker: str, quantity: int, queues: list[str], reverse: bool) -> None:
        ready = self.model.claimable(queues, reverse, self.lane_ids)[:quantity]
        call = self.on.workers[worker].claim(
            quantity, worker=worker, queues=queues, lease_seconds=LEASE * HOUR, reverse=reverse
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
        self.claim(worker=worker, quantity=quantity, queues=[*QUEUES], reverse=False)

    @rule(worker=st.sampled_from(WORKERS), quantity=st.integers(1, 4), outcome=st.sampled_from(FINISHES))
    def work(self, worker: str, quantity: int, outcome: str) -> None:
        before = len(self.holders)
        self.claim(worker=worker, quantity=quantity, queues=[*QUEUES], reverse=False)
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
        backs_off = outcome in ("error", "deferred", "lost")
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


async def answered(call: Call) -> Any:
    """The answer, or the SQLSTATE of the refusal."""
    try:
        return await call
    except asyncpg.PostgresError as error:
        if not error.sqlstate.startswith("TR"):
            raise
        return error.sqlstate
