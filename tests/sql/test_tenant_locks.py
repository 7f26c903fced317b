"""The login role of a tenant: what it could hold, and that it stops nothing of others."""

import asyncio

import asyncpg
import pytest

from service.db.migrate import migrate
from service.db.pool import Connection
from tests.support.sql_client import SqlClient
from tests.support.waiting import until


async def test_its_advisory_locks_stop_nothing(sql_client: SqlClient, acme: Connection) -> None:
    names = ("fold_counters", "tend_parents", "sweep", "purge", "partitions", "register_agents", "create_queue")
    for name in names:
        await acme.execute(f"select pg_advisory_lock(hashtext('treadle.{name}'))")
    await acme.execute("select pg_advisory_lock(hashtext('treadle.concurrency'), hashtext('default'))")
    await acme.execute("set statement_timeout = 0")
    owner = sql_client.sql
    await sql_client.limit_lock_waits()
    await sql_client.register({"agent": "one", "queue": "slow", "settings": {"concurrency": 1}})
    await sql_client.submit(agent="one")
    assert len(await sql_client.claim(queues=["slow"])) == 1
    await owner.execute("select treadle.ensure_partitions(5), treadle.tend_parents(), treadle.purge(1, 1)")
    for _ in range(3):
        await sql_client.submit()
    assert await owner.fetchval("select treadle.fold_counters()") > 0
    assert await owner.fetchval("select treadle._try_mutex('sweep')")


async def test_its_lock_keeps_no_dead_worker_alive(sql_client: SqlClient, acme: Connection) -> None:
    await acme.execute("select pg_advisory_lock(hashtextextended('treadle.worker.w', 0))")
    assert await sql_client.sql.fetchval("select treadle._worker_lock_is_free('w')")
    worker = await sql_client.connect()
    await acme.execute("select pg_advisory_unlock_all()")
    await worker.sql.execute("select pg_advisory_lock(treadle.worker_key('w'))")
    assert not await sql_client.sql.fetchval("select treadle._worker_lock_is_free('w')")
    waiting = asyncio.create_task(acme.execute("select pg_advisory_lock(hashtextextended('treadle.worker.w', 0))"))
    await worker.sql.execute("select pg_advisory_unlock_all()")
    await waiting
    assert await sql_client.sql.fetchval("select treadle._worker_lock_is_free('w')")


async def test_its_lock_does_not_stop_a_migration(acme: Connection, dsn: str) -> None:
    await acme.execute("select pg_advisory_lock(hashtextextended('treadle.migrate', 0))")
    await migrate(dsn)
    await until(acme.is_closed)


async def test_its_open_transaction_delays_only_its_thread(sql_client: SqlClient, acme: Connection) -> None:
    await sql_client.limit_lock_waits()
    async with acme.transaction():
        await acme.execute("select treadle.submit('held', thread_id => 't')")
        await acme.execute("select treadle.submit('held')")
        await sql_client.submit_many({"thread_id": "t"}, {"thread_id": "u"})
        await sql_client.submit_many({"thread_id": "u"}, {}, tenant="acme")
        assert len(await sql_client.claim(10)) == 4
    assert len(await sql_client.claim(10)) == 2


CHARGED = [
    """treadle.submit_many('[{"message": "x"}]', tenant => 'acme', autocommit => true, lock_timeout => '100ms')""",
    """treadle.submit_once('k', sha256('x'), '[{"message": "x"}]', 'acme', autocommit => true, patient => false)""",
    """treadle.publish_many('t', '[{"value": 1}]', 'acme', autocommit => true, lock_timeout => '20ms')""",
    """treadle.publish_once('k', sha256('x'), 't', '[{"value": 1}]', 'acme', autocommit => true, patient => false)""",
]


