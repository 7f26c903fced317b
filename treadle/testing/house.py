"""One test's installation: an empty migrated database, and a worker with the agents that the test runs."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from service.access.principal import COMMAND_LINE
from service.agents.definition import Agent
from service.agents.protobuf_types import to_json
from service.agents.registry import Registry
from service.cli.wiring import build_worker
from service.config import Settings
from service.db.notifier import Notifier
from service.db.pool import Database
from service.events.store import EventStore
from service.messages.model import NewInput, NewMessage, Status
from service.messages.store import MessageStore
from service.worker.worker import Worker
from treadle.client.model import TopicRecord
from treadle.testing.answer import Answer, Event
from treadle.testing.topics import Topics

T = TypeVar("T")
LOOK_SECONDS = 0.01
PAGE_EVENTS = 1_000
PAGE_BYTES = 10_000_000
FINAL = ("completed", "failed", "cancelled")


class House:
    """The fixture `treadle_run`. It runs in a thread of its own, so that tests may be functions or coroutines."""

    def __init__(self, dsn: str, loop: asyncio.AbstractEventLoop) -> None:
        self.dsn = dsn
        self._loop = loop
        self._agents: dict[str, Agent] = {}
        self._worker: Worker | None = None
        self._running: asyncio.Task[None] | None = None
        self._database: Database | None = None
        self._starting = asyncio.Lock()

    async def __call__(self, agent: Agent, message: Any, **options: Any) -> Answer:
        """Submit a message to an agent, and wait for its end.

        thread_id, priority, metadata, delay_seconds, max_attempts, timeout_seconds
                 As of a submit.
        others   Further agents that the worker has, for messages that this one sends.
        inputs   Answers to the questions of `context.input`, by their names or texts.
        timeout  Seconds, after which TimeoutError is raised (30).
        """
        return await self._here(self._run(agent, message, **options))

    def sync(self, agent: Agent, message: Any, **options: Any) -> Answer:
        """The same for a test that is no coroutine."""
        return asyncio.run_coroutine_threadsafe(self._run(agent, message, **options), self._loop).result()

    async def topics(self, *names: str) -> None:
        """Create topics."""
        await self._here(self._create(names))

    async def publish(
        self,
        topic: str,
        value: Any,
        *,
        agents: Sequence[Agent] = (),
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Publish a record, and return its id. `agents`: the worker has them, and those that declare `topics` read them
        from this record on. Raises NotFound."""
        return await self._here(self._publish(topic, value, agents, key, headers))

    async def records(self, topic: str, count: int = 1, *, timeout: float = 30.0) -> list[TopicRecord]:
        """All records of a topic, as soon as there are so many. Raises NotFound, and TimeoutError, which names the
        agents that failed."""
        return await self._here(self._records(topic, count, timeout))

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()

    async def _here(self, call: Coroutine[Any, Any, T]) -> T:
        """The outcome of a call in the loop of the house."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self._loop))

    async def _create(self, names: Sequence[str]) -> None:
        await Topics(await self._serve()).declare(names)

    async def _publish(
        self, topic: str, value: Any, agents: Sequence[Agent], key: str | None, headers: Mapping[str, str] | None
    ) -> str:
        topics = Topics(await self._serve(*agents))
        await topics.subscribed(agents)
        return await topics.publish(topic, value, key, headers)

    async def _records(self, topic: str, count: int, timeout: float) -> list[TopicRecord]:
        return await Topics(await self._serve()).records(topic, count, timeout)

    async def _run(
        self,
        agent: Agent,
        message: Any,
        *,
        others: tuple[Agent, ...] | list[Agent] = (),
        inputs: Mapping[str, Any] | None = None,
        timeout: float = 30.0,
        **options: Any,
    ) -> Answer:
        database = await self._serve(agent, *others)
        messages = MessageStore(database, Notifier(database), max_queue_size=100_000)
        body = message if isinstance(message, str) else msgspec.to_builtins(message, enc_hook=to_json)
        new = msgspec.convert({"message": body, "agent": agent.name, **options}, NewMessage)
        accepted = await messages.submit(COMMAND_LINE, new)
        async with asyncio.timeout(timeout):
            status = await self._end(messages, accepted.message_id, dict(inputs or {}))
            return await self._answer(database, status)

    async def _end(self, messages: MessageStore, message_id: UUID, inputs: dict[str, Any]) -> Status:
        while True:
            status = await messages.status(COMMAND_LINE, message_id)
            if status.state in FINAL:
                return status
            if status.asks is not None:
                await self._reply(messages, status, inputs)
            await asyncio.sleep(LOOK_SECONDS)

    async def _reply(self, messages: MessageStore, status: Status, inputs: dict[str, Any]) -> None:
        asks: Any = msgspec.json.decode(msgspec.json.encode(status.asks))
        keys = [key for key in (asks["name"], str(asks["question"])) if key in inputs]
        if not keys:
            raise AssertionError(f"inputs=... has no answer to {asks['question']!r}")
        await messages.input(COMMAND_LINE, status.message_id, NewInput(inputs[keys[0]], name=asks["name"]))

    async def _answer(self, database: Database, status: Status) -> Answer:
        events: list[Event] = []
        after, more = 0, True
        while more:
            page = await EventStore(database).page(COMMAND_LINE, status.message_id, after, PAGE_EVENTS, PAGE_BYTES)
            assert page is not None
            for entry in page.entries:
                events.append(Event(entry.type, msgspec.json.decode(entry.data)))
                after = entry.cursor
            more = page.more
        known = msgspec.json.decode(msgspec.json.encode(status))
        return Answer(
            message_id=known["message_id"],
            state=known["state"],
            result=known["result"],
            error=known["error"],
            attempt=known["attempt"],
            usage=known["usage"],
            events=events,
        )

    async def _serve(self, *agents: Agent) -> Database:
        """A worker that has these agents, and those of earlier calls."""
        async with self._starting:
            return await self._serve_in_turn(agents)

    async def _serve_in_turn(self, agents: Sequence[Agent]) -> Database:
        if self._database is None:
            self._database = Database(self.dsn, name="treadle.testing", size=4)
        if self._worker is None or any(self._agents.get(agent.name) is not agent for agent in agents):
            await self._stop_worker()
            self._agents |= {agent.name: agent for agent in agents}
            queues = tuple(sorted({agent.limits.queue for agent in self._agents.values()})) or ("default",)
            settings = Settings(
                database_url=self.dsn,
                queues=queues,
                poll_interval=0.1,
                heartbeat_interval=0.5,
                worker_timeout=5.0,
                retry_base_seconds=0.01,
                shutdown_grace=1.0,
            )
            self._worker = build_worker(settings, self.dsn, Registry(settings, self._agents.values()))
            self._running = asyncio.create_task(self._worker.run())
            while not self._worker.ready and not self._running.done():  # noqa: ASYNC110 - it has no event to wait for
                await asyncio.sleep(LOOK_SECONDS)
        return self._database

    async def _stop_worker(self) -> None:
        if self._worker is not None and self._running is not None:
            self._worker.stop()
            self._worker.stop()  # at once
            await self._running
            self._worker = self._running = None

    async def _close(self) -> None:
        await self._stop_worker()
        if self._database is not None:
            await self._database.close()


@contextlib.contextmanager
def loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="treadle-testing", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
