"""What runs in an agent's own process: the same call as in a worker, with a context that reaches the worker through a
socket. It never touches the database."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import uvloop

from service import telemetry
from service.agents.os_threads import Threads
from service.agents.registry import Registry
from service.agents.thread_bridge import call_anywhere
from service.config import Settings
from service.leases.model import Claim, EarlierResults, EventToAppend, Outcome, SentMessage
from service.schemas.model import CheckedRecord
from service.telemetry import TRACE_PARENT
from service.threads.store import StoredExchange, StoredTurn
from service.worker.invoke import invoke
from service.worker.isolation import ipc
from service.worker.outcome import unknown

PR_SET_PDEATHSIG = 1


def main(channel: socket.socket, settings: Settings, agents: Registry) -> None:
    """Run one agent and report its outcome. Does not return: when the worker closes the channel or dies, this process
    ends, and with it everything that the agent has started in its process group."""
    _prepare_process()

    async def live() -> None:
        reader, writer = await asyncio.open_unix_connection(sock=channel)
        if (start := await ipc.read(reader, ipc.START_DECODER)) is not None:
            _continue_trace(start.trace_parent)
            await _serve(start.claim, reader, writer, settings, agents)
        os.killpg(0, signal.SIGKILL)  # from inside: the loop would wait for an agent that ignores its cancellation

    uvloop.run(live())


def _prepare_process() -> None:
    """On Linux: if memory runs out, the kernel kills this process and not the worker. If the fork server dies, the
    kernel kills this process: nothing else would kill a blocked agent."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _continue_trace(trace_parent: str | None) -> None:
    """What the agent sends and calls continues the trace of the attempt, and so do instrumented libraries."""
    TRACE_PARENT.set(trace_parent)
    if trace_parent is not None:
        with contextlib.suppress(ImportError):  # the worker has it; the agent may have broken it
            from opentelemetry import context
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            context.attach(TraceContextTextMapPropagator().extract({"traceparent": trace_parent}))


async def _serve(
    claim: Claim, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, settings: Settings, agents: Registry
) -> None:
    """Start the agent, and listen to the worker until it closes the channel."""
    link = WorkerLink(writer)
    link.tell_moments()
    agent = agents.get(claim.agent)
    if agent is None:  # the modules have changed since the worker read them
        ipc.write(writer, ipc.Ended(unknown(claim.agent, claim.attempt, settings)))
    else:
        threads = Threads(settings.worker_concurrency)
        threads.serve(asyncio.get_running_loop())
        task = asyncio.create_task(invoke(agent, claim, link, settings, threads))
        task.add_done_callback(link.report_end)
    while (frame := await ipc.read(reader, ipc.FROM_WORKER_DECODER)) is not None:
        if isinstance(frame, ipc.Reply):
            link.receive(frame)
        else:
            link.stopped = True
            if agent is not None and agent.is_async:  # a sync agent has to look at context.cancelled
                task.cancel(frame.reason)


class WorkerLink:
    """The way to the worker. Implements ContextBackend, EventSink and AttemptQueries of service.worker.context.backend:
    each call becomes a frame."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._requests: deque[asyncio.Future[ipc.Reply]] = deque()
        self.stopped = False

    @property
    def events(self) -> "WorkerLink":
        return self

    @property
    def queries(self) -> "WorkerLink":
        return self

    async def put(self, event: EventToAppend) -> None:
        await self._request(ipc.Put(event.type, event.data))

    async def save(self, event: EventToAppend) -> None:
        await self._request(ipc.Put(event.type, event.data, save=True, sends=event.sends))

    async def earlier_results(self, message_id: UUID) -> EarlierResults:
        return (await self._request(ipc.QueryEarlierResults(message_id))).earlier_results

    async def exchanges(
        self, thread: int, before: int, limit: int, tools: bool, max_bytes: int | None
    ) -> Sequence[StoredExchange]:
        return (await self._request(ipc.QueryExchanges(thread, before, limit, tools, max_bytes))).exchanges

    async def children(self, asker: UUID, message_ids: Sequence[UUID]) -> Sequence[SentMessage]:
        return (await self._request(ipc.QueryChildren(asker, list(message_ids)))).children

    async def turn_in_progress(self, thread: int) -> StoredTurn | None:
        return (await self._request(ipc.QueryTurnInProgress(thread))).turn_in_progress

    async def take_incoming(self, message_id: UUID, lease: UUID) -> Sequence[Any]:
        return (await self._request(ipc.QueryIncoming(message_id, lease))).incoming

    async def use_store(self, message_id: UUID, lease: UUID, calls: str) -> list[Any] | None:
        return (await self._request(ipc.QueryStore(message_id, lease, calls))).store

    async def misfit(self, agent: str | None, message: Any) -> str | None:
        return (await self._request(ipc.QueryMisfit(agent, message))).misfit

    async def check_record(self, tenant: str, topic: str, value: Any) -> CheckedRecord:
        return (await self._request(ipc.QueryRecord(tenant, topic, value))).record

    def park(self, outcome: Outcome) -> None:
        self.stopped = True
        ipc.write(self._writer, ipc.Park(outcome))

    def count(self, usage: str, step: str) -> None:
        """From any thread; the frame goes before all later ones."""
        self._loop.call_soon_threadsafe(ipc.write, self._writer, ipc.Count(usage, step))

    def tell_moments(self) -> None:
        """From now on, tell the worker of the moments that its metrics and traces listen to. From any thread."""

        def tell(moment: ipc.MomentName) -> Callable[..., None]:
            def happened(**measured: Any) -> None:
                measured.pop("work", None)
                self._loop.call_soon_threadsafe(ipc.write, self._writer, ipc.Happened(moment, measured))

            return happened

        for name in get_args(ipc.MomentName):
            getattr(telemetry, name).listen(tell(name))

    async def instance(self, make: Callable[[], Any]) -> Any:
        """Made for this message only: the process ends with it."""
        return await call_anywhere(make)

    def report_end(self, task: asyncio.Task[Outcome]) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the agent may have replaced or closed it
                stream.flush()
        ipc.write(self._writer, ipc.Ended(None if task.cancelled() else task.result()))

    def receive(self, reply: ipc.Reply) -> None:
        request = self._requests.popleft()
        if request.done():  # the agent was cancelled while it waited
            return
        if reply.refused is None:
            request.set_result(reply)
        else:
            request.set_exception(RuntimeError(reply.refused))

    async def _request(self, request: ipc.Request) -> ipc.Reply:
        ipc.write(self._writer, request)  # first: encoding it may fail
        reply: asyncio.Future[ipc.Reply] = self._loop.create_future()
        self._requests.append(reply)
        return await reply
