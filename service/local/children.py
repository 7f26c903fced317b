"""The child processes of the supervisor: how they start, start again after growing delays, are replaced, and stop."""

import asyncio
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections import Counter, defaultdict
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

from service.local.parent_watch import PARENT_PIPE_VARIABLE, READY_PIPE_VARIABLE, SLOT_VARIABLE
from service.waiting import wait_for

log = logging.getLogger(__name__)

PYTHON = (sys.executable, "-m")
COMMANDS: Mapping[str, Sequence[str]] = {
    **{name: (*PYTHON, "service.cli", name) for name in ("migrate", "serve", "work")},
    "agents": (*PYTHON, "service.local.agent_files"),
}
FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.2, 10.0  # until something that ended is started again
HEALTHY_SECONDS = 30.0  # of life after which an end counts as the first again
READY_SECONDS = 60.0  # that a child gets until it can take the place of another one
SECOND_SIGNAL_SECONDS = 3.0  # that children get after the second signal


class _ReadyPipe:
    """A pipe on which a child tells that it does its work; `heard` is set then."""

    def __init__(self) -> None:
        self._read_end, self.write_end = os.pipe()
        self.heard = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._read_end, self._hear)

    def _hear(self) -> None:
        if os.read(self._read_end, 1):
            self.heard.set()
        asyncio.get_running_loop().remove_reader(self._read_end)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._read_end)
        os.close(self._read_end)
        os.close(self.write_end)


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

    def __init__(
        self,
        environ: Mapping[str, str],
        commands: Mapping[str, Sequence[str]],
        children_lock: int,
        *,
        patience_seconds: float,
    ) -> None:
        self._commands, self._children_lock, self._patience_seconds = commands, children_lock, patience_seconds
        # The write end is never written to: the kernel closes it when this process ends.
        self._pipe, self._write_end = os.pipe()
        self._environ = {**environ, PARENT_PIPE_VARIABLE: str(self._pipe)}
        self._processes: dict[str, Process] = {}
        self._replaced: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)  # by the name of a child
        self._asked: defaultdict[str, list[asyncio.Future[bool]]] = defaultdict(list)  # the callers of `replace`
        self._leaving: dict[asyncio.Task[None], tuple[str, Process]] = {}  # children that were replaced and still run
        self.database_url = ""  # for children that start from now on
        self.ends: Counter[str] = Counter()  # of each name so far

    async def spawn(
        self,
        name: str,
        command: str,
        *,
        stdout: int | None = None,
        stderr: int | None = None,
        ready: "_ReadyPipe | None" = None,
    ) -> Process:
        """Start a child in a session of its own: a Ctrl-C in the terminal reaches only the supervisor."""
        environ = {**self._environ, "DATABASE_URL": self.database_url, SLOT_VARIABLE: name}
        pipes = [self._pipe, self._children_lock]
        if ready is not None:
            environ[READY_PIPE_VARIABLE] = str(ready.write_end)
            pipes.append(ready.write_end)
        child = await asyncio.create_subprocess_exec(
            *self._commands[command],
            env=environ,
            pass_fds=pipes,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        self._processes[name] = child
        return child

    async def keep(self, name: str, command: str, may_start: asyncio.Event) -> None:
        """Run one child, and start it again whenever it ends, each time after a longer delay. When it is replaced, a
        new one takes its place."""
        delays, replaced = RestartDelays(), self._replaced[name]
        while True:
            await may_start.wait()
            delays.begin()
            replaced.clear()
            try:
                child = await self.spawn(name, command)
                self._answer(name, replaced=True)
                while await _is_first(replaced.wait(), child.wait()):
                    replaced.clear()
                    child = await self._succeed(name, command, child)
                ended = f"(pid {child.pid}) ended with {described(await child.wait())}"
            except OSError as error:
                ended = f"cannot be started: {error}"
            self.ends[name] += 1
            seconds = delays.next()
            log.warning("%s %s; next start in %g s", name, ended, seconds)
            await wait_for(replaced, seconds)

    async def replace(self, names: Iterable[str]) -> bool:
        """Start new children of these names now. Once one is ready, the old one of its name ends what it does; if it
        ends before, the old one goes on. Returns whether all were replaced."""
        waiting = []
        for name in names:
            waiting.append(asyncio.get_running_loop().create_future())
            self._asked[name].append(waiting[-1])
            self._replaced[name].set()
        return all(await asyncio.gather(*waiting))

    def _answer(self, name: str, *, replaced: bool) -> None:
        for waiting in self._asked.pop(name, ()):
            if not waiting.done():
                waiting.set_result(replaced)

    async def _succeed(self, name: str, command: str, old: Process) -> Process:
        """Start a child in the place of another one; returns the one that goes on."""
        former = f"{name} (former)"
        self._processes[former] = old
        with closing(_ReadyPipe()) as ready:
            try:
                new = await self.spawn(name, command, ready=ready)
                failed = await self._failure(new, ready)
            except OSError as error:
                new, failed = old, f"cannot be started: {error}"
        del self._processes[former]
        if failed is None:
            self._dismiss(name, old)
        else:
            log.warning("the new %s %s; the one before it (pid %d) goes on", name, failed, old.pid)
            self._processes[name] = old
        self._answer(name, replaced=failed is None)
        return new if failed is None else old

    async def _failure(self, new: Process, ready: "_ReadyPipe") -> str | None:
        """Wait until a new child is ready; what happened if it is not."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                if await _is_first(ready.heard.wait(), new.wait()):
                    return None
            return f"(pid {new.pid}) ended with {described(await new.wait())} before it was ready"
        except TimeoutError:
            kill(new)
            await new.wait()
            return f"(pid {new.pid}) was not ready within {READY_SECONDS:g} seconds"

    def _dismiss(self, name: str, child: Process) -> None:
        """Terminate a child, and each earlier one of its name once more, so that it hands its work back at once."""
        _terminate([*(old for of, old in self._leaving.values() if of == name), child])
        task = asyncio.create_task(self._see_off(child))
        self._leaving[task] = name, child
        task.add_done_callback(self._leaving.pop)

    async def _see_off(self, child: Process) -> None:
        try:
            async with asyncio.timeout(self._patience_seconds):
                await child.wait()
        except TimeoutError:
            kill(child)
            await child.wait()

    async def stop(self, hurry: asyncio.Event) -> None:
        """Terminate all children and wait for them; those that do not stop in time, or after `hurry`, are killed."""
        leaving = [child for _, child in self._leaving.values()]
        for task in self._leaving:
            task.cancel()
        running = [child for child in self._processes.values() if child not in leaving]
        _terminate(running)
        children = [child for child in (*running, *leaving) if child.returncode is None]
        ends, hurried = asyncio.create_task(_wait_for_all(children)), asyncio.create_task(hurry.wait())
        await asyncio.wait({ends, hurried}, timeout=self._patience_seconds, return_when=asyncio.FIRST_COMPLETED)
        if hurried.done():  # the second SIGTERM makes a worker release its messages at once
            _terminate(children)
            await asyncio.wait({ends}, timeout=SECOND_SIGNAL_SECONDS)
        hurried.cancel()
        for child in children:
            if child.returncode is None:
                kill(child)
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


def kill(child: Process) -> None:
    log.warning("killing process %d, which did not stop", child.pid)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


async def _is_first(first: Coroutine[Any, Any, Any], second: Coroutine[Any, Any, Any]) -> bool:
    """Wait for one of the two; whether it is the first."""
    tasks = [asyncio.create_task(coroutine) for coroutine in (first, second)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return not tasks[1].done()
    finally:
        for task in tasks:
            task.cancel()


async def _wait_for_all(children: Sequence[Process]) -> None:
    for child in children:
        await child.wait()
