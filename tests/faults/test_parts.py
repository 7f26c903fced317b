"""The parts of the fault suite: its bad network, its clients, and what it does to processes."""

import asyncio
import contextlib
import os
import random
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
from faults.history import Fault, History, Reading, Seen
from faults.load import Clients
from faults.mischief import FAULTS
from faults.nodes import WORKER_TIMEOUT, Node, NodeFailed
from faults.proxy import Proxy
from faults.world import World, fault, inflict
from tests.support.waiting import until

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@contextlib.asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """In front of a server that says everything twice."""

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


async def eventually(look: Callable[[], object]) -> None:
    await until(look)


async def ask(proxy: Proxy, text: bytes = b"ab", seconds: float = 20) -> bytes:
    """Send the text and return the answer: b"" if the connection ends, TimeoutError after so many seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(text)
        return await asyncio.wait_for(reader.read(100), seconds)
    finally:
        writer.transport.abort()


# The network


async def test_a_proxy_passes_what_is_said(proxy: Proxy) -> None:
    assert await ask(proxy) == b"abab"


async def test_who_is_refused_is_reset_first_and_admitted_again_at_the_same_port(proxy: Proxy) -> None:
    reader, _ = await asyncio.open_connection("127.0.0.1", proxy.port)
    await eventually(lambda: proxy._links)
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    with pytest.raises(ConnectionRefusedError):
        await ask(proxy)
    await proxy.admit()
    assert await ask(proxy) == b"abab"


async def test_two_that_freeze_or_refuse_both_have_to_end_it(proxy: Proxy) -> None:
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


async def test_a_slow_way_delays_and_loses_nothing(proxy: Proxy) -> None:
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


async def test_a_deaf_proxy_drops_the_notifications_of_who_listens() -> None:
    notify, row = b"A\x00\x00\x00\x05x", b"D\x00\x00\x00\x05y"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        for part in (notify, row[:3], row[3:] + notify[:2], notify[2:] + row):
            writer.write(part)
            await asyncio.sleep(0.01)
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
    """What a reader of a thread saw that was answered like this, and what it complains of."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + (left.pop(0) if left else b"503 Busy\r\ncontent-length: 0\r\n\r\n"))
        writer.close()

    async with serving(serve) as port:
        history = History()
        clients = Clients([port], history, random.Random(2), 1)  # these dice let no reader leave early
        reading = clients.read_thread("t")
        await eventually(lambda: history.complaints)
        await clients.settle(0, {})
    return reading, history.complaints


EVENT = b"200 OK\r\n\r\nid: 1\nevent: queued\ndata: {}\n\n"


async def test_a_readers_events_are_what_it_was_sent() -> None:
    reading, _ = await read_thread(EVENT, EVENT.replace(b"id: 1", b"id: 2") + b": keepalive\n\nretry: 1\n\nid: 3\nda")
    assert reading.events == [Seen(1, "queued", {}), Seen(2, "queued", {})]


async def test_a_thread_that_is_not_there_yet_is_no_complaint_but_afterwards_it_is() -> None:
    _, complaints = await read_thread(
        b"404 No\r\ncontent-length: 0\r\n\r\n", EVENT, b"404 No\r\ncontent-length: 0\r\n\r\n"
    )
    assert complaints[0].startswith("the stream /threads/t/stream was answered 404")


async def test_a_thread_is_never_over() -> None:
    reading, complaints = await read_thread(EVENT, b"204 No\r\n\r\n")
    assert complaints[0].startswith("the stream /threads/t/stream was answered 204")
    assert not reading.over


# Faults


@pytest.fixture
def world() -> Any:
    return World(SimpleNamespace(primary=None), [], SimpleNamespace(send=print), History(), random.Random(0))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["kill_worker", "stop_worker", "kill_api", "cut_database", "fail_over", "bad_readers"])
async def test_a_fault_that_finds_no_victim_says_so(world: World, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faults.world.VICTIM_SECONDS", 0.1)
    world.cluster.standby = None  # type: ignore[misc]
    await inflict(world, name)
    assert world.history.faults[0].detail
    assert run.failed(world.history.faults) == [name]


async def test_a_node_that_does_not_come_back_is_a_broken_promise(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    @fault()
    async def breaks(world: World, noted: Fault) -> None:
        raise NodeFailed("it ended with 1")

    try:
        await inflict(world, "breaks")
    finally:
        del FAULTS["breaks"]
    assert world.history.unwell == ["breaks: it ended with 1"]


async def test_what_is_not_well_in_time_is_a_broken_promise(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "RECOVERY_SECONDS", 0.1)
    reading = Reading("m", None, [Seen(1, "queued", {})])
    await watch.streams_again(world, [reading], 1, 0)
    assert world.history.unwell == ["the stream of m did not go on within 0.1 s of its API's death"]


def test_failed_kinds_are_those_that_never_worked() -> None:
    vain, done, lasting = (Fault("a", 0, 1, detail="x"), Fault("b", 0, 1), Fault("c", 0, detail=""))
    assert run.failed([vain, done, lasting]) == ["a"]
    assert run.failed([vain, Fault("a", 2, 3)]) == []
    assert run.failed([vain] * run.CHANCES) == []


def test_who_blocks_blocks_for_longer_than_a_silent_worker_lives() -> None:
    assert BLOCK_SECONDS > WORKER_TIMEOUT


async def test_a_node_is_not_started_while_another_answers_at_its_port(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    node = Node("node", tmp_path, 1, tmp_path / "journal")
    async with serving(serve) as port:
        node.port = port
        with pytest.raises(NodeFailed, match="node ended with 1"):  # the port is taken
            await node.start()


def test_what_a_killed_run_left_is_removed_and_what_a_living_one_has_is_not() -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = Path(tempfile.mkdtemp(prefix=run.RUNNING.format(int(gone.stdout))))
    ours = Path(tempfile.mkdtemp(prefix=run.RUNNING.format(os.getpid())))
    try:
        run._clear_away()
        assert not left.exists()
        assert ours.exists()
    finally:
        ours.rmdir()
