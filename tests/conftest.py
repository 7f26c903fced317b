"""Fixtures: one private PostgreSQL for the run, a migrated template database, and clones of it, each lent to one test
at a time; APIs and workers on the clone, in the test's own event loop, on loopback."""

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

pytest.register_assert_rewrite("tests.support")  # before any of it is imported
# Bytecode is kept: without it, each process of a run, and each that a test starts, compiles every module again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
gc.disable()  # until the tests are collected: the imports would be searched for garbage again and again

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service import logs
from service.agents.builtin.echo import echo
from service.agents.registry import Registry
from service.cli import env_file
from service.config import Settings
from service.db import connection as opening
from service.db.pool import Connection, Database
from service.queues.store import QueueStore
from service.worker import event_buffer
from service.worker.worker import Worker
from tests.support.api_client import Client
from tests.support.api_server import api_server
from tests.support.cli_runner import Cli, invoke
from tests.support.databases import CONNECT_SECONDS, Databases, patient
from tests.support.fixture_types import RegisterAgents, StartApi, StartWorker
from tests.support.postgres_server import postgres_of_the_run
from tests.support.scripted_agent import ScriptedAgent
from tests.support.scripted_model import ScriptedModel
from tests.support.sql_client import SqlClient, connect_sql, open_sql_client
from tests.support.waiting import LIMIT_SECONDS, until
from tests.support.workers import make_worker
from treadle import Agent

MAX_PROCESSES = 8  # of one run: more would need more connections than the server allows
# For how long an API waits for what takes milliseconds, before it answers otherwise. A busy machine may stop a process
# for longer than these few seconds.
PATIENCE = (
    "service.api.pools.LIST_SECONDS",
    "service.api.pools.HEALTH_SECONDS",
    "service.sockets.admission.FIRST_FRAME_SECONDS",
    "service.protocols.a2a.calls.CANCEL_SECONDS",
    "service.protocols.openai.responses.CANCEL_SECONDS",
)

