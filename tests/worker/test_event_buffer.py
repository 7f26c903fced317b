"""Chunks that wait for the same append become one event, and no text is lost, doubled or moved by it."""

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from service.db.notifier import Notifier
from service.db.pool import Connection, Database
from service.leases.model import Append, Appended, Claim, EventToAppend
from service.worker import event_buffer
from service.worker.event_buffer import AppendWriter, EventBuffer
from service.worker.writer import Writer
from tests.support.fixture_types import StartWorker
from tests.support.messages import run, text, types
from tests.support.waiting import LIMIT_SECONDS, until
from treadle import Context, agent

PIECES = ('"quoted"', "back\\slash ", "\\u0041 ", "\u2028", "Grüße ", "😀", "\n\t\x01", "plain ", "{}[],:")


@pytest.fixture(autouse=True)
def chunks_apart() -> None:
    """Here they are joined."""


class Log:
    """A writer whose appends are answered when the test says so, and an attempt."""

    def __init__(self) -> None:
        self.appends: list[Append] = []
        self.answers: list[asyncio.Future[Appended]] = []
        self.rest = 0.0

    async def append(self, append: Append) -> Appended:
        self.appends.append(append)
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]

    async def answer(self) -> None:
        """Answer the append that is in flight."""
        await until(lambda: self.answers and not self.answers[-1].done())
        self.answers[-1].set_result(Appended(self.appends[-1].message_id, "ok", False))
        await asyncio.sleep(0)

    def rest_after(self, seconds: float) -> float:
        return self.rest

    def stop(self, reason: Any) -> None:
        raise AssertionError(reason)

    @property
    def events(self) -> list[tuple[str, Any]]:
        return decoded(event for append in self.appends for event in append.events)


def decoded(events: Any) -> list[tuple[str, Any]]:
    found = [(event.type, msgspec.json.decode(event.data)) for event in events]
    return [(type, (data["chunk"], data["index"]) if type == "chunk" else data) for type, data in found]


def make_buffer(log: Log, *, writer: AppendWriter | None = None, **options: Any) -> EventBuffer:
    claim = Claim(
        message_id=uuid4(),
        lease=uuid4(),
        thread=None,
        thread_id=None,
        ord=None,
        queue="default",
        agent="a",
        priority="normal",
        body='"x"',
        metadata="{}",
        attempt=1,
        max_attempts=3,
        failures=0,
        losses=0,
        timeout_seconds=60.0,
        last_seq=2,
        created_at=datetime.now(UTC),
    )
    return EventBuffer(claim, writer or log, log, **options)


def chunk(text: str) -> EventToAppend:
    return EventToAppend("chunk", msgspec.json.encode(text).decode())


async def test_chunks_that_wait_for_the_same_append_are_joined() -> None:
    log = Log()
    buffer = make_buffer(log)
    await buffer.put(chunk("a"))
    await until(lambda: log.appends)
    for event in (chunk("b"), chunk('"c'), EventToAppend("progress", "1"), chunk("d")):
        await buffer.put(event)
    saving = asyncio.create_task(buffer.save(EventToAppend("step", "2")))
    await asyncio.sleep(0)
    await log.answer()
    await until(lambda: len(log.appends) == 2)
    assert log.events == [
        ("chunk", ("a", 0)),
        ("chunk", ('b"c', 1)),
        ("progress", 1),
        ("chunk", ("d", 2)),
        ("step", 2),
    ]
    assert [append.first_seq for append in log.appends] == [3, 4]
    assert not saving.done()
    await buffer.put(chunk("e"))
    await log.answer()
    await saving
    await log.answer()
    assert log.appends[-1].first_seq == 8
    assert log.events[-1] == ("chunk", ("e", 3))
    assert await buffer.close() == (9, [])


async def test_after_a_slow_append_chunks_gather_until_the_rest_ends() -> None:
    log = Log()
    buffer = make_buffer(log)
    log.rest = 0.01
    await buffer.put(chunk("a"))
    await log.answer()
    await buffer.put(chunk("b"))
    log.rest = 3600
    await log.answer()  # of the append that begins after the rest
    for letter in "cde":
        await buffer.put(chunk(letter))
    await run_tasks()
    assert len(log.appends) == 2
    saving = asyncio.create_task(buffer.save(EventToAppend("step", "1")))
    await log.answer()
    await saving
    assert decoded(log.appends[-1].events) == [("chunk", ("cde", 2)), ("step", 1)]
    await buffer.put(chunk("x" * event_buffer.CHUNK_CHARS))  # enough for an event
    await log.answer()
    await buffer.put(chunk("f"))
    await run_tasks()
    async with asyncio.timeout(LIMIT_SECONDS):
        assert decoded((await buffer.close())[1]) == [("chunk", ("f", 4))]


