"""A server that takes no writes: one that is set so is named with what to do, a standby is waited for."""

import asyncio
from pathlib import Path

import pytest

from service.db.availability import Availability
from service.db.pool import Connection, Database, connect
from service.errors import AddressRejected, NotConnected
from service.local.private_postgres import PrivatePostgres
from tests.support.cli_runner import Cli
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.messages import run
from tests.support.pooler import pooler_before
from tests.support.private_servers import making, open_folder
from tests.support.waiting import until
from treadle import Context, agent

WRITE = "insert into treadle.mutexes (name) values ('x')"
pytestmark = pytest.mark.new_database  # a session that began with the setting keeps it
SETTING = "default_transaction_read_only"


@pytest.fixture
async def name(sql: Connection) -> str:
    """The database of the test."""
    found: str = await sql.fetchval("select current_database()")
    return found


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ("alter database {name}", "for the database {name}"),
        ("alter role treadle in database {name}", "for the role treadle in the database {name}"),
    ],
)
async def test_commands_name_the_setting(
    sql: Connection, cli: Cli, dsn: str, name: str, change: str, place: str
) -> None:
    await sql.execute(f"{change.format(name=name)} set {SETTING} = on")
    for command in ("check", "migrate", "queues"):
        result = await cli(command, DATABASE_URL=dsn)
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.stderr
        said = f"{SETTING} is on {place.format(name=name)}, so it takes no writes; set it to off there"
        assert said in result.stderr
    options = f"options=-c%20{SETTING}%3D"
    assert (await cli("check", DATABASE_URL=f"{dsn}?{options}off")).exit_code == 0
    await sql.execute(f"{change.format(name=name)} reset {SETTING}")
    assert f"{SETTING} is on in the address" in (await cli("check", DATABASE_URL=f"{dsn}?{options}on")).stderr


async def test_processes_name_the_setting_and_go_on_once_it_is_off(
    sql: Connection,
    dsn: str,
    name: str,
    start_api: StartApi,
    start_worker: StartWorker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @agent("hello")
    async def hello(context: Context, text: str) -> str:
        return text

    await sql.execute(f"alter database {name} set {SETTING} = on")
    api = await start_api()
    worker = asyncio.ensure_future(start_worker(hello))
    [reason] = (await api.get("/health")).json()["reasons"]
    assert reason.startswith(f"PostgreSQL cannot be used: {SETTING} is on for the database {name}")
    [away] = await until(lambda: [r.getMessage() for r in caplog.records if "PostgreSQL is away" in r.getMessage()][:1])
    assert away.startswith(f"PostgreSQL is away: {SETTING} is on for the database {name}, so it takes no writes")
    await sql.execute(f"alter database {name} reset {SETTING}")
    await worker
    assert (await run(sql, "x", agent="hello"))["state"] == "completed"
    assert (await api.get("/health")).json()["status"] == "healthy"


async def test_a_session_that_is_open_already_names_the_setting(dsn: str, name: str, sql: Connection) -> None:
    """As after `alter system`, or behind a pooler, which tells nothing of its server."""
    async with pooler_before(dsn, mode="transaction") as address:
        await sql.execute(f"alter database {name} set {SETTING} = on")
        database = Database(address, name="test", size=1, pooler=True, availability=Availability())
        with pytest.raises(AddressRejected) as rejected:
            await database.fetch(WRITE)
        assert f"is on for the database {name}" in rejected.value.reason
        await database.close()


def make_standby(server: PrivatePostgres) -> None:
    server.stop()
    Path(server.data, "standby.signal").touch()
    server.start()


async def test_a_standby_is_waited_for_as_a_server_that_is_away() -> None:
    """Also where the setting is on there as well, and among several hosts."""
    with open_folder() as folder, making(folder) as make:
        server = make()
        server.start()
        admin = await connect(server.dsn, name="test")
        await admin.execute(f"alter database treadle set {SETTING} = on")
        await admin.close()
        make_standby(server)
        place = server.place.socket_folder
        for address in (server.dsn, f"postgresql://treadle@/treadle?host={place},{place}&port={server.port},1"):
            with pytest.raises(NotConnected) as away:
                await connect(address, name="test")
            assert not isinstance(away.value, AddressRejected)
        assert away.value.reason == "PostgreSQL cannot be reached: the server is a standby, which takes no writes."
