"""The child processes of the supervisor: how they start, start again after growing delays, and stop."""

import asyncio
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress

from service.local.parent_watch import PARENT_PIPE_VARIABLE, SLOT_VARIABLE

log = logging.getLogger(__name__)

COMMANDS = {name: (sys.executable, "-m", "service.cli", name) for name in ("migrate", "serve", "work")}
FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.2, 10.0  # until something that ended is started again
HEALTHY_SECONDS = 30.0  # of life after which an end counts as the first again
SECOND_SIGNAL_SECONDS = 3.0  # that children get after the second signal


class RestartDelays:
    """The growing delays before the next start of one child."""

    def __init__(self) -> None:
        self._next_seconds, self._began = FIRST_DELAY_SECONDS, 0.0

    def begin(self) -> None:
        """Call it at each start."""
        self._began = time.monotonic()

    def next(self) -> float:
        """Seconds to wait now that the child has ended."""
        if time.monotonic() - self._began > HEALTHY_SECONDS:
            self._next_seconds = FIRST_DELAY_SECONDS
        seconds, self._next_seconds = self._next_seconds, min(self._next_seconds * 2, LONGEST_DELAY_SECONDS)
        return seconds


class Children:
    """The children by name. They inherit the lock file `children_lock`, and a pipe that tells them of our death."""

    def __init__(self, environ: Mapping[str, str], commands: Mapping[str, Sequence[str]], children_lock: int) -> None:
        self._commands, self._children_lock = commands, children_lock
        # The write end is never written to: the kernel closes it when this process ends.
        self._pipe, self._write_end = os.pipe()
        self._environ = {**environ, PARENT_PIPE_VARIABLE: str(self._pipe)}
        self._processes: dict[str, Process] = {}
        self.database_url = ""  # for children that start from now on
        self.ends: Counter[str] = Counter()  # of each name so far

    async def spawn(self, name: str, command: str, *, stderr: int | None = None) -> Process:
        """Start a child in a session of its own: a Ctrl-C in the terminal reaches only the supervisor."""
        child = await asyncio.create_subprocess_exec(
            *self._commands[command],
            env={**self._environ, "DATABASE_URL": self.database_url, SLOT_VARIABLE: name},
            pass_fds=(self._pipe, self._children_lock),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
        self._processes[name] = child
        return child

    async def keep(self, name: str, command: str, may_start: asyncio.Event) -> None:
        """Run one child, and start it again whenever it ends, each time after a longer delay."""
        delays = RestartDelays()
        while True:
            await may_start.wait()
            delays.begin()
            try:
                child = await self.spawn(name, command)
                ended = f"(pid {child.pid}) ended with {described(await child.wait())}"
            except OSError as error:
                ended = f"cannot be started: {error}"
            self.ends[name] += 1
            seconds = delays.next()
            log.warning("%s %s; next start in %g s", name, ended, seconds)
            await asyncio.sleep(seconds)

    async def stop(self, patience_seconds: float, hurry: asyncio.Event) -> None:
        """Terminate all children and wait for them; those that do not stop in time, or after `hurry`, are killed."""
        children = [child for child in self._processes.values() if child.returncode is None]
        _terminate(children)
        ends, hurried = asyncio.create_task(_wait_for_all(children)), asyncio.create_task(hurry.wait())
        await asyncio.wait({ends, hurried}, timeout=patience_seconds, return_when=asyncio.FIRST_COMPLETED)
        if hurried.done():  # the second SIGTERM makes a worker release its messages at once
            _terminate(children)
            await asyncio.wait({ends}, timeout=SECOND_SIGNAL_SECONDS)
        hurried.cancel()
        for child in children:
            if child.returncode is None:
                log.warning("killing process %d, which did not stop", child.pid)
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
        await ends
        os.close(self._pipe)
        os.close(self._write_end)


def described(status: int) -> str:
    """How a process ended, for a sentence."""
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _terminate(children: Sequence[Process]) -> None:
    for child in children:
        with suppress(ProcessLookupError):
            child.terminate()


async def _wait_for_all(children: Sequence[Process]) -> None:
    for child in children:
        await child.wait()