async def test_a_sender_that_is_cancelled_while_it_rests_loses_nothing() -> None:
    log = Log()
    buffer = make_buffer(log)
    log.rest = 3600
    await buffer.put(chunk("a"))
    await log.answer()
    await buffer.put(chunk("b"))
    await run_tasks()
    assert buffer._sender is not None
    buffer._sender.cancel()
    await run_tasks()
    saving = asyncio.create_task(buffer.save(EventToAppend("step", "1")))
    await log.answer()
    await saving
    assert decoded(log.appends[-1].events) == [("chunk", ("b", 1)), ("step", 1)]


async def test_only_an_append_much_slower_than_the_quickest_one_asks_for_a_rest() -> None:
    unused: Any = None
    writer = Writer(store=unused, notifier=unused, janitor=unused, max_losses=3)
    assert [writer.rest_after(seconds) for seconds in (0.008, 0.012, 0.014, 1.0)] == [0, 0, 0.025, 0.025]
    assert [writer.rest_after(seconds) for seconds in (0.001, 0.005, 0.007)] == [0, 0, 0.014]


async def run_tasks() -> None:
    """Let the tasks that are ready go on until they wait."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_append_without_an_answer_is_repeated_as_it_was() -> None:
    """It may be in the log: other events under its numbers would not get there."""
    log = Log()
    buffer = make_buffer(log)
    await buffer.put(chunk("a"))
    await until(lambda: log.appends)
    await buffer.put(chunk("b"))
    await buffer.put(chunk("c"))
    assert buffer._sender is not None
    buffer._sender.cancel()
    first_seq, unsent = await buffer.close()
    assert (first_seq, decoded(unsent)) == (3, [("chunk", ("a", 0)), ("chunk", ("bc", 1))])


@pytest.mark.parametrize("seed", range(5))
async def test_the_text_stays_the_same(seed: int) -> None:
    chance, log, text = random.Random(seed), Log(), ""
    buffer = make_buffer(log, max_event_bytes=400)
    for _ in range(300):
        piece = chance.choice(PIECES) * chance.randint(1, 3)
        text += piece
        await buffer.put(chunk(piece))
        if chance.random() < 0.1:
            await log.answer()
    closing = asyncio.create_task(buffer.close())
    await until(lambda: closing.done() or not log.answers[-1].done())
    if not closing.done():
        await log.answer()
    _, unsent = await closing
    chunks = [data for _, data in log.events + decoded(unsent)]
    assert "".join(said for said, _ in chunks) == text
    assert len(chunks) < 200
    texts = [event.data for append in log.appends for event in append.events]
    assert max(len(data.encode()) for data in texts) <= 400 + 60


async def test_a_fast_agent_writes_fewer_events_than_chunks(sql: Connection, start_worker: StartWorker) -> None:
    @agent("fast")
    async def fast(context: Context, request: str) -> None:
        for number in range(2_000):
            await context.emit(f"{number} ")
            if number % 10 == 0:
                await asyncio.sleep(0)

    await start_worker(fast)
    message = await run(sql, "x", agent="fast")
    assert await text(sql, message["message_id"]) == "".join(f"{number} " for number in range(2_000))
    assert (await types(sql, message["message_id"])).count("chunk") < 500


class HeldStore:
    """Answers the first append of each attempt; the others wait."""

    def __init__(self) -> None:
        self.held = asyncio.Event()

    async def append(self, appends: Sequence[Append], patient: bool, hint: str | None = None) -> list[Appended]:
        if not all(append.is_first for append in appends):
            self.held.set()
            await asyncio.Event().wait()
        return [Appended(append.message_id, "ok", False) for append in appends]


async def test_the_first_words_of_an_answer_do_not_wait_for_those_of_others(database: Database) -> None:
    store: Any = HeldStore()
    janitor: Any = None
    writer = Writer(store=store, notifier=Notifier(database), janitor=janitor, max_losses=3)
    old, new = make_buffer(Log(), writer=writer), make_buffer(Log(), writer=writer)
    await old.save(chunk("a"))
    await old.put(chunk("b"))
    await store.held.wait()
    await asyncio.wait_for(new.save(chunk("c")), LIMIT_SECONDS)
