"""The login role of a tenant: what it can do, and how it is created and dropped."""

import asyncio
import json
from uuid import UUID

import asyncpg
import pytest

from service.access.sql_roles.store import SqlRoleStore
from service.cli.address import with_login
from service.db.pool import Connection, Database
from service.errors import Conflict, NotFound
from service.maintenance.end_tenant_sessions import EndTenantSessions
from service.maintenance.store import MaintenanceStore
from tests.support.sql_calls import persist
from tests.support.sql_client import SqlClient
from tests.support.tenant_logins import REFUSED, rows_of
from tests.support.waiting import until

# What it can do


async def test_it_submits_and_reads_its_own(sql_client: SqlClient, acme: Connection, other: UUID) -> None:
    message_id = await acme.fetchval("select treadle.submit('mine', thread_id => 'hidden')")
    rows = await acme.fetch("select message_id, user_message, thread_id, tenant from treadle.message_overview")
    assert [tuple(row) for row in rows] == [(message_id, "mine", "hidden", "acme")]
    assert await rows_of(acme, "select thread_id, queued, tenant from treadle.thread_overview") == [
        ("hidden", 1, "acme")
    ]
    assert await rows_of(acme, "select type from treadle.events") == [("queued",)]
    assert await rows_of(acme, "select queue, queued, ready from treadle.queue_overview") == [("default", 1, None)]
    assert await rows_of(acme, "select queue, queued from treadle.queue_counts") == [("default", 1)]
    assert await acme.fetchval("select count(*) from treadle.agent_overview") == 1
    assert await sql_client.sql.fetchval("select sum(queued) from treadle.queue_overview") == 2


async def test_it_publishes_and_reads_its_own_records(sql_client: SqlClient, acme: Connection, other: UUID) -> None:
    with pytest.raises(asyncpg.PostgresError, match="There is no topic 'hidden'"):
        await acme.fetchval("select treadle.publish('hidden', '1')")
    await sql_client.sql.execute("select treadle.create_topic('hidden', tenant => 'acme')")
    await sql_client.sql.execute("select treadle.create_subscription('mine', '{hidden}', 'echo', tenant => 'acme')")
    record_id = await acme.fetchval("select treadle.publish('hidden', '1')")
    await sql_client.sql.execute("select treadle.sequence_records()")
    assert await rows_of(acme, "select \"offset\", record_id, value from treadle.read_records('hidden', 0)") == [
        (0, record_id, 1)
    ]
    assert await rows_of(
        acme, 'select topic, "offset" from treadle.record_place((select record_id from treadle.records))'
    )
    assert await rows_of(acme, "select topic, next_offset, records_per_minute from treadle.topic_overview") == [
        ("hidden", 1, 1)
    ]
    assert await rows_of(acme, "select subscription, lag, open from treadle.subscription_overview") == [("mine", 1, 0)]
    for call in ("create_topic('mine')", "delete_subscription('mine')", "deliver_records()"):
        with pytest.raises(REFUSED):
            await acme.execute(f"select treadle.{call}")


async def test_it_overfills_no_queue(sql_client: SqlClient, acme: Connection) -> None:
    await sql_client.sql.execute("select treadle.declare_queue_size(2)")
    for _ in range(2):
        await acme.fetchval("select treadle.submit('x')")
        await sql_client.submit()  # of another tenant
    for call in ("submit('x')", """submit_many('[{"message": "x"}]', max_queue_size => 9)"""):
        with pytest.raises(asyncpg.PostgresError, match="The queue 'default' is full: it holds at most 2 messages"):
            await acme.fetch(f"select treadle.{call}")
    await sql_client.submit()  # other callers name their own limit
    await sql_client.sql.execute("select treadle.declare_queue_size(null)")
    await acme.fetchval("select treadle.submit('x')")


