"""Producers: records go out in batches, in their order, each once.

A producer collects records for `linger_seconds`, or until a batch is full. One batch of a topic is in flight at a time,
so records keep their order. A batch whose answer was lost is sent again with the same record ids, so that each record
is stored once.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeAlias
from uuid import UUID

import msgspec
import uuid_utils.compat as uuid7
from msgspec import Struct

from service.agents.protobuf_types import to_json
from treadle.client.connection import Connection, segment
from treadle.client.errors import Conflict, Invalid, TooManyRequests, Unavailable
from treadle.client.repeats import backoff

log = logging.getLogger(__name__)

MAX_BATCH_RECORDS = 1000
MAX_BATCH_BYTES = 1_000_000
LAST_TRY_SECONDS = 1.0  # which a batch has in any case


class Delivered(Struct, frozen=True):
    """A record that is stored durably."""

    topic: str
    record_id: UUID


OnDelivery: TypeAlias = Callable[[Exception | None, Delivered], None]
"""Called once for each record: with None, or with the error for which it is not stored."""


class _Waiting(Struct):
    """A record that is not stored yet."""

    record_id: UUID
    body: msgspec.Raw
    size: int
    until: float  # on the clock time.monotonic
    answer: "asyncio.Future[Delivered]"
    on_delivery: OnDelivery | None


class AsyncProducer:
    """Made by AsyncClient.producer. Leaving its block flushes it."""

    def __init__(
        self,
        connection: Connection,
        *,
        linger_seconds: float = 0.005,
        batch_size: int = 500,
        buffer_bytes: int = 10_000_000,
        delivery_seconds: float = 120.0,
    ) -> None:
        if not 1 <= batch_size <= MAX_BATCH_RECORDS:
            raise ValueError(f"batch_size must be between 1 and {MAX_BATCH_RECORDS}")
        self._connection = connection
        self._linger_seconds = linger_seconds
        self._batch_size = batch_size
        self._buffer_bytes = buffer_bytes
        self._delivery_seconds = delivery_seconds
        self._lines: dict[str, _Line] = {}
        self._bytes = 0
        self._moved = asyncio.Condition()

    async def send(
        self,
        topic: str,
        value: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        record_id: UUID | None = None,
        on_delivery: OnDelivery | None = None,
    ) -> "asyncio.Future[Delivered]":
        """Buffer a record. Await the answer to know that it is stored; it raises what the server refused.

        This call waits only while the buffer is full. Raises TypeError for a value that is no JSON.
        """
        record_id = record_id or uuid7.uuid7()
        fields = {"value": value, "key": key, "headers": headers, "record_id": record_id}
        body = msgspec.json.encode(
            {name: item for name, item in fields.items() if item is not None or name == "value"}, enc_hook=to_json
        )
        async with self._moved:
            await self._moved.wait_for(lambda: not self._bytes or self._bytes + len(body) <= self._buffer_bytes)
        answer: asyncio.Future[Delivered] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_retrieve)
        self._bytes += len(body)
        line = self._lines.get(topic)
        if line is None:
            line = self._lines[topic] = _Line()
            line.sender = asyncio.create_task(self._send(topic, line))
        until = time.monotonic() + self._delivery_seconds
        line.records.append(_Waiting(record_id, msgspec.Raw(body), len(body), until, answer, on_delivery))
        if len(line.records) >= self._batch_size:
            line.is_full.set()
        return answer

    async def flush(self, timeout: float | None = None) -> None:
        """Send all buffered records, and wait until each record is stored or refused. Raises TimeoutError."""
        for line in self._lines.values():
            line.is_full.set()
        async with asyncio.timeout(timeout), self._moved:
            await self._moved.wait_for(lambda: not self._lines)

    @property
    def buffered(self) -> int:
        """How many records are not stored yet."""
        return sum(len(line.records) for line in self._lines.values())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.flush()

    async def _send(self, topic: str, line: "_Line") -> None:
        while True:
            if len(line.records) < self._batch_size:
                await _either(line.is_full, self._linger_seconds)
            line.is_full.clear()
            batch = line.next_batch(self._batch_size)
            await self._deliver(topic, batch)
            for record in batch:
                line.records.popleft()
                self._bytes -= record.size
            async with self._moved:
                if not line.records:
                    del self._lines[topic]
                self._moved.notify_all()
            if not line.records:
                return

    async def _deliver(self, topic: str, batch: list[_Waiting]) -> None:
        """Send a batch until it is stored or refused, or its time is over. All of a batch is refused for one record:
        then it is split."""
        until = max(batch[-1].until, time.monotonic() + LAST_TRY_SECONDS)
        attempts = 0
        while True:
            try:
                await self._post(topic, batch, until)
            except Invalid as error:
                if len(batch) == 1:
                    _tell_all(batch, topic, error)
                    return
                middle = len(batch) // 2
                await self._deliver(topic, batch[:middle])
                batch = batch[middle:]
            except Exception as error:
                attempts += 1
                pause = backoff(attempts)
                if not _may_pass(error) or time.monotonic() + pause > until:
                    _tell_all(batch, topic, error)
                    return
                await asyncio.sleep(pause)
            else:
                _tell_all(batch, topic, None)
                return

    async def _post(self, topic: str, batch: list[_Waiting], until: float) -> None:
        seconds = max(until - time.monotonic(), 0)
        body = {"records": [record.body for record in batch]}
        try:
            async with asyncio.timeout(seconds):
                await self._connection._send(
                    "POST", f"/topics/{segment(topic)}/records", body=body, repeat_seconds=seconds
                )
        except TimeoutError:
            raise Unavailable(f"The server has not answered in time: {len(batch)} records may be stored.") from None


class _Line:
    """The records of a topic that are not stored yet, in their order."""

    def __init__(self) -> None:
        self.records: deque[_Waiting] = deque()
        self.is_full = asyncio.Event()
        self.sender: asyncio.Task[None] | None = None

    def next_batch(self, quantity: int) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        for record in self.records:
            if len(batch) == quantity or (batch and size + record.size > MAX_BATCH_BYTES):
                break
            batch.append(record)
            size += record.size
        return batch


async def _either(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _may_pass(error: Exception) -> bool:
    """Whether another try may succeed."""
    return isinstance(error, Unavailable | TooManyRequests) or (
        isinstance(error, Conflict) and error.retry_after is not None
    )


def _tell_all(batch: list[_Waiting], topic: str, error: Exception | None) -> None:
    for record in batch:
        _tell(record, topic, error)


def _tell(record: _Waiting, topic: str, error: Exception | None) -> None:
    delivered = Delivered(topic, record.record_id)
    if not record.answer.done():
        if error is None:
            record.answer.set_result(delivered)
        else:
            record.answer.set_exception(error)
    if record.on_delivery is not None:
        try:
            record.on_delivery(error, delivered)
        except Exception:
            log.exception("on_delivery raised")


def _retrieve(answer: "asyncio.Future[Delivered]") -> None:
    """Prevents asyncio's warning about an exception that no caller reads."""
    if not answer.cancelled():
        answer.exception()
