"""The SQL functions against a model of them: clients, workers, a janitor and a user with an open transaction do what
they can, in any order. After each step the database is as the model says and treadle.violations is empty; nobody ever
waits for the user, and only his threads are busy; in the end everything is finished.

    EXAMPLES=2000 make test ARGS="tests/test_sql_machine.py -n 0"      looks for longer

What fails is shown as the shortest program that leads there (m1, m2: the messages in the order they were made).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from loom import OUTCOMES, Loom, prepare
from model import AGENTS, GRACE, HOUR, INTERVAL, LEASE, MAX_LOSSES, RANKS, TIMEOUT, Holder, Message, Model, Sent

from service.queues.model import Claim

WORKERS = ("w0", "w1", "w2")
THREADS = ("a", "b", "c")
QUEUES = tuple(AGENTS.values())

# The sessions


class Sessions:
    """Connections that outlive an example, and the loop they live in."""

    def __init__(self, loop: asyncio.AbstractEventLoop, dsn: str) -> None:
        self.loop = loop
        self._dsn = dsn
        self._stack = contextlib.AsyncExitStack()

    async def open(self) -> None:
        self.watch = await self._connect()
        self.user = await self._connect()
        self.client = await self._connect("set lock_timeout = '2s'")
        self.janitor = await self._connect("set lock_timeout = '2s'")
        self.workers = {name: await self._connect("set lock_timeout = '2s'") for name in WORKERS}
        self.server_started = await self.watch.sql.fetchval("select pg_postmaster_start_time()")
        await self.client.register({"agent": "echo", "is_default": True}, {"agent": "other", "queue": "side"})

    async def look(self) -> list[list[asyncpg.Record]]:
        return [await self.watch.sql.fetch(look) for look in ("table treadle.violations", MESSAGES, THREADS_THERE)]

    async def shift(self, hours: int) -> None:
        for loom in self.all:
            await loom.shift(hours * HOUR)

    async def until_blocked(self, task: asyncio.Task[Any], loom: Loom) -> None:
        blocked = asyncio.create_task(self.watch.until_blocked(loom))
        await asyncio.wait({task, blocked}, return_when=asyncio.FIRST_COMPLETED)
        assert not task.done(), f"it should have waited: {task}"
        await blocked

    async def _connect(self, setting: str = "") -> Loom:
        connection = await asyncpg.connect(self._dsn)
        self._stack.push_async_callback(connection.close)
        await prepare(connection)
        await connection.execute(f"set plan_cache_mode = force_generic_plan; {setting}")
        return Loom(connection, self._dsn, self._stack)

    async def close(self) -> None:
        await self._stack.aclose()

    @property
    def all(self) -> list[Loom]:
        return [self.watch, self.user, self.client, self.janitor, *self.workers.values()]

    async def clean(self) -> None:
        """A database without messages; ids go on, and so the low-water marks hold."""
        await self.watch.sql.execute(CLEAN)
        if await self.watch.sql.fetchval("select exists (select from treadle.queues where queue = 'late')"):
            await self.watch.sql.execute(DROP_LATE)
        for loom in self.all:
            await loom.sql.execute("reset treadle.clock_shift; select pg_advisory_unlock_all()")


TABLES = ("messages", "leases", "events", "threads", "thread_log", "workers", "idempotency", "counters")
CLEAN = "; ".join(
    [
        *(f"delete from treadle.{table}" for table in TABLES),
        *(f"delete from pgmq.q_{queue}_{lane}" for queue in ("default", "side") for lane in (*RANKS, "dlq")),
        "update treadle.queues set paused = false where paused",
    ]
)
DROP_LATE = """
    select pgmq.drop_queue('late_' || l) from unnest('{high,normal,low,dlq}'::text[]) l;
    delete from treadle.agents where agent = 'late';
    delete from treadle.queues where queue = 'late';
    delete from treadle.low_water where name like 'q_late_%';
    select treadle._weave_lanes()"""

# What is there, as others see it.
MESSAGES = """
    select m.message_id, m.lane, m.lane_id,
        o.state, o.hold, m.lane, o.thread_id, o.ord, o.aside, m.rank, o.agent, o.queue, o.priority,
        o.attempt, o.failures, o.losses, o.max_attempts, o.result, l.lease, l.worker_id, l.cancel_requested,
        (select array_agg(case when e.type = 'chunk' then e.data ->> 'chunk' else e.type end order by e.seq)
            from treadle.events e where e.message_id = o.message_id)
    from treadle.message_overview o join treadle.messages m using (message_id)
    left join treadle.leases l using (message_id)"""
THREADS_THERE = """
    select thread_id, message_count, queued, processing, completed, failed, cancelled, turn
    from treadle.thread_overview"""
SEQUENCES = """{treadle.leases_id_seq, treadle.counters_id_seq, pgmq.q_default_high_msg_id_seq,
    pgmq.q_default_normal_msg_id_seq, pgmq.q_side_low_msg_id_seq}"""
# What changes nothing that anybody sees.
CHORES = ("fold_counters(3)", "fold_counters()", "sweep()", "sweep(true)", "ensure_partitions()")
# Ids that are drawn by transactions that come to nothing: the low-water marks have somewhere to rise to.
DRAW = f"select nextval(s) from unnest('{SEQUENCES}'::text[]) s, generate_series(1, 1500)"


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
    """What was submitted under an Idempotency-Key."""

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
        self.late = False  # the queue that comes late is there
        self.lane_ids: dict[UUID, tuple[str, str, int]] = {}
        self.last_lane_ids: dict[tuple[str, str], int] = {}
        self.sound = False  # since the last step, the database is as the model says
        # The user's transaction: what it did, to be done in the model when it commits, and what it holds.
        self.open = False
        self.deeds: list[Callable[[], object]] = []
        self.held_threads: set[str] = set()
        self.held: list[Message] = []
        self.drew = False  # it has just ended, with lane ids older than others that were seen already

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        self.sound = False
        return self.on.loop.run_until_complete(call)

    def locked(self, message: Message) -> bool:
        return message.thread in self.held_threads or message in self.held

    def ask(self, call: Call, expect: Callable[[], object]) -> Any:
        """The answer is the model's; nobody waits for anything."""
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
        """`again`: with these that were sent before."""
        sents = [sent for n, sent in enumerate(reversed(self.sent)) if n in again] + [self.new(f) for f in fields]
        self.sent += sents[-len(fields) :]
        news = [sent for sent in sents if sent.id not in self.model.messages]
        # While somebody makes a thread, all new ones are busy.
        fresh = {sent.thread for sent in news if sent.thread and sent.thread not in self.model.threads}
        closed = self.held_threads | (fresh if fresh & self.held_threads else set())

        def expect() -> list[str] | str:
            for queue, arriving in Counter(AGENTS[sent.agent] for sent in news).items():
                if room is not None and arriving + self.model.queued(queue) > room:
                    return "TR429"
            return self.model.submit(sents, self.now, [sent for sent in news if sent.thread in closed])

        self.ask(self.submission(self.on.client, sents, patient=False, max_queue_size=room), expect)

    async def submission(self, loom: Loom, sents: Sequence[Sent], **arguments: Any) -> list[str]:
        rows = await loom.submit_many(*[sent.body() for sent in sents], **arguments)
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
        """One in these states, or any one that was ever sent."""
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
        """Some claims: of those that hold, or of all, zombies with them."""
        live = [holder for holder in self.holders if self.model.held_by(holder)]
        if not live or data.draw(st.integers(0, 3), "zombies if 3") == 3:
            live = self.holders[-12:]
        return data.draw(st.lists(st.sampled_from(live), min_size=1, max_size=at_most, unique=True))

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), slip=st.sampled_from((0, 0, 0, -1, 1)), many=st.integers(0, 2))
    def append(self, data: st.DataObject, slip: int, many: int) -> None:
        """`slip`: -1 for something said before, 1 for something left out."""
        items = [(h, h.seq + slip, self.chunks(h, many)) for h in self.choose(data, 2)]
        self.ask(self.appending(items, patient=False), lambda: [self.model.append(*item) for item in items])

    def chunks(self, holder: Holder, many: int) -> list[str]:
        self.made += 1
        return [f"{holder}: {self.made}.{n}" for n in range(many)]

    async def appending(self, items: Sequence[tuple[Holder, int, list[str]]], patient: bool) -> list[str]:
        loom = self.on.workers[items[0][0].worker]
        statuses = await loom.append(*[(h.claim, first, chunks) for h, first, chunks in items], patient=patient)
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

    def heartbeat(self, loom: Loom, worker: str, named: list[Holder], grace: int) -> None:
        self.ask(
            loom.beat(
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
        """The session that its listener holds a lock by."""
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

    # The janitor

    @rule(hours=st.sampled_from((1, 1, 2, 3, 5, 30)), steady=st.booleans())
    def pass_time(self, hours: int, steady: bool) -> None:
        """`steady`: the janitor beats each hour of it."""
        for _ in range(hours):
            self.now += 1
            if steady and hours <= 5:
                self.run(self.on.janitor.shift(self.now * HOUR))
                self.heartbeat(self.on.janitor, "janitor", [], 0)
        self.run(self.on.shift(self.now))

    @precondition(lambda self: any(m.lease for m in self.model.messages.values()))
    @rule(worker=st.sampled_from(WORKERS), hours=st.sampled_from((1, 2, 3)), steady=st.booleans())
    def vanish(self, worker: str, hours: int, steady: bool) -> None:
        """Its connection is gone, and time passes."""
        if worker not in self.silent:
            self.hang_up_or_listen(worker)
        self.reap()
        self.pass_time(hours=hours, steady=steady)
        self.reap()

    @precondition(lambda self: any(m.lease for m in self.model.messages.values()))
    @rule()
    def reap(self) -> None:
        self.ask(
            self.on.janitor.reap(
                "janitor",
                interval=INTERVAL * HOUR,
                worker_timeout=TIMEOUT * HOUR,
                max_losses=MAX_LOSSES,
                awake=False,
            ),
            lambda: self.model.reap("janitor", self.silent, self.now),
        )

    @precondition(lambda self: any(m.hold in ("delay", "backoff") for m in self.model.messages.values()))
    @rule()
    def admit_due(self) -> None:
        self.ask(
            self.on.janitor.sql.fetchval("select treadle.admit_due()"),
            lambda: self.model.admit_due(self.now),
        )

    @rule(chores=st.lists(st.sampled_from(CHORES), max_size=3), many=st.booleans())
    def chores(self, chores: list[str], many: bool) -> None:
        if many:
            self.run(self.on.client.sql.execute(DRAW))
        for chore in chores:
            self.run(self.on.janitor.sql.execute(f"select treadle.{chore}"))

    @rule(data=st.data())
    def mend_lanes(self, data: st.DataObject) -> None:
        """A plain client of PGMQ has deleted the rows of some that may run."""
        ready = [m for m in self.model.messages.values() if m.state == "queued" and not m.hold and not self.locked(m)]
        gone = data.draw(st.lists(st.sampled_from(ready), max_size=2, unique=True)) if ready else []
        for message in gone:
            queue, lane, id = self.lane_ids[message.id]
            assert self.run(self.on.client.sql.fetchval("select pgmq.delete($1, $2::bigint)", f"{queue}_{lane}", id))
        self.ask(
            self.on.janitor.sql.fetchval("select mended from treadle.mend_lanes(null)"),
            lambda: len(gone),
        )

    @precondition(lambda self: any(m.completed_at is not None for m in self.model.messages.values()) or self.keys)
    @rule(hours=st.sampled_from((1, 3, 30)), dead_hours=st.sampled_from((1, 3, 30)))
    def purge(self, hours: int, dead_hours: int) -> None:
        async def rounds() -> int:
            purged, last = 0, None
            while True:
                row = await self.on.janitor.sql.fetchrow(
                    "select * from treadle.purge($1, $2, $3)", hours, dead_hours, last
                )
                purged += row["purged"]
                last = row["last"]
                if last is None:
                    return purged

        old = [name for name, key in self.keys.items() if key.at + 24 <= self.now]
        self.ask(rounds(), lambda: len(old) + self.model.purge(hours, dead_hours, self.now, self.held_threads))
        for key in old:
            del self.keys[key]

    # An operator

    @rule(queue=st.sampled_from(("default", "side")))
    def pause_or_resume(self, queue: str) -> None:
        self.model.paused ^= {queue}
        self.run(self.on.client.sql.execute("select treadle.pause($1, $2)", queue, queue in self.model.paused))

    @precondition(lambda self: not self.late)
    @rule()
    def create_queue(self) -> None:
        self.run(self.on.client.register({"agent": "late", "queue": "late"}))
        self.late = True

    # A user has a transaction open

    def user_begins(self) -> None:
        if not self.open:
            self.run(self.on.user.sql.execute("begin"))
            self.open = True

    @rule(fields=SUBMISSIONS, own=st.booleans())
    def user_submits(self, fields: list[dict[str, Any]], own: bool) -> None:
        """`own`: into a thread that nobody else knows."""
        self.user_begins()
        if own:
            fields = [f | {"thread": "own"} for f in fields]
        if len(fields) == 1:
            sents = [self.new(f) for f in fields]
            id = self.run(
                self.on.user.sql.fetchval(
                    "select treadle.submit($1::text, thread_id => $2, agent => $3, priority => $4, aside => $5,"
                    " delay_seconds => $6, max_attempts => $7)",
                    *[value for name, value in sents[0].body().items() if name != "message_id"],
                )
            )
            sents = [replace(sents[0], id=id)]
        else:
            sents = [self.new(f) for f in fields]
            assert self.run(self.submission(self.on.user, sents)) == ["queued"] * len(sents)
        at = self.now
        self.deeds.append(lambda: self.sent.extend(sents))
        self.deeds.append(lambda: self.model.submit(sents, at))
        self.held_threads |= {sent.thread for sent in sents if sent.thread}

    @rule(data=st.data())
    def user_cancels_or_redrives(self, data: st.DataObject) -> None:
        free = [m for m in self.model.messages.values() if m.state in ("queued", "failed") and m not in self.held]
        if not free:
            return
        self.user_begins()
        message, at = data.draw(st.sampled_from(free)), self.now
        self.held.append(message)
        self.held_threads |= {message.thread} if message.thread else set()
        if message.state == "queued":
            assert self.run(self.on.user.cancel(message.id)) == "cancelled"
            self.deeds.append(lambda: self.model.cancel(message.id, at))
        else:
            assert self.run(self.on.user.redrive(message.id)) == "queued"
            self.deeds.append(lambda: self.model.redrive(message.id, at))

    @precondition(lambda self: self.open)
    @rule(commit=st.booleans())
    def user_ends(self, commit: bool) -> None:
        self.run(self.on.user.sql.execute("commit" if commit else "rollback"))
        self.run(self.on.user.shift(self.now * HOUR))
        if commit:
            for deed in self.deeds:
                deed()
        self.open, self.deeds, self.held, self.held_threads, self.drew = False, [], [], set(), True

    @precondition(lambda self: self.held_threads)
    @rule(data=st.data(), commit=st.booleans(), fields=SUBMISSIONS)
    def user_ends_while_somebody_waits(self, data: st.DataObject, commit: bool, fields: list[dict[str, Any]]) -> None:
        """Somebody patient waits for one of the user's threads, and then sees it as it is after that."""
        name = data.draw(st.sampled_from(sorted(self.held_threads)))
        mine = self.model.of(name)
        idle = [message for message in mine if not message.lease]
        holders = [h for h in self.holders if self.model.held_by(h) in mine]
        what = ["submit"]
        what += ["delete"] if mine else []
        what += ["cancel", "redrive"] if idle else []
        what += ["append", "finish"] if holders else []
        loom = self.on.client
        call: Call
        expect: Callable[[], object]
        match data.draw(st.sampled_from(what)):
            case "submit":
                sents = [self.new(f) for f in fields] + [self.new(fields[0] | {"thread": name})]
                self.sent += sents
                call, expect = self.submission(loom, sents), lambda: self.model.submit(sents, self.now)
            case "delete":
                call, expect = self.deletion(name), lambda: self.model.delete_thread(name)
            case "cancel":
                id = data.draw(st.sampled_from(idle)).id
                call, expect = loom.cancel(id), lambda: self.model.cancel(id, self.now)
            case "redrive":
                id = data.draw(st.sampled_from(idle)).id
                call, expect = loom.redrive(id), lambda: self.model.redrive(id, self.now)
            case "append":
                holder = data.draw(st.sampled_from(holders))
                loom = self.on.workers[holder.worker]
                item = holder, holder.seq, self.chunks(holder, 2)
                call, expect = self.appending([item], patient=True), lambda: [self.model.append(*item)]
            case _:
                holder = data.draw(st.sampled_from(holders))
                loom = self.on.workers[holder.worker]
                outcome = data.draw(st.sampled_from(FINISHES))
                call, expect = self.finishing([holder], outcome, 1, holder.seq, 1, patient=True)
        task = self.on.loop.create_task(answered(call))
        self.run(self.on.until_blocked(task, loom))
        self.user_ends(commit=commit)
        found, expected = self.run(task), expect()
        assert found == expected

    # After each step, and at the end

    @invariant()
    def all_is_as_the_model_says(self) -> None:
        broken, messages, threads = self.run(self.on.look())
        assert not broken
        there = {row["message_id"]: tuple(row.values())[3:] for row in messages}
        assert there == {message.id: seen(message) for message in self.model.messages.values()}
        counts = {row["thread_id"]: tuple(row.values())[1:] for row in threads}
        assert counts == {name: self.model.counts(name) for name in self.model.threads}
        self.look_at_lanes(messages)
        self.sound = True

    def look_at_lanes(self, messages: Sequence[asyncpg.Record]) -> None:
        """Whoever comes into a lane comes behind all that came before, except what the user put there."""
        before, self.lane_ids = self.lane_ids, {}
        for row in messages:
            if row["lane"] is not None:
                self.lane_ids[row["message_id"]] = row["queue"], row["lane"], row["lane_id"]
        new = [place for id, place in self.lane_ids.items() if before.get(id) != place]
        assert self.drew or all(id > self.last_lane_ids.get((queue, lane), 0) for queue, lane, id in new)
        for queue, lane, id in new:
            self.last_lane_ids[queue, lane] = max(id, self.last_lane_ids.get((queue, lane), 0))
        self.drew = False

    def teardown(self) -> None:
        """Nothing is stuck: what is open comes to its end."""
        sound = self.sound
        if self.open:
            self.user_ends(commit=True)
        if not sound:
            return
        self.run(self.on.client.sql.execute("select treadle.pause(queue, false) from treadle.queues"))
        self.model.paused.clear()
        for _ in range(len(self.model.messages) + 10):
            self.all_is_as_the_model_says()
            if all(message.completed_at is not None for message in self.model.messages.values()):
                return
            held = [holder for holder in self.holders if self.model.held_by(holder)]
            for n in range(0, len(held), 8):
                self.ask(*self.finishing(held[n : n + 8], "completed", 0, None, 0, patient=False))
            self.pass_time(hours=30, steady=False)
            self.admit_due()
            self.all_is_as_the_model_says()
            self.claim(worker="w0", quantity=100, queues=[*QUEUES], reverse=False)
        raise AssertionError(f"stuck: {[m for m in self.model.messages.values() if m.completed_at is None]}")


def seen(m: Message) -> tuple[Any, ...]:
    """The message, as MESSAGES shows it."""
    held = m.lease and (m.lease.id, m.lease.worker, m.lease.cancel_requested)
    return (
        *(m.state, m.hold, m.lane, m.thread, m.ord, m.sent.aside, m.rank, m.sent.agent, m.queue, m.sent.priority),
        *(m.attempt, m.failures, m.losses, m.sent.max_attempts, m.result, *(held or (None, None, None)), m.log),
    )


# Run it


async def answered(call: Call) -> Any:
    """The answer, or what the door says."""
    try:
        return await call
    except asyncpg.PostgresError as error:
        if not error.sqlstate.startswith("TR"):
            raise
        return error.sqlstate


def test_whatever_is_done_in_whatever_order_the_database_is_as_the_model_says(dsn: str) -> None:
    with asyncio.Runner() as runner:
        sessions = Sessions(runner.get_loop(), dsn)
        runner.run(sessions.open())
        try:
            run_state_machine_as_test(
                lambda: Machine(sessions),
                settings=settings(
                    max_examples=int(os.environ.get("EXAMPLES", "20")),
                    stateful_step_count=50,
                    deadline=None,
                    print_blob=True,
                    report_multiple_bugs=False,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(sessions.close())
