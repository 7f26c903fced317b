"""`treadle up --reload`: replaces the workers when a file of the agents changes.

The files are looked at once a second; a hint of the operating system only makes that sooner. Before a worker is
replaced, a process of its own loads the agents: if that fails, the old workers go on. An old worker also goes on until
a new one is ready, because the files may change once more in between.
"""

import asyncio
import logging
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from contextlib import aclosing
from pathlib import Path

import msgspec
from watchfiles import awatch

from service.local.agent_files import Probe
from service.local.children import Children, described, kill

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
PROBE_SECONDS = 60.0
OLD_AGENTS_STAY = "The workers go on with the agents that they have."
PROCESS_NAME = "agents"  # of the process that loads the agents

Stamps = dict[str, tuple[int, int]]  # time of the last change and size of each file that is there


class Reload:
    """`announce` is given a line for each change."""

    def __init__(self, children: Children, announce: Callable[[str], None]) -> None:
        self._children, self._announce = children, announce
        self._files: set[str] = set()
        self._failed = False

    async def run(self, workers: Collection[str]) -> None:
        """Replace these workers after each change, for ever."""
        stamps = await self._probe()
        while True:
            changed = await self._change(stamps)
            stamps = await self._probe()
            is_current = _difference(stamps, _stamps(self._watched())) is None  # else they are loaded again first
            if not self._failed and is_current:
                if await self._children.replace(workers):
                    self._announce(f"{changed} has changed: the workers are replaced")
                else:
                    self._announce(f"{changed} has changed, but new workers cannot start. {OLD_AGENTS_STAY}")

    async def _probe(self) -> Stamps:
        """Load the agents in another process. Returns the stamps of their files from before that. A file that was not
        known then, and that was saved meanwhile, has none: it counts as changed."""
        before, began = _stamps(self._watched()), time.time_ns()
        found = await self._ask()
        self._failed = found.error is not None
        if found.error is not None:
            self._files |= set(found.files)
            self._announce(f"{found.error} {OLD_AGENTS_STAY}")
        else:
            self._files = set(found.files)
        after, ended = _stamps(self._watched()), time.time_ns()
        return {
            file: before.get(file, stamp)
            for file, stamp in after.items()
            if file in before or not began <= stamp[0] <= ended
        }

    async def _ask(self) -> Probe:
        try:
            child = await self._children.spawn(PROCESS_NAME, PROCESS_NAME, stdout=PIPE)
        except OSError as error:  # of a fork, for want of memory or processes
            return Probe([], f"AGENTS: the process that imports the modules cannot be started: {error}.")
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                said, _ = await child.communicate()
        except TimeoutError:
            kill(child)
            await child.wait()
            return Probe([], f"AGENTS: the modules cannot be imported within {PROBE_SECONDS:g} seconds.")
        try:
            return msgspec.json.decode(said, type=Probe)
        except msgspec.DecodeError:
            return Probe(
                [], f"AGENTS: the modules end the process that imports them, with {described(await child.wait())}."
            )

    async def _change(self, before: Stamps) -> str:
        """Wait for a change, and return the name of a file that has changed."""
        while True:
            if changed := _difference(before, _stamps(self._watched())):
                return changed
            try:
                async with aclosing(self._hints()) as hints:
                    async for _ in hints:
                        if changed := _difference(before, _stamps(self._watched())):
                            return changed
            except OSError as error:  # the system has no more watches, or a folder has gone
                log.debug("the files of agents cannot be watched: %s", error)
                await asyncio.sleep(LOOK_SECONDS)

    def _hints(self) -> AsyncGenerator[object, None]:
        """Something after each change in the folders of the files, and at least once in LOOK_SECONDS. Folders are
        watched and not files, because editors put a new file in the place of the old one."""
        folders = {str(Path(file).parent) for file in self._files if Path(file).parent.is_dir()}
        return awatch(
            *({*folders, str(Path.cwd())}),
            recursive=False,
            watch_filter=None,
            yield_on_timeout=True,
            rust_timeout=int(LOOK_SECONDS * 1000),
        )

    def _watched(self) -> set[str]:
        """The agents' files; after a failure all modules beside them, because a missing one may appear."""
        if not self._failed:
            return self._files
        folders = {Path(file).parent for file in self._files} | {Path.cwd()}
        return self._files | {str(file) for folder in folders for file in folder.glob("*.py")}


def _stamps(files: Iterable[str]) -> Stamps:
    found: Stamps = {}
    for file in files:
        try:
            stat = Path(file).stat()
        except OSError:
            continue
        found[file] = (stat.st_mtime_ns, stat.st_size)
    return found


def _difference(before: Stamps, now: Stamps) -> str | None:
    """The name of a file that one of them lacks, or that differs."""
    changed = sorted(file for file in before.keys() | now.keys() if before.get(file) != now.get(file))
    return Path(changed[0]).name if changed else None
