"""The worker's side of agents that run in processes of their own.

A message runs in one after its first loss, because it may have killed its worker: if it kills its process too, only it
is charged. An agent that blocks or ignores its cancellation can be killed there, but not in the worker.
"""

import asyncio
import contextlib
import pickle
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from typing import NamedTuple

from service import telemetry
from service.config import Settings
from service.leases.model import Claim, EventToAppend, Outcome
from service.waiting import retrieve_exception
from service.worker.context.backend import AttemptQueries, ContextBackend
from service.worker.isolation import ipc
from service.worker.isolation.ipc import EXIT_CODE, READY_BYTE
from service.worker.outcome import CANCELLED, lost

START_TIMEOUT_SECONDS = 60.0  # the first start imports the agents
CLOSE_SECONDS = 5.0
# The fork server searches for modules where the worker does.
FORKSERVER_SOURCE = """\
import sys
sys.path[:] = sys.argv[2:]
from service.worker.isolation.forkserver import main
main(int(sys.argv[1]))
"""


class _ForkServer(NamedTuple):
    process: Process
    control: socket.socket


class NoProcess(Exception):
    """No process can be started for an agent; the message is not charged with a failure."""


class Isolation:
    """Starts children through a fork server, which starts with the first child."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._forkserver: _ForkServer | None = None
        self._forking = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def child(self) -> AsyncIterator["ChildProcess"]:
        """A process that waits for its message; it is killed at the end of the block. Raises NoProcess."""
        with contextlib.ExitStack() as sockets:
            try:
                child = await self._fork(sockets)
            except OSError as error:
                reason = str(error) or type(error).__name__
                raise NoProcess(f"No process can be started for the agent: {reason}.") from error
            yield child

    async def close(self) -> None:
        """End the fork server, and with it every child."""
        if self._forkserver is not None:
            self._forkserver.control.close()
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._forkserver.process.wait()
            except TimeoutError:
                _kill(self._forkserver.process)
                await self._forkserver.process.wait()

    async def _fork(self, ours: contextlib.ExitStack) -> "ChildProcess":
        with contextlib.ExitStack() as theirs:
            channel, its_channel = _pair(ours, theirs)
            leash, its_leash = _pair(ours, theirs)
            async with asyncio.timeout(START_TIMEOUT_SECONDS), self._forking:
                if self._forkserver is None or self._forkserver.process.returncode is not None:
                    await self.close()
                    self._forkserver = await self._start()
                socket.send_fds(self._forkserver.control, [b"+"], [its_channel.fileno(), its_leash.fileno()])
                theirs.close()
                if await asyncio.get_running_loop().sock_recv(leash, 1) != READY_BYTE:
                    raise ChildProcessError("it was not forked")
        reader, writer = await asyncio.open_unix_connection(sock=channel)
        ours.callback(writer.transport.abort)
        return ChildProcess(reader, writer, leash, self._settings)

    async def _start(self) -> _ForkServer:
        control, theirs = socket.socketpair()
        with contextlib.ExitStack() as failed:
            failed.callback(control.close)
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-c", FORKSERVER_SOURCE, str(theirs.fileno()), *sys.path),
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                    start_new_session=True,  # a terminal's Ctrl-C must reach only the worker, which drains children
                )
            failed.callback(_kill, process)
            answer = b""
            with contextlib.suppress(ConnectionError):
                control.sendall(pickle.dumps(self._settings))
                control.setblocking(False)
                answer = await asyncio.get_running_loop().sock_recv(control, 1)
            if answer != READY_BYTE:
                raise ChildProcessError(f"the fork server ended with exit code {await process.wait()}")
            failed.pop_all()
        return _ForkServer(process, control)


class ChildProcess:
    """One process for one attempt."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, leash: socket.socket, settings: Settings
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._leash = leash
        self._settings = settings

    async def run(self, claim: Claim, backend: ContextBackend) -> Outcome:
        """The agent's outcome, or `lost` if its process ended before the agent did.

        When cancelled, it tells the agent to stop and waits for its end; when cancelled again, it stops waiting.
        """
        ipc.write(self._writer, ipc.Start(claim, telemetry.TRACE_PARENT.get()))
        end = asyncio.create_task(self._end(claim, backend))
        end.add_done_callback(retrieve_exception)
        try:
            outcome = await asyncio.shield(end)
        except asyncio.CancelledError as error:
            ipc.write(self._writer, ipc.Stop(str(error.args[0]) if error.args else None))
            await asyncio.wait({end})
            raise
        finally:
            end.cancel()
        return outcome

    async def _end(self, claim: Claim, backend: ContextBackend) -> Outcome:
        serving = asyncio.create_task(self._serve(claim, backend))
        death = asyncio.create_task(self._death())
        try:
            # The leash tells of its death: processes that the agent has started may keep the channel open.
            await asyncio.wait({serving, death}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done() and (ended := serving.result()) is not None:
                return ended.outcome or CANCELLED
            return lost(await death, claim.losses, self._settings)
        finally:
            serving.cancel()
            death.cancel()

    async def _serve(self, claim: Claim, backend: ContextBackend) -> ipc.Ended | None:
        """Serve the child's requests until its agent has ended; None if the channel closes before."""
        while (frame := await ipc.read(self._reader, ipc.FROM_CHILD_DECODER)) is not None:
            match frame:
                case ipc.Put(type, data, save, sends):
                    event = EventToAppend(type, data, sends)
                    await (backend.events.save(event) if save else backend.events.put(event))
                    ipc.write(self._writer, ipc.Reply())
                case ipc.Count(usage, step):
                    backend.count(usage, step)
                case ipc.Happened(moment, measured):
                    work = {} if moment == "model_call" else {"work": claim}  # it happens in the attempt's context
                    getattr(telemetry, moment)(**work, **measured)
                case ipc.Park(outcome):
                    backend.park(outcome)
                case ipc.Ended():
                    return frame
                case _:
                    ipc.write(self._writer, await _answer(frame, backend.queries))
        return None

    async def _death(self) -> int | None:
        """The exit code, negative for a signal; None if the fork server died, too."""
        code = await asyncio.get_running_loop().sock_recv(self._leash, EXIT_CODE.size)
        return EXIT_CODE.unpack(code)[0] if code else None


async def _answer(query: ipc.Query, queries: AttemptQueries) -> ipc.Reply:
    try:
        match query:
            case ipc.QueryEarlierResults(message_id):
                reply = ipc.Reply(earlier_results=await queries.earlier_results(message_id))
            case ipc.QueryExchanges(thread, before, limit, tools, max_bytes):
                reply = ipc.Reply(exchanges=list(await queries.exchanges(thread, before, limit, tools, max_bytes)))
            case ipc.QueryChildren(asker, message_ids):
                reply = ipc.Reply(children=list(await queries.children(asker, message_ids)))
            case ipc.QueryTurnInProgress(thread):
                reply = ipc.Reply(turn_in_progress=await queries.turn_in_progress(thread))
            case ipc.QueryIncoming(message_id, lease):
                reply = ipc.Reply(incoming=list(await queries.take_incoming(message_id, lease)))
            case ipc.QueryStore(message_id, lease, calls):
                reply = ipc.Reply(store=await queries.use_store(message_id, lease, calls))
            case ipc.QueryMisfit(agent, message):
                reply = ipc.Reply(misfit=await queries.misfit(agent, message))
            case ipc.QueryRecord(tenant, topic, value):
                reply = ipc.Reply(record=await queries.check_record(tenant, topic, value))
    except Exception as error:  # raised again in the agent's process
        return ipc.Reply(refused=f"{type(error).__name__}: {error}")
    return reply


def _pair(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    """Our end of a connection and the child's, each closed by its stack."""
    our_end, their_end = socket.socketpair()
    our_end.setblocking(False)
    ours.callback(our_end.close)
    theirs.callback(their_end.close)
    return our_end, their_end


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
