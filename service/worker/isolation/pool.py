"""The worker's side of agents that run in processes of their own.

After its first loss a message runs in one. It may have been the one that took its worker down: if it does so again, it
is charged alone. And what nobody can end in the worker, because it blocks or ignores its cancellation, is killed there.
"""

import asyncio
import contextlib
import pickle
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from typing import NamedTuple

from service.config import Settings
from service.leases.store import EventToAppend
from service.queues.model import Claim
from service.worker.context import Backing, Lookups
from service.worker.isolation import ipc
from service.worker.isolation.ipc import EXIT_CODE, READY
from service.worker.outcome import CANCELLED, Outcome, lost

START_SECONDS = 60.0  # which a start may take; the first one imports the agents
# The fork server finds modules where the worker found them.
COMMAND = """\
import sys
sys.path[:] = sys.argv[2:]
from service.worker.isolation.forkserver import main
main(int(sys.argv[1]))
"""


class _Nursery(NamedTuple):
    process: Process
    control: socket.socket


class NoProcess(Exception):
    """No process can be started for an agent. That is no fault of the message."""


class Isolation:
    """Starts children, through a nursery that is itself started when the first one is needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._nursery: _Nursery | None = None
        self._one_by_one = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def child(self) -> AsyncIterator["Child"]:
        """A process that waits for its message; killed at the end of the block, whatever it does then.

        Raises NoProcess.
        """
        with contextlib.ExitStack() as sockets:
            try:
                child = await self._fork(sockets)
            except OSError as error:
                reason = str(error) or type(error).__name__
                raise NoProcess(f"No process can be started for the agent: {reason}.") from error
            yield child

    async def close(self) -> None:
        """End the nursery, and with it every child."""
        if self._nursery is not None:
            self._nursery.control.close()
            await self._nursery.process.wait()

    async def _fork(self, ours: contextlib.ExitStack) -> "Child":
        with contextlib.ExitStack() as theirs:
            channel, its_channel = _pair(ours, theirs)
            leash, its_leash = _pair(ours, theirs)
            async with asyncio.timeout(START_SECONDS), self._one_by_one:
                if self._nursery is None or self._nursery.process.returncode is not None:
                    await self.close()
                    self._nursery = await self._start()
                socket.send_fds(self._nursery.control, [b"+"], [its_channel.fileno(), its_leash.fileno()])
                theirs.close()
                if await asyncio.get_running_loop().sock_recv(leash, 1) != READY:
                    raise ChildProcessError("it was not forked")
        reader, writer = await asyncio.open_unix_connection(sock=channel)
        ours.callback(writer.transport.abort)
        return Child(reader, writer, leash, self._settings)

    async def _start(self) -> _Nursery:
        control, theirs = socket.socketpair()
        with contextlib.ExitStack() as failed:
            failed.callback(control.close)
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-c", COMMAND, str(theirs.fileno()), *sys.path),
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                    start_new_session=True,  # a terminal's Ctrl-C is for the worker alone, which lets children end
                )
            failed.callback(_kill, process)
            said = b""
            with contextlib.suppress(ConnectionError):
                control.sendall(pickle.dumps(self._settings))
                control.setblocking(False)
                said = await asyncio.get_running_loop().sock_recv(control, 1)
            if said != READY:
                raise ChildProcessError(f"the nursery ended with exit code {await process.wait()}")
            failed.pop_all()
        return _Nursery(process, control)


class Child:
    """One process for one attempt."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, leash: socket.socket, settings: Settings
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._leash = leash
        self._settings = settings

    async def run(self, claim: Claim, backing: Backing) -> Outcome:
        """The agent's outcome, or `lost` where its process ended before it did.

        Cancelled, it tells the agent so and waits for its end; cancelled once more, it waits no longer.
        """
        ipc.write(self._writer, claim)
        end = asyncio.create_task(self._end(claim, backing))
        end.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        try:
            outcome = await asyncio.shield(end)
        except asyncio.CancelledError:
            ipc.write(self._writer, ipc.Stop())
            await asyncio.wait({end})
            raise
        finally:
            end.cancel()
        return outcome

    async def _end(self, claim: Claim, backing: Backing) -> Outcome:
        talk = asyncio.create_task(self._talk(backing))
        death = asyncio.create_task(self._death())
        try:
            # Its death is learned from the leash: what the agent has started may keep the channel open.
            await asyncio.wait({talk, death}, return_when=asyncio.FIRST_COMPLETED)
            if talk.done() and (ended := talk.result()) is not None:
                return ended.outcome or CANCELLED
            return lost(await death, claim.losses, self._settings)
        finally:
            talk.cancel()
            death.cancel()

    async def _talk(self, backing: Backing) -> ipc.Ended | None:
        """Do what the child asks until its agent has ended; None where it says nothing more."""
        while (said := await ipc.read(self._reader, ipc.FROM_CHILD)) is not None:
            match said:
                case ipc.Put(type, data, save, sends):
                    await (backing.save if save else backing.put)(EventToAppend(type, data, sends))
                    ipc.write(self._writer, ipc.Answer())
                case ipc.Count(counts):
                    backing.count(counts)
                case ipc.Park(outcome):
                    backing.park(outcome)
                case ipc.Ended():
                    return said
                case _:
                    ipc.write(self._writer, await _look_up(said, backing.lookups))
        return None

    async def _death(self) -> int | None:
        """The exit code, negative for a signal; None where the nursery died, too."""
        code = await asyncio.get_running_loop().sock_recv(self._leash, EXIT_CODE.size)
        return EXIT_CODE.unpack(code)[0] if code else None


async def _look_up(asked: ipc.LookUp, lookups: Lookups) -> ipc.Answer:
    try:
        match asked:
            case ipc.LookUpRecorded(message_id):
                return ipc.Answer(recorded=await lookups.recorded(message_id))
            case ipc.LookUpExchanges(thread, before, limit, tools):
                return ipc.Answer(exchanges=list(await lookups.exchanges(thread, before, limit, tools)))
            case ipc.LookUpChildren(message_ids):
                return ipc.Answer(children=list(await lookups.children(message_ids)))
            case ipc.LookUpUnderWay(thread):
                return ipc.Answer(under_way=await lookups.under_way(thread))
    except Exception as error:  # of the question: it is the agent's to deal with
        return ipc.Answer(refused=f"{type(error).__name__}: {error}")


def _pair(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    """Our end of a connection and the other one, each closed by its stack."""
    one, other = socket.socketpair()
    one.setblocking(False)
    ours.callback(one.close)
    theirs.callback(other.close)
    return one, other


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