async def test_it_sends_nothing_larger_than_a_request(sql_client: SqlClient, acme: Connection) -> None:
    """The workers and APIs of all tenants read it as a whole."""
    message_id = await acme.fetchval("select treadle.submit('x', thread_id => 't', delay_seconds => 60)")
    statements = (
        "select treadle.submit(repeat('x', {}))",
        "select treadle.submit('x', metadata => jsonb_build_object('x', repeat('x', {})))",
        "select treadle.submit('x', thread_id => 'u', thread_metadata => jsonb_build_object('x', repeat('x', {})))",
        "select treadle.submit_once('k{0}', '', jsonb_build_array(jsonb_build_object('message', repeat('x', {0}))))",
        f"select treadle.change_message('{message_id}', metadata => jsonb_build_object('x', repeat('x', {{}})))",
        "select treadle.change_thread('t', jsonb_build_object('x', repeat('x', {})))",
    )
    for statement in statements:
        await acme.execute(statement.format(9_900_000))
        with pytest.raises(asyncpg.PostgresError, match="at most 10000000 are allowed"):
            await acme.execute(statement.format(10_000_000))
    answer = f"select treadle.input('{message_id}', to_jsonb(repeat('x', {{}})))"
    for chars, refusal in ((9_900_000, "does not wait for input"), (10_000_000, "at most 10000000 are allowed")):
        with pytest.raises(asyncpg.PostgresError, match=refusal):
            await acme.execute(answer.format(chars))
    await sql_client.submit(metadata={"x": "x" * 10_100_000})  # of the owner


async def test_it_deletes_its_own_thread(acme: Connection, other: UUID) -> None:
    await acme.fetchval("select treadle.submit('mine', thread_id => 'hidden')")
    assert await acme.fetchval("select treadle.delete_thread('hidden')") == 1
    with pytest.raises(asyncpg.PostgresError, match="There is no thread 'hidden'"):
        await acme.fetchval("select treadle.delete_thread('hidden')")


async def test_it_controls_its_own_messages(sql_client: SqlClient, acme: Connection) -> None:
    failed = await acme.fetchval("select treadle.submit('fails')")
    await sql_client.run(outcome="rejected")
    assert await acme.fetchval("select treadle.redrive($1)", failed) == "queued"
    assert await acme.fetchval("select treadle.queue_position($1)", failed) == 0
    assert await acme.fetchval("select treadle.cancel($1)", failed) == "cancelled"


@pytest.mark.parametrize("call", ["cancel($1)", "redrive($1)", "input($1, '1')", "queue_position($1)"])
async def test_a_message_of_another_tenant_is_unknown(acme: Connection, other: UUID, call: str) -> None:
    answers = []
    for message_id in (other, await acme.fetchval("select treadle.uuid7()")):
        try:
            answers.append(str(await acme.fetchval(f"select treadle.{call}", message_id)))
        except asyncpg.PostgresError as error:
            answers.append(str(error).replace(str(message_id), "..."))
    assert answers[0] == answers[1]


async def test_an_id_of_another_tenant_cannot_be_used(acme: Connection, other: UUID) -> None:
    message = json.dumps([{"message": "mine", "message_id": str(other)}])
    with pytest.raises(asyncpg.PostgresError, match="was used before"):
        await acme.fetch("select * from treadle.submit_many($1)", message)
    parent = json.dumps([{"message": "mine", "parent": str(other)}])
    await acme.fetch("select * from treadle.submit_many($1)", parent)
    assert await rows_of(acme, "select parent, depth from treadle.messages") == [(None, 0)]


async def test_it_cannot_name_another_principal_in_the_audit(sql_client: SqlClient, acme: Connection) -> None:
    message_id = await acme.fetchval("select treadle.submit('mine', thread_id => 'mine')")
    await acme.fetchval("select treadle.cancel($1, actor => 'key 4f2a (admin)')", message_id)
    await acme.fetchval("select treadle.delete_thread('mine', actor => 'key 4f2a (admin)')")
    rows = await sql_client.sql.fetch("select principal from treadle.audit where action ~ '^(mess|thr)' order by id")
    assert [row["principal"] for row in rows] == [f"role {await acme.fetchval('select session_user')}"] * 2


async def test_it_does_not_escape_its_limits_by_a_parent(sql_client: SqlClient, acme: Connection) -> None:
    await sql_client.sql.execute("select treadle.limit_tenant('acme', '{\"queued\": 2}')")
    parent = await acme.fetchval("select treadle.submit('mine')")
    child = json.dumps([{"message": "mine", "parent": str(parent)}])
    await acme.fetch("select * from treadle.submit_many($1)", child)
    with pytest.raises(asyncpg.PostgresError, match="may have 2 messages queued"):
        await acme.fetch("select * from treadle.submit_many($1)", child)


# The store


async def test_a_dropped_role_is_gone_with_its_sessions(sql: Connection, database: Database, dsn: str) -> None:
    await sql.execute("select treadle.create_tenant('acme')")
    store = SqlRoleStore(database)
    role, password = await store.create("acme", connections=2, statement_seconds=60)
    address = with_login(dsn, role, password)
    connection = await asyncpg.connect(address)
    await connection.execute("create temp table mine (x int); select lo_create(0)")
    assert [found.role for found in await store.all("acme")] == [role]
    await store.drop(role)
    await until(connection.is_closed)
    assert await store.all("acme") == []
    assert await sql.fetchval("select to_regrole($1)", role) is None
    with pytest.raises(NotFound):
        await store.drop(role)


