"""Run the processes: all of them, the API, a worker, and the job that migrates."""

import asyncio
import contextlib
import functools
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

import click
import uvloop

from service import life_log, open_files, outbound
from service.cli import common
from service.config import Settings
from service.errors import ConfigError, TreadleError
from service.limits import STOP_MARGIN_SECONDS
from service.local.parent_watch import SLOT_VARIABLE, follow_supervisor, readiness
from service.terminal import visible_line

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from service.leases.store import LeaseStore
    from service.protocols.leases.traces import MakeTraces
    from service.worker.traces import Traces
    from service.worker.worker import Worker

log = logging.getLogger(__name__)


@click.command()
@click.option("--reload", is_flag=True, help="Replace the workers when a file of the agents changes.")
@click.pass_obj
def up(settings: Settings, reload: bool) -> None:
    """Run PostgreSQL, the API and the workers until Ctrl-C.

    One supervisor restarts whatever of them dies. With DATABASE_URL set, that server is used.

    With --reload, a change in a file of AGENTS or AGENT_TEMPLATES, or in one that these import, replaces the workers.
    Once new ones are ready, the old ones end what they run, within SHUTDOWN_GRACE. If a module cannot be imported, the
    old workers go on.

    \b
    Examples:
      treadle up
      treadle up --reload
      PORT=9000 WORKERS=4 treadle up
    """
    from service.local import supervisor

    outbound.check(os.environ)
    open_files.raise_limit()
    supervisor.run(settings, os.environ, _announce, reload=reload)


@click.command()
@click.pass_obj
def serve(settings: Settings) -> None:
    """Run the API on HOST and PORT.

    \b
    Example:
      DATABASE_URL=postgresql://me@db/treadle HOST=0.0.0.0 treadle serve
    """
    from service.api.app import Api
    from service.local import address

    if settings.jwt_jwks:  # it is fetched
        outbound.prepare(os.environ)
    address.check_free(settings.host, settings.port)
    follow_supervisor(os.environ, settings.shutdown_grace + STOP_MARGIN_SECONDS)

    async def run() -> None:
        with life_log.writing(), tracing_remote() as make_traces:
            await Api(settings, common.dsn(settings), make_traces=make_traces).serve()

    _collect_rarely()
    open_files.raise_limit()
    uvloop.run(run())


@click.command()
@click.pass_obj
def work(settings: Settings) -> None:
    """Run one worker; SIGTERM drains it.

    It claims messages from QUEUES and runs up to WORKER_CONCURRENCY of them at once, with the agents of the modules
    that AGENTS names. On SIGTERM or Ctrl-C it takes no more and lets them end; after SHUTDOWN_GRACE seconds, or on the
    second signal, it releases them.

    \b
    Examples:
      treadle work
      AGENTS=examples.summarise QUEUES=default,slow treadle work
    """
    from service.agents import registry
    from service.agents.adapters.frameworks import is_installed
    from service.cli.wiring import build_worker
    from service.worker.isolation.parent import Isolation

    outbound.prepare(os.environ)
    follow_supervisor(os.environ, settings.shutdown_grace + STOP_MARGIN_SECONDS)
    tell_ready = readiness(os.environ)

    async def run() -> None:
        agents = registry.load(settings)
        for key in sorted(set(agents.keyless.values())):
            if own := [
                name for name, its in agents.keyless.items() if its == key and name not in registry.KEYED_AGENTS
            ]:
                log.warning("agents are left out: %s is not set", key, extra={"agents": ",".join(own)})
        if settings.openai_api_key and not is_installed("openai"):
            log.warning("the agent openai is left out: run pip install 'treadle[openai]'")
        with tracing() as make_traces:
            worker = build_worker(
                settings,
                common.dsn(settings),
                agents,
                isolation=Isolation(settings),
                with_stand_in=True,
                make_traces=make_traces,
            )
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, worker.stop)
            with life_log.writing(), _metrics(settings, worker, agents.names), _ending_on_bugs():
                await worker.run(tell_ready)
        _end_at_once(0)

    _collect_rarely()
    open_files.raise_limit()
    uvloop.run(run())


@contextlib.contextmanager
def _ending_on_bugs() -> Iterator[None]:
    """End a worker that breaks: another one takes its place."""
    try:
        yield
    except TreadleError:
        raise
    except (Exception, asyncio.CancelledError):  # an agent may cancel all tasks of the loop
        log.critical("the worker broke", exc_info=True)
        _end_at_once(1)


def _end_at_once(status: int) -> None:
    """An agent that ignores its end, in a thread or on the loop, must not keep the process alive."""
    with contextlib.suppress(OSError, ValueError):  # an agent may have closed it
        sys.stderr.flush()
    os._exit(status)


