"""The client for code without asyncio: the calls of AsyncClient, on an event loop in a thread of its own."""

import asyncio
import functools
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

import httpx2

from treadle.client.asynchronous import AsyncClient
from treadle.client.blocking_chat import BlockingChat

if TYPE_CHECKING:
    from treadle.worker.blocking import Consumer, Producer

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    call: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["Client", P], T]:
    """A method that waits for the end of the call."""

    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._wait_for(call(self._client, *args, **kwargs))

    return functools.update_wrapper(method, call)


def _iterating(
    call: Callable[Concatenate[AsyncClient, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate["Client", P], Generator[T, None, None]]:
    """A method that returns an ordinary iterator. Closing it, or leaving its loop, closes the stream."""

    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        items = call(self._client, *args, **kwargs)
        try:
            while True:
                try:
                    item = self._wait_for(_next(items))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self._wait_for(items.aclose())

    return functools.update_wrapper(method, call)


async def _next(items: AsyncGenerator[T, None]) -> T:
    return await anext(items)


class Client:
    """A client of one server. Threads may share it; after a fork, a process makes its own.

    with Client("http://localhost:8000") as client:
        print(client.run("hello", agent="echo"))
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        repeat_seconds: float = 60.0,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """The arguments are those of AsyncClient."""
        self._client = AsyncClient(url, key=key, repeat_seconds=repeat_seconds, transport=transport)
        self._loop = asyncio.new_event_loop()
        # A daemon: a client that is never closed does not keep the process from its end.
        self._thread = threading.Thread(target=self._loop.run_forever, name="treadle-client", daemon=True)
        self._thread.start()

    submit = _blocking(AsyncClient.submit)
    submit_many = _blocking(AsyncClient.submit_many)
    status = _blocking(AsyncClient.status)
    wait = _blocking(AsyncClient.wait)
    run = _blocking(AsyncClient.run)
    cancel = _blocking(AsyncClient.cancel)
    answer = _blocking(AsyncClient.answer)
    redrive = _blocking(AsyncClient.redrive)
    retry = _blocking(AsyncClient.retry)
    messages = _blocking(AsyncClient.messages)
    inspect = _blocking(AsyncClient.inspect)
    explain = _blocking(AsyncClient.explain)
    change = _blocking(AsyncClient.change)
    cancel_many = _blocking(AsyncClient.cancel_many)
    redrive_many = _blocking(AsyncClient.redrive_many)
    stream = _iterating(AsyncClient.stream)
    stream_thread = _iterating(AsyncClient.stream_thread)
    threads = _blocking(AsyncClient.threads)
    thread = _blocking(AsyncClient.thread)
    thread_messages = _blocking(AsyncClient.thread_messages)
    thread_usage = _blocking(AsyncClient.thread_usage)
    change_thread = _blocking(AsyncClient.change_thread)
    delete_thread = _blocking(AsyncClient.delete_thread)
    declare_topic = _blocking(AsyncClient.declare_topic)
    topics = _blocking(AsyncClient.topics)
    delete_topic = _blocking(AsyncClient.delete_topic)
    publish = _blocking(AsyncClient.publish)
    publish_many = _blocking(AsyncClient.publish_many)
    records = _blocking(AsyncClient.records)
    stream_topic = _iterating(AsyncClient.stream_topic)
    subscribe = _blocking(AsyncClient.subscribe)
    subscriptions = _blocking(AsyncClient.subscriptions)
    seek = _blocking(AsyncClient.seek)
    pause_subscription = _blocking(AsyncClient.pause_subscription)
    resume_subscription = _blocking(AsyncClient.resume_subscription)
    unsubscribe = _blocking(AsyncClient.unsubscribe)
    queues = _blocking(AsyncClient.queues)
    pause = _blocking(AsyncClient.pause)
    resume = _blocking(AsyncClient.resume)
    dead_letters = _blocking(AsyncClient.dead_letters)
    agents = _blocking(AsyncClient.agents)
    workers = _blocking(AsyncClient.workers)
    stats = _blocking(AsyncClient.stats)
    instances = _blocking(AsyncClient.instances)
    drop_instance = _blocking(AsyncClient.drop_instance)
    health = _blocking(AsyncClient.health)
    create_token = _blocking(AsyncClient.create_token)

    def chat(self, thread_id: str, **options: Any) -> BlockingChat:
        """A chat with a thread over one WebSocket; the options are those of AsyncClient.chat."""
        return BlockingChat(self._wait_for, functools.partial(self._client.chat, thread_id, **options))

    def producer(self, **options: Any) -> "Producer":
        """A producer, which sends records in batches; the options are those of AsyncClient.producer."""
        from treadle.worker.blocking import Producer

        return Producer(self._wait_for, connection=self._client, **options)

    def consumer(self, group: str, topics: str | Sequence[str], **options: Any) -> "Consumer":
        """A consumer of a group; the options are those of AsyncClient.consumer."""
        from treadle.worker.blocking import Consumer

        return Consumer(self._wait_for, self._client, self._client.address, group, topics, **options)

    def close(self) -> None:
        """Close all connections, and end the thread. It may be called again."""
        if not self._loop.is_closed():
            self._wait_for(self._client.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _wait_for(self, call: Coroutine[Any, Any, T]) -> T:
        """The outcome of a call. An interrupt (Ctrl-C) cancels it."""
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
