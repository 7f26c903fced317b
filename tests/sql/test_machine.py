"""The SQL functions against a model of them: clients, workers, a janitor and a user with an open transaction do what
they can, in any order. After each step the database is as the model says and treadle.violations is empty; no call
waits for the user, and only the user's threads are busy; in the end everything is finished.

    EXAMPLES=2000 make test ARGS="tests/sql/test_machine.py -n 0"      looks for longer

What fails is shown as the shortest program that leads there (m1, m2: the messages in the order they were made).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import asyncpg
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from tests.support.sql_model_rows import Message
from tests.support.state_machine_sessions import QUEUES, Sessions
from tests.support.state_machine_users import UserMachine


class Whole(UserMachine):
    """Compares the database with the model after each step, and ends all messages at the end."""

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
        """A new row has a higher id than every earlier one of its section, except for the rows that the user wrote."""
        before, self.lane_ids = self.lane_ids, {}
        for row in messages:
            if row["lane"] is not None:
                self.lane_ids[row["message_id"]] = row["queue"], row["lane"], row["lane_id"]
        for place in sorted({place for id, place in self.lane_ids.items() if before.get(id) != place}):
            queue, lane, id = place
            section = queue, lane, id < 0
            last = self.last_lane_ids.get(section)
            assert self.drew or last is None or id > last
            self.last_lane_ids[section] = id if last is None else max(id, last)
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
            self.claim(worker="w0", quantity=100, queues=[*QUEUES], first_lane="high")
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
                    phases=[Phase.generate],  # to shrink a program takes minutes; a failure prints the whole of it
                    print_blob=True,
                    report_multiple_bugs=False,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(sessions.close())
