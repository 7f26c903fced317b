"""Consumers: the records of a subscription, one by one or in batches, over HTTP.

A consumer declares its group as a subscription, whose agent it is: each record is a message under a lease. Consumers of
one group share the records; those of one key come in order, one after the other. A consumer that dies is replaced.
"""

import asyncio
import contextlib
import contextvars
import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias
from uuid import UUID

from service.agents.contract import Overloaded, Rejected, RetryAfter
from service.agents.os_threads import WorkerThreads
from treadle.client.errors import TreadleError
from treadle.client.topics import Delivery, Topics
from treadle.worker.protocol import Claim, Ending, LeaseLost, VerdictKind
from treadle.worker.session import Session

log = logging.getLogger(__name__)

AGENT_PREFIX = "consumer:"
MAX_GROUP_CHARS = 90
MAX_ERROR_CHARS = 2_000

Handler: TypeAlias = Callable[["Record"], Any]
"""A function of a record; its return acknowledges it. A function that is not a coroutine function runs in a thread."""


class Record:
    """A record that the consumer holds. End it once: `ack`, `nack`, `retry` or `put_off`. Each returns False if it
    was too late: the record was given to another consumer."""

    def __init__(self, claim: Claim, session: Session, worker: str, ended: Callable[["Record"], None]) -> None:
        record = claim.metadata.get("record", {})
        self.topic: str = record.get("topic", "")
        self.offset: int = record.get("offset", -1)
        self.key: str | None = record.get("key")
        self.headers: dict[str, str] = record.get("headers") or {}
        self.record_id: str = record.get("record_id", "")
        self.value = claim.message
        self.message_id = str(claim.message_id)
        self.attempt = claim.attempt
        self.is_lost = False
        self.is_over = False
        self._claim = claim
        self._session = session
        self._worker = worker
        self._ended = ended
        self._handling: asyncio.Task[None] | None = None  # by AsyncConsumer.run
        self._is_async = False  # that handler

    async def ack(self) -> bool:
        """The record is handled."""
        return await self._end("completed", result=None)

    async def nack(self, reason: str = "The consumer refused the record.") -> bool:
        """The record cannot be handled: it becomes a dead letter."""
        return await self._end("failed", error=reason[:MAX_ERROR_CHARS])

    async def retry(self, after: float | None = None, reason: str = "The consumer asked for another attempt.") -> bool:
        """Deliver it again after so many seconds (None: with backoff), as long as attempts are left."""
        more = {} if after is None else {"retry_after": after}
        return await self._end("retry", error=reason[:MAX_ERROR_CHARS], **more)

    async def put_off(self, after: float = 0.0, reason: str = "A service that is needed is overloaded.") -> bool:
        """Deliver it again later, without a failure, until OVERLOAD_PATIENCE is over: the record is not at fault."""
        return await self._end("overloaded", error=reason[:MAX_ERROR_CHARS], retry_after=after)

    async def _end(self, outcome: Ending, **fields: Any) -> bool:
        if self.is_over:
            raise RuntimeError("the record is over already")
        self.is_over = True
        first_seq = self._claim.last_seq + 1
        try:
            if self.is_lost:
                return False
            await self._session.calls.finish(
                self._worker, self._claim, outcome, first_seq=first_seq, events=(), **fields
            )
        except LeaseLost:
            return False
        finally:
            self._ended(self)
        return True


