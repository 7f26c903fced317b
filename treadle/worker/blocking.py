"""Producers and consumers for code without asyncio: calls of those for asyncio, on the loop of a Client."""

import concurrent.futures
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

from treadle.client.producer import AsyncProducer, Delivered, OnDelivery
from treadle.worker.consumer import AsyncConsumer, Record

T = TypeVar("T")
Wait = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine on the loop of the client, and waits for it."""


class Producer:
    """Made by Client.producer. Threads may share it. Leaving its block flushes it."""

    def __init__(self, wait: Wait, **options: Any) -> None:
        self._wait = wait
        self._producer: AsyncProducer = wait(_make(AsyncProducer, **options))

    def send(
        self,
        topic: str,
        value: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        record_id: UUID | None = None,
        on_delivery: OnDelivery | None = None,
    ) -> "concurrent.futures.Future[Delivered]":
        """As AsyncProducer.send; `result()` of the answer waits. `on_delivery` is called in the client's thread: it
        must not call the client."""
        return self._wait(  # type: ignore[no-any-return]  # _wait returns Any
            self._send(topic, value, key=key, headers=headers, record_id=record_id, on_delivery=on_delivery)
        )

    def flush(self, timeout: float | None = None) -> None:
        """Wait until each record is stored or refused. Raises TimeoutError."""
        self._wait(self._producer.flush(timeout))

    @property
    def buffered(self) -> int:
        """How many records are not stored yet."""
        return self._producer.buffered

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.flush()

    async def _send(self, topic: str, value: Any, **options: Any) -> "concurrent.futures.Future[Delivered]":
        answer: concurrent.futures.Future[Delivered] = concurrent.futures.Future()
        answer.set_running_or_notify_cancel()  # a caller cannot cancel a record that is on its way
        tell = options.pop("on_delivery")

        def on_delivery(error: Exception | None, delivered: Delivered) -> None:
            if error is None:
                answer.set_result(delivered)
            else:
                answer.set_exception(error)
            if tell is not None:
                tell(error, delivered)

        await self._producer.send(topic, value, on_delivery=on_delivery, **options)
        return answer


class BlockingRecord:
    """A Record whose `ack`, `nack`, `retry` and `put_off` wait."""

    def __init__(self, record: Record, wait: Wait) -> None:
        self._record = record
        self._wait = wait

    def ack(self) -> bool:
        return bool(self._wait(self._record.ack()))

    def nack(self, reason: str = "The consumer refused the record.") -> bool:
        return bool(self._wait(self._record.nack(reason)))

    def retry(self, after: float | None = None, reason: str = "The consumer asked for another attempt.") -> bool:
        return bool(self._wait(self._record.retry(after, reason)))

    def put_off(self, after: float = 0.0, reason: str = "A service that is needed is overloaded.") -> bool:
        return bool(self._wait(self._record.put_off(after, reason)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._record, name)


class Consumer:
    """Made by Client.consumer: an iterator of records. Leaving its block gives back those that are not over."""

    def __init__(self, wait: Wait, *args: Any, **options: Any) -> None:
        self._wait = wait
        self._consumer: AsyncConsumer = wait(_make(AsyncConsumer, *args, **options))

    def __enter__(self) -> Self:
        self._wait(self._consumer.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._wait(self._consumer.__aexit__(None, None, None))

    def __iter__(self) -> Iterator[BlockingRecord]:
        return self

    def __next__(self) -> BlockingRecord:
        return BlockingRecord(self._wait(self._consumer.__anext__()), self._wait)

    def batches(self, size: int = 100, linger_seconds: float = 0.1) -> Generator[list[BlockingRecord], None, None]:
        """As AsyncConsumer.batches."""
        items = self._consumer.batches(size, linger_seconds)
        try:
            while True:
                yield [BlockingRecord(record, self._wait) for record in self._wait(_next(items))]
        finally:
            self._wait(items.aclose())

    def run(self, handler: Callable[[Record], Any], *, concurrency: int = 10) -> None:
        """As AsyncConsumer.run: hand each record to a function, in threads, until interrupted (Ctrl-C)."""
        self._wait(self._consumer.run(handler, concurrency=concurrency))


async def _make(kind: Callable[..., T], *args: Any, **options: Any) -> T:
    """In the loop of the client, to which the object belongs."""
    return kind(*args, **options)


async def _next(items: Any) -> Any:
    return await anext(items)
