"""What runs in an agent's own process: the same call as in a worker, its context backed by the worker at the other end
of a socket. It never touches the database."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import uvloop

from service.agents.registry import Registry
from service.config import Settings
from service.leases.store import Child, EventToAppend, Recorded
from service.queues.model import Claim
from service.threads.store import Exchange, UnderWay
from service.worker.context import Backing, call_step
from service.worker.invoke import call
from service.worker.isolation import ipc
from service.worker.outcome import Outcome, unknown
from service.worker.sync_agents import SyncRunner

PR_SET_PDEATHSIG = 1


def main(channel: socket.socket, settings: Settings, agents: Registry) -> None:
    """Run one agent and say how it ended. Does not return: when the worker closes the channel, or is gone, this process
    ends, and with it all that the agent has started in its process group."""
    _ask_the_kernel()

    async def live() -> None:
        reader, writer = await asyncio.open_unix_connection(sock=channel)
        if (claim := await ipc.read(reader, ipc.CLAIM)) is not None:
            await _serve(claim, reader, writer, settings, agents)
        os.killpg(0, signal.SIGKILL)  # from inside: the loop would wait for what ignores its cancellation

    uvloop.run(live())


def _ask_the_kernel() -> None:
    """On Linux: short of memory, to end this process and not the worker; and to end it when its parent, the nursery, is
    killed, for then nobody is left who would, should the agent block."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


async def _serve(
    claim: Claim, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, settings: Settings, agents: Registry
) -> None:
    """Begin, and listen to the worker for as long as it is there."""
    link = _Link(writer)
    agent = agents.get(claim.agent)
    if agent is None:  # the modules have changed since the worker read them
        ipc.write(writer, ipc.Ended(unknown(claim.agent, claim.attempt, settings)))
    else:
        backing = Backing(link.put, link.save, link, link.park, link.count, lambda: link.stopped, call_step)
        task = asyncio.create_task(call(agent, claim, backing, settings, SyncRunner(1)))
        task.add_done_callback(link.ended)
    while (said := await ipc.read(reader, ipc.FROM_WORKER)) is not None:
        if isinstance(said, ipc.Answer):
            link.answered(said)
        else:
            link.stopped = True
            if agent is not None and agent.is_async:  # a sync one is to look at context.cancelled
                task.cancel()


class _Link:
    """The way to the worker: what a context is backed by here."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._asked: deque[asyncio.Future[ipc.Answer]] = deque()
        self.stopped = False

    async def put(self, event: EventToAppend) -> None:
        await self._ask(ipc.Put(event.type, event.data))

    async def save(self, event: EventToAppend) -> None:
        await self._ask(ipc.Put(event.type, event.data, save=True, sends=event.sends))

    def park(self, outcome: Outcome) -> None:
        ipc.write(self._writer, ipc.Park(outcome))

    async def recorded(self, message_id: UUID) -> Recorded:
        return (await self._ask(ipc.LookUpRecorded(message_id))).recorded

    async def exchanges(self, thread: int, before: int, limit: int, tools: bool) -> Sequence[Exchange]:
        return (await self._ask(ipc.LookUpExchanges(thread, before, limit, tools))).exchanges

    async def children(self, message_ids: Sequence[UUID]) -> Sequence[Child]:
        return (await self._ask(ipc.LookUpChildren(list(message_ids)))).children

    async def under_way(self, thread: int) -> UnderWay | None:
        return (await self._ask(ipc.LookUpUnderWay(thread))).under_way

    def count(self, counts: str) -> None:
        """From any thread; said before whatever is said later."""
        self._loop.call_soon_threadsafe(ipc.write, self._writer, ipc.Count(counts))

    def ended(self, task: asyncio.Task[Outcome]) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # whatever the agent made of it
                stream.flush()
        ipc.write(self._writer, ipc.Ended(None if task.cancelled() else task.result()))

    def answered(self, answer: ipc.Answer) -> None:
        question = self._asked.popleft()
        if question.done():  # the agent does not wait for it any more
            return
        if answer.refused is None:
            question.set_result(answer)
        else:
            question.set_exception(RuntimeError(answer.refused))

    async def _ask(self, question: ipc.Question) -> ipc.Answer:
        ipc.write(self._writer, question)  # first: it may be refused as no JSON
        asked: asyncio.Future[ipc.Answer] = self._loop.create_future()
        self._asked.append(asked)
        return await asked
