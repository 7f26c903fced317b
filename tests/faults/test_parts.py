"""The parts of the fault suite: its bad network, its clients, and what it does to processes."""

import asyncio
import contextlib
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from faults import run, watch
from faults.agents import BLOCK_SECONDS
from faults.catalog import FAULTS
from faults.history import Fault, History, Reading, Seen
from faults.load import Clients
from faults.nodes import WORKER_TIMEOUT_SECONDS, Node, NodeFailed
from faults.ports import KeptPort
from faults.proxy import Proxy
from faults.world import World, fault, inject
from tests.support.waiting import let_the_loop_read, until

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@contextlib.asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy in front of a server that answers everything twice."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1000):
                writer.write(data * 2)
        writer.close()

    async with serving(serve) as port:
        proxy = Proxy(port)
        await proxy.start()
        yield proxy
        await proxy.close()


async def ask(proxy: Proxy, text: bytes = b"ab", seconds: float = 20) -> bytes:
    """Send the text and return the answer: b"" if the connection ends, TimeoutError after so many seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(text)
        return await asyncio.wait_for(reader.read(100), seconds)
    finally:
        writer.transport.abort()


# The network


async def test_a_proxy_passes_bytes_on(proxy: Proxy) -> None:
    assert await ask(proxy) == b"abab"


async def test_a_refused_client_is_reset_first_and_admitted_again_at_the_same_port(proxy: Proxy) -> None:
    reader, _ = await asyncio.open_connection("127.0.0.1", proxy.port)
    await until(lambda: proxy._links)
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    with pytest.raises(ConnectionRefusedError):
        await ask(proxy)
    await proxy.admit()
    assert await ask(proxy) == b"abab"


async def test_freezing_and_refusing_are_counted(proxy: Proxy) -> None:
    proxy.freeze()
    proxy.freeze()
    proxy.thaw()
    with pytest.raises(TimeoutError):
        await ask(proxy, seconds=0.3)
    proxy.thaw()
    proxy.refuse()
    proxy.refuse()
    await proxy.admit()
    with pytest.raises(ConnectionRefusedError):
        await ask(proxy)
    await proxy.admit()
    assert await ask(proxy) == b"abab"


async def test_a_slow_proxy_delays_and_loses_nothing(proxy: Proxy) -> None:
    proxy.delay, proxy.rate = 0.05, 1000
    began = asyncio.get_running_loop().time()
    assert await ask(proxy, b"a" * 40) == b"a" * 80
    assert asyncio.get_running_loop().time() - began > 0.2


async def test_a_lost_answer_is_a_reset(proxy: Proxy) -> None:
    proxy.lose_answers(1)
    with pytest.raises(ConnectionResetError):
        await ask(proxy)
    assert proxy.cuts == 1
    assert await ask(proxy) == b"abab"


async def test_a_deaf_proxy_drops_the_notifications_of_a_listener() -> None:
    notify, row = b"A\x00\x00\x00\x05x", b"D\x00\x00\x00\x05y"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        for part in (notify, row[:3], row[3:] + notify[:2], notify[2:] + row):
            writer.write(part)
            await let_the_loop_read()
        writer.close()

    async with serving(serve) as port:
        for deaf in (False, True):
            proxy = Proxy(port, postgres=True)
            proxy.deaf = deaf
            await proxy.start()
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"LISTEN x")
            assert await reader.read() == (row + row if deaf else notify + row + notify + row)
            writer.close()
            await proxy.close()


# Clients


async def read_thread(*answers: bytes) -> tuple[Reading, list[str]]:
    """Read a thread from a server that gives these answers; returns the reading and the client's errors."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + (left.pop(0) if left else b"503 Busy\r\ncontent-length: 0\r\n\r\n"))
        writer.close()

    async with serving(serve) as port:
        history = History()
        seed = 2  # with which no reader leaves before its fourth event
        clients = Clients([port], history, random.Random(seed), 1)
        reading = clients.readers.read_thread("t")
        await until(lambda: history.client_errors)
        await clients.settle(0, {})
    return reading, history.client_errors


