"""Fixtures: one private PostgreSQL for the run, a migrated template in it, a clone of that for each test; an API and
workers on it, in the test's own event loop, on loopback."""

import asyncio
import contextlib
import json
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
from pytest_postgresql import factories

from service import logs
from service.agents.builtin.echo import echo
from service.agents.contract import Agent
from service.agents.registry import Registry
from service.api.app import Api, _Server
from service.config import Settings
from service.db.migrate import migrate
from service.db.pool import Connection, Database
from service.local import postgres as embedded
from service.queues.store import QueueStore
from service.worker.worker import Worker

if TYPE_CHECKING:  # they import this module: at run time only fixtures import them
    from tests.support.cli_runner import Cli
    from tests.support.scripted_team import Journal
    from tests.support.sql_client import Loom
    from tests.support.sse_reader import Script

# What fails there should say what it found, too.
pytest.register_assert_rewrite("loom", "shell", "sockets", "streams", "workshop")

_running = contextlib.ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    """The controller starts the server; workers of xdist are told its port."""
    workerinput = getattr(config, "workerinput", None)
    if workerinput is None:
        server = _running.enter_context(embedded.throwaway(Path(tempfile.mkdtemp(prefix="treadle-tests-"))))
        port = server.port
    else:
        port = workerinput["treadle_port"]
    config.option.postgresql_host = "127.0.0.1"
    config.option.postgresql_port = str(port)
    config.option.postgresql_user = "treadle"
    config.stash[_PORT] = port


_PORT = pytest.StashKey[int]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["treadle_port"] = node.config.stash[_PORT]


def pytest_unconfigure() -> None:
    _running.close()


def _migrate(**address: Any) -> None:
    asyncio.run(migrate(_address(**address)))


def _address(host: str, port: int | str, user: str, dbname: str, **_: Any) -> str:
    return f"postgresql://{user}@{host}:{port}/{dbname}"


template = factories.postgresql_noproc(load=[_migrate])
clone = factories.postgresql("template")


@pytest.fixture
def dsn(clone: Any) -> str:
    """The address of a migrated database of this test's own."""
    return _address(clone.info.host, clone.info.port, clone.info.user, clone.info.dbname)


@pytest.fixture
def empty_dsn(dsn: str, clone: Any) -> Iterator[str]:
    """The address of a database that nothing was ever done to."""
    clone.autocommit = True
    name = f"{clone.info.dbname}_empty"
    clone.execute(f"create database {name}")
    yield f"{dsn}_empty"
    clone.execute(f"drop database {name} with (force)")


@pytest.fixture
def settings(dsn: str) -> Settings:
    """Settings with short intervals, so that what happens by polling happens soon."""
    return Settings(
        database_url=dsn,
        port=0,
        poll_interval=0.2,
        heartbeat_interval=0.5,
        worker_timeout=2.0,
        retry_base_seconds=0.05,
        shutdown_grace=5.0,
    )


@pytest.fixture
async def sql(dsn: str) -> AsyncIterator[Connection]:
    """A plain connection, as a person with psql has one; jsonb is decoded."""
    import asyncpg

    connection = await asyncpg.connect(dsn)
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=msgspec.json.decode)
    yield connection
    await connection.close()


@pytest.fixture
async def loom(sql: Connection, dsn: str) -> AsyncIterator["Loom"]:
    """A client and a worker in SQL, on the connection `sql`, with the agent echo registered."""
    from tests.support.sql_client import weaving

    async with weaving(sql, dsn) as loom:
        yield loom


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    database = Database(dsn, name="test", size=4)
    yield database
    await database.close()


async def until(
    question: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool] = bool, seconds: float = 20.0
) -> Any:
    """Ask again and again until the answer is as wanted; returns it. Fails after `seconds`, far above what it should
    take."""
    answer = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not wanted(answer := await question()):
                await asyncio.sleep(0.02)
            return answer
    pytest.fail(f"not within {seconds} seconds; last answer: {answer!r}")


class Client(httpx.AsyncClient):
    """A client of one API, with the two calls most tests make."""

    async def submit(self, message: Any, **fields: Any) -> str:
        """Submit a message that must be accepted; returns its id."""
        answer = await self.post("/messages", json={"message": message, **fields})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["message_id"])

    async def status(self, message_id: str) -> dict[str, Any]:
        answer = await self.get(f"/messages/{message_id}/status")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def settled(self, message_id: str, *states: str) -> dict[str, Any]:
        """Wait until the message is in one of these states (by default: over); returns its status."""
        wanted = states or ("completed", "failed", "cancelled")
        return dict(await until(lambda: self.status(message_id), lambda status: status["state"] in wanted))

    async def events(self, message_id: str, after: int | None = None) -> list["ServerEvent"]:
        """Read a message's stream to its end."""
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        async with self.stream("GET", f"/messages/{message_id}/stream", headers=headers) as answer:
            return [event async for event in read_events(answer)]


