"""A lane whose PGMQ queue was dropped by hand is named, and a migration restores it."""

import asyncio

import pytest

from service.db.migrate import migrate
from service.db.pool import Database
from service.errors import SchemaError
from tests.support.cli_runner import Cli, error_sentence
from tests.support.sql_client import SqlClient

LANES = ("high", "normal", "low", "dlq")


async def drop(sql_client: SqlClient, *lanes: str) -> None:
    for lane in lanes:
        await sql_client.sql.execute("select pgmq.drop_queue($1)", f"default_{lane}")


@pytest.mark.parametrize("lane", LANES)
async def test_check_names_the_lane(sql_client: SqlClient, cli: Cli, dsn: str, lane: str) -> None:
    await drop(sql_client, lane)
    for arguments in (["check"], ["check", "--invariants"], ["check", "--json"]):
        said = error_sentence(await cli(*arguments))
        assert (
            said == f"The lane {lane} of the queue default is missing in PGMQ: run treadle migrate, which restores it."
        )
    assert (await cli("migrate")).exit_code == 0
    assert (await cli("check", "--invariants")).exit_code == 0


async def test_a_call_that_needs_the_lane_names_it(sql_client: SqlClient, database: Database, dsn: str) -> None:
    await drop(sql_client, "normal")
    for read in ('submit_many(\'[{"message": "x"}]\')', "queue_overview", "violations"):
        with pytest.raises(SchemaError, match="The lane normal of the queue default is missing"):
            await database.fetch(f"select * from treadle.{read}")
    await migrate(dsn)


async def test_a_migration_restores_the_rows_of_all_lanes(sql_client: SqlClient, dsn: str) -> None:
    rejected = await sql_client.submit()
    await sql_client.finish(await sql_client.claim_one(), outcome="rejected")
    released = await sql_client.submit()
    await sql_client.finish(await sql_client.claim_one(), outcome="released")  # it returns to the high lane
    ids = [await sql_client.submit(priority=priority) for priority in ("high", "normal", "low")]
    running = [await sql_client.submit(priority="high"), await sql_client.submit()]
    claims = await sql_client.claim(2)
    held = [await sql_client.submit(thread_id="t") for _ in range(2)]
    before = await sql_client.lanes()
    await drop(sql_client, *LANES)
    await migrate(dsn)
    assert await sql_client.lanes() == before
    new = await sql_client.submit()
    await sql_client.heartbeat("w", *claims)
    assert await sql_client.finish(*claims) == ["completed"] * 2
    assert await sql_client.redrive(rejected) == "queued"
    done: list[object] = [claim.message_id for claim in claims]
    while more := await sql_client.claim(10):
        done += [claim.message_id for claim in more]
        await sql_client.finish(*more)
    assert sorted(map(str, done)) == sorted(map(str, [rejected, released, *ids, *running, *held, new]))
    assert done[-1] != new or done[-2] == held[1]  # restored rows go before new ones of their lane


async def test_a_restored_lane_is_found_beyond_its_low_water_mark(sql_client: SqlClient, dsn: str) -> None:
    """Its first new row gets an id above all that were drawn before."""
    await sql_client.submit_many(*[{}] * 50)
    await sql_client.finish(*await sql_client.claim(50))
    await sql_client.sql.execute("select treadle.sweep()")
    highest = await sql_client.sql.fetchval("select max(low) from treadle.low_water where name = 'q_default_normal'")
    await drop(sql_client, "normal")
    await migrate(dsn)
    message_id = await sql_client.submit()
    assert (await sql_client.message(message_id))["lane_id"] > highest
    assert [claim.message_id for claim in await sql_client.claim(10)] == [message_id]


async def test_a_purge_of_a_restored_lane_is_noticed(sql_client: SqlClient, dsn: str) -> None:
    await drop(sql_client, "normal")
    await asyncio.gather(migrate(dsn), migrate(dsn))
    message_id = await sql_client.submit()
    await sql_client.sql.execute("select pgmq.purge_queue('default_normal')")
    await sql_client.sql.execute("select treadle.sweep()")
    assert [claim.message_id for claim in await sql_client.claim(10)] == [message_id]


async def test_a_publication_of_all_tables_refuses_no_change_of_rows(sql_client: SqlClient) -> None:
    """As capture of changes makes it: PostgreSQL refuses to delete from a published table whose rows have no name."""
    await sql_client.sql.execute("create publication everything for all tables")
    nameless = await sql_client.sql.fetch(
        "select c.oid::regclass::text as name from pg_class c where c.relkind in ('r', 'p') and c.relreplident <> 'f'"
        " and (c.relnamespace = 'treadle'::regnamespace or c.oid in (select format('pgmq.%I', 'q_' || q.queue_name)"
        "   ::regclass from pgmq.list_queues() q))"
        " and not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary)"
    )
    assert [row["name"] for row in nameless] == []
    message_id = await sql_client.submit()
    await sql_client.sql.execute("select pgmq.purge_queue('default_normal')")
    await sql_client.sql.execute("select treadle.sweep()")
    [claim] = await sql_client.claim()
    assert claim.message_id == message_id
    await sql_client.finish(claim)
