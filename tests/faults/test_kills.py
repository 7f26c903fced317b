"""kill -9 of each process of a real `treadle up`: the client's stream continues to `done`."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client

from service.local.private_postgres import PrivatePostgres
from tests.support.gates import open_gate
from tests.support.halting_agents import HALTING
from tests.support.langgraph_clients import stream
from tests.support.node_client import play
from tests.support.ports import free_port, is_listening
from tests.support.repository import ROOT
from tests.support.waiting import wait_until

LIMIT_SECONDS = 90.0  # a test that takes longer fails; none is meant to come near it
PROMPT = " ".join(f"word{n}" for n in range(30))
# No living worker counts as lost, however busy the machine is; a killed one is noticed by its session.
SETTINGS = {"AGENTS": "tests.support.halting_agents", "PYTHONPATH": str(ROOT), "WORKER_TIMEOUT": "60"}


class Service:
    """`treadle up` with its own TREADLE_HOME."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self.home = home
        self._environ = {
            **os.environ,
            "TREADLE_HOME": str(home),
            "PORT": str(self.port),
            "HOST": "127.0.0.1",
            **SETTINGS,
        }
        self._environ.pop("DATABASE_URL", None)
        self._log = home.parent / "up.log"
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=LIMIT_SECONDS)
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "up"], env=self._environ, stderr=log, stdout=log
            )
        self.until_ready()
        return self.process

    def until_ready(self) -> None:
        wait_until(lambda: self._workers() == 1 or self.process.poll() is not None, LIMIT_SECONDS)
        assert self.process.poll() is None, self.log

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(LIMIT_SECONDS)
        finally:
            self.process.kill()
            self.client.close()
            PrivatePostgres(self.home).stop()

    def new_gate(self) -> Path:
        """Where the messages of a test halt."""
        return Path(tempfile.mkdtemp(dir=self.home.parent)) / "gate"

    def submit(self, gate: Path, **fields: Any) -> str:
        message = {"message": PROMPT, "agent": HALTING, "metadata": {"gate": str(gate)}}
        answer = self.client.post("/messages", json=message | fields)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["message_id"])

    def has_said(self, thread: str) -> bool:
        """Whether the message of this thread runs, and has said something."""
        found = self.client.get(f"/threads/{thread}/messages").json().get("messages", [])
        return any('"chunk"' in self.client.get(f"/messages/{one['message_id']}/events").text for one in found)

    def status(self, message_id: str) -> dict[str, Any]:
        return dict(self.client.get(f"/messages/{message_id}/status").json())

    def pids(self, command: str) -> list[int]:
        """Children of the supervisor that run this command of `treadle`."""
        out = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
        return [
            int(pid)
            for pid, parent, args in re.findall(r"^\s*(\d+)\s+(\d+)\s+(.*)$", out, re.MULTILINE)
            if int(parent) == self.process.pid and args.endswith(f"service.cli {command}")
        ]

    def kill(self, command: str) -> None:
        """kill -9 of the process that runs this command; returns when it has gone."""
        [pid] = self.pids(command)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid not in self.pids(command))

    @property
    def log(self) -> str:
        return self._log.read_text()

    def _workers(self) -> Any:
        with contextlib.suppress(httpx.HTTPError):
            return self.client.get("/health").json().get("workers")
        return None