EVENT = b"200 OK\r\n\r\nevent: queued\ndata: {}\nid: 1\n\n"


async def test_a_reader_records_the_events_that_it_was_sent() -> None:
    reading, _ = await read_thread(EVENT, EVENT.replace(b"id: 1", b"id: 2") + b": keepalive\n\nretry: 1\n\nid: 3\nda")
    assert reading.events == [Seen(1, "queued", {}, "1"), Seen(2, "queued", {}, "2")]


async def test_404_of_a_thread_is_an_error_only_after_its_first_event() -> None:
    _, client_errors = await read_thread(
        b"404 No\r\ncontent-length: 0\r\n\r\n", EVENT, b"404 No\r\ncontent-length: 0\r\n\r\n"
    )
    assert client_errors[0].startswith("the stream /threads/t/stream was answered 404")


async def test_204_of_a_thread_is_an_error() -> None:
    reading, client_errors = await read_thread(EVENT, b"204 No\r\n\r\n")
    assert client_errors[0].startswith("the stream /threads/t/stream was answered 204")
    assert not reading.over


# Faults


@pytest.fixture
def world() -> Any:
    return World(SimpleNamespace(primary=None), [], SimpleNamespace(send=print), History(), random.Random(0))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["kill_worker", "stop_worker", "kill_api", "cut_database", "fail_over", "bad_readers"])
async def test_a_fault_that_finds_no_victim_says_so(world: World, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faults.world.VICTIM_SECONDS", 0.1)
    world.cluster.standby = None  # type: ignore[misc]
    await inject(world, name)
    assert world.history.faults[0].detail
    assert run.failed(world.history.faults) == [name]


async def test_a_node_that_does_not_come_back_is_a_broken_promise(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    @fault()
    async def breaks(world: World, noted: Fault) -> None:
        raise NodeFailed("it ended with 1")

    try:
        await inject(world, "breaks")
    finally:
        del FAULTS["breaks"]
    assert world.history.not_recovered == ["breaks: it ended with 1"]


async def test_a_stream_that_does_not_recover_in_time_is_a_broken_promise(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "RECOVERY_SECONDS", 0.1)
    reading = Reading("m", None, [Seen(1, "queued", {})])
    await watch.streams_again(world, [reading], 1, 0)
    assert world.history.not_recovered == ["the stream of m did not continue within 0.1 s of its API's death"]


def test_failed_types_are_those_that_never_worked() -> None:
    failed, done, lasting = (Fault("a", 0, 1, detail="x"), Fault("b", 0, 1), Fault("c", 0, detail=""))
    assert run.failed([failed, done, lasting]) == ["a"]
    assert run.failed([failed, Fault("a", 2, 3)]) == []
    assert run.failed([failed] * run.MAX_TRIES) == []


def test_the_blocking_agent_blocks_for_longer_than_the_worker_timeout() -> None:
    assert BLOCK_SECONDS > WORKER_TIMEOUT_SECONDS


async def test_a_node_is_not_started_while_another_answers_at_its_port(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    node = Node("node", tmp_path, 1, tmp_path / "journal")
    async with serving(serve) as port:
        node.port = port
        with pytest.raises(NodeFailed, match="node ended with 1"):  # the port is taken
            await node.start()
    await node.close()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep a bound port for its socket alone")
async def test_a_port_stays_with_its_server_while_that_is_away() -> None:
    with contextlib.closing(KeptPort()) as kept:
        for _ in range(2):
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", kept.number))
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", kept.number)
            async with await asyncio.start_server(lambda *_: None, "127.0.0.1", kept.number):
                pass


def test_files_of_a_killed_run_are_removed_and_those_of_a_live_run_are_kept() -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = Path(tempfile.mkdtemp(prefix=run.RUN_FOLDER_PREFIX.format(int(gone.stdout))))
    ours = Path(tempfile.mkdtemp(prefix=run.RUN_FOLDER_PREFIX.format(os.getpid())))
    try:
        run._remove_killed_runs()
        assert not left.exists()
        assert ours.exists()
    finally:
        ours.rmdir()
