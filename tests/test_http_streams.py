"""Streams: on the wire, from anywhere, live, and whatever becomes of reader, message, replica or hint."""

import asyncio
import contextlib
import json
import re
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

import httpx
import msgspec
import pytest
from conftest import Client, StartApi, StartWorker, until
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.agents.contract import Context, Rejected, agent
from service.agents.echo import echo
from service.api.app import Api, _Server
from service.config import Settings
from service.db.pool import Connection

PATIENCE = 60  # seconds, after which a stream that says nothing is a failure


class Event(msgspec.Struct, frozen=True):
    id: int | None
    type: str
    data: Any


Comment = str
COME_BACK = "retry: 1000"


def parse(block: bytes) -> Event | Comment:
    """One block of a stream, strictly: an event (an id or none, then event, then data, each on one line), a comment,
    or the request to come back."""
    text = block.decode()
    if text == COME_BACK or re.fullmatch(r": \w+", text):
        return text
    found = re.fullmatch(r"(?:id: (\d+)\n)?event: ([^\r\n]+)\ndata: ([^\r\n]+)", text)
    assert found, text
    return Event(int(found[1]) if found[1] else None, found[2], json.loads(found[3]))


async def blocks(answer: httpx.Response) -> AsyncIterator[Event | Comment]:
    """Everything a stream says, as it comes."""
    assert answer.status_code == 200
    buffer = b""
    async for part in answer.aiter_raw():
        buffer += part
        while (end := buffer.find(b"\n\n")) >= 0:
            yield parse(buffer[:end])
            buffer = buffer[end + 2 :]
    assert buffer == b""