_running = contextlib.ExitStack()
opening.CONNECT_TIMEOUT_SECONDS = CONNECT_SECONDS


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """`-n auto` is two processes for each core, because most tests wait for other processes most of their time."""
    return min(2 * (os.cpu_count() or 1), MAX_PROCESSES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first, so that none of them runs alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """Let collections of garbage pass over what the imports left: a million objects that live as long as the run."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    """The controller starts the server and tells its address to the workers of xdist."""
    # A shell lets the jobs in its background ignore SIGINT, and the processes that tests start would inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    workerinput = getattr(config, "workerinput", None)
    if workerinput is not None:
        config.stash[_SERVER] = workerinput["treadle_server"]
        return
    server = _running.enter_context(postgres_of_the_run())
    config.stash[_SERVER] = f"postgresql://treadle@127.0.0.1:{server.port}"
    if config.getoption("numprocesses", None):  # meanwhile the workers collect the tests
        threading.Thread(target=_make_template, args=(config.stash[_SERVER],), daemon=True).start()


_SERVER = pytest.StashKey[str]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["treadle_server"] = node.config.stash[_SERVER]


def pytest_unconfigure() -> None:
    _running.close()


def _make_template(server: str) -> None:
    with contextlib.suppress(Exception), contextlib.closing(Databases(server)) as databases:
        databases.make_template()  # the first process that needs it tries again, and tells the error


@pytest.fixture(scope="session")
def databases(pytestconfig: pytest.Config) -> Iterator[Databases]:
    with contextlib.closing(Databases(pytestconfig.stash[_SERVER])) as databases:
        databases.make_template()
        yield databases


@pytest.fixture
def dsn(databases: Databases, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a migrated database of this test's own. It is new where the test has the marker `new_database`;
    otherwise other tests had it before, which leave nothing behind but dead rows and idle sessions."""
    is_new = request.node.get_closest_marker("new_database") is not None
    with databases.clone() if is_new else databases.lend() as dsn:
        yield dsn


@pytest.fixture
def empty_dsn(databases: Databases) -> Iterator[str]:
    """The address of an empty database."""
    with databases.empty() as dsn:
        yield dsn


@pytest.fixture
def settings(dsn: str) -> Settings:
    """Settings with short intervals, so that polling is quick."""
    return Settings(
        database_url=patient(dsn),
        port=0,
        poll_interval=0.2,
        heartbeat_interval=0.5,
        worker_timeout=20.0,
        retry_base_seconds=0.05,
        webhook_concurrency=0,
        shutdown_grace=5.0,
    )


@pytest.fixture(autouse=True)
def chunks_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process each chunk is an event of its own, as it is where nothing delays the appends: so tests can count
    the words of echo. tests/worker/test_event_buffer.py has those where chunks are joined."""
    monkeypatch.setattr(event_buffer, "CHUNK_CHARS", 0)


@pytest.fixture(autouse=True)
def patient_apis(monkeypatch: pytest.MonkeyPatch) -> None:
    """The APIs in this process wait as long as a test does. A test of such a limit sets its own."""
    for name in PATIENCE:
        monkeypatch.setattr(name, LIMIT_SECONDS)


@pytest.fixture
def patient_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """An API that stops gives open requests as long as a test does to tell their clients so."""
    monkeypatch.setattr("service.api.app.GRACEFUL_STOP_SECONDS", LIMIT_SECONDS)


@pytest.fixture
async def sql(dsn: str) -> AsyncIterator[Connection]:
    """A plain connection that decodes jsonb."""
    connection = await connect_sql(dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def sql_client(sql: Connection, dsn: str) -> AsyncIterator[SqlClient]:
    """A client and a worker in SQL, on the connection `sql`, with the agent echo registered."""
    async with open_sql_client(sql, dsn) as client:
        yield client


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    database = Database(patient(dsn), name="test", size=4)
    yield database
    await database.close()


@pytest.fixture
async def start_api(settings: Settings) -> AsyncIterator[StartApi]:
    """Start an API (a replica, when called again); settings by name change it. Returns its client."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**changes: Any) -> Client:
            server = await stack.enter_async_context(api_server(settings, **changes))
            return await stack.enter_async_context(Client(server.url))

        yield start


@pytest.fixture
async def start_worker(settings: Settings) -> AsyncIterator[StartWorker]:
    """Start a worker with these agents (echo, if none); settings by name change it. It drains at the end of the
    test. `all_chores`: its janitor also does those that nothing in most tests waits for (tests/support/workers.py)."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(*agents: Agent, all_chores: bool = False, **changes: Any) -> Worker:
            own = msgspec.structs.replace(settings, **changes)
            worker = make_worker(own, *(agents or (echo,)), all_chores=all_chores)
            task = asyncio.create_task(worker.run())

            async def stop() -> None:
                worker.stop()
                worker.stop()  # at once
                await task

            stack.push_async_callback(stop)
            await until(lambda: worker.ready or task.done())
            return worker

        yield start


@pytest.fixture
async def register_agents(database: Database, settings: Settings) -> RegisterAgents:
    """Register agents (echo, if none) without a worker, so that messages stay queued."""

    async def register(*agents: Agent) -> None:
        await QueueStore(database).register_agents(Registry(settings, agents or (echo,)).rows(), None)

    return register


@pytest.fixture
async def api(start_api: StartApi, register_agents: RegisterAgents) -> Client:
    """An API with the agent echo registered and no worker."""
    await register_agents()
    return await start_api()


@pytest.fixture
async def api_with_worker(start_api: StartApi, start_worker: StartWorker) -> Client:
    """An API and a worker with the agent echo."""
    await start_worker()
    return await start_api()


@pytest.fixture
def script() -> ScriptedAgent:
    """An agent that emits what the test tells it to."""
    return ScriptedAgent()


@pytest.fixture
async def scripted_api(start_api: StartApi, start_worker: StartWorker, script: ScriptedAgent) -> Client:
    """An API and a worker with the agents echo and script."""
    await start_worker(echo, script.agent)
    return await start_api()


@pytest.fixture
def model() -> ScriptedModel:
    """A scripted model for the resolver. It records its requests."""
    return ScriptedModel()


@pytest.fixture
async def resolver_api(start_api: StartApi, start_worker: StartWorker, model: ScriptedModel) -> Client:
    """An API and a worker with the agents echo, resolver and clarifier, which ask the scripted model."""
    await start_worker(echo, *model.agents)
    return await start_api()


@pytest.fixture
def cli_without_database(monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command of `treadle` beside the test's loop; settings by name are its environment."""
    monkeypatch.setattr(logs, "configure", lambda *_: None)  # pytest has its own
    monkeypatch.setattr(env_file, "FILE", Path("no/such/file"))  # a developer may have one
    return invoke


@pytest.fixture
def cli(cli_without_database: Cli, dsn: str) -> Cli:
    """The same, on the test's database."""
    return lambda *arguments, **settings: cli_without_database(*arguments, **{"DATABASE_URL": dsn, **settings})


@pytest.fixture
def exporter() -> "InMemorySpanExporter":
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: "InMemorySpanExporter") -> "TracerProvider":
    """Makes spans as the service does, and exports each at its end."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    from service.spans import DerivedIds

    provider = TracerProvider(id_generator=DerivedIds())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider
