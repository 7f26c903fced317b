"""A state machine over the SQL functions and their model: the calls of clients and workers.

The calls of workers, of the janitor and of a user with an open transaction are in state_machine_workers.py,
state_machine_janitor.py and state_machine_users.py.
"""

from __future__ import annotations

import asyncio
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

from tests.support.sql_client import SqlClient
from tests.support.sql_model import Model
from tests.support.sql_model_rows import AGENTS, RANKS, Holder, Message, Sent
from tests.support.state_machine_sessions import THREADS, WORKERS, Sessions

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
        self.last_lane_ids: dict[tuple[str, str, bool], int] = {}  # by queue, lane and whether it returned
        self.sound = False  # whether the database was compared with the model since the last step
        # The user's transaction: what the model must do when it commits, and the rows that it holds.
        self.open = False
        self.uncommitted: list[Callable[[], object]] = []
        self.held_threads: set[str] = set()
        self.held: list[Message] = []
        self.came_late = (
            False  # whether it has committed since the last look for due messages, perhaps below their mark
        )
        self.drew = False  # whether it has just ended, with lane ids lower than ids that were already seen

    def run(self, call: Coroutine[Any, Any, Any] | asyncio.Future[Any]) -> Any:
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
        busy = [sent for sent in news if sent.thread in self.held_threads]
        if busy:
            room = None  # such a call is not strict, so that the others are written

        def expect() -> list[str] | str:
            for queue, arriving in Counter(AGENTS[sent.agent] for sent in news).items():
                if room is not None and arriving + self.model.queued(queue) > room:
                    return "TR429"
            return self.model.submit(sents, self.now, busy)

        self.ask(self.submission(self.on.client, sents, patient=False, max_queue_size=room, strict=not busy), expect)

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


async def answered(call: Call) -> Any:
    """The answer, or the SQLSTATE of the refusal."""
    try:
        return await call
    except asyncpg.PostgresError as error:
        if not error.sqlstate.startswith("TR"):
            raise
        return error.sqlstate
