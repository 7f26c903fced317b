"""`treadle up`: a private PostgreSQL, the API and the workers as children of one process that restarts them.

There are two locks in TREADLE_HOME. Only the supervisor holds `supervisor.lock`, so there is one supervisor. Every
child inherits `children.lock`, so it is held until the last of them ends: after a kill -9 of the supervisor its
children drain (see `parent_watch`), and the next supervisor waits for them. PostgreSQL inherits neither; it goes on,
and the next supervisor adopts it.
"""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from service.config import Settings
from service.errors import ConfigError, TreadleError
from service.limits import STOP_MARGIN_SECONDS
from service.local import address, locks
from service.local.children import COMMANDS, Children, RestartDelays, described
from service.local.greeting import greeting
from service.local.private_postgres import PrivatePostgres

if TYPE_CHECKING:
    from service.local.reload import Reload

log = logging.getLogger(__name__)

API_START_ATTEMPTS = 3  # ends of the API before its first answer, after which the supervisor gives up
POSTGRES_CHECK_SECONDS = 0.5  # between two looks at whether PostgreSQL runs


def run(
    settings: Settings,
    environ: Mapping[str, str],
    announce: Callable[[str], None],
    *,
    reload: bool = False,
    commands: Mapping[str, Sequence[str]] = COMMANDS,
    stop_margin_seconds: float = STOP_MARGIN_SECONDS,
) -> None:
    """Run everything until Ctrl-C or SIGTERM (a second one does not wait); raises TreadleError where it cannot.

    `announce` is given the lines for the user. With `reload`, workers are replaced when a file of the agents changes.
    `commands` says how to start each kind of child: migrate, serve, work, and `agents` (service.local.agent_files).
    Children get SHUTDOWN_GRACE and `stop_margin_seconds` to stop.
    """
    try:
        home = settings.treadle_home.resolve()
        home.mkdir(parents=True, exist_ok=True)
        with locks.opened(home / "supervisor.lock") as own, locks.opened(home / "children.lock") as shared:
            locks.claim(own, home)
            postgres = None if settings.database_url else PrivatePostgres(home)
            patience_seconds = settings.shutdown_grace + stop_margin_seconds
            children = Children(
                {**environ, "TREADLE_HOME": str(home)}, commands, shared, patience_seconds=patience_seconds
            )
            supervisor = _Supervisor(
                settings=settings,
                announce=announce,
                postgres=postgres,
                children=children,
                children_lock=shared,
                patience_seconds=patience_seconds,
                reload=_reload(children, announce) if reload else None,
            )
            asyncio.run(supervisor.run())
    except OSError as error:
        raise TreadleError(f"Treadle cannot run: {error}.") from error


def _reload(children: Children, announce: Callable[[str], None]) -> "Reload":
    from service.local.reload import Reload  # only development needs what it imports

    return Reload(children, announce)