class ServerEvent(msgspec.Struct, frozen=True):
    id: int | None
    type: str
    data: Any


async def read_events(answer: httpx.Response) -> AsyncIterator[ServerEvent]:
    """Server-sent events of a response, comments and `retry:` left out."""
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
        elif not line and fields:
            if "data" in fields:
                yield ServerEvent(
                    int(fields["id"]) if "id" in fields else None,
                    fields.get("event", "message"),
                    json.loads(fields["data"]),
                )
            fields = {}


StartApi = Callable[..., Awaitable[Client]]
StartWorker = Callable[..., Awaitable[Worker]]


@pytest.fixture
async def start_api(settings: Settings) -> AsyncIterator[StartApi]:
    """Start an API (a replica, when called again); settings by name change it. Returns its client."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**changes: Any) -> Client:
            own = msgspec.structs.replace(settings, **changes)
            server = _Server(Api(own, str(own.database_url)))
            # With the protocol named, asyncio sets TCP_NODELAY, as it does where it binds by itself.
            listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            task = asyncio.create_task(server.serve([listening]))
            await until(lambda: value(server.started or task.done()))
            client = Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=20)

            async def stop() -> None:
                await client.aclose()
                server.should_exit = True
                await task
                listening.close()

            stack.push_async_callback(stop)
            return client

        yield start


@pytest.fixture
async def start_worker(settings: Settings) -> AsyncIterator[StartWorker]:
    """Start a worker with these agents (echo, if none); settings by name change it. It drains at the end of the
    test."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(*agents: Agent, **changes: Any) -> Worker:
            own = msgspec.structs.replace(settings, **changes)
            worker = Worker(own, str(own.database_url), Registry(own, agents or (echo,)))
            task = asyncio.create_task(worker.run())

            async def stop() -> None:
                worker.stop()
                worker.stop()  # at once
                await task

            stack.push_async_callback(stop)
            await until(lambda: value(worker.ready or task.done()))
            return worker

        yield start


@pytest.fixture
async def agents(database: Database, settings: Settings) -> Callable[..., Awaitable[None]]:
    """Register agents (echo, if none) without a worker, so that messages stay queued."""

    async def register(*agents: Agent) -> None:
        await QueueStore(database).register(Registry(settings, agents or (echo,)).rows())

    return register


@pytest.fixture
async def api(start_api: StartApi, agents: Callable[..., Awaitable[None]]) -> Client:
    """An API with the agent echo registered and no worker."""
    await agents()
    return await start_api()


@pytest.fixture
async def running(start_api: StartApi, start_worker: StartWorker) -> Client:
    """An API and a worker with the agent echo."""
    await start_worker()
    return await start_api()


@pytest.fixture
def script() -> "Script":
    """An agent that says what the test tells it to."""
    from tests.support.sse_reader import Script

    return Script()


@pytest.fixture
async def scripted(start_api: StartApi, start_worker: StartWorker, script: "Script") -> Client:
    """An API and a worker with the agents echo and script."""
    await start_worker(echo, script.agent)
    return await start_api()


@pytest.fixture
def journal() -> "Journal":
    """A scripted model for the resolver, which notes what it is asked."""
    from tests.support.scripted_team import Journal

    return Journal()


@pytest.fixture
async def resolving(start_api: StartApi, start_worker: StartWorker, journal: "Journal") -> Client:
    """An API and a worker with the agents echo, resolver and clarifier, whose model is the journal."""
    await start_worker(echo, *journal.agents)
    return await start_api()


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> "Cli":
    """Run a command of `treadle` beside the test's loop; settings by name are its environment."""
    from tests.support.cli_runner import call

    monkeypatch.setattr(logs, "configure", lambda *_: None)  # pytest has its own
    return call


@pytest.fixture
def cli(bare: "Cli", dsn: str) -> "Cli":
    """The same, on the test's database."""
    return lambda *arguments, **settings: bare(*arguments, **{"DATABASE_URL": dsn, **settings})


async def value(found: Any) -> Any:
    return found
