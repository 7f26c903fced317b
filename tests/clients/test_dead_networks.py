"""Remote workers in a network that drops packets: an answer that never comes holds up nothing."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.programs import node
from tests.support.repository import ROOT
from tests.support.waiting import until
from treadle import Context, Worker, agent
from treadle.client import connection

PROGRAM = """
import { Worker } from "%s/index.js";
await new Worker({ shout: async (context, text) => text }, { url: process.argv[2], log: () => {} }).run();
"""
SILENCE_SECONDS = 0.6
Run = Callable[[str], contextlib.AbstractAsyncContextManager[None]]


@agent("shout")
async def shout(context: Context, text: str) -> str:
    return text


class Silent:
    """A server that registers workers and answers their heartbeats with `verdict` (None: never). It answers no claim.

    `registered` counts; `calls` are the paths of the calls without an answer, and `given_up` those whose connection
    the worker has closed.
    """

    def __init__(self, verdict: str | None) -> None:
        self.verdict = verdict
        self.registered = 0
        self.calls: list[str] = []
        self.given_up: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                path = await _read_request(reader)
                answer = self._answer(path)
                if answer is None:
                    self.calls.append(path)
                    await reader.read()
                    self.given_up.append(path)
                    return
                writer.write(answer.encode())

    def _answer(self, path: str) -> str | None:
        if path == "/workers":
            self.registered += 1
            worker = {"worker_id": f"w{self.registered}", "tenant": "default", "queues": ["remote"]}
            return _json("201 Created", {**worker, "heartbeat_seconds": 0.05, "silence_seconds": SILENCE_SECONDS})
        if path.endswith("/heartbeat"):
            claimed = path.replace("heartbeat", "claim") in self.calls
            if path == "/workers/w1/heartbeat" and not (self.verdict and claimed):
                return None if self.verdict is None else _json("200 OK", {"verdicts": []})
            return _json("200 OK", {"verdicts": []}) if "w1" not in path else _json(self.verdict or "", {"detail": "x"})
        return None if path.endswith("/claim") else _json("200 OK", {})


async def _read_request(reader: asyncio.StreamReader) -> str:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    _, _, rest = head.partition("content-length:")
    await reader.readexactly(int(rest.split()[0]) if rest else 0)
    return head.split()[1]


def _json(status: str, body: object) -> str:
    text = json.dumps(body)
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}"


@contextlib.asynccontextmanager
async def silent(verdict: str | None) -> AsyncIterator[tuple[Silent, str]]:
    """The server, and its address."""
    found = Silent(verdict)
    tasks: set[asyncio.Task[None]] = set()
    server = await asyncio.start_server(
        lambda *ends: tasks.add(asyncio.create_task(found.serve(*ends))), "127.0.0.1", 0
    )
    try:
        yield found, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(params=["python", "typescript"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a worker, whose calls wait longer for an answer than a test does."""
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 3600.0)

    @contextlib.asynccontextmanager
    async def python(url: str) -> AsyncIterator[None]:
        worker = Worker(shout, url=url)
        task = asyncio.create_task(worker.serve())
        yield
        worker.stop()
        await task

    @contextlib.asynccontextmanager
    async def typescript(url: str) -> AsyncIterator[None]:
        (tmp_path / "worker.mjs").write_text(PROGRAM % (ROOT / "clients/typescript/lib").as_uri())
        process = await asyncio.create_subprocess_exec(node(), str(tmp_path / "worker.mjs"), url)
        yield
        process.kill()
        await process.wait()

    return python if request.param == "python" else typescript


async def test_a_worker_that_was_taken_for_dead_gives_up_its_claim(run: Run) -> None:
    async with silent("404 Not Found") as (server, url), run(url):
        await until(lambda: server.registered == 2)
        await until(lambda: "/workers/w1/claim" in server.given_up)
        await until(lambda: "/workers/w2/claim" in server.calls)


async def test_a_heartbeat_without_an_answer_is_followed_by_another_one(run: Run) -> None:
    async with silent(None) as (server, url), run(url):
        await until(lambda: server.calls.count("/workers/w1/heartbeat") >= 2)
        assert server.given_up[0] == "/workers/w1/heartbeat"