class _Supervisor:
    def __init__(
        self,
        *,
        settings: Settings,
        announce: Callable[[str], None],
        postgres: PrivatePostgres | None,
        children: Children,
        children_lock: int,
        patience_seconds: float,
        reload: "Reload | None",
    ) -> None:
        self._settings, self._announce, self._patience_seconds = settings, announce, patience_seconds
        self._postgres, self._children, self._children_lock = postgres, children, children_lock
        self._reload = reload
        self._tasks: list[asyncio.Task[Any]] = []
        self._database_up = asyncio.Event()
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Start everything and keep it running until asked to stop; in every case, stop everything."""
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
        commands = {"api": "serve"} | {f"worker-{n + 1}": "work" for n in range(self._settings.workers)}
        keepers += [self._task(self._children.keep(*child, self._database_up)) for child in commands.items()]
        if self._reload:
            keepers.append(self._task(self._reload.run(commands.keys() - {"api"})))
        await self._wait_for_api()
        await self._wait_for_worker()
        self._announce(greeting(self._settings))
        await asyncio.gather(*keepers)

    async def _down(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._children.stop(self._hurry)
        if self._postgres:
            self._postgres.stop()

    async def _start_postgres(self) -> None:
        if self._postgres:
            self._postgres.launch()
            while not self._postgres.ready():  # noqa: ASYNC110 - another process cannot set our events
                await asyncio.sleep(0.1)
        self._children.database_url = self._postgres.dsn if self._postgres else str(self._settings.database_url)
        self._database_up.set()

    async def _wait_for_address(self) -> None:
        """Wait until the API can have its port, but only for processes of the previous run."""
        deadline = time.monotonic() + self._patience_seconds
        told = False
        while True:
            try:
                address.check_free(self._settings.host, self._settings.port)
                return
            except ConfigError:
                if time.monotonic() > deadline:
                    raise
            if locks.try_lock(self._children_lock):
                address.check_free(self._settings.host, self._settings.port)  # the last of them may have just ended
                return
            if not told:
                self._announce("waiting for the previous run to give the port back")
                told = True
            await asyncio.sleep(0.1)

    async def _take_children_lock(self) -> None:
        """Workers of the previous run may drain beside the new ones; after their end the new children hold the lock."""
        while not locks.try_lock(self._children_lock):  # noqa: ASYNC110 - another process cannot set our events
            await asyncio.sleep(0.5)

    async def _migrate(self) -> None:
        """Wait for a database that is away, as API and workers do; any other failure ends the supervisor."""
        delays = RestartDelays()
        delays.begin()
        status = await (await self._children.spawn("migrate", "migrate")).wait()
        if status == os.EX_TEMPFAIL:
            log.warning("the database is away: the migration waits for it")
        while status == os.EX_TEMPFAIL:
            await asyncio.sleep(delays.next())
            await self._database_up.wait()
            delays.begin()
            again = await self._children.spawn("migrate", "migrate", stderr=asyncio.subprocess.PIPE)
            _, said = await again.communicate()
            if (status := again.returncode or 0) != os.EX_TEMPFAIL:  # the same words each time would be noise
                sys.stderr.write(said.decode(errors="replace"))
        if status:
            raise ConfigError(f"The migration ended with {described(status)}; nothing was started.")

    async def _keep_postgres(self, postgres: PrivatePostgres) -> None:
        delays = RestartDelays()
        while True:
            await asyncio.sleep(POSTGRES_CHECK_SECONDS)
            postgres.trim_log()
            if postgres.alive():
                continue
            self._database_up.clear()
            seconds = delays.next()
            log.warning("postgres (pid %s) ended; next start in %g s", postgres.pid, seconds)
            await asyncio.sleep(seconds)
            delays.begin()
            try:
                await self._start_postgres()
                log.warning("postgres (pid %s) runs again", postgres.pid)
            except ConfigError as error:
                log.error("postgres: %s", error)

    async def _wait_for_api(self) -> None:
        while not await asyncio.to_thread(address.answers, self._settings.host, self._settings.port):
            if self._children.ends["api"] >= API_START_ATTEMPTS:
                raise ConfigError(f"The API ended {API_START_ATTEMPTS} times before it answered: see the log.")
            await asyncio.sleep(0.1)

    async def _wait_for_worker(self) -> None:
        """Wait until a worker has registered its agents, because the API refuses messages before; or until one has
        ended, which the log explains."""
        workers = [f"worker-{n + 1}" for n in range(self._settings.workers)]
        while workers and not any(self._children.ends[worker] for worker in workers):
            if await asyncio.to_thread(address.has_worker, self._settings.host, self._settings.port):
                return
            await asyncio.sleep(0.1)

    def _ask_to_stop(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
            return
        self._stop.set()
        with suppress(OSError):  # the terminal may be closed
            self._announce("stopping; once more to stop at once")

    def _task(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        self._tasks.append(task)
        return task
