"""Child processes for texts of clients whose libraries may take hours, hold the GIL, or use up the memory.

A child answers one question after the other, each within a limit of processor time, and has a limit of memory. Beyond
these only the child ends.
"""

import asyncio
import contextlib
import logging
import math
import os
import resource
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable

from service.errors import Busy, SandboxAway
from service.places import Places

log = logging.getLogger(__name__)

MAX_MEMORY_BYTES = 500_000_000  # of addresses: a child that has read nothing yet has about 50 MB
PATIENCE_SECONDS = 10.0  # for a place
START_SECONDS = 60.0
SILENCE_SECONDS = 60.0  # of a child, which the limit of processor time should have ended long before
MAX_LOGGED_CHARS = 300

READY_BYTE = b"+"
DEFECT_STATUS = 70  # of a child that ends by an error of the code, not by a limit
# A child knows no secret: it reads what others wrote.
ENVIRONMENT = ("PATH", "LANG", "TMPDIR", "VIRTUAL_ENV")
ENVIRONMENT_BEGINS = ("PYTHON", "LC_", "LD_", "DYLD_")
LENGTH = struct.Struct("!I")


class BeyondLimits(Exception):
    """A question goes beyond the limits. The text says why: "it takes ..."."""


class Sandbox:
    """Up to `most` children that run `module`, which calls `serve`. They start when they are needed, and end with this
    process."""

    def __init__(self, module: str, *, cpu_seconds: int, most: int) -> None:
        self._module = module
        self._cpu_seconds = cpu_seconds
        self._free: list[_Child] = []
        self._busy: set[_Child] = set()
        self._closed = False
        self._children = asyncio.Semaphore(most)
        self._tenants = Places(1)

    async def ask(self, tenant: str, make_question: Callable[[], bytes]) -> bytes:
        """The answer. Each tenant has one question answered at a time; its question is made then, so that those that
        wait hold nothing. Raises BeyondLimits, Busy if other questions take long, and SandboxAway."""
        async with contextlib.AsyncExitStack() as places:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._tenants.enter(tenant)
                    places.callback(self._tenants.leave, tenant)
                    await places.enter_async_context(self._children)
            except TimeoutError:
                raise Busy("Checks of other schemas take long: try again.") from None
            if self._closed:
                raise SandboxAway("This process is ending: try again.")
            question = make_question()
            if self._free:
                with contextlib.suppress(_Died):  # of what it read before, or of a signal
                    return await self._answer(self._free.pop(), question)
            try:
                return await self._answer(await _start(self._module, self._cpu_seconds), question)
            except _Died as died:
                raise died.problem from None

    async def close(self) -> None:
        """End the children, also those that are asked just now."""
        self._closed = True
        for child in self._busy:
            child.kill()
        while self._free:
            await self._free.pop().end()

    async def _answer(self, child: "_Child", question: bytes) -> bytes:
        self._busy.add(child)
        try:
            if self._closed:  # while the child started
                raise SandboxAway("This process is ending: try again.")
            return await child.answer(question)
        except _Died as died:
            if self._closed:
                raise SandboxAway("This process is ending: try again.") from None
            if died.status != -signal.SIGXCPU:
                raise
            raise BeyondLimits(f"it takes more than {self._cpu_seconds} seconds of processor time") from None
        finally:
            self._busy.discard(child)
            if child.is_free and not self._closed:
                self._free.append(child)
            else:
                await child.end()


class _Died(Exception):
    """A child ended before it answered. `status`: its exit code, or the negative number of a signal."""

    def __init__(self, status: int) -> None:
        self.status = status

    @property
    def problem(self) -> Exception:
        if self.status in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT):
            return SandboxAway("The process that checks schemas was ended: try again.")
        if self.status == DEFECT_STATUS:
            return BeyondLimits("its check failed; the log says why")
        return BeyondLimits("it needs too much memory, or is nested too deeply")


class _Child:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.is_free = False

    async def answer(self, question: bytes) -> bytes:
        """Raises _Died. After any error the child is not free."""
        self.is_free = False
        questions, answers = self._process.stdin, self._process.stdout
        assert questions is not None
        assert answers is not None
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                questions.write(LENGTH.pack(len(question)) + question)
                await questions.drain()
                (length,) = LENGTH.unpack(await answers.readexactly(LENGTH.size))
                answer = await answers.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            raise _Died(await self._status()) from None
        except TimeoutError:
            raise SandboxAway("The process that checks schemas does not answer: try again.") from None
        self.is_free = True
        return answer

    async def wait_for_start(self) -> None:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._process.stdout.readexactly(len(READY_BYTE))
        except asyncio.IncompleteReadError:
            await self._status()
            raise SandboxAway("The process that checks schemas cannot be started; the log says why.") from None
        except TimeoutError:
            raise SandboxAway("The process that checks schemas does not start in time: try again.") from None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def end(self) -> None:
        if self._process.returncode is None:
            self.kill()
        await self._process.communicate()  # closes the pipes

    async def _status(self) -> int:
        """How it ended; the log has what it said."""
        _, said = await self._process.communicate()
        status = self._process.returncode
        assert status is not None
        text = said.decode(errors="replace").strip()[-MAX_LOGGED_CHARS:]
        log.warning("a process that checks schemas has ended", extra={"status": status, "said": text})
        return status


async def _start(module: str, cpu_seconds: int) -> _Child:
    """Raises SandboxAway."""
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", module, str(cpu_seconds)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for its parent
            env={name: value for name, value in os.environ.items() if _is_passed_on(name)},
        )
    except OSError as error:
        raise SandboxAway(f"The process that checks schemas cannot be started: {error.strerror}.") from None
    child = _Child(process)
    try:
        await child.wait_for_start()
    except BaseException:
        await child.end()
        raise
    return child


def _is_passed_on(name: str) -> bool:
    return name in ENVIRONMENT or name.startswith(ENVIRONMENT_BEGINS)


def serve(answer: Callable[[bytes], bytes]) -> None:
    """The child: answers until its parent closes the pipe."""
    cpu_seconds = int(sys.argv[1])
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit(resource.RLIMIT_AS, MAX_MEMORY_BYTES)
    answers.write(READY_BYTE)
    answers.flush()
    while head := questions.read(LENGTH.size):
        question = questions.read(*LENGTH.unpack(head))
        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + cpu_seconds)
        try:
            answered = answer(question)
        except (MemoryError, RecursionError):
            raise
        except Exception:
            traceback.print_exc()
            sys.exit(DEFECT_STATUS)
        answers.write(LENGTH.pack(len(answered)) + answered)
        answers.flush()


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    with contextlib.suppress(ValueError, OSError):  # a lower limit holds already; macOS has none of memory
        resource.setrlimit(kind, (most, hard))
