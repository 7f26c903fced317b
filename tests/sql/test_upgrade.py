"""`treadle migrate` on a database in use, and migrations that are interrupted. (Results are in test_migrations.)"""

import asyncio
import contextlib
import random
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from service.db import migrate as migration
from service.db import schema
from service.db.migrate import migrate
from service.db.pool import Connection
from service.errors import Unavailable
from tests.support.migrations import NEXT, NEXT_MIGRATION, REMOVE_NEXT, AddMigration
from tests.support.randomness import random_seed
from tests.support.schema_dump import dumped_schema, function_bodies
from tests.support.sql_calls import persist
from tests.support.sql_client import SqlClient
from tests.support.waiting import until

GATE = 42  # an advisory lock: a session that wants it waits until the test releases or ends it


class Traffic:
    """A client that always has some open messages, a worker, and its janitor."""

    def __init__(self, client: SqlClient, worker: SqlClient, janitor: SqlClient) -> None:
        self.client, self.worker, self.janitor = client, worker, janitor
        self.sent: list[UUID] = []
        self.done: list[UUID] = []
        self.changed = asyncio.Condition()
        self.stopping = False
        self.all_sent = False

    async def more(self, quantity: int) -> None:
        """Wait until so many more messages are submitted and finished."""
        wanted = len(self.done) + quantity
        await until(lambda: len(self.done) >= wanted)

    async def submit(self) -> None:
        while not self.stopping:
            n = len(self.sent)
            self.sent.append(await self.client.submit(thread_id=f"t{n % 3}" if n % 2 else None, delay_seconds=0))
            async with self.changed:
                await self.changed.wait_for(lambda: len(self.done) > len(self.sent) - 6)
        self.all_sent = True

    async def work(self) -> None:
        while not self.all_sent or len(self.done) < len(self.sent):
            claims = await self.worker.claim(4)
            await self.worker.heartbeat("w", *claims)
            chunks = [(claim, claim.last_seq + 1, ["x"]) for claim in claims]
            assert set(await persist(lambda chunks=chunks: self.worker.append(*chunks))) <= {"ok"}  # type: ignore[misc]
            ends = await persist(lambda claims=claims: self.worker.finish(*claims))  # type: ignore[misc]
            assert set(ends) <= {"completed"}
            self.done += [claim.message_id for claim in claims]
            async with self.changed:
                self.changed.notify_all()

    async def look_after(self) -> None:
        while not self.stopping:
            await self.janitor.register()
            await self.janitor.heartbeat("janitor")
            await self.janitor.reap()
            for chore in ("admit_due()", "fold_counters()", "sweep()", "mend_lanes(null)", "purge(1, 1)"):
                await self.janitor.sql.execute(f"select treadle.{chore}")


@pytest.fixture
async def traffic(sql_client: SqlClient) -> AsyncIterator[Traffic]:
    """At the end every accepted message has been completed once."""
    traffic = Traffic(*[await sql_client.connect() for _ in range(3)])
    for each in (traffic.client, traffic.worker, traffic.janitor):
        await each.limit_lock_waits()  # no call waits for a migration
    async with asyncio.TaskGroup() as group:
        for role in (traffic.submit, traffic.work, traffic.look_after):
            group.create_task(role())
        yield traffic
        traffic.stopping = True
    assert sorted(traffic.done) == sorted(traffic.sent)


@contextlib.asynccontextmanager
async def gate(sql: Connection) -> AsyncIterator[None]:
    await sql.execute(f"select pg_advisory_lock({GATE})")
    try:
        yield
    finally:
        await sql.execute("select pg_advisory_unlock_all()")


async def waiting(sql: Connection) -> int | None:
    """The process that waits at the gate."""
    query = "select pid from pg_stat_activity where pg_backend_pid() = any(pg_blocking_pids(pid))"
    pid: int | None = await sql.fetchval(query)
    return pid


# In use


