"""Build a worker from its parts. (service/api/app.py builds the API.)"""

import asyncio
import os
import socket
from collections.abc import Callable
from uuid import uuid4

from service.agents.registry import Registry
from service.config import Settings
from service.db.availability import Availability
from service.db.listener import Listener
from service.db.notifier import Notifier
from service.db.pool import Database
from service.inputs.store import InputSchemas
from service.leases.model import lease_seconds as seconds_of_lease
from service.leases.store import LeaseStore
from service.maintenance.janitor import Janitor
from service.maintenance.store import MaintenanceStore
from service.threads.store import ThreadStore
from service.worker.attempt_queries import StoredAttemptQueries
from service.worker.attempts import Attempts
from service.worker.breakers import Breakers
from service.worker.claimer import Claimer
from service.worker.execution import AttemptServices
from service.worker.heartbeat import Heartbeat
from service.worker.hints import ArrivalHints, ReceivedHints
from service.worker.instances import InstanceCache
from service.worker.isolation.parent import Isolation
from service.worker.stand_in.link import StandIn
from service.worker.threads import Threads
from service.worker.traces import NoTraces, Traces
from service.worker.worker import Worker
from service.worker.writer import Writer

WORKER_CONNECTIONS = 6


def build_worker(
    settings: Settings,
    dsn: str,
    registry: Registry,
    *,
    isolation: Isolation | None = None,
    with_stand_in: bool = False,
    make_traces: Callable[[LeaseStore], Traces] | None = None,
) -> Worker:
    """A worker, in the running loop. Without `isolation`, every agent runs in this process, also after a loss.
    `with_stand_in`: a process of its own sends heartbeats while agent code holds the GIL."""
    worker_id = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
    lease_seconds = seconds_of_lease(settings.worker_timeout)
    availability = Availability()
    database = Database(
        dsn,
        name="worker",
        size=WORKER_CONNECTIONS,
        role="treadle_worker",
        pooler=settings.database_pooler == "transaction",
        availability=availability,
    )
    notifier = Notifier(database)
    leases = LeaseStore(database, max_queue_size=settings.max_queue_size)
    traces = make_traces(leases) if make_traces else NoTraces()
    work = asyncio.Event()  # set when there may be messages to claim
    janitor = Janitor(
        worker=worker_id,
        settings=settings,
        store=MaintenanceStore(database),
        arrivals=ArrivalHints(queues=settings.queues, work=work, notifier=notifier),
    )
    services = _attempt_services(
        worker_id=worker_id, settings=settings, registry=registry, isolation=isolation, database=database
    )
    attempts = Attempts(
        concurrency=settings.worker_concurrency,
        writer=Writer(store=leases, notifier=notifier, janitor=janitor, max_losses=settings.max_losses),
        services=services,
        work=work,
        traces=traces,
    )
    claimer = Claimer(
        worker=worker_id,
        settings=settings,
        lease_seconds=lease_seconds,
        store=leases,
        attempts=attempts,
        work=work,
        traces=traces,
    )
    heartbeat = Heartbeat(
        settings=settings,
        dsn=dsn,
        lease_seconds=lease_seconds,
        availability=availability,
        stand_in=StandIn(settings=settings, dsn=dsn, lease_seconds=lease_seconds) if with_stand_in else None,
    )
    received = ReceivedHints(
        queues=settings.queues,
        work=work,
        attempts=attempts,
        heartbeat=heartbeat,
        instances=services.instances,
        janitor=janitor,
    )
    listener = Listener(
        settings.listen_database_url or dsn,
        received.handlers,
        received.on_connect,
        role="treadle_worker",
        worker=worker_id,
        availability=availability,
    )
    return Worker(
        worker_id=worker_id,
        settings=settings,
        database=database,
        notifier=notifier,
        listener=listener,
        store=leases,
        claimer=claimer,
        attempts=attempts,
        heartbeat=heartbeat,
        janitor=janitor,
        services=services,
    )


def _attempt_services(
    *, worker_id: str, settings: Settings, registry: Registry, isolation: Isolation | None, database: Database
) -> AttemptServices:
    return AttemptServices(
        settings=settings,
        registry=registry,
        queries=StoredAttemptQueries(
            worker=worker_id,
            leases=LeaseStore(database),
            threads=ThreadStore(database),
            inputs=InputSchemas(database),
        ),
        instances=InstanceCache(),
        threads=Threads(settings.worker_concurrency),
        isolation=isolation,
        breakers=Breakers(settings.retry_base_seconds),
        unknown_agents=set(),
    )
