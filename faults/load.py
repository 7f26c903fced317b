"""The clients of a run: they submit, cancel, and read streams, and write down what they saw.

A client does what the documentation asks of it, and no more: it repeats a submit under its Idempotency-Key until it is
answered, and reads a stream as a browser's EventSource does, coming back with the last id it saw.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from faults.history import History, Reading, Seen, Sent
from faults.http import Calls, read

PAUSE, LONGEST_PAUSE = 0.3, 3.0  # seconds until a call is repeated, twice as long each time
BUSY = {408, 409, 425, 429, 502, 503, 504}  # asks to come back
THREADS = 60
THREAD_READERS = 5
TEAMS = 0.05  # of the submits are for a team, which sends messages itself
BATCH = 10
CALLS = 200  # under way at once
MADE_UP = 30  # seconds of load at most, after an outage
UNANSWERED = 2_000  # submits, above which no new ones are made: a load, not an avalanche
READERS = 200
ENDS = {"done", "error", "cancelled"}


class Clients:
    """`ports` are the API's, any of which may be away; `rate` is messages a second."""

    def __init__(self, ports: Sequence[int], history: History, dice: random.Random, rate: float) -> None:
        self._ports = ports
        self._history = history
        self._dice = dice
        self._rate = rate
        self._calls = Calls()
        self._room = asyncio.Semaphore(CALLS)
        self._unanswered = 0
        self._following = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, what: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def run(self, seconds: float) -> None:
        """Submit at the rate for so long, from many clients at once, and have a part of it read and cancelled."""
        for n in range(THREAD_READERS):
            self.read_thread(f"thread-{n}")
        began = last = time.monotonic()
        owed = 0.0
        while (now := time.monotonic()) - began < seconds:
            # What an outage held up is made up for, in part.
            owed, last = min(owed + (now - last) * self._rate, self._rate * MADE_UP), now
            while owed > 0 and self._unanswered < UNANSWERED:
                owed -= self._submit_some()
            await asyncio.sleep(0.02)

    async def settle(self, seconds: float, ends: Mapping[str, int]) -> None:
        """Give readers this time to read to the end; a thread's is at `ends`. Then stop them."""
        deadline = time.monotonic() + seconds
        if waiting := {task for task in self._tasks if task.get_name() != "thread"}:
            _, late = await asyncio.wait(waiting, timeout=seconds)
            for task in late:
                self._history.complain(f"{task.get_name()} did not come to its end within {seconds:g} seconds")
        while time.monotonic() < deadline and self._behind(ends):
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

    def read_thread(self, thread_id: str) -> Reading:
        reading = Reading(None, thread_id)
        self._history.readings.append(reading)
        self.start(self._read(f"/threads/{thread_id}/stream", reading)).set_name("thread")
        return reading

    def _behind(self, ends: Mapping[str, int]) -> bool:
        """Whether some reader of a thread has not seen the end of its log."""
        return any(
            (reading.events[-1].position if reading.events else 0) < ends.get(reading.thread_id, 0)
            for reading in self._history.readings
            if reading.thread_id
        )

    def _submit_some(self) -> int:
        roll = self._dice.random()
        size = BATCH if roll < 0.15 else 1
        thread = f"thread-{self._dice.randrange(THREADS)}"
        agent = "team" if size == 1 and roll > 1 - TEAMS else "scribe"
        sent = [self._new(agent, thread if self._dice.random() < 0.7 else None) for _ in range(size)]
        follow = self._dice.random() < 0.1 and self._following < READERS
        self.start(self._submit(sent, {}, follow=follow, cancel=self._dice.random() < 0.03))
        return size

    def _new(self, agent: str, thread_id: str | None) -> Sent:
        key = f"{agent}-{len(self._history.sent)}"
        sent = Sent(key, agent, thread_id, self._dice.randint(0, 6), time.time())
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
                "metadata": {"key": one.key, "chunks": one.chunks, "pause": self._dice.uniform(0, 0.1)} | metadata,
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
            self.start(self._read_message(one.message_id))
        if cancel:
            await asyncio.sleep(self._dice.uniform(0, 0.5))
            await self._cancel(one)

    async def _repeat(self, path: str, key: str, body: bytes) -> Any:
        """Submit to one replica after the other until it is accepted."""
        pause = PAUSE
        while True:
            with contextlib.suppress(OSError):
                async with self._room:
                    answer = await self._calls.ask(self._dice.choice(self._ports), "POST", path, key, body)
                if answer.status == 202:
                    return msgspec.json.decode(answer.body)
                if answer.status not in BUSY:
                    self._history.complain(f"a submit was answered {answer.status}: {answer.body[:200]!r}")
            self._history.retries += 1
            await asyncio.sleep(pause * self._dice.uniform(0.7, 1.3))
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _cancel(self, sent: Sent) -> None:
        """Cancel once: what the answer was is written down; a lost answer may mean either."""
        sent.cancelled = 0
        with contextlib.suppress(OSError):
            answer = await self._calls.ask(self._dice.choice(self._ports), "DELETE", f"/messages/{sent.message_id}")
            if answer.status in {200, 202, 409}:
                sent.cancelled = answer.status
            elif answer.status not in BUSY:
                self._history.complain(f"a cancel was answered {answer.status}: {answer.body[:200]!r}")

    async def _read_message(self, message_id: str) -> None:
        reading = Reading(message_id, None)
        self._history.readings.append(reading)
        self._following += 1
        await self._read(f"/messages/{message_id}/stream", reading)
        self._following -= 1

    async def _read(self, path: str, reading: Reading) -> None:
        """Read to the end as EventSource does: any answer but 200 and 204 would make it give up. A thread has no end,
        and is not there before its first event."""
        while not reading.over:
            port = self._dice.choice(self._ports)
            last_id = reading.events[-1].position if reading.events else None
            with contextlib.suppress(OSError):
                answer = await read(port, path, last_id, partial(_opened, reading, port), self._taker(reading))
                if answer.status == 204 and not reading.thread_id:
                    reading.over = True
                elif answer.status != 200 and (answer.status != 404 or not reading.thread_id or reading.events):
                    self._history.complain(f"the stream {path} was answered {answer.status}: {answer.body[:200]!r}")
            reading.port = None
            if not reading.over:
                await asyncio.sleep(1 if reading.thread_id else PAUSE)

    def _taker(self, reading: Reading) -> Any:
        """Takes the events of one connection; some readers leave early."""
        left = self._dice.randint(1, 8) if self._dice.random() < 0.3 else None

        def take(event: Seen) -> bool:
            nonlocal left
            reading.events.append(event)
            if reading.message_id is not None and event.type in ENDS:
                reading.over = True
            if left is not None:
                left -= 1
            return not reading.over and left != 0

        return take

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._history.complain(f"a client broke: {type(error).__name__}: {error}")


def _opened(reading: Reading, port: int) -> None:
    reading.connections += 1
    reading.port = port