async def test_the_service_goes_on_while_a_migration_has_not_committed(
    sql: Connection, traffic: Traffic, dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(schema.SQL_FOLDER, tmp_path / "sql")
    (tmp_path / "sql" / "99_wait.sql").write_text(f"set local lock_timeout = 0; select pg_advisory_xact_lock({GATE})")
    monkeypatch.setattr(migration, "SQL_FOLDER", tmp_path / "sql")
    async with gate(sql):
        migrating = asyncio.create_task(migrate(dsn))
        await until(lambda: waiting(sql))
        await traffic.more(50)
    await migrating
    await traffic.more(50)


async def test_the_service_goes_on_during_repeated_and_concurrent_migrations(
    sql: Connection, traffic: Traffic, dsn: str
) -> None:
    before = await dumped_schema(dsn), await function_bodies(sql)
    for _ in range(3):
        await migrate(dsn)
        await traffic.more(10)
    await asyncio.gather(migrate(dsn), migrate(dsn))
    await traffic.more(10)
    assert (await dumped_schema(dsn), await function_bodies(sql)) == before


async def test_the_service_goes_on_while_the_next_release_migrates(
    sql: Connection, traffic: Traffic, dsn: str, add_migration: AddMigration
) -> None:
    add_migration(NEXT_MIGRATION)
    await traffic.more(10)
    await migrate(dsn)
    await traffic.more(10)
    assert await sql.fetchval("select version_num from treadle.alembic_version") == NEXT
    assert await sql.fetchval("select count(*) from treadle.threads where colour <> 'plain'") == 0


# Interrupted

# The command that is number public.cut of the database waits at the gate.
COUNT = f"""
    create sequence public.commands;
    create table public.cut (at bigint);
    create function public.wait_at_cut() returns event_trigger language plpgsql set lock_timeout = 0 as $$ begin
        if nextval('public.commands') = (select at from public.cut) then
            perform pg_advisory_xact_lock({GATE});
        end if;
    end $$;
    create event trigger cut on ddl_command_end execute function public.wait_at_cut()"""
CANNOT_BE_REACHED = r"^PostgreSQL cannot be reached: .*\.$"
PARTITIONS_LEFT = "the partitions of the coming days could not be created"
EMPTY = "drop schema treadle cascade; drop schema pgmq cascade; select setval('public.commands', 1, false)"


async def test_a_migration_that_is_ended_anywhere_is_completed_by_the_next(
    empty_dsn: str, dsn: str, sql: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    dice = random.Random(random_seed("ends"))
    fresh = await dumped_schema(dsn), await function_bodies(sql)
    other = await asyncpg.connect(empty_dsn)
    await other.execute(COUNT)
    await migrate(empty_dsn)
    commands = await other.fetchval("select last_value from public.commands")
    for quarter in range(4):
        await other.execute(EMPTY)
        point = dice.randrange(commands * quarter // 4, commands * (quarter + 1) // 4) + 1
        await other.execute("insert into public.cut values ($1)", point)
        async with gate(other):
            migrating = asyncio.create_task(migrate(empty_dsn))
            pid = await until(lambda: waiting(other))
            await other.execute("select pg_terminate_backend($1)", pid)
            [error] = await asyncio.gather(migrating, return_exceptions=True)
            # A migration does not fail for the partitions of the coming days, its last commands.
            assert PARTITIONS_LEFT in caplog.text if error is None else re.match(CANNOT_BE_REACHED, str(error)), error
        caplog.clear()
        await other.execute("delete from public.cut")
        await migrate(empty_dsn)
        assert (await dumped_schema(empty_dsn), await function_bodies(other)) == fresh
    await other.close()


@pytest.mark.parametrize("command", range(1, 7))
async def test_an_upgrade_that_is_ended_is_completed_by_the_next(
    sql_client: SqlClient, dsn: str, sql: Connection, add_migration: AddMigration, command: int
) -> None:
    """It is ended at its first commands, one after the other: those of the tables."""
    message_id = await sql_client.submit(thread_id="t")
    add_migration(NEXT_MIGRATION)
    await migrate(dsn)
    upgraded = await dumped_schema(dsn), await function_bodies(sql)
    await sql.execute(REMOVE_NEXT)
    await sql.execute(COUNT)
    await sql.execute("insert into public.cut values ($1)", command)
    await sql.execute("select setval('public.commands', 1, false)")
    async with gate(sql):
        migrating = asyncio.create_task(migrate(dsn))
        pid = await until(lambda: waiting(sql))
        await sql.execute("select pg_terminate_backend($1)", pid)
        with pytest.raises(Unavailable, match=r"^PostgreSQL cannot be reached: .*\.$"):
            await migrating
    await sql.execute("drop event trigger cut; drop table public.cut")
    await migrate(dsn)
    assert (await dumped_schema(dsn), await function_bodies(sql)) == upgraded
    assert (await sql_client.claim_one()).message_id == message_id


FORMER_SIGNATURES = """
    select format('create function treadle.%I(%s) returns text language plpgsql as %L', p.proname, (
        select string_agg(
            format_type(t, null) || case when n > p.pronargs - p.pronargdefaults then ' default null' else '' end,
            ', ' order by n)
        from unnest(p.proargtypes) with ordinality a (t, n)
        where n < p.pronargs), 'begin raise exception ''of the former release''; end')
    from pg_proc p
    where p.pronamespace = 'treadle'::regnamespace and p.pronargdefaults > 0 and left(p.proname, 1) <> '_'"""
FUNCTIONS = """
    select array_agg(p.oid::regprocedure::text order by p.oid::regprocedure::text)
    from pg_proc p
    where p.pronamespace = 'treadle'::regnamespace"""


async def test_a_parameter_more_with_a_default_is_an_upgrade(sql_client: SqlClient, dsn: str, sql: Connection) -> None:
    """Until its end, a migration has both signatures of such a function. So no statement may name it without them."""
    message_id = await sql_client.submit(thread_id="t")
    await sql.execute("set search_path = pg_catalog")  # as a migration names functions
    functions = await sql.fetchval(FUNCTIONS)
    for (create,) in await sql.fetch(FORMER_SIGNATURES):
        with contextlib.suppress(asyncpg.DuplicateFunctionError):  # another function has the rest of its parameters
            await sql.execute(create)
    former = await sql.fetchval(FUNCTIONS)
    assert len(former) > len(functions) + 50
    await sql.execute("update treadle.meta set value = $1::text[]::text where name = 'manifest'", former)
    await sql.execute("delete from treadle.meta where name = 'functions'")
    await migrate(dsn)
    assert await sql.fetchval(FUNCTIONS) == functions
    await sql.execute("reset search_path")
    assert (await sql_client.claim_one()).message_id == message_id
