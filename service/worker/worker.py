"""The worker: claims, runs attempts side by side on one loop, finishes them in batches; holds nothing that cannot be
lost."""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

import msgspec

from service.agents.registry import Registry
from service.batching import Batcher
from service.config import Settings
from service.db import schema
from service.db.availability import Availability
from service.db.listener import Listener
from service.db.notifier import CANCEL, EVENTS, EVERYTHING, INSTANCES, WORK, Notifier
from service.db.pool import Database
from service.errors import Busy, TooSlow, TreadleError, Unavailable
from service.leases.store import Append, Appended, Finish, Finished, Heartbeat, LeaseStore, Verdict, weight
from service.maintenance.janitor import Janitor
from service.queues.model import Claim
from service.queues.store import QueueStore
from service.threads.store import ThreadStore
from service.waiting import wait_for
from service.worker.attempt import Attempt, Tools
from service.worker.attempt_queries import StoredLookups
from service.worker.heartbeat import Pulse
from service.worker.instances import Instances
from service.worker.isolation.pool import Isolation
from service.worker.sync_agents import SyncRunner

log = logging.getLogger(__name__)

CLAIM_LIMIT = 100
APPEND_LIMIT = 200
WEIGHT = 80_000  # characters of events and result; a batch must stay what PostgreSQL takes within its time
REVERSE_EVERY = 16  # claims, so that the low lane never starves
CONNECTIONS = 6
TICK_SECONDS = 1.0
BUSY_SECONDS = 0.2  # between two looks at a thread that somebody holds

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def _weight(item: Append | Finish) -> int:
    """For how many items it counts in a batch."""
    return 1 + weight(item) // WEIGHT


def _event_hint(claim: Claim) -> str:
    return f"{claim.message_id}:{claim.thread}" if claim.thread else str(claim.message_id)


