"""Messages in PostgreSQL: submit them. (lookup/ reads their status, control/ has what changes them.)"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import uuid_utils.compat as uuid

from service import telemetry
from service.access.principal import Principal
from service.batching import Batcher
from service.db.notifier import EVENTS, WORK, Notifier
from service.db.pool import Database
from service.errors import BY_SQLSTATE, Busy, Misfit, Refused
from service.inputs.store import InputSchemas
from service.messages.control.store import MessageControl
from service.messages.lookup.store import MessageLookup
from service.messages.model import (
    Accepted,
    NewMessage,
    Submission,
)
from service.patience import DIRECT_CALLS, HELD_SECONDS, Patience

SUBMIT_BATCH_MESSAGES = 500
MESSAGE_BYTES = 40_000  # beyond, a message counts for several, so that a batch has about 20 MB
SUBMIT_CALLS = 2  # batches at once, each of another tenant: a large one holds up no other tenant
RESTRICTED_CALLS = 4  # batches of principals with restrictions at once, one for each restriction
# How long a submit waits for locks of other transactions: not for threads, unless it is patient.
LOCK_TIMEOUT = "100ms"


class Submitted(msgspec.Struct, frozen=True):
    """A row of treadle.submit_many. If `state` is `busy` or `refused`, the message was not written."""

    message_id: UUID | None
    state: str
    queue: str | None
    queue_position: int | None
    created_at: Any
    thread_id: str | None
    thread: int | None
    refusal_code: str | None  # SQLSTATE
    refusal: str | None


class Request(NamedTuple):
    """One message that waits for its batch. The principals of a batch are of one tenant, with equal restrictions.
    `text`: the message as JSON."""

    principal: Principal
    submission: Submission
    text: bytes


SUBMIT = f"""
    select {", ".join(Submitted.__struct_fields__)}
    from treadle.submit_many(
        $1::jsonb, tenant => $2, notify => $3, max_queue_size => $4, patient => $5, lock_timeout => $6, strict => $7,
        autocommit => true, reach => $8::jsonb)"""
SUBMIT_ONCE = """
    select answer, repeated
    from treadle.submit_once(
        $1, $2, $3::jsonb, $4, $5, autocommit => true, patient => false, reach => $6::jsonb)"""

FIRST_ANSWER = "select treadle.first_answer($1, $2, $3, $4::jsonb)"


class MessageStore(MessageControl, MessageLookup):
    """`reads` and `lists` are pools of their own, so that slow lookups and lists do not delay submits; by default all
    calls share one pool."""

    def __init__(
        self,
        database: Database,
        notifier: Notifier,
        *,
        max_queue_size: int,
        reads: Database | None = None,
        lists: Database | None = None,
    ) -> None:
        MessageControl.__init__(self, database)
        MessageLookup.__init__(self, reads or database, lists or database)
        self._notifier = notifier
        self._max_queue_size = max_queue_size
        self._inputs = InputSchemas(database)
        self._submits = self._batcher(calls=SUBMIT_CALLS)
        self._restricted_submits = self._batcher(calls=RESTRICTED_CALLS)
        self._batches = Patience(seconds=HELD_SECONDS, slots=DIRECT_CALLS)
        self._keyed = Patience(seconds=HELD_SECONDS, slots=DIRECT_CALLS)

    async def submit(self, principal: Principal, message: NewMessage, *, ends_question: bool = False) -> Accepted:
        """Submit one message, in one transaction with the requests that arrive at the same time. `ends_question`: it
        takes the place of an answer, if its thread waits for one.

        Raises what refuses this message: NotFound, Unprocessable, Conflict, QueueFull or Busy.
        """
        if message.on_busy != "enqueue" or ends_question:
            [accepted] = await self.submit_batch(principal, [message], ends_question=ends_question)
            return accepted
        await self._check_inputs(principal, [message])
        submits = self._submits if principal.reach is None else self._restricted_submits
        submission = _submission(message, principal)
        return await submits.submit(Request(principal, submission, msgspec.json.encode(submission)))

    async def submit_batch(
        self, principal: Principal, messages: Sequence[NewMessage], *, ends_question: bool = False
    ) -> list[Accepted]:
        """Submit all or none, in the order given. `ends_question`: of one that is submitted alone."""
        await self._check_inputs(principal, messages)
        text = _encode([_submission(message, principal, ends_question=ends_question) for message in messages])
        alone = len(messages) == 1
        rows = await self._batches.run(
            lambda repeated: self._call(principal, messages, text, alone=alone, patient=repeated, strict=True),
            characters=len(text),
            group=principal.tenant,
        )
        return [_accepted(row) for row in rows]

    async def submit_once(
        self,
        principal: Principal,
        key: str,
        request_hash: bytes,
        messages: Sequence[NewMessage],
        *,
        ends_question: bool = False,
    ) -> list[Accepted]:
        """Submit under an Idempotency-Key: a repeat gets the first answer. `ends_question`: as in submit_batch.

        Raises Busy while the first call is under way, Unprocessable for a key used with another request.
        """
        try:
            await self._check_inputs(principal, messages)
        except Misfit:  # since the first call its agent may have got another schema
            answer = await self._database.fetchval(FIRST_ANSWER, key, request_hash, principal.tenant, principal.reach)
            if answer is None:
                raise
            return [_accepted(submitted) for submitted in msgspec.convert(answer, list[Submitted])]
        text = _encode([_submission(message, principal, ends_question=ends_question) for message in messages])
        began = time.monotonic()
        row = await self._keyed.run(
            lambda _: self._database.fetchrow(
                SUBMIT_ONCE, key, request_hash, text, principal.tenant, self._max_queue_size, principal.reach
            ),
            key=(principal.tenant, principal.reach, key),
            characters=len(text),
            group=principal.tenant,
        )
        assert row is not None
        if row["answer"] is None:
            raise Busy("The first request under this Idempotency-Key is still under way: try again.")
        rows = msgspec.convert(row["answer"], list[Submitted])
        if not row["repeated"]:
            self._hint(rows)
            _tell(principal, messages, rows, began)
        return [_accepted(submitted) for submitted in rows]

    async def submitted_once(self, principal: Principal, key: str) -> UUID | None:
        """The first message that was submitted under an Idempotency-Key of the principal."""
        found: UUID | None = await self._reads.fetchval(
            "select treadle.submitted_once($1, $2, $3::jsonb)", key, principal.tenant, principal.reach
        )
        return found

    def _batcher(self, calls: int) -> Batcher[Request, Accepted]:
        return Batcher(
            self._submit,
            limit=SUBMIT_BATCH_MESSAGES,
            calls=calls,
            weigh=lambda request: 1 + len(request.text) // MESSAGE_BYTES,
            patience=Patience(seconds=HELD_SECONDS, repetitions=None),
            group_by=lambda request: (request.principal.tenant, request.principal.reach),
            held_by=lambda request: request.principal.thread_key(request.submission.thread_id),
            measure=lambda request: len(request.text),
        )

    async def _check_inputs(self, principal: Principal, messages: Sequence[NewMessage]) -> None:
        """Raises Misfit for a message that does not fit the input of its agent."""
        misfit = await self._inputs.misfit(
            ((_named_agent(message), message.message) for message in messages), only_agents=principal.agents
        )
        if misfit is not None:
            sentence = misfit.sentence if len(messages) == 1 else f"messages[{misfit.number}]: {misfit.sentence}"
            raise Misfit(sentence, pointer=misfit.pointer)

    async def _submit(self, batch: Sequence[Request], patient: bool) -> list[Accepted | Exception]:
        submissions = [request.submission for request in batch]
        text = f"[{b','.join(request.text for request in batch).decode()}]"
        principal = batch[0].principal
        rows = await self._call(principal, submissions, text, alone=len(batch) == 1, patient=patient, strict=False)
        return [_outcome(row) for row in rows]

    async def _call(
        self,
        principal: Principal,
        messages: Sequence[telemetry.Asked],
        batch: str,
        *,
        alone: bool,
        patient: bool,
        strict: bool,
    ) -> list[Submitted]:
        """`batch`: the messages as JSON. `alone`: there is one. `patient`: wait a moment for locks. `strict`: raise the
        first refusal, and write none of the batch."""
        began = time.monotonic()
        with self._notifier.with_commit(single=alone) as hinted:
            rows = await self._database.fetch(
                SUBMIT,
                batch,
                principal.tenant,
                hinted,
                self._max_queue_size,
                patient,
                LOCK_TIMEOUT,
                strict,
                principal.reach,
            )
        submitted = [Submitted(*row) for row in rows]
        _tell(principal, messages, submitted, began)
        if not hinted:
            self._hint(submitted)
        return submitted

    def _hint(self, rows: Sequence[Submitted]) -> None:
        for row in rows:
            if row.queue is not None:
                self._notifier.hint(WORK, row.queue)
            if row.thread is not None:
                self._notifier.hint(EVENTS, f"{row.message_id}:{row.thread}")


def _tell(principal: Principal, messages: Sequence[telemetry.Asked], rows: Sequence[Submitted], began: float) -> None:
    telemetry.submit(tenant=principal.tenant, messages=messages, answers=rows, seconds=time.monotonic() - began)


def _named_agent(message: NewMessage) -> str | None:
    """None: the default agent. The agent of a thread is not known here, so the worker checks its messages."""
    return "" if message.agent is None and message.thread_id is not None else message.agent


def _submission(message: NewMessage, principal: Principal, *, ends_question: bool = False) -> Submission:
    return Submission(
        uuid.uuid7(),
        message.message,
        message.priority,
        message.thread_id,
        message.agent,
        message.metadata,
        message.delay_seconds,
        message.max_attempts,
        message.max_losses,
        message.timeout_seconds,
        message.aside,
        telemetry.TRACE_PARENT.get(),
        message.on_busy,
        message.callback_url,
        message.thread_metadata,
        ends_question,
        principal.name if ends_question or message.on_busy in ("interrupt", "rollback") else None,
    )


def _encode(batch: Sequence[Submission]) -> str:
    return msgspec.json.encode(batch).decode()


def _outcome(row: Submitted) -> Accepted | Exception:
    if row.state == "busy":
        return Busy("Another transaction holds the thread; try again.")
    if row.refusal_code is not None:
        return BY_SQLSTATE.get(row.refusal_code, Refused)(row.refusal)
    return _accepted(row)


def _accepted(row: Submitted) -> Accepted:
    return msgspec.convert(row, Accepted, from_attributes=True)