async def test_no_role_is_created_where_public_may_create_objects(sql: Connection, database: Database) -> None:
    await sql.execute("select treadle.create_tenant('acme'); grant create on schema public to public")
    with pytest.raises(Conflict, match="revoke create on schema public from public"):
        await SqlRoleStore(database).create("acme", connections=2, statement_seconds=60)
    assert await sql.fetchval("select count(*) from treadle.sql_roles") == 0


async def test_a_role_has_a_limit_of_connections(sql: Connection, database: Database, dsn: str) -> None:
    await sql.execute("select treadle.create_tenant('acme')")
    store = SqlRoleStore(database)
    role, password = await store.create("acme", connections=1, statement_seconds=60)
    connection = await asyncpg.connect(with_login(dsn, role, password))
    assert await connection.fetchval("show statement_timeout") == "1min"
    with pytest.raises(asyncpg.TooManyConnectionsError):
        await asyncpg.connect(with_login(dsn, role, password))
    await store.drop(role)


async def test_a_deleted_tenant_has_no_roles(sql: Connection, database: Database) -> None:
    await sql.execute("select treadle.create_tenant('acme')")
    role, _ = await SqlRoleStore(database).create("acme", connections=1, statement_seconds=60)
    await sql.execute("select treadle.delete_tenant('acme')")
    assert await sql.fetchval("select to_regrole($1)", role) is None
    with pytest.raises(NotFound):
        await SqlRoleStore(database).create("acme", connections=1, statement_seconds=60)


async def test_a_role_that_is_created_during_the_deletion_goes_too(sql_client: SqlClient) -> None:
    await sql_client.sql.execute("select treadle.create_tenant('acme')")
    other = await sql_client.connect()
    transaction = sql_client.sql.transaction()
    await transaction.start()
    role = await sql_client.sql.fetchval("select treadle.create_sql_role('acme', verifier => 'x')")
    deletion = asyncio.create_task(persist(lambda: other.sql.execute("select treadle.delete_tenant('acme')")))
    await sql_client.until_blocked(other)
    await transaction.commit()
    await deletion
    assert await sql_client.sql.fetch("select from treadle.sql_roles") == []
    assert await sql_client.sql.fetchval("select to_regrole($1)", role) is None


async def test_a_member_without_a_tenant_sees_and_does_nothing(sql_client: SqlClient, dsn: str) -> None:
    await sql_client.submit()
    await sql_client.sql.execute("create role unbound login in role treadle_tenant")
    connection = await asyncpg.connect(dsn.replace("treadle@", "unbound@"))
    assert await connection.fetchval("select count(*) from treadle.messages") == 0
    with pytest.raises(REFUSED, match="may not act for the tenant 'default'"):
        await connection.execute("select treadle.submit('x')")
    await connection.close()
    await sql_client.sql.execute("drop role unbound")


async def test_a_session_that_holds_many_locks_is_ended(acme: Connection, database: Database) -> None:
    chore = EndTenantSessions(MaintenanceStore(database))
    await acme.execute("select pg_advisory_lock(n) from generate_series(1, 900) n")
    await chore.run()
    assert await acme.fetchval("select 1") == 1
    await acme.execute("select pg_advisory_lock(n) from generate_series(901, 1100) n")
    await chore.run()
    await until(acme.is_closed)


async def test_a_transaction_that_stays_open_for_long_is_ended(
    sql_client: SqlClient, acme: Connection, database: Database
) -> None:
    """With it ends what it holds: here a running message that it cancels and never commits."""
    message_id = await acme.fetchval("select treadle.submit('x')")
    [claim] = await sql_client.claim(1)
    await acme.execute("begin")
    assert await acme.fetchval("select treadle.cancel($1)", message_id) == "requested"
    chore = EndTenantSessions(MaintenanceStore(database))
    await chore.run()
    assert await acme.fetchval("select 1") == 1
    await sql_client.sql.execute(
        "create or replace function treadle._tenant_session_limits(out open_for interval, out locks integer)"
        " language sql immutable parallel safe as $$ select interval '0', 1000 $$"
    )
    await chore.run()
    assert await until(lambda: sql_client.finish(claim), lambda answers: answers == ["completed"])
