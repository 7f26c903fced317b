"""The SQL functions against a model of them: clients, workers, a janitor and a user with an open transaction do what
they can, in any order. After each step the database is as the model says and treadle.violations is empty; no call
waits for the user, and only the user's threads are busy; in the end everything is finished.

    EXAMPLES=2000 make test ARGS="tests/sql/test_machine.py -n 0"      looks for longer

What fails is shown as the shortest program that leads there (m1, m2: the messages in the order they were made).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import asyncpg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.sql_model_rows import HOUR, INTERVAL, MAX_LOSSES, TIMEOUT, Message
from tests.support.sql_rows import fetch_row
from tests.support.state_machine import SUBMISSIONS, Call, answered
from tests.support.state_machine_sessions import CHORES, DRAW_IDS, QUEUES, WORKERS, Sessions
from tests.support.state_machine_workers import FINISHES, WorkerMachine


class Whole(WorkerMachine):
    """With the janitor, and a user who has a transaction open."""

    # The janitor

    @rule(hours=st.sampled_from((1, 1, 2, 3, 5, 30)), steady=st.booleans())
    def pass_time(self, hours: int, steady: bool) -> None:
        """`steady`: the janitor beats each hour of it."""
        for _ in range(hours):
            self.now += 1
            if steady and hours <= 5:
                self.run(self.on.janitor.shift_clock(self.now * HOUR))
                self.heartbeat(self.on.janitor, "janitor", [], 0)
        self.run(self.on.shift_clock(self.now))

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
            self.run(self.on.client.sql.execute(DRAW_IDS))
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
            purged: int = 0
            last = None
            while True:
                row = await fetch_row(
                    self.on.janitor.sql, "select * from treadle.purge($1, $2, $3)", hours, dead_hours, last
                )
                purged += int(row["purged"])
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
        """`own`: into a thread that only the user submits to."""
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
        self.uncommitted.append(lambda: self.sent.extend(sents))
        self.uncommitted.append(lambda: self.model.submit(sents, at))
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
            self.uncommitted.append(lambda: self.model.cancel(message.id, at))
        else:
            assert self.run(self.on.user.redrive(message.id)) == "queued"
            self.uncommitted.append(lambda: self.model.redrive(message.id, at))

    @precondition(lambda self: self.open)
    @rule(commit=st.booleans())
    def user_ends(self, commit: bool) -> None:
        self.run(self.on.user.sql.execute("commit" if commit else "rollback"))
        self.run(self.on.user.shift_clock(self.now * HOUR))
        if commit:
            for deed in self.uncommitted:
                deed()
        self.open, self.uncommitted, self.held, self.held_threads, self.drew = False, [], [], set(), True

    @precondition(lambda self: self.held_threads)
    @rule(data=st.data(), commit=st.booleans(), fields=SUBMISSIONS)
    def user_ends_while_a_caller_waits(self, data: st.DataObject, commit: bool, fields: list[dict[str, Any]]) -> None:
        """A patient caller waits for one of the user's threads, and sees its state after the user's transaction."""
        name = data.draw(st.sampled_from(sorted(self.held_threads)))
        mine = self.model.of(name)
        idle = [message for message in mine if not message.lease]
        holders = [h for h in self.holders if self.model.held_by(h) in mine]
        what = ["submit"]
        what += ["delete"] if mine else []
        what += ["cancel", "redrive"] if idle else []
        what += ["append", "finish"] if holders else []
        sql_client = self.on.client
        call: Call
        expect: Callable[[], object]
        match data.draw(st.sampled_from(what)):
            case "submit":
                sents = [self.new(f) for f in fields] + [self.new(fields[0] | {"thread": name})]
                self.sent += sents
                call, expect = self.submission(sql_client, sents), lambda: self.model.submit(sents, self.now)
            case "delete":
                call, expect = self.deletion(name), lambda: self.model.delete_thread(name)
            case "cancel":
                id = data.draw(st.sampled_from(idle)).id
                call, expect = sql_client.cancel(id), lambda: self.model.cancel(id, self.now)
            case "redrive":
                id = data.draw(st.sampled_from(idle)).id
                call, expect = sql_client.redrive(id), lambda: self.model.redrive(id, self.now)
            case "append":
                holder = data.draw(st.sampled_from(holders))
                sql_client = self.on.workers[holder.worker]
                item = holder, holder.seq, self.chunks(holder, 2)
                call, expect = self.appending([item], patient=True), lambda: [self.model.append(*item)]
            case _:
                holder = data.draw(st.sampled_from(holders))
                sql_client = self.on.workers[holder.worker]
                outcome = data.draw(st.sampled_from(FINISHES))
                call, expect = self.finishing([holder], outcome, 1, holder.seq, 1, patient=True)
        task = self.on.loop.create_task(answered(call))
        self.run(self.on.until_blocked(task, sql_client))
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
        """A new lane row has a higher id than every earlier one, except for the rows that the user wrote."""
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
        """Nothing is stuck: every open message comes to its end."""
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


def test_whatever_is_done_in_whatever_order_the_database_is_as_the_model_says(dsn: str) -> None:
    with asyncio.Runner() as runner:
        sessions = Sessions(runner.get_loop(), dsn)
        runner.run(sessions.open())
        try:
            run_state_machine_as_test(
                lambda: Whole(sessions),  # type: ignore[arg-type]  # it takes a function as well
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
