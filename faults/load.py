"""The clients of a run: they submit, cancel and read streams, and record what they saw.

A client does only what the documentation asks of it: it repeats a submit with its Idempotency-Key until it is answered.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import msgspec

from faults.history import History, Sent
from faults.http import Calls
from faults.readers import Readers

RETRY_PAUSE_SECONDS, MAX_RETRY_PAUSE_SECONDS = 0.3, 3.0  # before a call is repeated; the pause doubles each time
RETRY_STATUSES = {408, 409, 425, 429, 502, 503, 504}  # the client tries again
THREAD_COUNT = 60
THREAD_READER_COUNT = 5
TEAM_SHARE = 0.05  # of the submits; a team sends messages itself
BATCH_MESSAGES = 10
MAX_OPEN_CALLS = 200
MAX_CATCH_UP_SECONDS = 30  # of load, after an outage
MAX_UNANSWERED_SUBMITS = 2_000  # above it no new submit is made: a load, not an avalanche
MAX_READERS = 200


class Clients:
    """`ports` are the ports of the APIs, any of which may be away. `rate` is in messages a second."""

    def __init__(self, ports: Sequence[int], history: History, rng: random.Random, rate: float) -> None:
        self._ports = ports
        self._history = history
        self._rng = rng
        self._rate = rate
        self._calls = Calls()
        self._room = asyncio.Semaphore(MAX_OPEN_CALLS)
        self._unanswered = 0
        self.readers = Readers(ports, history, rng, self.start)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, what: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def run(self, seconds: float) -> None:
        """Submit at the rate for so many seconds, from many clients at once; read and cancel some of the messages."""
        for n in range(THREAD_READER_COUNT):
            self.readers.read_thread(f"thread-{n}")
        began = last = time.monotonic()
        owed = 0.0
        while (now := time.monotonic()) - began < seconds:
            # After an outage the clients submit a part of what they could not.
            owed, last = min(owed + (now - last) * self._rate, self._rate * MAX_CATCH_UP_SECONDS), now
            while owed > 0 and self._unanswered < MAX_UNANSWERED_SUBMITS:
                owed -= self._submit_some()
            await asyncio.sleep(0.02)

    async def settle(self, seconds: float, ends: Mapping[str, int]) -> None:
        """Give the readers this time to read to the end (of a thread: to `ends`). Then stop them."""
        deadline = time.monotonic() + seconds
        if waiting := {task for task in self._tasks if task.get_name() != "thread"}:
            _, late = await asyncio.wait(waiting, timeout=seconds)
            for task in late:
                self._history.add_client_error(f"the client {task.get_name()} did not end within {seconds:g} seconds")
        while time.monotonic() < deadline and self.readers.behind(ends):
            await asyncio.sleep(0.1)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._calls.close()

    def send(
        self,
        agent: str,
        *,
        follow: bool = False,
        chunks: int | None = None,
        pause: float | None = None,
        **metadata: Any,
    ) -> Sent:
        """Submit one message to an agent, outside the rate."""
        sent = self._new(agent, None)
        if chunks is not None:
            sent.chunks = chunks
        if pause is not None:
            metadata["pause"] = pause
        self.start(self._submit([sent], metadata, follow=follow))
        return sent

    def _submit_some(self) -> int:
        roll = self._rng.random()
        size = BATCH_MESSAGES if roll < 0.15 else 1
        thread = f"thread-{self._rng.randrange(THREAD_COUNT)}"
        agent = "team" if size == 1 and roll > 1 - TEAM_SHARE else "scribe"
        sent = [self._new(agent, thread if self._rng.random() < 0.7 else None) for _ in range(size)]
        follow = self._rng.random() < 0.1 and self.readers.following < MAX_READERS
        self.start(self._submit(sent, {}, follow=follow, cancel=self._rng.random() < 0.03))
        return size

    def _new(self, agent: str, thread_id: str | None) -> Sent:
        key = f"{agent}-{len(self._history.sent)}"
        sent = Sent(key, agent, thread_id, self._rng.randint(0, 6), time.time())
        self._history.sent[key] = sent
        return sent

    async def _submit(
        self, sent: Sequence[Sent], metadata: dict[str, Any], *, follow: bool = False, cancel: bool = False
    ) -> None:
        bodies = [
            {
                "message": one.key,
                "agent": one.agent,
                "thread_id": one.thread_id,
                "metadata": {"key": one.key, "chunks": one.chunks, "pause": self._rng.uniform(0, 0.1)} | metadata,
            }
            for one in sent
        ]
        self._unanswered += len(sent)
        if len(sent) == 1:
            accepted = [await self._repeat("/messages", sent[0].key, msgspec.json.encode(bodies[0]))]
        else:
            answer = await self._repeat("/messages/batch", sent[0].key, msgspec.json.encode({"messages": bodies}))
            accepted = answer["messages"]
        for one, got in zip(sent, accepted, strict=True):
            one.acknowledged, one.message_id = time.time(), got["message_id"]
        self._unanswered -= len(sent)
        one = sent[0]
        assert one.message_id is not None
        if follow:
            self.start(self.readers.read_message(one.message_id))
        if cancel:
            await asyncio.sleep(self._rng.uniform(0, 0.5))
            await self._cancel(one)

    async def _repeat(self, path: str, key: str, body: bytes) -> Any:
        """Submit to one replica after the other until one accepts it."""
        pause = RETRY_PAUSE_SECONDS
        while True:
            with contextlib.suppress(OSError):
                async with self._room:
                    answer = await self._calls.ask(self._rng.choice(self._ports), "POST", path, key, body)
                if answer.status == 202:
                    return msgspec.json.decode(answer.body)
                if answer.status not in RETRY_STATUSES:
                    self._history.add_client_error(f"a submit was answered {answer.status}: {answer.body[:200]!r}")
            self._history.retries += 1
            await asyncio.sleep(pause * self._rng.uniform(0.7, 1.3))
            pause = min(pause * 2, MAX_RETRY_PAUSE_SECONDS)

    async def _cancel(self, sent: Sent) -> None:
        """Cancel once and record the answer; after a lost answer both outcomes are right."""
        sent.cancelled = 0
        with contextlib.suppress(OSError):
            answer = await self._calls.ask(self._rng.choice(self._ports), "DELETE", f"/messages/{sent.message_id}")
            if answer.status in {200, 202, 409}:
                sent.cancelled = answer.status
            elif answer.status not in RETRY_STATUSES:
                self._history.add_client_error(f"a cancel was answered {answer.status}: {answer.body[:200]!r}")

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._history.add_client_error(f"a client broke: {type(error).__name__}: {error}")