class Reader:
    """An open stream."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._blocks = blocks(answer)

    async def next(self) -> Event | Comment:
        return await anext(self._blocks)

    async def event(self, *, waiting: bool = False) -> Event:
        """The next event; those that tell the place in the queue are passed over, unless they are wanted."""
        while True:
            block = await self.next()
            if isinstance(block, Event) and (waiting or block.type != "waiting"):
                return block

    async def until(self, type: str) -> list[Event]:
        """Events up to the first of this type."""
        events = [await self.event()]
        while events[-1].type != type:
            events.append(await self.event())
        return events

    async def rest(self) -> list[Event]:
        """Events to the end of the stream, which must be an orderly one."""
        return [block async for block in self._blocks if isinstance(block, Event) and block.type != "waiting"]

    async def ended(self) -> bool:
        return [block async for block in self._blocks] == []


@contextlib.asynccontextmanager
async def reading(
    api: Client, path: str, *, header: int | None = None, query: int | None = None
) -> AsyncIterator[Reader]:
    """Open a stream at a cursor; leaving the block drops the connection."""
    headers = {} if header is None else {"Last-Event-ID": str(header)}
    params = {} if query is None else {"after": query}
    async with asyncio.timeout(PATIENCE), api.stream("GET", path, headers=headers, params=params) as answer:
        yield Reader(answer)


def of(message_id: str) -> str:
    return f"/messages/{message_id}/stream"


async def log(api: Client, message_id: str) -> list[Event]:
    """The whole log by the other route."""
    page = (await api.get(f"/messages/{message_id}/events", params={"limit": 1000})).json()
    return [Event(event["seq"], event["type"], event["data"]) for event in page["events"]]


def types(events: list[Event]) -> list[str]:
    return [event.type for event in events]


def ids(events: list[Event]) -> list[int | None]:
    return [event.id for event in events]


class Script:
    """An agent that says what the test tells it to, when it tells it: texts, (type, data) pairs, errors; None ends."""

    def __init__(self) -> None:
        self.lines: defaultdict[str, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)

        @agent("script", max_attempts=2)
        async def script(context: Context, text: str) -> str:
            """Says what it is told."""
            said = ""
            while (line := await self.lines[context.message_id].get()) is not None:
                if isinstance(line, Exception):
                    raise line
                if isinstance(line, str):
                    said += line
                    await context.emit(line)
                else:
                    await context.event(*line)
            return said

        self.agent = script

    def say(self, message_id: str, *lines: Any) -> None:
        for line in lines:
            self.lines[message_id].put_nowait(line)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def scripted(start_api: StartApi, start_worker: StartWorker, script: Script) -> Client:
    """An API and a worker with the agents echo and script."""
    await start_worker(echo, script.agent)
    return await start_api()


class Replica:
    """An API process of which the test holds every end."""

    def __init__(self, settings: Settings) -> None:
        self.api = Api(settings, str(settings.database_url))
        self._server = _Server(self.api)
        self._listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen()
        self.port = self._listening.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve([self._listening]))
        self.client = Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20)

    async def started(self) -> "Replica":
        async def asked() -> bool:
            return self._server.started or self._task.done()

        await until(asked)
        return self

    async def readers(self) -> int:
        """How many streams are subscribed to something."""
        return sum(len(wakes) for wakes in self.api.feed._readers.values())

    async def stop(self) -> None:
        self._server.should_exit = True
        await self._task
        await self.client.aclose()
        self._listening.close()


@pytest.fixture
async def start_replica(settings: Settings) -> AsyncIterator[Callable[..., Any]]:
    async with contextlib.AsyncExitStack() as stack:

        async def start(**changes: Any) -> Replica:
            replica = Replica(msgspec.structs.replace(settings, **changes))
            stack.push_async_callback(replica.stop)
            return await replica.started()

        yield start


# On the wire


async def test_the_wire(running: Client) -> None:
    message_id = await running.submit("one two", thread_id="t", priority="high")
    await running.settled(message_id)
    async with running.stream("GET", of(message_id)) as answer:
        headers = answer.headers
        raw = b"".join([part async for part in answer.aiter_raw()])
    assert answer.status_code == 200
    assert re.fullmatch(r"text/event-stream(; charset=utf-8)?", headers["content-type"])
    assert headers["cache-control"] == "no-cache, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert "content-length" not in headers
    assert "content-encoding" not in headers
    assert b"\r" not in raw
    *parts, end = raw.split(b"\n\n")
    assert end == b""
    events = [parse(part) for part in parts]
    done = events[-1]
    assert isinstance(done, Event)
    status = await running.status(message_id)
    queued = {"message": "one two", "agent": "echo", "priority": "high", "thread_id": "t"}
    assert events == [
        Event(1, "queued", queued),
        Event(2, "started", {"attempt": 1}),
        Event(3, "chunk", {"type": "content", "chunk": "one", "index": 0}),
        Event(4, "chunk", {"type": "content", "chunk": " two", "index": 1}),
        Event(5, "done", {"state": "completed", "result": "one two", "completed_at": done.data["completed_at"]}),
    ]
    assert datetime.fromisoformat(done.data["completed_at"]) == datetime.fromisoformat(status["completed_at"])


ODD = '\x85 \u2028 \u2029 \x7f \ufeff \ufffd \U0001f9f5 \t \r\n \x0b\x0c\x1c\x1e \\ " id: 7\ndata: x\n\n'


async def test_every_character_arrives_in_its_line(running: Client) -> None:
    """Also for clients that take any of Unicode's line ends for one (httpx's own reader does)."""
    message_id = await running.submit(ODD, thread_id="t", metadata={"delay_ms": 1})
    chunks = [event.data["chunk"] for event in await running.events(message_id) if event.type == "chunk"]
    assert "".join(chunks) == ODD
    assert [event.data for event in await running.events(message_id)][-1]["result"] == ODD
    async with reading(running, "/threads/t/stream") as stream:
        assert (await stream.until("done"))[-1].data["result"] == ODD


async def test_an_agents_own_events(scripted: Client, script: Script) -> None:
    message_id = await scripted.submit("x", agent="script", thread_id="t")
    own: list[tuple[str, Any]] = [
        ("progress", {"percent": 50}),
        ("tool", {"name": "search", "input": {"q": ["a", 1, None]}}),
        ("ünïcode type", {}),
        ("list", [1, {"a": 2}]),
        ("text", "just text"),
        ("nothing", None),
        ("clash", {"seq": "mine", "message_id": "mine", "data": "mine"}),
    ]
    script.say(message_id, *own, None)
    async with reading(scripted, of(message_id)) as stream:
        events = await stream.rest()
    assert [(event.type, event.data) for event in events[2:-1]] == own
    assert ids(events) == list(range(1, 11))
    async with reading(scripted, "/threads/t/stream") as stream:
        in_thread = await stream.until("done")
    assert [(event.data["message_id"], event.data["seq"]) for event in in_thread] == [
        (message_id, n) for n in range(1, 11)
    ]
    assert [event.data.get("data") for event in in_thread[5:8]] == [[1, {"a": 2}], "just text", None]
    assert in_thread[3].data["input"] == {"q": ["a", 1, None]}


async def test_long_logs_and_large_events_come_whole(scripted: Client, script: Script) -> None:
    many = await scripted.submit("x", agent="script")
    large = await scripted.submit("x", agent="script")
    script.say(many, *(str(n) for n in range(450)), None)
    pieces = [letter * 400_000 for letter in "abcd"]
    script.say(large, *(("blob", piece) for piece in pieces), None)
    for message_id in (many, large):
        await scripted.settled(message_id)
    async with reading(scripted, of(many)) as stream:
        events = await stream.rest()
    assert ids(events) == list(range(1, 454))
    assert [event.data["chunk"] for event in events[2:-1]] == [str(n) for n in range(450)]
    async with reading(scripted, of(large)) as stream:
        assert [event.data for event in await stream.rest()][2:-1] == pieces


# From anywhere


async def test_resume_after_every_event_gives_exactly_the_rest(running: Client) -> None:
    message_id = await running.submit("a b c", metadata={"fail_times": 1})
    await running.settled(message_id)
    whole = await log(running, message_id)
    assert types(whole) == ["queued", "started", "retry", "started", "chunk", "chunk", "chunk", "done"]
    for seen in range(len(whole)):
        async with reading(running, of(message_id), header=seen) as stream:
            assert await stream.rest() == whole[seen:]
        async with reading(running, of(message_id), query=seen) as stream:
            assert await stream.rest() == whole[seen:]
    async with reading(running, of(message_id), header=5, query=1) as stream:  # what the browser saw goes first
        assert await stream.rest() == whole[5:]


async def test_204_only_when_it_is_over_and_all_was_seen(scripted: Client, script: Script) -> None:
    message_id = await scripted.submit("x", agent="script")
    script.say(message_id, "a")
    async with reading(scripted, of(message_id)) as stream:
        await stream.until("chunk")
    async with reading(scripted, of(message_id), header=3) as stream:  # all was seen, but it is not over
        script.say(message_id, "b", None)
        assert types(await stream.rest()) == ["chunk", "done"]
    async with reading(scripted, of(message_id), header=4) as stream:
        assert types(await stream.rest()) == ["done"]
    for seen in (5, 6, 2**31 - 2):
        for answer in (
            await scripted.get(of(message_id), headers={"Last-Event-ID": str(seen)}),
            await scripted.get(of(message_id), params={"after": seen}),
        ):
            assert (answer.status_code, answer.content) == (204, b"")


Step = st.tuples(st.integers(0, 3), st.integers(0, 4), st.sampled_from(["header", "query"]))


@given(plan=st.lists(Step, max_size=6), fails=st.booleans())
@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
async def test_a_client_that_drops_anywhere_gets_exactly_the_rest(
    scripted: Client, script: Script, plan: list[tuple[int, int, str]], fails: bool
) -> None:
    """Each step: the agent says so many words; the client goes on where it stopped, reads so many events, and drops."""
    message_id = await scripted.submit("x", agent="script")
    there, seen = 2, list[Event]()  # queued and started come in any case
    if fails:
        script.say(message_id, "lost", RuntimeError("The first attempt fails."))
        there += 3  # chunk, retry, started
    for said, read, how in plan:
        script.say(message_id, *["word"] * said)
        there += said
        cursor = {how: len(seen)} if seen else {}
        async with reading(scripted, of(message_id), **cursor) as stream:
            for _ in range(min(read, there - len(seen))):
                seen.append(await stream.event())
    script.say(message_id, None)
    async with reading(scripted, of(message_id), header=len(seen)) as stream:
        seen += await stream.rest()
    assert ids(seen) == list(range(1, there + 2))
    assert types(seen)[-1] == "done"
    assert seen[-1].data["result"] == "word" * sum(said for said, _, _ in plan)
    assert seen == await log(scripted, message_id)
    assert (await scripted.get(of(message_id), headers={"Last-Event-ID": str(len(seen))})).status_code == 204


async def test_a_log_whose_beginning_is_gone_says_so(running: Client, sql: Connection) -> None:
    message_id = await running.submit("a b")
    await running.settled(message_id)
    await sql.execute("delete from treadle.events where message_id = $1 and seq <= 2", message_id)
    async with reading(running, of(message_id)) as stream:
        gap, *events = await stream.rest()
    assert gap == Event(None, "gap", {"after": 0, "next": 3})
    assert ids(events) == [3, 4, 5]
    async with reading(running, of(message_id), header=2) as stream:
        assert await stream.rest() == events


# What happens to messages


async def test_a_waiting_message_tells_its_place(api: Client) -> None:
    first, second = await api.submit("1"), await api.submit("2")
    async with reading(api, of(second)) as stream:
        assert (await stream.event(waiting=True)).type == "queued"
        told = await stream.event(waiting=True)
        assert (told.id, told.type) == (None, "waiting")
        assert told.data.keys() == {"state", "position", "message"}
        assert (told.data["state"], told.data["position"]) == ("queued", 1)
        assert told.data["message"]
        await api.delete(f"/messages/{first}")
        told = await stream.event(waiting=True)  # the next one says something new
        assert (told.id, told.type, told.data["position"]) == (None, "waiting", 0)
    assert types(await log(api, second)) == ["queued"]  # it is not stored


async def test_a_message_that_is_not_due_waits_without_a_place(api: Client) -> None:
    message_id = await api.submit("x", delay_seconds=60)
    async with reading(api, of(message_id)) as stream:
        await stream.event()
        assert (await stream.event(waiting=True)).data["position"] is None


async def test_a_retry_announces_itself(running: Client) -> None:
    message_id = await running.submit("a", metadata={"fail_times": 1})
    async with reading(running, of(message_id)) as stream:
        events = await stream.rest()
    assert types(events) == ["queued", "started", "retry", "started", "chunk", "done"]
    assert events[2].data.keys() == {"attempt", "error", "retry_at"}
    assert (events[1].data, events[2].data["attempt"], events[3].data) == ({"attempt": 1}, 1, {"attempt": 2})
    assert "Failing attempt 1" in events[2].data["error"]


async def test_a_failure_ends_the_stream(scripted: Client, script: Script) -> None:
    message_id = await scripted.submit("x", agent="script")
    script.say(message_id, "partly", Rejected("Not this."))
    async with reading(scripted, of(message_id)) as stream:
        events = await stream.rest()
    assert types(events) == ["queued", "started", "chunk", "error"]
    status = await scripted.status(message_id)
    assert events[-1].data.keys() == {"state", "error", "completed_at"}
    assert (events[-1].data["state"], events[-1].data["error"]) == ("failed", status["error"])


@pytest.mark.parametrize("runs", [False, True])
async def test_a_cancellation_ends_the_stream(scripted: Client, script: Script, runs: bool) -> None:
    message_id = await scripted.submit("x", agent="script", delay_seconds=0 if runs else 60)
    async with reading(scripted, of(message_id)) as stream:
        assert (await stream.event()).type == "queued"
        if runs:
            assert (await stream.event()).type == "started"
        assert (await scripted.delete(f"/messages/{message_id}")).status_code == (202 if runs else 200)
        last = await stream.event()
        assert (last.type, last.data) == ("cancelled", {"state": "cancelled"})
        assert await stream.ended()
    assert (await scripted.get(of(message_id), headers={"Last-Event-ID": str(last.id)})).status_code == 204


async def test_a_redriven_messages_stream_goes_past_its_old_end(scripted: Client, script: Script) -> None:
    message_id = await scripted.submit("x", agent="script")
    script.say(message_id, Rejected("Not now."))
    async with reading(scripted, of(message_id)) as stream:
        failed = await stream.rest()
    assert types(failed) == ["queued", "started", "error"]
    assert (await scripted.get(of(message_id), headers={"Last-Event-ID": "3"})).status_code == 204
    assert (await scripted.post(f"/messages/{message_id}/redrive")).status_code == 202
    async with reading(scripted, of(message_id)) as whole, reading(scripted, of(message_id), header=3) as rest:
        script.say(message_id, "now", None)
        events = await whole.rest()
        assert events[:3] == failed
        assert types(events[3:]) == ["queued", "started", "chunk", "done"]
        assert events[3].data["redriven"] is True
        assert (events[3].data["message"], events[4].data) == ("x", {"attempt": 2})
        assert await rest.rest() == events[3:]


async def test_deleting_the_thread_ends_its_readers(scripted: Client, script: Script) -> None:
    running = await scripted.submit("x", agent="script", thread_id="t")
    behind = await scripted.submit("y", thread_id="t")
    async with (
        reading(scripted, of(running)) as one,
        reading(scripted, of(behind)) as other,
        reading(scripted, "/threads/t/stream") as thread,
    ):
        await one.until("started")
        await other.until("queued")
        assert {(await thread.event()).type for _ in range(3)} == {"queued", "started"}
        assert (await scripted.delete("/threads/t")).status_code == 204
        for stream in (one, other, thread):
            last = await stream.event()
            assert (last.id, last.type, last.data) == (None, "cancelled", {"state": "cancelled", "deleted": True})
            assert await stream.ended()
    for path in (of(running), of(behind), "/threads/t/stream"):
        assert (await scripted.get(path)).status_code == 404


# Live, on every replica, with and without hints


async def test_a_stream_opened_on_another_replica_before_the_claim(
    start_api: StartApi, start_worker: StartWorker, agents: Any, script: Script
) -> None:
    await agents(echo, script.agent)
    patient = {"poll_interval": 600.0, "keepalive_interval": 600.0}  # so that hints bring it, or nothing does
    one, other = await start_api(**patient), await start_api(**patient)
    message_id = await one.submit("x", agent="script")
    async with reading(other, of(message_id)) as stream:
        assert (await stream.event()).type == "queued"
        await start_worker(echo, script.agent)
        assert (await stream.event()).type == "started"
        for word in ("one", "two"):  # each is read before the next is said
            script.say(message_id, word)
            assert (await stream.event()).data["chunk"] == word
        script.say(message_id, None)
        assert types(await stream.rest()) == ["done"]


async def test_with_every_hint_lost_streams_go_by_polling(
    start_api: StartApi, start_worker: StartWorker, script: Script
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        closed = f"postgresql://treadle@127.0.0.1:{nobody.getsockname()[1]}/treadle"
    await start_worker(echo, script.agent)
    deaf = await start_api(listen_database_url=closed, poll_interval=0.05)
    message_id = await deaf.submit("x", agent="script", thread_id="t")
    async with reading(deaf, of(message_id)) as stream, reading(deaf, "/threads/t/stream") as thread:
        await stream.until("started")
        await thread.until("started")
        script.say(message_id, "word")
        assert (await stream.event()).data["chunk"] == "word"
        assert (await thread.event()).data["chunk"] == "word"
        script.say(message_id, None)
        assert types(await stream.rest()) == ["done"]
        assert (await thread.event()).type == "done"
        await deaf.delete("/threads/t")
        assert (await thread.event()).data["deleted"] is True


async def test_many_readers_of_one_message(scripted: Client, script: Script) -> None:
    message_id = await scripted.submit("x", agent="script")

    async def read(seen: int) -> list[Event]:
        async with reading(scripted, of(message_id), header=seen) as stream:
            return await stream.rest()

    readers = [asyncio.create_task(read(n % 3)) for n in range(30)]
    script.say(message_id, *(str(n) for n in range(20)), None)
    whole = [event async for event in _follow(scripted, message_id)]
    for n, events in enumerate(await asyncio.gather(*readers)):
        assert events == whole[n % 3 :]


async def _follow(api: Client, message_id: str) -> AsyncIterator[Event]:
    async with reading(api, of(message_id)) as stream:
        for event in await stream.rest():
            yield event


async def test_a_silent_stream_is_kept_alive(scripted: Client, start_api: StartApi, script: Script) -> None:
    api = await start_api(keepalive_interval=0.05)
    message_id = await api.submit("x", agent="script", thread_id="t")
    for path in (of(message_id), "/threads/t/stream"):
        async with reading(api, path) as stream:
            await stream.until("started")
            assert [await stream.next() for _ in range(3)] == [": keepalive"] * 3
    script.say(message_id, None)


async def test_a_stream_that_is_woken_all_the_time_is_kept_alive_and_tells_its_place(
    start_api: StartApi, agents: Any, sql: Connection
) -> None:
    """In a busy system every reader is woken again and again for events that are not its own."""
    await agents()
    api = await start_api(keepalive_interval=0.5)
    await api.submit("before")
    message_id = await api.submit("x")

    async def storm() -> None:
        while True:
            await sql.execute("notify treadle_events, '*'")
            await asyncio.sleep(0.005)

    storming = asyncio.create_task(storm())
    async with reading(api, of(message_id)) as stream:
        assert (await stream.event()).type == "queued"
        assert (await stream.event(waiting=True)).data["position"] == 1
        assert await stream.next() == ": keepalive"
    storming.cancel()
    await asyncio.gather(storming, return_exceptions=True)


# What happens to replicas, readers and the database


async def test_a_stopping_api_sends_its_readers_away(
    start_replica: Callable[..., Any], start_worker: StartWorker, script: Script
) -> None:
    await start_worker(echo, script.agent)
    one, other = await start_replica(), await start_replica()
    message_id = await one.client.submit("x", agent="script", thread_id="t")
    async with reading(one.client, of(message_id)) as stream, reading(one.client, "/threads/t/stream") as thread:
        seen = await stream.until("started")
        await thread.until("started")
        stopping = asyncio.create_task(one.stop())
        for reader in (stream, thread):
            said = [block async for block in reader._blocks]
            assert said == [COME_BACK]
    await stopping
    async with reading(other.client, of(message_id), header=seen[-1].id) as stream:
        script.say(message_id, "a", None)
        assert types(await stream.rest()) == ["chunk", "done"]


async def test_trouble_in_the_middle_of_a_stream(scripted: Client, script: Script, sql: Connection) -> None:
    message_id = await scripted.submit("x", agent="script", thread_id="t")
    async with reading(scripted, of(message_id)) as stream, reading(scripted, "/threads/t/stream") as thread:
        await stream.until("started")
        await thread.until("started")
        await sql.execute("alter function treadle.read_events rename to hidden")
        await sql.execute("alter function treadle.read_thread_events rename to hidden_too")
        for reader in (stream, thread):
            assert [block async for block in reader._blocks if block != ": keepalive"] == [COME_BACK]
    await sql.execute("alter function treadle.hidden rename to read_events")
    async with reading(scripted, of(message_id), header=2) as stream:
        script.say(message_id, "a", None)
        assert types(await stream.rest()) == ["chunk", "done"]


async def test_trouble_at_the_opening_of_a_stream(api: Client, sql: Connection) -> None:
    message_id = await api.submit("x", thread_id="t")
    await sql.execute("alter table treadle.messages rename column last_seq to hidden")
    await sql.execute("alter table treadle.threads rename column last_ord to hidden")
    for path in (of(message_id), "/threads/t/stream"):
        async with reading(api, path) as stream:
            assert [block async for block in stream._blocks] == [COME_BACK]


async def test_clients_that_leave_or_never_read_leave_nothing_behind(
    start_replica: Callable[..., Any], start_worker: StartWorker, script: Script
) -> None:
    await start_worker(echo, script.agent)
    replica = await start_replica(keepalive_interval=0.05)
    api: Client = replica.client
    message_id = await api.submit("x", agent="script", thread_id="t")
    loop = asyncio.get_running_loop()
    sockets = []
    for n in range(10):
        never = socket.socket()
        never.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        never.setblocking(False)
        await loop.sock_connect(never, ("127.0.0.1", replica.port))
        path = of(message_id) if n % 2 else "/threads/t/stream"
        await loop.sock_sendall(never, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        sockets.append(never)
    await until(replica.readers, lambda n: n == 10)
    async with reading(api, of(message_id)) as stream:
        script.say(message_id, *(("blob", "x" * 300_000) for _ in range(20)))
        blobs = [await stream.event() for _ in range(22)][2:]
        assert {len(event.data) for event in blobs} == {300_000}  # the slow ones hold nobody up
    for _ in range(5):  # others come and go at once
        async with reading(api, of(message_id)), reading(api, "/threads/t/stream"):
            pass
    await until(replica.readers, lambda n: n == 10)
    for never in sockets:
        never.close()
    await until(replica.readers, lambda n: n == 0)
    assert not replica.api.feed._readers
    script.say(message_id, None)
    assert (await api.settled(message_id))["state"] == "completed"  # leaving has cancelled nothing


# Threads


async def test_a_threads_stream_is_all_of_its_messages_in_order(running: Client) -> None:
    texts = ["a b", "c", "d e f"]
    messages = [await running.submit(text, thread_id="t") for text in texts]
    await running.submit("of another thread", thread_id="u")
    for message_id in messages:
        await running.settled(message_id)
    async with reading(running, "/threads/t/stream") as stream:
        whole = [await stream.event() for _ in range(3 * 3 + 6)]
    assert ids(whole) == list(range(1, 16))
    for message_id, text in zip(messages, texts, strict=True):
        own = [event for event in whole if event.data["message_id"] == message_id]
        stored = await log(running, message_id)
        assert [event.data["seq"] for event in own] == ids(stored)
        for event, kept in zip(own, stored, strict=True):
            assert event.type == kept.type
            assert event.data == kept.data | {"message_id": message_id, "seq": kept.id}
        assert own[-1].data["result"] == text
    turns = [(event.type, event.data["message_id"]) for event in whole if event.type in {"started", "done"}]
    assert turns == [(type, message_id) for message_id in messages for type in ("started", "done")]
    for seen in range(15):
        async with reading(running, "/threads/t/stream", header=seen) as stream:
            assert [await stream.event() for _ in range(15 - seen)] == whole[seen:]
        async with reading(running, "/threads/t/stream", query=seen) as stream:
            assert await stream.event() == whole[seen]


async def test_a_threads_stream_stays_open_and_live(scripted: Client, script: Script) -> None:
    first = await scripted.submit("one", thread_id="t")
    await scripted.settled(first)
    async with reading(scripted, "/threads/t/stream", header=4) as stream:
        assert await stream.next() == ": keepalive"  # all was seen and all is over, and yet it is no 204
        second = await scripted.submit("x", agent="script", thread_id="t")
        assert types(await stream.until("started")) == ["queued", "started"]
        script.say(second, "word")
        event = await stream.event()
        assert (event.id, event.data["chunk"], event.data["message_id"]) == (7, "word", second)
        script.say(second, None)
        assert (await stream.event()).type == "done"
        third = await scripted.submit("y", thread_id="t")
        events = await stream.until("done")
        assert [event.data["message_id"] for event in events] == [third] * 4
        assert ids(events) == [9, 10, 11, 12]


async def test_a_threads_stream_by_an_odd_name(api: Client) -> None:
    message_id = await api.submit("x", thread_id="ünï ?#%2F..")
    async with reading(api, "/threads/%C3%BCn%C3%AF%20%3F%23%252F../stream") as stream:
        assert (await stream.event()).data["message_id"] == message_id


# As JSON


async def test_events_are_paged(running: Client) -> None:
    message_id = await running.submit("a b c")
    async with reading(running, of(message_id)) as stream:
        whole = await stream.rest()
    path = f"/messages/{message_id}/events"
    page = (await running.get(path)).json()
    assert page.keys() == {"message_id", "events", "next_after", "over"}
    assert all(event.keys() == {"seq", "type", "data", "created_at"} for event in page["events"])
    assert (page["message_id"], page["next_after"], page["over"]) == (message_id, 6, True)
    assert await log(running, message_id) == whole
    after, collected = 0, []
    for n in range(3):
        page = (await running.get(path, params={"after": after, "limit": 2})).json()
        assert len(page["events"]) == 2
        assert page["over"] is (n == 2)
        after = page["next_after"]
        collected += [event["seq"] for event in page["events"]]
    assert collected == [1, 2, 3, 4, 5, 6]
    page = (await running.get(path, params={"after": 6})).json()
    assert (page["events"], page["next_after"], page["over"]) == ([], 6, True)


async def test_events_of_what_is_not_over(api: Client) -> None:
    message_id = await api.submit("x")
    for after, seqs in ((0, [1]), (1, []), (2**31 - 2, [])):
        page = (await api.get(f"/messages/{message_id}/events", params={"after": after})).json()
        assert [event["seq"] for event in page["events"]] == seqs
        assert page["over"] is False