class AsyncConsumer:
    """Made by AsyncClient.consumer. Leaving its block gives back the records that are not over."""

    def __init__(
        self,
        topics: Topics,
        address: tuple[str | None, str | None],
        group: str,
        patterns: str | Sequence[str],
        *,
        start: int | str = "latest",
        max_in_flight: int = 100,
        delivery: Delivery = "at_least_once",
        max_attempts: int | None = None,
        filter: Mapping[str, Any] | None = None,
        dead_letter: bool = True,
    ) -> None:
        if not 1 <= len(group) <= MAX_GROUP_CHARS:
            raise ValueError(f"the name of a group has 1 to {MAX_GROUP_CHARS} characters")
        self._topics = topics
        self._group = group
        self._patterns = patterns
        self._max_in_flight = max_in_flight
        self._declared: dict[str, Any] = {
            "start": start,
            "delivery": delivery,
            "filter": filter,
            "dead_letter": dead_letter,
        }
        declared = {"agent": AGENT_PREFIX + group, "max_attempts": max_attempts}
        self._session = Session(*address, [declared], max_in_flight, self._drop)
        self._held: dict[UUID, Record] = {}
        self._ready: asyncio.Queue[Record | None] = asyncio.Queue()
        self._room = asyncio.Event()
        self._fetching: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._confirming: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._topics.subscribe(self._group, self._patterns, AGENT_PREFIX + self._group, **self._declared)
        self._fetching = asyncio.create_task(self._fetch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ending = {*self._confirming, *([] if self._fetching is None else [self._fetching])}
        await _cancel(ending)
        await self._session.close()

    def __aiter__(self) -> AsyncIterator[Record]:
        return self

    async def __anext__(self) -> Record:
        """The next record. Raises Unauthorized, Forbidden or Invalid if the server refuses the consumer."""
        while True:
            record = await self._ready.get()
            if record is None:
                self._ready.put_nowait(None)  # for the next call
                assert self._failure is not None
                raise self._failure
            if not record.is_lost:
                return record

    async def batches(self, size: int = 100, linger_seconds: float = 0.1) -> AsyncGenerator[list[Record], None]:
        """Records in lists of up to `size`: one that is there, and those that follow within `linger_seconds`."""
        while True:
            batch = [await anext(self)]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(linger_seconds):
                    while len(batch) < size:
                        batch.append(await anext(self))
            yield batch

    async def run(self, handler: Handler, *, concurrency: int = 10) -> None:
        """Hand each record to a function, up to `concurrency` at once, until cancelled. Its return is `ack`;
        treadle.Rejected is `nack`; treadle.Overloaded is `put_off`; treadle.RetryAfter and any other exception is
        `retry`. Raises as `__anext__`."""
        slots = asyncio.Semaphore(concurrency)
        running: set[asyncio.Task[None]] = set()
        threads = WorkerThreads(concurrency)

        def end(task: asyncio.Task[None]) -> None:
            running.discard(task)
            slots.release()

        try:
            async for record in self:
                await slots.acquire()
                task = asyncio.create_task(self._handle(handler, record, threads))
                record._handling, record._is_async = task, inspect.iscoroutinefunction(handler)
                running.add(task)
                task.add_done_callback(end)
        finally:
            await _cancel(running)
            threads.shutdown(wait=False, cancel_futures=True)

    async def _handle(self, handler: Handler, record: Record, threads: WorkerThreads) -> None:
        try:
            if inspect.iscoroutinefunction(handler):
                await handler(record)
            else:
                call = contextvars.copy_context().run
                made = await asyncio.get_running_loop().run_in_executor(threads, call, handler, record)
                if inspect.isawaitable(made):
                    await made
        except Rejected as error:
            await self._end(record, record.nack(str(error) or "The handler refused the record."))
        except Overloaded as error:
            await self._end(record, record.put_off(error.seconds, str(error)))
        except RetryAfter as error:
            await self._end(record, record.retry(error.seconds, str(error)))
        except Exception as error:
            log.exception("the handler of a record raised")
            await self._end(record, record.retry(None, f"{type(error).__name__}: {error}"))
        else:
            await self._end(record, record.ack())

    async def _end(self, record: Record, call: Any) -> None:
        """The handler may have ended the record itself."""
        if record.is_over:
            call.close()
            return
        try:
            await call
        except TreadleError as error:
            log.error("%s: the end was refused: %s", record.message_id, error)

    async def _fetch(self) -> None:
        try:
            while True:
                while (room := self._max_in_flight - len(self._held)) <= 0:
                    self._room.clear()
                    await self._room.wait()
                for claim in await self._session.claim(room):
                    record = Record(claim, self._session, self._session.worker_id, self._forget)
                    self._held[claim.message_id] = record
                    self._ready.put_nowait(record)
        except BaseException as error:
            self._failure = error
            self._ready.put_nowait(None)
            if isinstance(error, asyncio.CancelledError):
                raise

    def _forget(self, record: Record) -> None:
        self._session.forget(record._claim)
        if self._held.get(record._claim.message_id) is record:
            del self._held[record._claim.message_id]
        self._room.set()

    def _drop(self, message_id: UUID, reason: VerdictKind) -> None:
        if record := self._held.get(message_id):
            record.is_lost = True
            if not record.is_over:
                if reason == "cancelled":
                    task = asyncio.create_task(self._confirm(record))
                    self._confirming.add(task)
                    task.add_done_callback(self._confirming.discard)
                self._forget(record)

    async def _confirm(self, record: Record) -> None:
        """An operator has cancelled the message: say that nothing runs any more, once the handler has ended."""
        if record._handling is not None:
            if record._is_async:
                record._handling.cancel()  # a function in a thread cannot be
            await asyncio.wait({record._handling})
        claim = record._claim
        with contextlib.suppress(LeaseLost, TreadleError):
            await self._session.calls.finish(
                record._worker, claim, "failed", first_seq=claim.last_seq + 1, events=(), error="Cancelled."
            )


async def _cancel(tasks: Collection[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