class Worker:
    """Without `isolation` every agent runs in this process, also after a loss."""

    def __init__(self, settings: Settings, dsn: str, registry: Registry, isolation: Isolation | None = None) -> None:
        self._settings = settings
        self._registry = registry
        self.worker_id = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._lease_seconds = max(60.0, settings.worker_timeout * 6)
        self._started_at = datetime.now(UTC)
        availability = Availability()
        pooler = settings.database_pooler == "transaction"
        self._database = Database(dsn, name="worker", size=CONNECTIONS, pooler=pooler, availability=availability)
        self._notifier = Notifier(self._database)
        self._store = LeaseStore(self._database)
        self._attempts: dict[UUID, Attempt] = {}  # by message
        self._running = 0  # attempts whose agent runs; the others wait for their finish
        self._short = False  # of room: there may be more to claim as soon as an attempt ends
        self._held: dict[UUID, UUID] = {}  # message to lease; copied whole by the heartbeat's thread
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._handing_back = False
        self._claiming_since: float | None = None
        self._seen = time.monotonic()
        self._claims = 0
        self._listener = Listener(
            settings.listen_database_url or dsn,
            {WORK: self._on_work, CANCEL: self._on_cancel, INSTANCES: self._on_instances},
            self._wake.set,
            worker=self.worker_id,
            availability=availability,
        )
        self._loop = asyncio.get_running_loop()
        # Where sync steps of async agents run: asyncio's own has six threads on two cores.
        self._loop.set_default_executor(ThreadPoolExecutor(settings.worker_concurrency, thread_name_prefix="step"))
        self._pulse = Pulse(
            settings,
            dsn,
            self._lease_seconds,
            self._describe,
            lambda: self._claiming_since,
            self._on_verdicts,
            lambda: self._seen,
            availability,
        )
        self._janitor = Janitor(self.worker_id, settings, self._store, self._on_arrivals)
        self._sync = SyncRunner(settings.worker_concurrency)
        self._instances = Instances()
        self._tools = Tools(
            settings,
            registry,
            StoredLookups(self._store, ThreadStore(self._database), self._persist),
            self._instances,
            Batcher(self._append, limit=APPEND_LIMIT, weigh=_weight, again=BUSY_SECONDS),
            Batcher(self._finish, limit=CLAIM_LIMIT, weigh=_weight, again=BUSY_SECONDS),
            self._sync,
            isolation,
            set(),
        )

    @property
    def ready(self) -> bool:
        """Whether it has registered its agents and listens for hints."""
        return self._listener.connected.is_set()

    def stop(self) -> None:
        """Take no more; end what runs, or hand it back after SHUTDOWN_GRACE. The second call hands it back at once."""
        if self._stopping.is_set():
            self._hand_back()
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        """Work until `stop` is called and what ran has ended or was handed back."""
        if not await self._register():
            await self._database.close()
            return
        self._pulse.start()
        chores = [asyncio.create_task(chore) for chore in (self._listener.run(), self._janitor.run(), self._tick())]
        log.info("worker started", extra={"worker_id": self.worker_id, "queues": ",".join(self._settings.queues)})
        try:
            await self._claim_until_stopped()
            await self._drain()
        finally:
            for chore in chores:
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)
            await self._pulse.stop()
            with contextlib.suppress(TreadleError):
                await self._store.sign_off(self.worker_id)
            await self._notifier.flush()
            await self._database.close()
            self._sync.close()
            await self._instances.close()
            if self._tools.isolation is not None:
                await self._tools.isolation.close()
            log.info("worker stopped", extra={"worker_id": self.worker_id})

    async def _register(self) -> bool:
        """Register the agents, as soon as PostgreSQL is there; False where `stop` was called before."""
        queues = QueueStore(self._database)

        async def register() -> None:
            await schema.require(self._database)
            await queues.register(self._registry.rows())

        registering = asyncio.create_task(self._persist("register agents", register))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({registering, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not registering.done():
            registering.cancel()
            return False
        await registering
        return True

    async def _tick(self) -> None:
        """Show the heartbeat's thread that this loop runs."""
        while True:
            self._seen = time.monotonic()
            self._instances.drop_idle()
            if not self._attempts and self._sync.busy >= self._settings.worker_concurrency:
                log.critical("sync agents that do not end hold every thread: stopping")
                self.stop()
            await asyncio.sleep(TICK_SECONDS)

    # Claiming

    async def _claim_until_stopped(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            wanted = min(CLAIM_LIMIT, self._free())
            taken = await self._claim(wanted) if wanted > 0 else []
            for claim in taken:
                self._start(claim)
            self._short = len(taken) >= wanted
            if not self._short or wanted <= 0:
                await wait_for(self._wake, self._settings.poll_interval)

    def _free(self) -> int:
        """How many more to claim. The next are claimed while the last are being finished, but those do not pile up."""
        concurrency = self._settings.worker_concurrency
        # Sync agents that nobody can end keep their places.
        return min(concurrency - max(self._running, self._sync.busy), 2 * concurrency - len(self._attempts))

    async def _claim(self, quantity: int) -> list[Claim]:
        self._claims += 1
        self._claiming_since = time.monotonic()
        try:
            taken = await self._store.claim(
                self.worker_id, self._settings.queues, quantity, self._lease_seconds, self._claims % REVERSE_EVERY == 0
            )
            self._held |= {claim.message_id: claim.lease for claim in taken}
            return taken
        except TreadleError as error:
            log.log(error.log_level, "claim failed", extra={"error": str(error)})
            self._wake.clear()  # wait for the poll, not for what woke us
            return []
        except Exception:
            log.exception("claim failed")
            self._wake.clear()
            return []
        finally:
            self._claiming_since = None

    def _start(self, claim: Claim) -> None:
        if earlier := self._attempts.get(claim.message_id):
            earlier.stop("lost")  # it was taken from us, and we are given it again
        attempt = Attempt(claim, self._tools, self._on_ended)
        self._running += 1
        self._attempts[claim.message_id] = attempt
        if self._handing_back:
            attempt.stop("released")
        self._notifier.hint(EVENTS, _event_hint(claim))
        task = asyncio.create_task(self._run(attempt))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, attempt: Attempt) -> None:
        claim = attempt.claim
        state = "lost"
        try:
            state = await attempt.run()
        except Exception:
            log.exception("an attempt broke", extra={"message_id": str(claim.message_id)})
        finally:
            # A message that was lost and claimed again is another attempt's by now.
            if self._attempts.get(claim.message_id) is attempt:
                del self._attempts[claim.message_id]
                self._held.pop(claim.message_id, None)
            self._has_room()
        if claim.thread is not None:
            self._wake.set()  # its next may be there, also where our finish went through and only its answer was lost
        if state in {"lost", "gap"}:
            log.warning("a lease was lost", extra={"message_id": str(claim.message_id), "attempt": claim.attempt})
            return
        self._notifier.hint(EVENTS, _event_hint(claim))
        limited = (agent := self._registry.get(claim.agent)) is not None and agent.limits.concurrency is not None
        if limited:
            self._wake.set()  # there is room in its queue
        if claim.thread is not None or state == "queued" or limited:  # its thread's next, or what we hand back
            self._notifier.hint(WORK, claim.queue)
        if claim.parent is not None and state != "queued":
            self._janitor.tend(claim.parent)

    def _on_ended(self) -> None:
        self._running -= 1
        self._has_room()

    def _has_room(self) -> None:
        if self._short:
            self._wake.set()

    async def _drain(self) -> None:
        if self._tasks:
            log.info("ending what runs", extra={"messages": len(self._tasks), "seconds": self._settings.shutdown_grace})
            await asyncio.wait(self._tasks, timeout=self._settings.shutdown_grace)
        self._hand_back()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    def _hand_back(self) -> None:
        self._handing_back = True
        for attempt in self._attempts.values():
            attempt.stop("released")

    # What the batchers run

    async def _append(self, batch: Sequence[Append], patient: bool) -> list[Appended | Exception]:
        sends = any(append.sends for append in batch)
        if sends and not patient:
            return await self._apart(batch, [append.sends is None for append in batch], self._append)
        # As with submits: the hint of an append that goes alone travels with its commit.
        claims = [attempt.claim for append in batch if (attempt := self._attempts.get(append.message_id))]
        hint = _event_hint(claims[0]) if len(batch) == len(claims) == 1 and not sends else None
        if sends:
            answers = [await self._persist("append", lambda: self._store.append_and_send(batch[0]))]
        else:
            answers = await self._persist("append", lambda: self._store.append(batch, patient, hint), len(batch))
        if hint is None:
            for claim in claims:
                self._notifier.hint(EVENTS, _event_hint(claim))
        return [Busy("The thread's log is locked.") if answer.status == "busy" else answer for answer in answers]

    async def _finish(self, batch: Sequence[Finish], patient: bool) -> list[Finished | Exception]:
        losses = self._settings.max_losses
        plain = [finish.plain for finish in batch]
        if not all(plain) and not patient:
            return await self._apart(batch, plain, self._finish)
        if not all(plain):
            answers = [await self._persist("conclude", lambda: self._store.conclude(batch[0], losses))]
        else:
            answers = await self._persist("finish", lambda: self._store.finish(batch, patient, losses), len(batch))
        for finish, answer in zip(batch, answers, strict=True):
            if answer.status == "queued" and finish.delay is not None:
                self._janitor.admit_in(finish.delay)
            elif answer.status == "queued" and finish.children:
                self._janitor.tend(finish.message_id)  # they may be over by now
        return [Busy("The thread is locked.") if answer.status == "busy" else answer for answer in answers]

    async def _apart(
        self,
        batch: Sequence[Item],
        plain: Sequence[bool],
        run: Callable[[Sequence[Item], bool], Coroutine[Any, Any, list[Answer | Exception]]],
    ) -> list[Answer | Exception]:
        """Run the plain ones together; the others are Busy, so that each is run on its own, beside the others."""
        together = [item for item, fits in zip(batch, plain, strict=True) if fits]
        answers = iter(await run(together, False) if together else [])
        return [next(answers) if fits else Busy("It goes alone.") for fits in plain]

    async def _persist(self, what: str, call: Callable[[], Coroutine[Any, Any, Answer]], items: int = 1) -> Answer:
        """Repeat the call until PostgreSQL has answered: each can be repeated with the same outcome. One of several
        items that takes too long is not: its batch is to be divided."""
        delay = 0.1
        while True:
            try:
                return await call()
            except Unavailable as error:
                if isinstance(error, TooSlow) and items > 1:
                    raise TimeoutError(str(error)) from error
                log.log(error.log_level, "trying again", extra={"call": what, "error": str(error)})
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2.0)

    # What others tell us

    def _on_work(self, payload: str) -> None:
        if payload == EVERYTHING or not set(self._settings.queues).isdisjoint(payload.split(",")):
            self._wake.set()

    def _on_cancel(self, payload: str) -> None:
        if payload == EVERYTHING or any(str(message_id) in payload for message_id in self._attempts):
            self._pulse.now()

    def _on_instances(self, payload: str) -> None:
        if payload != EVERYTHING:
            self._instances.drop(*msgspec.json.decode(payload, type=tuple[str, str]))

    def _on_arrivals(self) -> None:
        self._wake.set()
        self._notifier.hint(WORK, EVERYTHING)
        self._notifier.hint(EVENTS, EVERYTHING)

    def _on_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        """Called in the heartbeat's thread."""
        if verdicts:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._judge, verdicts)

    def _judge(self, verdicts: Sequence[Verdict]) -> None:
        for verdict in verdicts:
            attempt = self._attempts.get(verdict.message_id)
            if attempt is not None and attempt.claim.lease == verdict.lease:
                attempt.stop(verdict.verdict)

    # What we tell others

    def _describe(self) -> Heartbeat:
        return Heartbeat(
            self.worker_id,
            socket.gethostname(),
            os.getpid(),
            self._settings.queues,
            self._settings.worker_concurrency,
            self._started_at,
            self._listener.server_started,
            self._held.copy(),
        )
