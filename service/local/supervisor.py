"""`treadle up`: a private PostgreSQL, the API and the workers as children of one process that restarts what dies.

Two locks in TREADLE_HOME. `supervisor.lock` is ours alone: there is one supervisor. `children.lock` is inherited by
every child and so held until the last of them is gone: after a kill -9 of the supervisor its children drain (see
`lifeline`), and the next supervisor knows by this lock that they still do. PostgreSQL inherits neither; it stays, and
is adopted.
"""

import asyncio
import fcntl
import logging
import os
import shutil
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from service.config import Settings
from service.errors import ConfigError, TreadleError
from service.limits import STOP_MARGIN_SECONDS
from service.local import address
from service.local.parent_watch import VARIABLE
from service.local.postgres import Embedded

log = logging.getLogger(__name__)

COMMANDS = {name: (sys.executable, "-m", "service.cli", name) for name in ("migrate", "serve", "work")}
FIRST_DELAY, LONGEST_DELAY = 0.2, 10.0  # seconds until something that died is started again
HEALTHY = 30.0  # seconds of life after which a death counts as the first again
HURRY = 3.0  # seconds that children get after the second signal
# Seconds that children get beyond SHUTDOWN_GRACE. A worker takes 5 to hand back what does not end, up to 5 more for a
# heartbeat under way, and some to sign off: killed before, it is a loss to be charged.
MARGIN = STOP_MARGIN_SECONDS
API_CHANCES = 3  # deaths of the API before its first answer, after which we give up


def run(
    settings: Settings,
    environ: Mapping[str, str],
    announce: Callable[[str], None],
    commands: Mapping[str, Sequence[str]] = COMMANDS,
) -> None:
    """Run everything until Ctrl-C or SIGTERM (a second one does not wait); raises TreadleError where it cannot.

    `announce` gets what people should read, `commands` says how to start each kind of child: migrate, serve, work.
    """
    try:
        home = settings.treadle_home.resolve()
        home.mkdir(parents=True, exist_ok=True)
        with _opened(home / "supervisor.lock") as own, _opened(home / "children.lock") as shared:
            _claim(own, home)
            asyncio.run(_Supervisor(settings, environ, announce, commands, shared).run())
    except OSError as error:
        raise TreadleError(f"Treadle cannot run: {error}.") from error


