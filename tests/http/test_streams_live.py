"""Open streams: live on every replica, with and without hints, and when reader, replica or database fail."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from service.agents.builtin.echo import echo
from service.config import Settings
from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.api_server import ApiServer
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.ports import with_closed_port
from tests.support.scripted_agent import ScriptedAgent
from tests.support.sse_reader import RETRY_LINE, Event, open_stream, stream_path, types
from tests.support.waiting import until


class Replica(ApiServer):
    """An API of which the test can look at the inside."""

    async def start(self) -> None:
        await super().start()
        self.client = Client(self.url)

    async def stop(self) -> None:
        await super().stop()
        await self.client.aclose()

    async def readers(self) -> int:
        """How many streams are subscribed to something."""
        return sum(len(readers) for readers in self.api.parts.feed._readers.values())


@pytest.fixture
async def start_replica(settings: Settings) -> AsyncIterator[Callable[..., Any]]:
    async with contextlib.AsyncExitStack() as stack:

        async def start(**changes: Any) -> Replica:
            replica = Replica(msgspec.structs.replace(settings, **changes))
            await replica.start()
            stack.push_async_callback(replica.stop)
            return replica

        yield start


# Live, on every replica, with and without hints


async def test_a_stream_on_another_replica_is_live(
    start_api: StartApi, start_worker: StartWorker, register_agents: Any, script: ScriptedAgent
) -> None:
    await register_agents(echo, script.agent)
    patient = {"poll_interval": 600.0, "keepalive_interval": 600.0}  # only hints can wake the streams
    one, other = await start_api(**patient), await start_api(**patient)
    message_id = await one.submit("x", agent="script")
    async with open_stream(other, stream_path(message_id)) as stream:
        assert (await stream.event()).type == "queued"
        await start_worker(echo, script.agent)
        assert (await stream.event()).type == "started"
        for word in ("one", "two"):  # each word arrives before the next is emitted
            script.say(message_id, word)
            assert (await stream.event()).data["chunk"] == word
        script.say(message_id, None)
        assert types(await stream.rest()) == ["done"]


async def test_streams_poll_when_every_hint_is_lost(
    start_api: StartApi, start_worker: StartWorker, script: ScriptedAgent, dsn: str
) -> None:
    await start_worker(echo, script.agent)
    deaf = await start_api(listen_database_url=with_closed_port(dsn), poll_interval=0.05)
    message_id = await deaf.submit("x", agent="script", thread_id="t")
    async with open_stream(deaf, stream_path(message_id)) as stream, open_stream(deaf, "/threads/t/stream") as thread:
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


async def test_many_readers_of_one_message_receive_the_same(scripted_api: Client, script: ScriptedAgent) -> None:
    message_id = await scripted_api.submit("x", agent="script")
    await scripted_api.settled(message_id, "processing")  # the log has two events

    async def read(seen: int) -> list[Event]:
        async with open_stream(scripted_api, stream_path(message_id), header=seen) as stream:
            return await stream.rest()

    readers = [asyncio.create_task(read(n % 3)) for n in range(30)]
    script.say(message_id, *(str(n) for n in range(20)), None)
    whole = [event async for event in _follow(scripted_api, message_id)]
    for n, events in enumerate(await asyncio.gather(*readers)):
        assert events == whole[n % 3 :]


async def _follow(api: Client, message_id: str) -> AsyncIterator[Event]:
    async with open_stream(api, stream_path(message_id)) as stream:
        for event in await stream.rest():
            yield event


async def test_a_silent_stream_is_kept_alive(scripted_api: Client, start_api: StartApi, script: ScriptedAgent) -> None:
    api = await start_api(keepalive_interval=0.05)
    message_id = await api.submit("x", agent="script", thread_id="t")
    for path in (stream_path(message_id), "/threads/t/stream"):
        async with open_stream(api, path) as stream:
            await stream.until("started")
            assert [await stream.next() for _ in range(3)] == [": keepalive"] * 3
    script.say(message_id, None)


async def test_constant_wakeups_do_not_suppress_keepalives_and_positions(
    start_api: StartApi, register_agents: Any, sql: Connection
) -> None:
    """In a busy system every reader is woken again and again for events of other messages."""
    await register_agents()
    api = await start_api(keepalive_interval=0.5)
    await api.submit("before")
    message_id = await api.submit("x")

    async def storm() -> None:
        while True:
            await sql.execute("notify treadle_events, '*'")

    storming = asyncio.create_task(storm())
    async with open_stream(api, stream_path(message_id)) as stream:
        assert (await stream.event()).type == "queued"
        assert (await stream.event(waiting=True)).data["position"] == 1
        assert await stream.next() == ": keepalive"
    storming.cancel()
    await asyncio.gather(storming, return_exceptions=True)


# What happens to replicas, readers and the database


@pytest.mark.usefixtures("patient_stop")
async def test_a_stopping_api_tells_its_readers_to_reconnect(
    start_replica: Callable[..., Any], start_worker: StartWorker, script: ScriptedAgent
) -> None:
    await start_worker(echo, script.agent)
    one, other = await start_replica(), await start_replica()
    message_id = await one.client.submit("x", agent="script", thread_id="t")
    async with (
        open_stream(one.client, stream_path(message_id)) as stream,
        open_stream(one.client, "/threads/t/stream") as thread,
    ):
        seen = await stream.until("started")
        await thread.until("started")
        stopping = asyncio.create_task(one.stop())
        for reader in (stream, thread):
            said = [block async for block in reader._blocks]
            assert said == [RETRY_LINE]
    await stopping
    async with open_stream(other.client, stream_path(message_id), header=seen[-1].id) as stream:
        script.say(message_id, "a", None)
        assert types(await stream.rest()) == ["chunk", "done"]


async def test_an_error_in_an_open_stream_makes_its_client_reconnect(
    scripted_api: Client, script: ScriptedAgent, sql: Connection
) -> None:
    message_id = await scripted_api.submit("x", agent="script", thread_id="t")
    async with (
        open_stream(scripted_api, stream_path(message_id)) as stream,
        open_stream(scripted_api, "/threads/t/stream") as thread,
    ):
        await stream.until("started")
        await thread.until("started")
        await sql.execute("alter function treadle.read_events rename to hidden")
        await sql.execute("alter function treadle.grown_logs rename to also_hidden")
        for reader in (stream, thread):
            assert [block async for block in reader._blocks if block != ": keepalive"] == [RETRY_LINE]
    await sql.execute("alter function treadle.hidden rename to read_events")
    await sql.execute("alter function treadle.also_hidden rename to grown_logs")
    async with open_stream(scripted_api, stream_path(message_id), header=2) as stream:
        script.say(message_id, "a", None)
        assert types(await stream.rest()) == ["chunk", "done"]


async def test_an_error_while_a_stream_opens_tells_the_client_to_reconnect(api: Client, sql: Connection) -> None:
    message_id = await api.submit("x", thread_id="t")
    await sql.execute("alter table treadle.messages rename column last_seq to hidden")
    await sql.execute("alter table treadle.thread_log rename column last_pos to hidden")
    for path in (stream_path(message_id), "/threads/t/stream"):
        async with open_stream(api, path) as stream:
            assert [block async for block in stream._blocks] == [RETRY_LINE]


async def test_clients_that_disconnect_or_never_read_are_cleaned_up(
    start_replica: Callable[..., Any],
    start_worker: StartWorker,
    script: ScriptedAgent,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Those that never read would be disconnected while a busy machine gets the others to their end.
    monkeypatch.setattr("service.api.write_deadline.CHECK_SECONDS", 600.0)
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
        path = stream_path(message_id) if n % 2 else "/threads/t/stream"
        await loop.sock_sendall(never, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        sockets.append(never)
    await until(replica.readers, lambda n: n == 10)
    async with open_stream(api, stream_path(message_id)) as stream:
        script.say(message_id, *(("blob", "x" * 300_000) for _ in range(20)))
        blobs = [await stream.event() for _ in range(22)][2:]
        assert {len(event.data) for event in blobs} == {300_000}  # the slow readers delay no other reader
    for _ in range(5):  # readers that disconnect at once
        async with open_stream(api, stream_path(message_id)), open_stream(api, "/threads/t/stream"):
            pass
    await until(replica.readers, lambda n: n == 10)
    for never in sockets:
        never.close()
    await until(replica.readers, lambda n: n == 0)
    assert not replica.api.parts.feed._readers
    script.say(message_id, None)
    assert (await api.settled(message_id))["state"] == "completed"  # disconnecting cancels nothing