@click.command()
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.pass_obj
def migrate(settings: Settings, dry_run: bool) -> None:
    """Bring the database to this release, and create the topics and subscriptions of the file of TREADLE_CONFIG.

    Run it before the other processes of a new release; old ones go on meanwhile. Running it again does no harm. Workers
    register the agents. Where PostgreSQL is away the exit code is 75: try again later.

    \b
    Examples:
      DATABASE_URL=postgresql://owner@db/treadle treadle migrate
      TREADLE_CONFIG=treadle.yaml treadle migrate --dry-run
    """
    from service.cli import declarations
    from service.db.migrate import migrate as run_migration
    from service.db.migrate import pending
    from service.tenants.store import TenantStore

    declared = declarations.read(os.environ.get("TREADLE_CONFIG"))
    if dry_run:
        changes = uvloop.run(pending(common.dsn(settings)))
        if changes.is_empty:
            lines = declarations.created(declared)
        else:
            lines = common.ask(settings, lambda database: declarations.apply(database, declared, dry_run=True))
        click.echo("\n".join([*changes.lines, *map(visible_line, lines)]) or "Nothing would change.")
        return
    uvloop.run(run_migration(common.dsn(settings)))
    limits = {
        "queued": settings.tenant_queued,
        "running": settings.tenant_running,
        "per_minute": settings.tenant_per_minute,
        "bytes_per_day": settings.tenant_bytes_per_day,
        "store_bytes": settings.tenant_store_bytes,
    }
    common.ask(settings, lambda database: TenantStore(database).declare_limits(limits, settings.max_queue_size))
    for line in common.ask(settings, lambda database: declarations.apply(database, declared, dry_run=False)):
        click.echo(visible_line(line))
    click.echo("The database is ready.")


@contextlib.contextmanager
def _exporting(service: str) -> Iterator["TracerProvider | None"]:
    """What makes spans, if OTEL_EXPORTER_OTLP_ENDPOINT is set. The last ones are sent at the end."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        yield None
        return
    try:
        from service.spans import new_provider

        provider = new_provider(service)
    except ImportError:
        raise ConfigError("OTEL_EXPORTER_OTLP_ENDPOINT: traces need the extra otel of treadle.") from None
    try:
        yield provider
    finally:
        provider.shutdown()


@contextlib.contextmanager
def tracing() -> Iterator["Callable[[LeaseStore], Traces] | None"]:
    """What makes the worker's traces."""
    with _exporting("treadle-worker") as provider, contextlib.ExitStack() as ends:
        if provider is None:
            yield None
            return
        from service.worker.otel import OtelTraces

        def make(leases: "LeaseStore") -> "Traces":
            traces = OtelTraces(provider, leases.trace_parents)
            ends.enter_context(traces.listening())
            return traces

        yield make


@contextlib.contextmanager
def tracing_remote() -> Iterator["MakeTraces | None"]:
    """What makes the traces of remote workers in an API process. It starts also without the extra `otel`: the variable
    may be set for all processes."""
    with contextlib.ExitStack() as ends:
        try:
            provider = ends.enter_context(_exporting("treadle-api"))
        except ConfigError as error:
            log.warning("the API exports no traces of remote workers: %s", error)
            provider = None
        if provider is None:
            yield None
            return
        from service.protocols.leases.otel import OtelRemoteTraces

        yield functools.partial(OtelRemoteTraces, provider)


@contextlib.contextmanager
def _metrics(settings: Settings, worker: "Worker", agents: Collection[str]) -> Iterator[None]:
    """Serve the worker's metrics where METRICS_PORT is set. The workers of `treadle up` take one port after another,
    and one that replaces another waits for its port."""
    if settings.metrics_port is None:
        yield
        return
    from service.metrics.exposition import new_registry
    from service.metrics.process import ProcessMetrics
    from service.metrics.server import serving

    _, _, number = os.environ.get(SLOT_VARIABLE, "").rpartition("worker-")
    port = settings.metrics_port + (int(number) - 1 if number and settings.metrics_port else 0)
    metrics = ProcessMetrics(pools=worker.pools, agents=agents, worker=worker)
    with metrics.listening(), serving(new_registry(metrics), settings.metrics_host, port, waits=bool(number)):
        yield


def _announce(line: str) -> None:
    with contextlib.suppress(OSError):  # the reader of the output has gone; the processes go on
        click.echo(line)


def _collect_rarely() -> None:
    """Look for garbage cycles less often: we make hardly any, and looking took an eighth of a busy worker's time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
