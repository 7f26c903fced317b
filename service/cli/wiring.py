"""Build a worker from its parts. (service/api/app.py builds the API.)"""

import asyncio
import functools
import os
import socket
from collections.abc import Callable
from uuid import uuid4

import msgspec

from service.agents.os_threads import Threads
from service.agents.registry import Registry
from service.config import Settings
from service.db.availability import Availability
from service.db.listener import Listener
from service.db.notifier import Notifier
from service.db.pool import Database
from service.inputs.store import InputSchemas
from service.leases.model import lease_seconds as seconds_of_lease
from service.leases.store import LeaseStore
from service.limits import WEBHOOK_QUEUE
from service.maintenance.janitor import Janitor
from service.maintenance.store import MaintenanceStore
from service.outbound_filter import OutboundFilter
from service.schemas.records import RecordSchemas
from service.schemas.registry import Registry as SchemaRegistry
from service.schemas.sandboxed.checks import SchemaChecks
from service.schemas.store import SchemaStore
from service.threads.store import ThreadStore
from service.waiting import Alarms
from service.webhooks.store import PostStore
from service.worker.agent_filter import AgentFilter
from service.worker.attempt_queries import StoredAttemptQueries
from service.worker.attempts import Attempts
from service.worker.breakers import Breakers
from service.worker.claimer import Claimer
from service.worker.deliveries.agent import Deliverer
from service.worker.execution import AttemptServices
from service.worker.heartbeat import Heartbeat
from service.worker.hints import ArrivalHints, ReceivedHints
from service.worker.instances import InstanceCache
from service.worker.isolation.parent import Isolation
from service.worker.lines import Line, Lines
from service.worker.stand_in.link import StandIn
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
    availability = Availability()
    database = _connect(settings, dsn, availability)
    notifier = Notifier(database)
    leases = LeaseStore(database, notifier, max_queue_size=settings.max_queue_size)
    traces = make_traces(leases) if make_traces else NoTraces()
    arrivals = ArrivalHints(notifier)
    janitor = Janitor(worker=worker_id, settings=settings, store=MaintenanceStore(database), arrivals=arrivals)
    schema_checks = SchemaChecks()
    services = _attempt_services(worker_id, settings, registry, isolation, database, schema_checks)
    writer = Writer(store=leases, notifier=notifier, janitor=janitor, max_losses=settings.max_losses)
    make_line = functools.partial(_make_line, worker=worker_id, store=leases, writer=writer, traces=traces)
    lines = [make_line(settings=settings, services=services)]
    deliverer = None
    if settings.webhook_concurrency:
        deliverer = _make_deliverer(settings, database)
        own, delivering = _for_deliveries(deliverer, settings, services)
        lines.append(make_line(settings=own, services=delivering))
    arrivals.lines = Lines(lines)
    heartbeat = _make_heartbeat(settings, dsn, availability, with_stand_in=with_stand_in)
    received = ReceivedHints(lines=arrivals.lines, heartbeat=heartbeat, instances=services.instances, janitor=janitor)
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
        lines=arrivals.lines,
        deliverer=deliverer,
        heartbeat=heartbeat,
        janitor=janitor,
        services=services,
        schema_checks=schema_checks,
    )


def _connect(settings: Settings, dsn: str, availability: Availability) -> Database:
    return Database(
        dsn,
        name="worker",
        size=WORKER_CONNECTIONS,
        role="treadle_worker",
        pooler=settings.database_pooler == "transaction",
        availability=availability,
    )


def _make_line(
    *,
    worker: str,
    settings: Settings,
    services: AttemptServices,
    store: LeaseStore,
    writer: Writer,
    traces: Traces,
) -> Line:
    """It claims from the queues of the settings, and has as many places as they say."""
    work = asyncio.Event()
    attempts = Attempts(
        concurrency=settings.worker_concurrency, writer=writer, services=services, work=work, traces=traces
    )
    claimer = Claimer(
        worker=worker,
        settings=settings,
        lease_seconds=seconds_of_lease(settings.worker_timeout),
        store=store,
        attempts=attempts,
        agent_filter=services.agent_filter,
        work=work,
        traces=traces,
    )
    return Line(settings.queues, work, attempts, claimer)


def _make_deliverer(settings: Settings, database: Database) -> Deliverer:
    outbound = OutboundFilter(networks=settings.webhook_networks, http=settings.webhook_http)
    return Deliverer(PostStore(database), outbound, places=settings.webhook_concurrency)


def _make_heartbeat(settings: Settings, dsn: str, availability: Availability, *, with_stand_in: bool) -> Heartbeat:
    lease_seconds = seconds_of_lease(settings.worker_timeout)
    return Heartbeat(
        settings=settings,
        dsn=dsn,
        lease_seconds=lease_seconds,
        availability=availability,
        stand_in=StandIn(settings=settings, dsn=dsn, lease_seconds=lease_seconds) if with_stand_in else None,
    )


def _for_deliveries(
    deliverer: Deliverer, settings: Settings, services: AttemptServices
) -> tuple[Settings, AttemptServices]:
    """What the line of the webhooks has instead of these. Not isolated: after a loss, too, our own code runs."""
    own = msgspec.structs.replace(settings, queues=(WEBHOOK_QUEUE,), worker_concurrency=settings.webhook_concurrency)
    registry = Registry(own, [deliverer.agent])
    return own, msgspec.structs.replace(
        services,
        registry=registry,
        isolation=None,
        agent_filter=AgentFilter(registry.names, services.queries.another_replaces),
    )


def _attempt_services(
    worker_id: str,
    settings: Settings,
    registry: Registry,
    isolation: Isolation | None,
    database: Database,
    schema_checks: SchemaChecks,
) -> AttemptServices:
    queries = StoredAttemptQueries(
        worker=worker_id,
        leases=LeaseStore(database),
        threads=ThreadStore(database),
        inputs=InputSchemas(database),
        records=RecordSchemas(SchemaRegistry(SchemaStore(database), schema_checks)),
    )
    return AttemptServices(
        settings=settings,
        registry=registry,
        queries=queries,
        instances=InstanceCache(),
        os_threads=Threads(settings.worker_concurrency),
        isolation=isolation,
        breakers=Breakers(settings.retry_base_seconds),
        unknown_agents=set(),
        agent_filter=AgentFilter(registry.names, queries.another_replaces),
        alarms=Alarms(),
    )