@pytest.mark.parametrize("call", CHARGED)
async def test_its_charge_is_named_to_each_call_that_waits_for_it(
    sql_client: SqlClient, acme: Connection, call: str
) -> None:
    await sql_client.sql.execute("""
        select treadle.limit_tenant('acme', '{"per_minute": 1000}'), treadle.create_topic('t', tenant => 'acme')""")
    async with acme.transaction():
        await acme.execute("select treadle.submit('x')")
        await acme.execute("set constraints all immediate")
        with pytest.raises(asyncpg.LockNotAvailableError) as held:
            await sql_client.sql.execute(f"select {call}")
        assert held.value.detail == "acme/"
    await sql_client.sql.execute(f"select {call}")


async def test_its_cancel_keeps_no_connection_of_a_worker(sql_client: SqlClient, acme: Connection) -> None:
    await sql_client.submit_many({"thread_id": "t"}, tenant="acme")
    claim = await sql_client.claim_one()
    await sql_client.submit_many({"message": "b", "thread_id": "t", "on_busy": "steer"}, tenant="acme")
    take = "select message from treadle.take_incoming($1, $2)"
    async with acme.transaction():
        await acme.execute(f"select treadle.cancel('{claim.message_id}')")
        await acme.execute("set constraints all immediate")
        await sql_client.sql.execute("set statement_timeout = '30s'")  # the call gives up long before
        with pytest.raises(asyncpg.LockNotAvailableError):
            await sql_client.sql.fetch(take, claim.message_id, claim.lease)
        await sql_client.sql.execute("set statement_timeout = 0")
    assert [row["message"] for row in await sql_client.sql.fetch(take, claim.message_id, claim.lease)] == ['"b"']


async def hold_charge(login: Connection) -> None:
    """Let the open transaction of a tenant's login be counted for the limits of the tenant."""
    await login.execute("select treadle.submit('x')")
    await login.execute("set constraints all immediate")


async def test_its_charge_lets_an_operators_commit_hold_up_no_other_tenant(
    sql_client: SqlClient, acme: Connection
) -> None:
    """The commit counts for several tenants. It waits for the one that is held, and holds none of the others."""
    operator, client = await sql_client.connect(), await sql_client.connect()
    for tenant in ("abel", "zeno"):
        await sql_client.sql.execute("select treadle.create_tenant($1)", tenant)
    for tenant in ("abel", "acme", "zeno"):
        await sql_client.sql.execute("select treadle.limit_tenant($1, '{\"per_minute\": 1000}')", tenant)
    async with acme.transaction():
        await hold_charge(acme)
        transaction = operator.sql.transaction()
        await transaction.start()
        for tenant in ("abel", "acme", "zeno"):
            await operator.submit_many({}, tenant=tenant)
        commit = asyncio.create_task(transaction.commit())
        await sql_client.until_blocked(operator)
        for tenant in ("abel", "zeno"):
            held = await until(lambda tenant=tenant: submit_or_none(client, tenant))  # type: ignore[misc]
            assert held == "queued"
        assert not commit.done()
    await commit
    charged = await sql_client.sql.fetch("select tenant from treadle.tenant_use order by tenant")
    assert [row["tenant"] for row in charged] == ["abel", "acme", "zeno"]
    assert await sql_client.sql.fetchval("select count(*) from treadle.late_charges") == 0


async def submit_or_none(client: SqlClient, tenant: str) -> str | None:
    """The state of a submit as an API makes it; None: another transaction is being counted."""
    try:
        [row] = await client.submit_many({}, tenant=tenant, autocommit=True, lock_timeout="100ms")
    except asyncpg.LockNotAvailableError:
        return None
    return str(row["state"])


async def test_an_operators_commit_does_not_wait_for_its_charge_without_an_end(
    sql_client: SqlClient, acme: Connection
) -> None:
    operator = await sql_client.connect()
    await sql_client.sql.execute("select treadle.limit_tenant('acme', '{\"per_minute\": 1000}')")
    async with acme.transaction():
        await hold_charge(acme)
        transaction = operator.sql.transaction()
        await transaction.start()
        await operator.submit_many({}, tenant="acme")
        with pytest.raises(asyncpg.LockNotAvailableError, match="of the tenant 'acme' is being counted"):
            await transaction.commit()
