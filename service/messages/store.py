"""Messages in PostgreSQL: submit and look up. (control/ has what changes them.)"""

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
from service.db.rows import from_row
from service.errors import BY_SQLSTATE, Busy, Misfit, NotFound, Refused
from service.inputs.store import InputSchemas
from service.limits import JSON_PAGE_BYTES, MAX_POSITION
from service.messages.control.store import DIRECT_CALLS, MessageControl
from service.messages.model import (
    Accepted,
    Explanation,
    NewMessage,
    Reason,
    Status,
    Submission,
)
from service.patience import HELD_SECONDS, Patience

SUBMIT_BATCH_MESSAGES = 500
RESTRICTED_CALLS = 4  # batches of principals with restrictions at once, one for each restriction
# How long a submit waits for locks of other transactions: not for threads, unless it is patient.
LOCK_TIMEOUT = "100ms"

STATUS_COLUMNS = """
    o.message_id, o.state, o.user_message::text, o.priority, o.created_at, o.started_at, o.completed_at,
    o.result::text, o.error, o.thread_id, o.agent, o.attempt, o.max_attempts, o.run_at, o.worker_id, o.metadata::text,
    o.queue, o.hold, o.usage::text, o.aside, o.parent,
    case when o.asks is not null then
        jsonb_build_object('name', o.asks -> 'name', 'question', o.asks -> 'question')::text
    end as asks"""
JSON_COLUMNS = frozenset({"user_message", "result", "metadata", "usage", "asks"})

STATUS = f"""
    select
        {STATUS_COLUMNS},
        case when o.state = 'queued' then treadle.queue_position(o.message_id, tenant => $2) end as queue_position
    from treadle.message_overview o
    where o.message_id = $1
        and o.tenant = $2
        and treadle._sees(
            reach => $3::jsonb, owner => o.owner, agent => o.agent, thread_id => o.thread_id,
            message_id => o.message_id)"""

STATUSES = f"""
    select {STATUS_COLUMNS}
    from (
        select f.*, row_number() over by_n as place, sum(
            treadle._bytes(f.user_message) + treadle._bytes(f.result) + treadle._bytes(f.metadata)
            + treadle._bytes(f.usage) + treadle._bytes(f.asks) + coalesce(octet_length(f.error), 0)) over by_n as bytes
        from (
            select m.*, u.n
            from unnest($1::uuid[]) with ordinality u (message_id, n)
            cross join lateral (
                select v.*
                from treadle.message_overview v
                where v.message_id = u.message_id
                    and v.tenant = $2
                    and treadle._sees(
                        reach => $3::jsonb, owner => v.owner, agent => v.agent, thread_id => v.thread_id,
                        message_id => v.message_id)
                limit 1
            ) m
        ) f
        window by_n as (order by f.n rows unbounded preceding)
    ) o
    where o.place = 1 or o.bytes <= $4
    order by o.n"""


def _page_of_thread(beyond: str, order: str) -> str:
    """A page of messages that have about so many bytes together. The sizes are known without reading the values."""
    return f"""
    select {STATUS_COLUMNS}, o.ord, o.more
    from (
        select s.*, s.place < count(*) over () as more
        from (
            select m.*, row_number() over by_ord as place, sum(
                treadle._bytes(m.user_message) + treadle._bytes(m.result) + treadle._bytes(m.metadata)
                + treadle._bytes(m.usage) + treadle._bytes(m.asks) + coalesce(octet_length(m.error), 0)) over by_ord
                as bytes
            from (
                select v.*
                from treadle.message_overview v
                where v.thread = $1
                    and v.ord {beyond} $2
                order by v.ord {order}
                limit $3 + 1
            ) m
            window by_ord as (order by m.ord {order} rows unbounded preceding)
        ) s
    ) o
    where o.place = 1 or (o.place <= $3 and o.bytes <= $4)
    order by o.ord {order}"""


OF_THREAD = _page_of_thread(">", "asc")
OF_THREAD_NEWEST = _page_of_thread("<", "desc")


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
    """One message that waits for its batch. The principals of a batch are of one tenant, with equal restrictions."""

    principal: Principal
    submission: Submission


SUBMIT = f"""
    select {", ".join(Submitted.__struct_fields__)}
    from treadle.submit_many(
        $1::jsonb, tenant => $2, notify => $3, max_queue_size => $4, patient => $5, lock_timeout => $6, strict => $7,
        autocommit => true, reach => $8::jsonb)"""
SUBMIT_ONCE = """
    select answer, repeated
    from treadle.submit_once(
        $1, $2, $3::jsonb, $4, $5, autocommit => true, patient => false, reach => $6::jsonb)"""


