"""`treadle up` with stubs for children: a child that dies is started again, and no process is left at the end.

The children write to the supervisor's stdout, so its end of file is the proof that all of them are gone.
"""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from service.config import Settings
from service.errors import ConfigError
from service.limits import STOP_MARGIN_SECONDS
from service.local import supervisor
from service.local.children import Children
from service.local.private_postgres import PrivatePostgres
from tests.support.gates import open_gate
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 120.0  # the supervisor of a test that waits in vain is killed after this time


class Up:
    """A running supervisor, followed by what it and its children say."""

    def __init__(self, environ: dict[str, str]) -> None:
        command = [sys.executable, str(ROOT / "tests" / "support" / "supervisor_driver.py")]
        self.process = subprocess.Popen(command, env=environ, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self.workers = int(environ.get("WORKERS", "1"))
        self.said = ""
        self._guard = threading.Timer(LIMIT_SECONDS, self.process.kill)
        self._guard.start()

    def until(self, pattern: str) -> str:
        """Read on to a line in which `pattern` is found; returns its first group (or all of it)."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.said += line
            if found := re.search(pattern, line):
                return found[1] if found.groups() else found[0]
        raise AssertionError(f"{pattern!r} was not said:\n{self.said}")

    def until_all_runs(self) -> None:
        """Read on until the supervisor has said its last line and every child its first."""
        missing = {"curl -N", *(f"worker-{n} started" for n in range(1, self.workers + 1))}
        while missing:
            missing.remove(self.until(f"({'|'.join(missing)})"))

    def end(self) -> int:
        """Read to the end of the supervisor and all its children; returns the exit code."""
        assert self.process.stdout
        self.said += self.process.stdout.read()
        self.process.stdout.close()
        code = self.process.wait()
        self._guard.cancel()
        return code

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


Start = Callable[..., Up]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own is closed to all but its user."""
    with tempfile.TemporaryDirectory(prefix="treadle-test-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def postgres(folder: Path) -> Iterator[PrivatePostgres]:
    """The server that a supervisor without DATABASE_URL runs (not started here)."""
    server = PrivatePostgres(folder / "home")
    yield server
    server.stop()


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts supervisors; `serve`, `work` and `migrate` are more arguments for the stubs."""
    port = free_port()
    running: list[Up] = []

    def start(*, serve: str = "", work: str = "", migrate: str = "", **environ: str) -> Up:
        arguments = {"serve": serve, "work": work, "migrate": migrate}
        stub = [sys.executable, str(ROOT / "tests" / "support" / "supervisor_stub.py")]
        stubs = {name: [*stub, name, *more.split()] for name, more in arguments.items()}
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        settings = {"TREADLE_HOME": str(folder / "home"), "HOST": "127.0.0.1", "PORT": str(port)}
        settings |= {
            "DATABASE_URL": "postgresql://elsewhere/",
            "PYTHONPATH": str(ROOT),
            "STUBS": json.dumps(stubs),
        }
        running.append(Up({**inherited, **settings, **environ}))
        return running[-1]

    yield start
    for up in running:
        up.process.kill()
        if not up.process.stdout or not up.process.stdout.closed:
            up.end()


def test_everything_starts_is_announced_and_stops(start: Start) -> None:
    up = start(WORKERS="2")
    up.until_all_runs()
    up.signal(signal.SIGTERM)
    assert up.end() == 0
    port = re.search(r"API +http://127\.0\.0\.1:(\d+)\n", up.said)
    assert port
    assert {f"http://127.0.0.1:{port[1]}/{page}" for page in ("chat", "dashboard", "docs")} <= set(up.said.split())
    for name in ("api", "worker-1", "worker-2"):
        assert re.search(rf"^{name} started as \d+ with postgresql://elsewhere/$", up.said, re.MULTILINE)
        assert f"{name} drained\n" in up.said
    assert up.said.index("migrate started") < up.said.index("api started")


def test_a_child_that_dies_is_started_again_after_growing_delays(start: Start) -> None:
    up = start()
    up.until_all_runs()
    pid = re.findall(r"worker-1 started as (\d+)", up.said)[-1]
    for delay in ("0.2", "0.4", "0.8"):
        os.kill(int(pid), signal.SIGKILL)
        up.until(rf"worker-1 \(pid {pid}\) ended with signal SIGKILL; next start in {delay} s$")
        pid = up.until(r"worker-1 started as (\d+)")
    pid = re.findall(r"api started as (\d+)", up.said)[-1]
    os.kill(int(pid), signal.SIGKILL)
    up.until(rf"api \(pid {pid}\) ended with signal SIGKILL; next start in 0.2 s$")
    up.until("api started")
    up.signal(signal.SIGINT)
    assert up.end() == 0


def test_a_second_supervisor_is_refused(start: Start) -> None:
    up = start()
    up.until_all_runs()
    second = start()
    assert second.end() == 1
    assert re.search(rf"^Treadle already runs in .*/home, by process {up.process.pid}\.$", second.said, re.MULTILINE)
    assert "started" not in second.said


def test_children_of_a_killed_supervisor_drain_and_the_next_one_adopts_postgres(
    start: Start, postgres: PrivatePostgres
) -> None:
    up = start(DATABASE_URL="")
    up.until_all_runs()
    assert f"with {postgres.dsn}\n" in up.said
    up.signal(signal.SIGKILL)
    up.end()
    assert "api drained\n" in up.said
    assert "worker-1 drained\n" in up.said
    postgres.start()
    pid = postgres.pid
    again = start(DATABASE_URL="")
    again.until_all_runs()
    assert postgres.alive()
    assert (postgres.data / "postmaster.pid").read_text().startswith(f"{pid}\n")
    again.signal(signal.SIGTERM)
    assert again.end() == 0
    assert not postgres.alive()


def test_a_supervisor_starts_while_workers_of_the_killed_one_drain(start: Start, folder: Path) -> None:
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    up = start(work=f"slow {pipe}")
    up.until_all_runs()
    up.signal(signal.SIGKILL)
    up.until("worker-1 drains slowly")
    up.process.wait()
    again = start()
    again.until_all_runs()
    assert "worker-1 drained" not in up.said
    open_gate(pipe)
    up.end()
    assert "worker-1 drained" in up.said


def test_a_supervisor_waits_for_the_port_of_the_killed_ones_api(start: Start, folder: Path) -> None:
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    up = start(serve=f"slow {pipe}")
    up.until_all_runs()
    up.signal(signal.SIGKILL)
    up.until("api drains slowly")
    up.process.wait()
    again = start()
    again.until("^waiting for the previous run to give the port back$")
    assert "started" not in again.said
    open_gate(pipe)
    again.until_all_runs()


async def test_a_port_that_the_killed_ones_api_gives_back_just_now_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends after the port was found in use, and before its lock is looked at."""
    looks = [ConfigError("PORT: in use")]

    def check_free(host: str, port: int) -> None:
        if looks:
            raise looks.pop()

    monkeypatch.setattr("service.local.address.check_free", check_free)
    with (tmp_path / "lock").open("w") as lock:
        children = Children({}, {}, lock.fileno(), patience_seconds=60)
        starting = supervisor._Supervisor(
            settings=Settings(),
            announce=print,
            postgres=None,
            children=children,
            children_lock=lock.fileno(),
            patience_seconds=60,
            reload=None,
        )
        await starting._wait_for_address()
        await children.stop(asyncio.Event())


def test_a_child_that_ignores_sigterm_ends_after_its_supervisor(start: Start) -> None:
    up = start(work="deaf", PATIENCE="0.1")
    up.until_all_runs()
    up.signal(signal.SIGKILL)
    up.end()
    assert "worker-1 does not listen" in up.said


def test_a_port_in_use_ends_the_supervisor(start: Start, postgres: PrivatePostgres) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = start(PORT=str(port), DATABASE_URL="")
        assert up.end() == 1
    assert f"PORT: {port} on 127.0.0.1 is in use by another program: set another port.\n" in up.said
    assert "started" not in up.said
    assert not (postgres.data / "postmaster.pid").exists()


def test_a_failing_migration_ends_the_supervisor(start: Start, postgres: PrivatePostgres) -> None:
    up = start(migrate="fails", DATABASE_URL="")
    assert up.end() == 1
    assert "migrate has a reason to fail\nThe migration ended with exit status 3; nothing was started.\n" in up.said
    assert "api started" not in up.said
    assert not (postgres.data / "postmaster.pid").exists()


def test_the_supervisor_waits_for_a_database_that_is_away(start: Start, folder: Path) -> None:
    there = folder / "there"
    up = start(migrate=f"waits {there}")
    for _ in range(3):
        up.until("migrate started")
    assert "api started" not in up.said
    there.touch()
    up.until_all_runs()
    up.signal(signal.SIGTERM)
    assert up.end() == 0
    assert up.said.count("the database is away: the migration waits for it\n") == 1


def test_sigint_ends_the_wait_for_a_database(start: Start, folder: Path) -> None:
    up = start(migrate=f"waits {folder / 'never'}", SHUTDOWN_GRACE="1000")
    up.until("the database is away")
    up.signal(signal.SIGINT)
    assert up.end() == 0
    assert "api started" not in up.said


def test_an_api_that_never_answers_ends_the_supervisor(start: Start, folder: Path) -> None:
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    up = start(serve=f"fails {pipe}")
    up.until("worker-1 started")  # from now on it drains
    open_gate(pipe)
    assert up.end() == 1
    assert up.said.count("api started") >= 3  # a supervisor that looks late finds the fourth one
    assert up.said.endswith("The API ended 3 times before it answered: see the log.\n")
    assert "worker-1 drained\n" in up.said


def test_a_killed_postgres_is_started_again(start: Start, postgres: PrivatePostgres) -> None:
    up = start(DATABASE_URL="")
    up.until_all_runs()
    postgres.start()
    os.kill(postgres.pid or 0, signal.SIGKILL)
    up.until(rf"postgres \(pid {postgres.pid}\) ended; next start in 0\.2 s$")
    up.until(r"postgres \(pid \d+\) runs again$")
    assert not postgres.alive()
    postgres.start()
    up.signal(signal.SIGTERM)
    assert up.end() == 0
    assert not postgres.alive()


def test_a_second_sigint_kills_a_child_that_ignores_sigterm(start: Start) -> None:
    up = start(work="deaf")
    up.until_all_runs()
    up.signal(signal.SIGINT)
    up.until("worker-1 does not listen")
    up.signal(signal.SIGINT)
    assert up.end() == 0
    assert re.search(r"killing process \d+, which did not stop", up.said)


def test_a_child_that_does_not_stop_in_time_is_killed(start: Start) -> None:
    up = start(work="deaf", SHUTDOWN_GRACE="0.01", STOP_MARGIN_SECONDS="0.01")
    up.until_all_runs()
    up.signal(signal.SIGTERM)
    assert up.end() == 0
    assert re.search(r"killing process \d+, which did not stop", up.said)


def test_supervisor_and_compose_give_a_worker_the_same_time_to_stop() -> None:
    """A stopping worker needs 5 s for attempts that do not end, 5 s for a heartbeat, and some to sign off."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    patience = int(compose["services"]["worker"]["stop_grace_period"].removesuffix("s"))
    assert STOP_MARGIN_SECONDS == patience - Settings().shutdown_grace == 15


def test_a_file_in_place_of_home_is_reported_in_one_sentence(start: Start, folder: Path) -> None:
    (folder / "home").write_text("")
    up = start()
    assert up.end() == 1
    assert "Treadle cannot run: " in up.said


def test_an_address_of_another_host_is_reported_in_one_sentence(start: Start) -> None:
    up = start(HOST="192.0.2.1")
    assert up.end() == 1
    assert re.search(r"^HOST: nothing can listen on 192\.0\.2\.1, port \d+: .*\.$", up.said, re.MULTILINE)