class Reader:
    """Reads a message's stream as an EventSource does: reconnects with the last id whenever the connection ends."""

    def __init__(self, service: Service, message_id: str) -> None:
        self._service = service
        self._path = f"/messages/{message_id}/stream"
        self.ids: list[int] = []
        self.events: list[tuple[str, str]] = []
        self.reconnects = -1

    def read(self) -> Iterator[tuple[int, str, str]]:
        """Events with ids until the stream is over."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while time.monotonic() < deadline:
            self.reconnects += 1
            headers = {"Last-Event-ID": str(self.ids[-1])} if self.ids else {}
            with (
                contextlib.suppress(httpx.TransportError),
                self._service.client.stream("GET", self._path, headers=headers) as answer,
            ):
                if answer.status_code == 204:
                    return
                assert answer.status_code == 200
                fields: dict[str, str] = {}
                for line in answer.iter_lines():
                    if line:
                        name, _, fields_value = line.partition(": ")
                        fields[name] = fields_value
                        continue
                    if "id" in fields:
                        self.ids.append(int(fields["id"]))
                        self.events.append((fields["event"], fields["data"]))
                        yield self.ids[-1], fields["event"], fields["data"]
                    fields = {}
            wait_until(lambda: is_listening(self._service.port))
        pytest.fail(f"the stream did not end; {self._service.log}")

    def types(self) -> list[str]:
        return [name for name, _ in self.events if name != "chunk"]


@pytest.fixture(scope="module")
def running_service() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="treadle-test-") as name:
        os.chmod(name, 0o755)  # PostgreSQL runs as another user where we are root
        service = Service(Path(name) / "home")
        yield service
        service.stop()


@pytest.fixture
def service(running_service: Service) -> Service:
    """The service of this module, after everything that the test before killed runs again."""
    running_service.until_ready()
    return running_service


def assert_whole(service: Service, reader: Reader, message_id: str) -> None:
    """Check that the log was read without gaps and duplicates, and that the message completed with all its words."""
    assert reader.ids == list(range(1, len(reader.ids) + 1))
    assert reader.types()[-1] == "done"
    last_life = reader.events[max(n for n, (name, _) in enumerate(reader.events) if name == "started") :]
    text = "".join(re.findall(r'"chunk": "([^"]*)"', " ".join(data for name, data in last_life if name == "chunk")))
    assert text == PROMPT
    assert service.status(message_id)["state"] == "completed"


@contextlib.contextmanager
def langgraph_clients(service: Service, gate: Path, *, attempts: int) -> Iterator[None]:
    """Both SDKs of LangGraph stream a run meanwhile, which halts at the gate. Their streams resume, and have the same
    events as the log."""
    url = f"{service.client.base_url}/langgraph"
    given: dict[str, Any] = {"text": PROMPT, "metadata": {"gate": str(gate)}}

    async def python() -> dict[str, Any]:
        async with get_client(url=url, api_key=None) as client:
            return await stream(client, "py", HALTING, **given)

    def begin(thread: str, run: Coroutine[Any, Any, Any]) -> Future[dict[str, Any]]:
        """Run it in a thread; returns when its message runs."""
        told = executor.submit(asyncio.run, run)
        wait_until(lambda: service.has_said(thread) or told.done(), LIMIT_SECONDS)
        return told

    for thread in ("py", "js"):
        service.client.delete(f"/threads/{thread}")
    with ThreadPoolExecutor(2) as executor:
        told = [begin("js", play("langgraph", url=url, agent=HALTING, **given)), begin("py", python())]
        yield
        for result in (one.result(LIMIT_SECONDS) for one in told):
            assert (result["status"], result["texts"]) == ("success", [PROMPT, PROMPT])
            assert result["seen"] == result["again"]
            assert [event for event, _ in result["seen"]].count("metadata") == attempts


def test_a_stream_continues_after_a_killed_worker(service: Service) -> None:
    gate = service.new_gate()  # it stays closed: the next attempt passes it
    with langgraph_clients(service, gate, attempts=2):
        kill_worker(service, gate)


def kill_worker(service: Service, gate: Path) -> None:
    message_id = service.submit(gate)
    reader = Reader(service, message_id)
    killed = 0.0
    again = None
    for _, name, _ in reader.read():
        if name == "chunk" and not killed:
            killed = time.monotonic()
            service.kill("work")
        if name == "started" and killed:
            again = time.monotonic() - killed
    assert_whole(service, reader, message_id)
    assert reader.types() == ["queued", "started", "retry", "started", "done"]
    assert reader.reconnects == 1  # after `done`, answered by 204
    assert again is not None
    print(f"running again after {again:.1f} s")
    status = service.status(message_id)
    assert status["attempt"] == 2


def test_a_stream_continues_after_a_killed_api(service: Service) -> None:
    gate = service.new_gate()
    with langgraph_clients(service, gate, attempts=1):
        kill_api(service, gate)


def kill_api(service: Service, gate: Path) -> None:
    message_id = service.submit(gate)
    reader = Reader(service, message_id)
    killed = False
    for _, name, _ in reader.read():
        if name == "chunk" and not killed:
            service.kill("serve")
            killed = True
            open_gate(gate)
    assert reader.reconnects > 1
    assert_whole(service, reader, message_id)
    assert reader.types() == ["queued", "started", "done"]


def test_a_stream_continues_after_a_killed_postgres(service: Service) -> None:
    gate = service.new_gate()
    message_id = service.submit(gate)
    reader = Reader(service, message_id)
    postgres = PrivatePostgres(service.home)
    for _, name, _ in reader.read():
        if name == "chunk" and postgres.pid is None:
            postgres.start()  # adopts the running server
            assert postgres.pid
            os.kill(postgres.pid, signal.SIGKILL)
            open_gate(gate)
    assert_whole(service, reader, message_id)
    assert reader.types() == ["queued", "started", "done"]  # the worker lived and kept its message


def test_a_stream_continues_after_a_killed_supervisor(service: Service) -> None:
    gate = service.new_gate()
    message_id = service.submit(gate, thread_id="conversation")
    waiting = service.submit(gate, thread_id="conversation", metadata={})
    reader = Reader(service, message_id)
    supervisor = service.process
    for _, name, _ in reader.read():
        if name == "chunk" and service.process is supervisor:
            supervisor.kill()
            supervisor.wait()
            open_gate(gate)
            service.start()
    assert_whole(service, reader, message_id)
    assert list(Reader(service, waiting).read())[-1][1] == "done"
    assert service.status(waiting)["state"] == "completed"