class MessageStore(MessageControl):
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
        super().__init__(database)
        self._reads = reads or database
        self._lists = lists or database
        self._notifier = notifier
        self._max_queue_size = max_queue_size
        self._inputs = InputSchemas(database)
        self._submits = self._batcher(calls=1)
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
        return await submits.submit(Request(principal, _submission(message)))

    async def submit_batch(
        self, principal: Principal, messages: Sequence[NewMessage], *, ends_question: bool = False
    ) -> list[Accepted]:
        """Submit all or none, in the order given. `ends_question`: of one that is submitted alone."""
        await self._check_inputs(principal, messages)
        text = _encode([_submission(message, ends_question=ends_question) for message in messages])
        alone = len(messages) == 1
        rows = await self._batches.run(
            lambda repeated: self._call(principal, messages, text, alone=alone, patient=repeated, strict=True),
            characters=len(text),
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
        await self._check_inputs(principal, messages)
        text = _encode([_submission(message, ends_question=ends_question) for message in messages])
        began = time.monotonic()
        row = await self._keyed.run(
            lambda _: self._database.fetchrow(
                SUBMIT_ONCE, key, request_hash, text, principal.tenant, self._max_queue_size, principal.reach
            ),
            characters=len(text),
        )
        assert row is not None
        if row["answer"] is None:
            raise Busy("The first request under this Idempotency-Key is still under way.")
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

    async def status(self, principal: Principal, message_id: UUID) -> Status:
        """Raises NotFound."""
        row = await self._reads.fetchrow(STATUS, message_id, principal.tenant, principal.reach)
        if row is None:
            raise NotFound(f"There is no message {message_id}.")
        return from_row(Status, row, JSON_COLUMNS)

    async def statuses(self, principal: Principal, message_ids: Sequence[UUID]) -> list[Status]:
        """Of those that exist for the principal, in this order and without their queue positions: the first that have
        about JSON_PAGE_BYTES bytes together, but at least one."""
        rows = await self._lists.fetch(STATUSES, message_ids, principal.tenant, principal.reach, JSON_PAGE_BYTES)
        return [from_row(Status, row, JSON_COLUMNS, queue_position=None) for row in rows]

    async def explain(self, principal: Principal, message_id: UUID) -> Explanation:
        """Raises NotFound."""
        rows = await self._reads.fetch(
            "select cause, sentence, advice from treadle.explain($1, tenant => $2, reach => $3::jsonb)",
            message_id,
            principal.tenant,
            principal.reach,
        )
        return Explanation(message_id, msgspec.convert(rows, list[Reason]))

    async def of_thread(
        self, thread: int, after: int | None, limit: int, *, newest_first: bool = False
    ) -> tuple[list[Status], int | None]:
        """A page of the messages of a thread, which the caller has looked up for its principal, in its order (or the
        reverse), beginning after the one with the `ord` `after`; and the `ord` of the last where more messages follow.
        It has at most `limit` messages and about JSON_PAGE_BYTES bytes, but at least one message."""
        query, start = (OF_THREAD_NEWEST, MAX_POSITION) if newest_first else (OF_THREAD, 0)
        rows = await self._lists.fetch(query, thread, start if after is None else after, limit, JSON_PAGE_BYTES)
        queued = [row["message_id"] for row in rows if row["state"] == "queued"]
        positions = dict(zip(queued, await self._positions(queued) if queued else [], strict=True))
        page = [from_row(Status, row, JSON_COLUMNS, queue_position=positions.get(row["message_id"])) for row in rows]
        return page, rows[-1]["ord"] if rows and rows[-1]["more"] else None

    async def _positions(self, message_ids: Sequence[UUID]) -> list[int | None]:
        rows = await self._database.fetch(
            "select queue_position from treadle.queue_positions($1) order by n", message_ids
        )
        return [row["queue_position"] for row in rows]

    def _batcher(self, calls: int) -> Batcher[Request, Accepted]:
        return Batcher(
            self._submit,
            limit=SUBMIT_BATCH_MESSAGES,
            calls=calls,
            patience=Patience(seconds=HELD_SECONDS, repetitions=None),
            group_by=lambda request: (request.principal.tenant, request.principal.reach),
            held_by=lambda request: request.principal.thread_key(request.submission.thread_id),
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
        text = _encode(submissions)
        rows = await self._call(
            batch[0].principal, submissions, text, alone=len(batch) == 1, patient=patient, strict=False
        )
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


def _submission(message: NewMessage, *, ends_question: bool = False) -> Submission:
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
