"""The clients of a run: they submit, cancel, and read streams, and write down what they saw.

A client does what the documentation asks of it, and no more: it repeats a submit under its Idempotency-Key until it is
answered, and reads a stream as a browser's EventSource does, coming back with the last id it saw.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import httpx
import msgspec

from faults.history import History, Reading, Seen, Sent

PAUSE, LONGEST_PAUSE = 0.3, 3.0  # seconds until a call is repeated, twice as long each time
TIMEOUT = httpx.Timeout(6.0, connect=2.0)
SILENCE = httpx.Timeout(6.0, connect=2.0)  # three times KEEPALIVE_INTERVAL: after that the stream is dead
BUSY = {408, 409, 425, 429, 502, 503, 504}  # asks to come back
THREADS = 60
TEAMS = 0.05  # of the submits are for a team, which sends messages itself
BATCH = 10
CALLS = 200  # under way at once
MADE_UP = 30  # seconds of load at most, after an outage
UNANSWERED = 2_000  # submits, above which no new ones are made: a load, not an avalanche
READERS = 200


class Clients:
    """`urls` are the API's addresses, any of which may be away; `rate` is messages a second."""

    def __init__(self, urls: Sequence[str], history: History, dice: random.Random, rate: float) -> None:
        self._urls = urls
        self._history = history
        self._dice = dice
        self._rate = rate
        # Two pools: looking for a free connection takes the longer the more streams are open in the same one.
        self._client = httpx.AsyncClient(limits=httpx.Limits(max_connections=CALLS, max_keepalive_connections=CALLS))
        self._streams = httpx.AsyncClient(limits=httpx.Limits(max_connections=None, max_keepalive_connections=0))
        self._calls = asyncio.Semaphore(CALLS)
        self._unanswered = 0
        self._following = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.leaving = asyncio.Event()  # readers give up

    def start(self, what: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def run(self, seconds: float) -> None:
        """Submit at the rate for so long, from many clients at once, and have a part of it read and cancelled."""
        for n in range(5):
            self.start(self._read_thread(f"thread-{n}"))
        began = last = time.monotonic()
        owed = 0.0
        while (now := time.monotonic()) - began < seconds:
            # What an outage held up is made up for, in part.
            owed, last = min(owed + (now - last) * self._rate, self._rate * MADE_UP), now
            while owed > 0 and self._unanswered < UNANSWERED:
                owed -= self._submit_some()
            await asyncio.sleep(0.02)

    async def settle(self, seconds: float) -> None:
        """Wait until every submit is answered and every reader has read to the end; then stop the others."""
        open_ended = {task for task in self._tasks if task.get_name() == "thread"}
        if waiting := self._tasks - open_ended:
            _, late = await asyncio.wait(waiting, timeout=seconds)
            for task in late:
                self._history.complain(f"{task.get_name()} did not come to its end within {seconds:g} seconds")
        self.leaving.set()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()
        await self._streams.aclose()

    def send(self, agent: str, *, follow: bool = False) -> None:
        """Submit one message to an agent, outside the rate."""
        self.start(self._submit([self._new(agent, None)], follow=follow))

    def _submit_some(self) -> int:
        roll = self._dice.random()
        size = BATCH if roll < 0.15 else 1
        thread = f"thread-{self._dice.randrange(THREADS)}"
        agent = "team" if size == 1 and roll > 1 - TEAMS else "scribe"
        sent = [self._new(agent, thread if self._dice.random() < 0.7 else None) for _ in range(size)]
        follow = self._dice.random() < 0.1 and self._following < READERS
        self.start(self._submit(sent, follow=follow, cancel=self._dice.random() < 0.03))
        return size

    def _new(self, agent: str, thread_id: str | None) -> Sent:
        key = f"{agent}-{len(self._history.sent)}"
        sent = Sent(key, agent, thread_id, self._dice.randint(0, 6), time.time())
        self._history.sent[key] = sent
        return sent

    async def _submit(self, sent: Sequence[Sent], *, follow: bool = False, cancel: bool = False) -> None:
        bodies = [
            {
                "message": one.key,
                "agent": one.agent,
                "thread_id": one.thread_id,
                "metadata": {"key": one.key, "chunks": one.chunks, "pause": self._dice.uniform(0, 0.1)},
            }
            for one in sent
        ]
        headers = {"Idempotency-Key": sent[0].key}
        self._unanswered += len(sent)
        if len(sent) == 1:
            answer = await self._repeat(
                lambda url: self._client.post(f"{url}/messages", json=bodies[0], headers=headers, timeout=TIMEOUT)
            )
            accepted = [answer]
        else:
            body = {"messages": bodies}
            answer = await self._repeat(
                lambda url: self._client.post(f"{url}/messages/batch", json=body, headers=headers, timeout=TIMEOUT)
            )
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

    async def _repeat(self, call: Callable[[str], Coroutine[Any, Any, httpx.Response]]) -> Any:
        """Make the call on one replica after the other until it is accepted."""
        pause = PAUSE
        while True:
            with contextlib.suppress(httpx.TransportError):
                async with self._calls:
                    answer = await call(self._dice.choice(self._urls))
                if answer.status_code == 202:
                    return answer.json()
                if answer.status_code not in BUSY:
                    self._history.complain(f"a submit was answered {answer.status_code}: {answer.text[:200]}")
            self._history.retries += 1
            await asyncio.sleep(pause * self._dice.uniform(0.7, 1.3))
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _cancel(self, sent: Sent) -> None:
        """Cancel once: what the answer was is written down; a lost answer may mean either."""
        sent.cancelled = 0
        with contextlib.suppress(httpx.TransportError):
            url = f"{self._dice.choice(self._urls)}/messages/{sent.message_id}"
            answer = await self._client.delete(url, timeout=TIMEOUT)
            if answer.status_code in {200, 202, 409}:
                sent.cancelled = answer.status_code
            elif answer.status_code not in BUSY:
                self._history.complain(f"a cancel was answered {answer.status_code}: {answer.text[:200]}")

    async def _read_message(self, message_id: str) -> None:
        reading = Reading(message_id, None)
        self._history.readings.append(reading)
        self._following += 1
        await self._read(f"/messages/{message_id}/stream", reading)
        self._following -= 1

    async def _read_thread(self, thread_id: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("thread")
        reading = Reading(None, thread_id)
        self._history.readings.append(reading)
        await self._read(f"/threads/{thread_id}/stream", reading, missing=404)

    async def _read(self, path: str, reading: Reading, missing: int | None = None) -> None:
        """Read to the end as EventSource does: any answer but 200 and 204 would make it give up. `missing` is the
        status of what is not there yet."""
        while not reading.over and not self.leaving.is_set():
            headers = {"Last-Event-ID": str(reading.events[-1].position)} if reading.events else {}
            with contextlib.suppress(httpx.TransportError, TimeoutError):
                async with self._streams.stream(
                    "GET", self._dice.choice(self._urls) + path, headers=headers, timeout=SILENCE
                ) as answer:
                    reading.connections += 1
                    if answer.status_code == 204:
                        reading.over = True
                        return
                    if answer.status_code == 200:
                        await self._follow(answer, reading)
                    elif answer.status_code != missing:
                        await answer.aread()
                        self._history.complain(f"a stream was answered {answer.status_code}: {answer.text[:200]}")
            if not reading.over:
                await asyncio.sleep(1 if reading.thread_id else PAUSE)

    async def _follow(self, answer: httpx.Response, reading: Reading) -> None:
        leave_after = self._dice.randint(1, 8) if self._dice.random() < 0.3 else None
        count = 0
        async for event in events(answer):
            reading.events.append(event)
            if reading.message_id is not None and event.type in {"done", "error", "cancelled"}:
                reading.over = True
                return
            count += 1
            if count == leave_after:
                return

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._history.complain(f"a client broke: {type(error).__name__}: {error}")


async def events(answer: httpx.Response) -> AsyncIterator[Seen]:
    """The stored events of a stream; comments and events without an id are passed over."""
    kind, data, position = "", "", None
    async for line in answer.aiter_lines():
        name, _, value = line.partition(": ")
        match name:
            case "id":
                position = int(value)
            case "event":
                kind = value
            case "data":
                data = value
            case "":
                if position is not None and data:
                    yield Seen(position, kind, msgspec.json.decode(data))
                kind, data, position = "", "", None
