"""Who may call and read what: the roles treadle_app, treadle_worker and treadle_tenant."""

import asyncpg
import pytest

from service.db.pool import Connection, Database, connect
from tests.support.databases import patient
from tests.support.sql_client import SqlClient
from tests.support.sql_files import definitions, roles_of_functions, sql_files

ROLES = ("app", "worker", "tenant")

CALLABLE = """
    select p.proname as name, p.oid::regprocedure::text as signature
    from pg_proc p
    where p.pronamespace = 'treadle'::regnamespace and has_function_privilege($1, p.oid, 'execute')"""


@pytest.mark.parametrize("role", ROLES)
async def test_each_function_has_the_roles_of_the_list(sql: Connection, role: str) -> None:
    rows = await sql.fetch(CALLABLE, f"treadle_{role}")
    assert {row["name"] for row in rows} == {name for name, roles in roles_of_functions().items() if role in roles}


def test_the_list_names_functions_and_roles() -> None:
    listed = roles_of_functions()
    known = {found.name for file in sql_files() for found in definitions(file)}
    assert set(listed) - known == set()
    assert {role for roles in listed.values() for role in roles} == set(ROLES)


async def test_only_tenants_functions_check_the_tenant(sql: Connection) -> None:
    """A function that writes or reads for a tenant's login role calls treadle._bound_tenant, itself or through
    submit_many or publish_many."""
    bodies = await sql.fetch(
        "select p.proname as name, p.prosrc as body from pg_proc p where p.pronamespace = 'treadle'::regnamespace"
        " and p.prosecdef and has_function_privilege('treadle_tenant', p.oid, 'execute')"
    )
    harmless = {"_session_tenant", "_first_counter", "_first_lease_mark", "_ready_rows", "_claiming_workers"}
    unchecked = [
        row["name"]
        for row in bodies
        if row["name"] not in harmless
        and "treadle._bound_tenant(" not in row["body"]
        and "treadle.submit(" not in row["body"]
        and "treadle.submit_many(" not in row["body"]
        and "treadle.publish_many(" not in row["body"]
    ]
    assert unchecked == []


async def test_every_table_with_a_tenant_has_row_level_security(sql: Connection) -> None:
    rows = await sql.fetch(
        "select c.relname, c.relrowsecurity, c.relforcerowsecurity,"
        " array(select p.polname::text from pg_policy p where p.polrelid = c.oid order by 1) as policies"
        " from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant'"
        " where c.relnamespace = 'treadle'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition"
    )
    assert len(rows) >= 12
    assert [row for row in rows if not row["relrowsecurity"] or row["policies"] != ["own_tenant", "readers"]] == []


async def test_every_view_runs_with_the_rights_of_its_reader(sql: Connection) -> None:
    names = await sql.fetch(
        "select relname from pg_class where relnamespace = 'treadle'::regnamespace and relkind = 'v'"
        " and not coalesce(reloptions, '{}') @> '{security_invoker=true}'"
    )
    assert names == []


async def test_no_partition_can_be_read_by_itself(sql: Connection) -> None:
    names = await sql.fetch(
        "select c.relname from pg_class c where c.relnamespace = 'treadle'::regnamespace and c.relispartition"
        " and c.relkind = 'r' and (has_table_privilege('treadle_tenant', c.oid, 'select')"
        " or has_table_privilege('treadle_worker', c.oid, 'select'))"
    )
    assert names == []


@pytest.mark.parametrize("role", ["treadle_app", "treadle_worker"])
async def test_a_process_takes_its_role(dsn: str, role: str) -> None:
    database = Database(patient(dsn), name="test", size=1, role=role)  # type: ignore[arg-type]
    row = await database.fetchrow("select current_user, session_user")
    assert row is not None
    assert row["current_user"] == role != row["session_user"]
    await database.close()


async def test_a_login_that_may_not_take_the_role_keeps_its_rights(sql: Connection, dsn: str) -> None:
    """Before the migration there is no role; a login role that is a member has the rights anyway."""
    await sql.execute("create role plain login")
    try:
        connection = await connect(dsn.replace("treadle@", "plain@"), name="test", role="treadle_app")
        assert await connection.fetchval("select current_user") == "plain"
        await connection.close()
    finally:
        await sql.execute("drop role plain")


async def test_treadle_app_has_no_clock_of_its_own(sql_client: SqlClient, dsn: str) -> None:
    apart = "select extract(epoch from treadle.clock() - clock_timestamp())::integer"
    name = await sql_client.sql.fetchval("select current_database()")
    database = await asyncpg.connect(dsn)
    await database.execute("create role clockmaker login in role treadle_app")
    try:
        connection = await asyncpg.connect(dsn.replace("treadle@", "clockmaker@"))
        await connection.execute("set treadle.clock_shift = '8 days'")
        assert await connection.fetchval(apart) == 0
        await database.execute(f"alter database {name} set treadle.clock_shift = '2 days'")
        assert await connection.fetchval(apart) == 2 * 86400
        await connection.close()
    finally:
        await database.execute("drop role clockmaker")
        await database.close()
