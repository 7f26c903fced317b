"""The worker: claims messages, runs their agents side by side on one loop, finishes them in batches.

Everything it holds in memory can be lost.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

from service.config import Settings
from service.db import schema
from service.db.listener import Listener
from service.db.notifier import Notifier
from service.db.pool import Database
from service.errors import TreadleError
from service.leases.model import HeartbeatReport, Verdict
from service.leases.store import LeaseStore
from service.limits import WEBHOOK_AGENT
from service.maintenance.janitor import Janitor
from service.queues.store import QueueStore
from service.schemas.sandboxed.checks import SchemaChecks
from service.worker.deliveries.agent import Deliverer
from service.worker.execution import AttemptServices
from service.worker.follow_topics import follow_topics
from service.worker.heartbeat import Heartbeat, resident_bytes
from service.worker.lines import Lines
from service.worker.persistence import persist
from service.worker.report_instances import report_instances

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
RELEASE_SECONDS = 5.0
WATCHED_HEARTBEATS = 2  # intervals to wait at the start, at most, until the janitors watch this worker's lock


class Worker:
    """Register, claim until stopped, drain, release the rest. Implements service.worker.heartbeat.HeartbeatSource."""

    def __init__(
        self,
        *,
        worker_id: str,
        settings: Settings,
        database: Database,
        notifier: Notifier,
        listener: Listener,
        store: LeaseStore,
        lines: Lines,
        deliverer: Deliverer | None,
        heartbeat: Heartbeat,
        janitor: Janitor,
        services: AttemptServices,
        schema_checks: SchemaChecks,
    ) -> None:
        self.worker_id = worker_id
        self._settings = settings
        self._database = database
        self._notifier = notifier
        self._listener = listener
        self._store = store
        self._lines = lines
        self._deliverer = deliverer
        self._heartbeat = heartbeat
        self._janitor = janitor
        self._services = services
        self._schema_checks = schema_checks
        self._stopping = asyncio.Event()
        self._is_watched = asyncio.Event()  # a heartbeat has said that the listener holds the worker's lock
        self._started_at = datetime.now(UTC)
        self._loop = asyncio.get_running_loop()
        self.loop_ran_at = time.monotonic()
        self._abandoned_threads = 0

    @property
    def ready(self) -> bool:
        """Whether it has registered its agents and listens for hints."""
        return self._listener.connected.is_set()

    @property
    def running(self) -> tuple[int, int]:
        """How many messages it runs, and how many it may run at once."""
        return len(self._lines), self._places

    @property
    def held_characters(self) -> int:
        """Of the messages and memories that it holds. At MAX_HELD_CHARACTERS it claims nothing."""
        return self._lines.held_characters

    @property
    def _places(self) -> int:
        return self._settings.worker_concurrency + self._settings.webhook_concurrency

    @property
    def pools(self) -> tuple[Database, ...]:
        return (self._database,)

    def stop(self) -> None:
        """Claim no more; end what runs, or release it after SHUTDOWN_GRACE. The second call releases it at once."""
        if self._stopping.is_set():
            self._lines.release_all()
        self._stopping.set()
        self._lines.stop()

    async def run(self, tell_ready: Callable[[], None] = lambda: None) -> None:
        """Work until `stop` is called and all attempts have ended or were released. `tell_ready` is called before the
        first claim."""
        if not await self._register():
            await self._database.close()
            return
        self._services.os_threads.serve(self._loop)
        self._heartbeat.start(self)
        following = follow_topics(self._database, self._services.registry.topics)
        interval = self._settings.heartbeat_interval
        reporting = report_instances(self.worker_id, self._store, self._services.instances.warm, interval)
        jobs = (self._listener.run(), self._janitor.run(), self._tick(), following, reporting)
        background_tasks = [asyncio.create_task(self._do(job)) for job in jobs]
        log.info("worker started", extra={"worker_id": self.worker_id, "queues": ",".join(self._lines.queues)})
        try:
            await self._wait_until_watched()
            tell_ready()
            await self._lines.claim()
            await self._drain()
        finally:
            for task in background_tasks:
                task.cancel()
            await asyncio.gather(*background_tasks, return_exceptions=True)
            await self._close()
            log.info("worker stopped", extra={"worker_id": self.worker_id})

    def report(self) -> HeartbeatReport:
        return HeartbeatReport(
            worker=self.worker_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            queues=self._lines.queues,
            concurrency=self._settings.worker_concurrency,
            started_at=self._started_at,
            server_started=self._listener.server_started,
            leases=self._lines.leases,
            agents=[*self._services.registry.names, *([] if self._deliverer is None else [WEBHOOK_AGENT])],
            memory_bytes=resident_bytes(),
            tenants=self._settings.tenants,
        )

    @property
    def is_claiming(self) -> bool:
        return self._lines.is_claiming

    def receive_answer(self, report: HeartbeatReport, verdicts: Sequence[Verdict]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            if report.server_started is not None and not self._is_watched.is_set():
                self._loop.call_soon_threadsafe(self._is_watched.set)
            if verdicts:
                self._loop.call_soon_threadsafe(self._lines.obey, verdicts)

    async def _register(self) -> bool:
        """Register the agents, as soon as PostgreSQL answers; False if `stop` was called before."""
        queues = QueueStore(self._database)

        async def register() -> None:
            await schema.require(self._database)
            self._services.instances.secret = await self._store.instance_secret()
            if self._deliverer is not None:
                await self._deliverer.offer()
            default = self._settings.default_agent
            if former := await queues.register_agents(self._services.registry.rows(), default):
                log.warning("DEFAULT_AGENT differs between workers", extra={"former": former, "now": default})

        registering = asyncio.create_task(persist("register agents", register))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({registering, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not registering.done():
            registering.cancel()
            return False
        await registering
        return True

    async def _wait_until_watched(self) -> None:
        """Claim nothing before the janitors of others would notice this worker's death within seconds.

        Without a listener they cannot: then a silent worker is dead after WORKER_TIMEOUT, and this waits no longer.
        """
        waits = {asyncio.create_task(self._is_watched.wait()), asyncio.create_task(self._stopping.wait())}
        seconds = WATCHED_HEARTBEATS * self._settings.heartbeat_interval
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()

    async def _do(self, job: Coroutine[Any, Any, None]) -> None:
        """A worker without one of its jobs would claim on, so it stops: its supervisor starts another one."""
        try:
            await job
        except Exception:
            log.critical("a background job of the worker has failed: stopping", exc_info=True)
            if not self._stopping.is_set():  # else that would release what runs
                self.stop()

    async def _tick(self) -> None:
        while True:
            self.loop_ran_at = time.monotonic()
            self._services.instances.drop_idle()
            self._watch_threads()
            await asyncio.sleep(TICK_SECONDS)

    def _watch_threads(self) -> None:
        """A thread cannot be killed: a worker whose places are all taken by sync functions that hang ends."""
        before, self._abandoned_threads = self._abandoned_threads, self._services.os_threads.abandoned
        if self._abandoned_threads > before:
            extra = {"threads": self._abandoned_threads, "of": self._settings.worker_concurrency}
            log.warning("sync functions outlive their attempts and keep their places", extra=extra)
        if not len(self._lines) and self._abandoned_threads >= self._settings.worker_concurrency:
            log.critical("sync functions that do not end hold every place: stopping")
            self.stop()

    async def _drain(self) -> None:
        if attempts := len(self._lines):
            extra = {"messages": attempts, "seconds": self._settings.shutdown_grace}
            log.info("waiting for running attempts", extra=extra)
        await self._lines.wait_for_end(self._settings.shutdown_grace)
        self._lines.release_all()
        await self._lines.wait_for_end(RELEASE_SECONDS)

    async def _close(self) -> None:
        await self._heartbeat.stop()
        if self._stopping.is_set():  # else it ends by an accident, which counts as a loss for what runs
            with contextlib.suppress(TreadleError):
                await self._store.sign_off(self.worker_id)
        await self._notifier.flush()
        await self._schema_checks.close()
        await self._database.close()
        await self._services.instances.close()
        self._services.os_threads.close()
        if self._services.isolation is not None:
            await self._services.isolation.close()