class _Supervisor:
    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        announce: Callable[[str], None],
        commands: Mapping[str, Sequence[str]],
        children_lock: int,
    ) -> None:
        self._settings, self._announce, self._commands = settings, announce, commands
        self._children_lock = children_lock
        self._postgres = None if settings.database_url else Embedded(settings.treadle_home)
        self._lifeline, self._held = os.pipe()  # the write end is held, never written to, and closed by our death
        self._environ = {
            **environ,
            "TREADLE_HOME": str(settings.treadle_home.resolve()),
            VARIABLE: str(self._lifeline),
        }
        self._children: dict[str, Process] = {}
        self._tasks: list[asyncio.Task[Any]] = []
        self._api_deaths = 0
        self._database_up = asyncio.Event()
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Start everything and keep it going until asked to stop; whatever happens, stop everything."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, self._ask_to_stop)
        up, stop = self._task(self._up()), self._task(self._stop.wait())
        try:
            await asyncio.wait({up, stop}, return_when=asyncio.FIRST_COMPLETED)
            if up.done():
                up.result()
        finally:
            await self._down()

    async def _up(self) -> None:
        await self._start_postgres()
        await self._wait_for_address()
        self._task(self._take_children_lock())
        keepers = [self._task(self._keep_postgres(self._postgres))] if self._postgres else []
        await self._migrate()
        keepers.append(self._task(self._keep("api", "serve")))
        keepers += [self._task(self._keep(f"worker-{n + 1}", "work")) for n in range(self._settings.workers)]
        await self._wait_for_api()
        self._announce(_greeting(self._settings))
        await asyncio.gather(*keepers)

    async def _down(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        children = [child for child in self._children.values() if child.returncode is None]
        for child in children:
            with suppress(ProcessLookupError):
                child.terminate()
        ends, hurry = asyncio.create_task(_ends(children)), asyncio.create_task(self._hurry.wait())
        patience = self._settings.shutdown_grace + MARGIN
        await asyncio.wait({ends, hurry}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if hurry.done():  # asked twice: so are they, and hand back what they have
            for child in children:
                with suppress(ProcessLookupError):
                    child.terminate()
            await asyncio.wait({ends}, timeout=HURRY)
        hurry.cancel()
        for child in children:
            if child.returncode is None:
                log.warning("killing process %d, which did not stop", child.pid)
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
        await ends
        if self._postgres:
            self._postgres.stop()
        os.close(self._lifeline)
        os.close(self._held)

    async def _start_postgres(self) -> None:
        if self._postgres:
            self._postgres.launch()
            while not self._postgres.ready():  # noqa: ASYNC110 - another process cannot set our events
                await asyncio.sleep(0.1)
        self._database_up.set()

    async def _wait_for_address(self) -> None:
        """Until the API can have its port; only processes of the previous run are waited for."""
        deadline = time.monotonic() + self._settings.shutdown_grace + MARGIN
        told = False
        while True:
            try:
                address.check_free(self._settings.host, self._settings.port)
                return
            except ConfigError:
                if _locked(self._children_lock) or time.monotonic() > deadline:
                    raise
            if not told:
                self._announce("waiting for the previous run to give the port back")
                told = True
            await asyncio.sleep(0.1)

    async def _take_children_lock(self) -> None:
        """Workers of the previous run may go on beside ours, draining; after them the lock is our children's."""
        while not _locked(self._children_lock):  # noqa: ASYNC110 - another process cannot set our events
            await asyncio.sleep(0.5)

    async def _migrate(self) -> None:
        """Wait for a database that is away, as API and workers do; whatever else is wrong with it ends us."""
        delays = _Delays()
        delays.begin()
        status = await (await self._spawn("migrate", "migrate")).wait()
        if status == os.EX_TEMPFAIL:
            log.warning("the database is away: the migration waits for it")
        while status == os.EX_TEMPFAIL:
            await asyncio.sleep(delays.next())
            await self._database_up.wait()
            delays.begin()
            again = await self._spawn("migrate", "migrate", stderr=asyncio.subprocess.PIPE)
            _, said = await again.communicate()
            if (status := again.returncode or 0) != os.EX_TEMPFAIL:  # the same words each time would be noise
                sys.stderr.write(said.decode(errors="replace"))
        if status:
            raise ConfigError(f"The migration ended with {_described(status)}; nothing was started.")

    async def _keep(self, name: str, command: str) -> None:
        """Run one child, and start it again whenever it ends, each time after a longer delay."""
        delays = _Delays()
        while True:
            await self._database_up.wait()
            delays.begin()
            try:
                child = await self._spawn(name, command)
                ended = f"(pid {child.pid}) ended with {_described(await child.wait())}"
            except OSError as error:
                ended = f"cannot be started: {error}"
            self._api_deaths += name == "api"
            delay = delays.next()
            log.warning("%s %s; next start in %g s", name, ended, delay)
            await asyncio.sleep(delay)

    async def _keep_postgres(self, postgres: Embedded) -> None:
        delays = _Delays()
        while True:
            await asyncio.sleep(0.5)
            postgres.trim_log()
            if postgres.alive():
                continue
            self._database_up.clear()
            delay = delays.next()
            log.warning("postgres (pid %s) ended; next start in %g s", postgres.pid, delay)
            await asyncio.sleep(delay)
            delays.begin()
            try:
                await self._start_postgres()
                log.warning("postgres (pid %s) runs again", postgres.pid)
            except ConfigError as error:
                log.error("postgres: %s", error)

    async def _spawn(self, name: str, command: str, *, stderr: int | None = None) -> Process:
        """Start a child in a session of its own: the terminal's Ctrl-C is for us alone."""
        database_url = self._postgres.dsn if self._postgres else str(self._settings.database_url)
        child = await asyncio.create_subprocess_exec(
            *self._commands[command],
            env={**self._environ, "DATABASE_URL": database_url, "TREADLE_SLOT": name},
            pass_fds=(self._lifeline, self._children_lock),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
        self._children[name] = child
        return child

    async def _wait_for_api(self) -> None:
        while not await asyncio.to_thread(address.answers, self._settings.host, self._settings.port):
            if self._api_deaths >= API_CHANCES:
                raise ConfigError(f"The API ended {API_CHANCES} times before it answered.")
            await asyncio.sleep(0.1)

    def _ask_to_stop(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
            return
        self._stop.set()
        with suppress(OSError):  # the terminal may be gone
            self._announce("stopping; once more to stop at once")

    def _task(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        self._tasks.append(task)
        return task


class _Delays:
    """The growing delays before the next start of one thing."""

    def __init__(self) -> None:
        self._delay, self._began = FIRST_DELAY, 0.0

    def begin(self) -> None:
        self._began = time.monotonic()

    def next(self) -> float:
        if time.monotonic() - self._began > HEALTHY:
            self._delay = FIRST_DELAY
        delay, self._delay = self._delay, min(self._delay * 2, LONGEST_DELAY)
        return delay


async def _ends(children: Iterable[Process]) -> None:
    for child in children:
        await child.wait()


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A lock file, made for the owner of its folder; no link is followed."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        if os.geteuid() == 0:
            folder = path.parent.stat()
            os.fchown(file, folder.st_uid, folder.st_gid)
        yield file
    finally:
        os.close(file)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _claim(file: int, home: Path) -> None:
    if not _locked(file):
        raise ConfigError(f"Treadle already runs in {home}, by process {os.pread(file, 20, 0).decode().strip()}.")
    os.ftruncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode(), 0)


def _described(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _greeting(settings: Settings) -> str:
    url = address.url(settings.host, settings.port)
    treadle = "treadle" if shutil.which("treadle") else os.path.relpath(Path(sys.executable).with_name("treadle"))
    return f"""
Treadle runs; Ctrl-C stops it.
  API    {url}
  docs   {url}/docs
  SQL    {treadle} psql

Try it:
  curl -s {url}/messages -H 'content-type: application/json' \\
    -d '{{"message": "hello from treadle", "metadata": {{"delay_ms": 200}}}}'
  curl -N {url}/messages/<message_id>/stream
"""
