"""A user who has a transaction open, in the state machine over the SQL functions and their model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import asyncpg
from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.support.sql_model_rows import HOUR
from tests.support.state_machine import SUBMISSIONS, Call, answered
from tests.support.state_machine_janitor import JanitorMachine
from tests.support.state_machine_workers import FINISHES

PASSED = "select exists (select from treadle.low_water w where w.passed <> '{}')"


class UserMachine(JanitorMachine):
    """The machine with all actors: clients, workers, a janitor, an operator, and a user with an open transaction."""

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
        self.end_transaction(commit=commit)
        self.bring_late_rows_back()

    def end_transaction(self, *, commit: bool) -> None:
        self.run(self.on.user.sql.execute("commit" if commit else "rollback"))
        self.run(self.on.user.shift_clock(self.now * HOUR))
        if commit:
            self.came_late = True
            for deed in self.uncommitted:
                deed()
        self.open, self.uncommitted, self.held, self.held_threads, self.drew = False, [], [], set(), True

    def bring_late_rows_back(self) -> None:
        """As a janitor does every second: marks may have passed rows of the transaction, which no claim finds then."""
        if self.run(self.on.watch.sql.fetchval(PASSED)):
            self.run(self.on.janitor.sql.execute("select treadle.sweep()"))

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
        what += ["finish"] if holders else []
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
            case _:
                holder = data.draw(st.sampled_from(holders))
                sql_client = self.on.workers[holder.worker]
                outcome = data.draw(st.sampled_from(FINISHES))
                call, expect = self.finishing([holder], outcome, 1, holder.seq, 1, patient=True)
        task = self.on.loop.create_task(answered(call))
        self.run(self.on.until_blocked(task, sql_client))
        self.end_transaction(commit=commit)
        try:
            found = self.run(task)
        except asyncpg.LockNotAvailableError:
            reject()  # a finish waits for 100 ms: this machine was busier
        assert found == expect()
        self.bring_late_rows_back()
